"""Trajectories, and a study's results, as evidence."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from learning_dynamics import inputs
from learning_dynamics.claims.evidence import VALLEY, Column, Evidence, Missing
from learning_dynamics.dynamics import Trajectories
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_texts
from learning_dynamics.pairs import conversations
from learning_dynamics.probe import PROBE_COLUMNS

WINRATE_NEEDS = ["comparison", "epoch", "judge", "protocol", "seed", "wins", "losses", "ties",
                 "rate"]  # fmt: skip


class Recorded(Evidence):
    """Evidence from trajectories.

    Args:
        runs: trajectories by role and seed; every role with the same seeds. Steps that are not
            known are numbered by evaluation.
        conversation_of: the conversation of each train probe, by example id; None: each its own.
        one_step: single-step tables by seed, if there are.
        win_rates: the rows of tables/winrate.csv that compare extend with the baseline, if any.
        text: ``hh``, ``ultrafeedback`` or None.
        peers: see :class:`Evidence`.
    """

    def __init__(
        self,
        runs: Mapping[str, Trajectories],
        conversation_of: Mapping[str, str] | Callable[[str], str] | None = None,
        one_step: Mapping[int, pd.DataFrame] | None = None,
        win_rates: pd.DataFrame | None = None,
        text: str | None = None,
        peers: tuple[str, ...] = (),
    ) -> None:
        self._runs = runs
        self._one_step, self._win_rates = one_step, win_rates
        self.text, self.peers = text, peers
        self._known: dict[str, list[_Grid]] = {}
        self._curves: dict[tuple[str, str], np.ndarray] = {}
        self.clusters = np.arange(1)
        for by_seed in self._runs.values():
            table = next(iter(by_seed.values()))
            ids = table.loc[table["split"] == "train", "example_id"].dropna().unique()
            if len(ids) > len(self.clusters):
                get = getattr(conversation_of, "get", conversation_of) or (lambda name: name)
                names = [get(name) or name for name in np.sort(ids)]
                self.clusters = np.unique(names, return_inverse=True)[1]

    def _of(self, role: str) -> Trajectories:
        if not self._runs.get(role):
            raise Missing(f"run {role}")
        return self._runs[role]

    def _grids(self, role: str) -> list["_Grid"]:
        if role not in self._known:
            first, *rest = self._of(role).values()
            grid = _Grid(first)
            self._known[role] = [grid, *(_Grid(table, grid) for table in rest)]
        return self._known[role]

    def kinds(self, role: str) -> list[str]:
        return self._grids(role)[0].kinds

    def curve(self, role: str, column: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        grids = self._grids(role)
        if kind not in grids[0].kinds:
            raise Missing(f"type {kind} in run {role}")
        if (role, column) not in self._curves:
            if not all(column in grid.table for grid in grids):
                raise Missing(f"{column} in run {role}")
            self._curves[role, column] = np.stack([grid.values(column) for grid in grids])
        values = self._curves[role, column][:, grids[0].kinds.index(kind)]
        if np.isnan(values).all():
            raise Missing(f"{column} of {kind} in run {role}")
        return grids[0].steps, values

    def examples(self, role: str) -> np.ndarray:
        table = self._grids(role)[0].table
        if "examples" not in table or table["examples"].isna().any():
            raise Missing(f"training rows consumed by run {role}")
        counted = table.drop_duplicates("step").sort_values("step")["examples"]
        return counted.to_numpy(dtype=float)

    def valley(self, kind: str, column: str) -> np.ndarray:
        if not self._one_step:
            raise Missing("single steps (one-step.parquet)")
        means = []
        for table in self._one_step.values():
            if column not in table:
                raise Missing(f"{column} in one-step.parquet")
            rows = table[(table["kind"] == kind) & (table["p_label"] < VALLEY)]
            scale = 100 if column.startswith("dp_") else 1
            means.append(scale * rows.groupby("batch")[column].mean().to_numpy())
        # The batches of two seeds are not the same, so seeds are cut to as many as all have.
        count = min(map(len, means))
        if count == 0:
            raise Missing(f"valley positions (π < {VALLEY})")
        return np.array([values[:count] for values in means])

    def win_rate(self, last: bool) -> np.ndarray:
        table = self._win_rates
        if table is None or table.empty:
            raise Missing("win rates (tables/winrate.csv)")
        epochs = np.sort(table["epoch"].unique())
        if epochs[0] != 0 or len(epochs) < 2:
            raise Missing("win rates before and after DPO")
        rows = table[table["epoch"] == (epochs[-1] if last else 0)]
        if len(rows) > 1:
            return 100 * rows.sort_values("seed")["rate"].to_numpy(dtype=float)[:, None]
        row = rows.iloc[0]  # one seed: its comparisons, a tie counting half
        counts = row[["wins", "losses", "ties"]].astype(int)
        return np.repeat([100.0, 0.0, 50.0], counts)[None]


class _Grid:
    """One trajectory's train probes as arrays (types, evaluations, examples), in the order of the
    ``like`` grid of another seed; gaps are NaN."""

    def __init__(self, table: pd.DataFrame, like: "_Grid | None" = None) -> None:
        table = table[table["split"] == "train"]
        if table["step"].isna().any():  # not known: numbered by evaluation
            table = table.assign(step=table["evaluation"])
        # Imported runs may hold means alone, without an example_id.
        table = table.assign(example_id=table["example_id"].fillna("mean"))
        self.table = table
        self.axes = like.axes if like else (
            pd.Index(table["response_type"].unique()),
            pd.Index(np.sort(table["step"].unique())),
            pd.Index(np.sort(table["example_id"].unique())),
        )  # fmt: skip
        names = ("response_type", "step", "example_id")
        place = [axis.get_indexer(table[n]) for axis, n in zip(self.axes, names, strict=True)]
        self._known = np.min(place, axis=0) >= 0
        self._place = tuple(each[self._known] for each in place)
        self.kinds = list(self.axes[0])
        self.steps = self.axes[1].to_numpy(dtype=float)

    def values(self, column: str) -> np.ndarray:
        out = np.full(tuple(map(len, self.axes)), np.nan)
        out[self._place] = self.table[column].to_numpy(dtype=float)[self._known]
        return out


def column(results: str, study: dict, spec: dict, win_rates: pd.DataFrame | None = None) -> Column:
    """What the claims of one data set × model are judged by.

    Args:
        results: the study's results folder.
        study: ``study`` (its name) and ``seeds``.
        spec: ``dataset, model, runs`` (by role), ``rates`` (of learning, by role), ``text``,
            ``one_step`` and ``win_rates`` (whether there are any), ``peers``: the same runs of
            other models, ``followed``: those of ``runs`` with influence.parquet.
        win_rates: the rows of :func:`win_rates`.
    """
    place = {"seeds": study["seeds"], **spec}
    runs = inputs.trajectories(results, place)
    for peer, names in spec["peers"].items():
        found = inputs.trajectories(results, {**place, "model": peer, "runs": names})
        runs |= {f"{role}@{peer}": by_seed for role, by_seed in found.items()}
    probes = read_texts(Path(results) / "data" / spec["dataset"] / "probe.parquet", PROBE_COLUMNS)
    prompts = probes[probes["split"] == "train"].drop_duplicates("example_id")
    names = dict(zip(prompts["example_id"], conversations(prompts["prompt"]), strict=True))
    evidence = Recorded(
        runs,
        names,
        inputs.one_steps(results, place) if spec["one_step"] else None,
        win_rates if spec["win_rates"] else None,
        spec["text"],
        tuple(spec["peers"]),
    )
    updates = {
        role: max(int(t["step"].max()) for t in runs[role].values()) for role in spec["runs"]
    }
    doses = {role: f"{rate:g} × {updates[role]}" for role, rate in spec["rates"].items()}
    followed = inputs.followed(results, {**place, "runs": spec["followed"]})
    return Column(study["study"], spec["dataset"], spec["model"], evidence, doses, followed)


def win_rates(path: str) -> pd.DataFrame:
    """The rows of tables/winrate.csv that compare extend with the baseline: the first judge's, not
    in the published protocol."""
    table = pd.read_csv(path)
    missing = [name for name in WINRATE_NEEDS if name not in table]
    if missing:
        wanted = ", ".join(WINRATE_NEEDS)
        raise InputError(f"{path}: column {missing[0]!r} is missing; expected {wanted}")
    rows = table[table["comparison"].str.startswith("extend")]
    rows = rows[rows["protocol"] != "as_published"]
    return rows[rows["judge"] == rows["judge"].iloc[0]] if len(rows) else rows
