"""A study's results as evidence."""

from pathlib import Path

import pandas as pd

from learning_dynamics import inputs
from learning_dynamics.claims.evidence import Recorded
from learning_dynamics.claims.verdicts import Column
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table
from learning_dynamics.pairs import conversations
from learning_dynamics.probe import PROBE_COLUMNS

WINRATE_NEEDS = ["comparison", "epoch", "judge", "protocol", "seed", "wins", "losses", "ties",
                 "rate"]  # fmt: skip


def column(results: str, study: dict, spec: dict, win_rates: pd.DataFrame | None = None) -> Column:
    """What the claims of one data set × model are judged by.

    Args:
        results: the study's results folder.
        study: ``study`` (its name) and ``seeds``.
        spec: ``dataset, model, runs`` (by role), ``rates`` (of learning, by role), ``text``,
            ``one_step`` and ``win_rates`` (whether there are any), ``peers``: the same runs of
            other models.
        win_rates: the rows of :func:`win_rates`.
    """
    place = {"seeds": study["seeds"], **spec}
    runs = inputs.trajectories(results, place)
    for peer, names in spec["peers"].items():
        found = inputs.trajectories(results, {**place, "model": peer, "runs": names})
        runs |= {f"{role}@{peer}": by_seed for role, by_seed in found.items()}
    probes = read_table(Path(results) / "data" / spec["dataset"] / "probe.parquet", PROBE_COLUMNS)
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
    return Column(study["study"], spec["dataset"], spec["model"], evidence, doses)


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
