"""What a loss does to the other responses, at equal margin and beside coin-flip labels.

Every definition is in docs/statistics.md, section "Algorithms". Curves (:func:`margin_curve`)
hold one row per probe evaluation of one run and seed; a table of them names :data:`IDENTITY` too.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from learning_dynamics import dynamics
from learning_dynamics.dynamics import Estimate, mean_over_kinds, seeds_interval, series

QUANTITIES = ["best_other", "others", "shuffled", "greedy", "greedy0", "chosen", "rejected"]
IDENTITY = ("run", "algorithm", "lr", "setting", "labels", "target", "seed")  # as far as known
SHUFFLED = "random_"  # types of shuffled words begin so
LEFT_OUT = 1 / 5  # of the median margin: an algorithm that gains less is left out
NEGLIGIBLE = 1 / 20  # of the common margin
SQUEEZES, DOES_NOT, UNDECIDED = "squeezes", "does not", "undecided"
NO_CONTROL, NO_MARGIN = "no control", "no margin"


def margin_curve(trajectory: pd.DataFrame) -> pd.DataFrame:
    """``step, margin`` and :data:`QUANTITIES` after every evaluation: mean change since the start
    over train probes, nats per response. NaN where the trajectory has no such response type."""
    steps, margin = dynamics.margin(trajectory)
    normal, shuffled = split_kinds(trajectory, without=("chosen", "rejected"))
    of = {
        "best_other": ("logp_top_other", ["rejected"]),
        "others": ("logp", normal),
        "shuffled": ("logp", shuffled),
        "greedy": ("logp_argmax", ["chosen"]),
        "greedy0": ("logp_greedy0", ["chosen"]),
        "chosen": ("logp", ["chosen"]),
        "rejected": ("logp", ["rejected"]),
    }
    columns = {name: mean_change(trajectory, *what) for name, what in of.items()}
    return pd.DataFrame({"step": steps, "margin": margin, **columns})


def setting_name(settings: dict[str, float]) -> str:
    """Hyper-parameters as text: ``beta 0.1, gamma 0.5``; ``default`` where none is named."""
    return ", ".join(f"{key} {value:g}" for key, value in settings.items()) or "default"


def reached(table: pd.DataFrame, axis: str) -> pd.Series:
    """Per run, the smallest over its seeds of the last value of ``axis`` (margin or fall)."""
    ordered = table.sort_values("step", kind="stable")
    last = ordered.groupby(["run", "seed"], sort=False)[axis].last()
    return last.groupby("run", sort=False).min()


def best_reached(table: pd.DataFrame, axis: str, by: str) -> pd.Series:
    """Per value of ``by`` (algorithm or target), what the best of its runs reaches."""
    owner = table.drop_duplicates("run").set_index("run")[by]
    return reached(table, axis).groupby(owner, sort=False).max()


def at_level(table: pd.DataFrame, axis: str, level: float) -> pd.DataFrame:
    """Every number of the table where ``axis`` first reaches ``level``, interpolated linearly
    between evaluations: one row per run and seed, for the runs that reach it in every seed."""
    return at_levels(table, axis, [level])[0]


def at_levels(table: pd.DataFrame, axis: str, levels: Sequence[float]) -> list[pd.DataFrame]:
    """:func:`at_level` for many levels."""
    numbers = [name for name in table.columns if name not in IDENTITY]
    names = [name for name in table.columns if name in IDENTITY]
    rows: list[list] = [[] for _ in levels]
    for _, run in table.groupby("run", sort=False):
        seeds = [one.sort_values("step") for _, one in run.groupby("seed", sort=False)]
        values = [one[numbers].to_numpy(dtype=float) for one in seeds]
        for here, level in zip(rows, levels, strict=True):
            found = [_first_at(one, numbers.index(axis), level) for one in values]
            if all(one is not None for one in found):
                heads = [one[names].iloc[0] for one in seeds]
                here += [[*head, *one] for head, one in zip(heads, found, strict=True)]
    return [pd.DataFrame(here, columns=[*names, *numbers])[table.columns] for here in rows]


def envelope(table: pd.DataFrame, levels: Sequence[float]) -> pd.DataFrame:
    """The runs of one algorithm that keep ``others`` highest, margin by margin: ``margin, run`` and
    per quantity its mean over seeds and t-interval (``_low``, ``_high``)."""
    rows = []
    for level, here in zip(levels, at_levels(table, "margin", levels), strict=True):
        if here.empty:
            break
        best = here.groupby("run", sort=False)["others"].mean().idxmax()
        row = {"margin": level, "run": best}
        for quantity in QUANTITIES:
            found = seeds_interval(here.loc[here["run"] == best, quantity])
            row |= with_interval(quantity, found)
        rows.append(row)
    columns = ["margin", "run", *(q + end for q in QUANTITIES for end in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=columns)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per algorithm × quantity at the common margin ``margin``: ``value, low, high`` over
    seeds; ``lowest, highest`` over settings; ``reached`` of ``settings``; ``updates`` at which it
    is reached; ``coin`` (the twins after as many updates) and ``beyond`` with its interval;
    ``squeezing, not_squeezing``: settings on either side; and the algorithm's ``verdict``.

    Args:
        table: curves of the grid, with ``labels`` ``coin`` for coin-flip runs.
    """
    given, coin = table[table["labels"] != "coin"], table[table["labels"] == "coin"]
    margins = best_reached(given, "margin", "algorithm")
    enough = margins[(margins > 0) & (margins >= LEFT_OUT * margins.median())]
    common = float(enough.min()) if len(enough) else np.nan
    rows = []
    for algorithm, margin in margins.items():
        runs = given[given["algorithm"] == algorithm]
        row = {"algorithm": algorithm, "margin": common, "best_margin": margin}
        row |= {"settings": runs["run"].nunique(), "reached": 0, "verdict": NO_MARGIN}
        if algorithm not in enough.index:
            rows += [{**row, "quantity": quantity} for quantity in QUANTITIES]
            continue
        here = at_level(runs, "margin", common)
        row |= {"reached": here["run"].nunique(), "updates": here["step"].mean()}
        twins = _twins(here, coin)
        beyond = here[QUANTITIES] - twins if twins is not None else None
        row |= _judge(here, beyond, common)
        for quantity in QUANTITIES:
            rows.append({**row, "quantity": quantity, **over_settings(here, quantity)})
            if beyond is not None:
                difference = seeds_interval(beyond[quantity].groupby(here["seed"]).mean())
                rows[-1] |= {"coin": twins[quantity].mean(), **with_interval("beyond", difference)}
    columns = ["algorithm", "verdict", "quantity", "margin", "value", "low", "high", "lowest",
               "highest", "coin", "beyond", "beyond_low", "beyond_high", "reached", "settings",
               "squeezing", "not_squeezing", "updates", "best_margin"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns)


def as_markdown(table: pd.DataFrame) -> str:
    """The verdicts for people: one line per algorithm."""
    lines = [
        f"At a margin of {table['margin'].iloc[0]:.1f} nats, change since the SFT model (nats per "
        "response, 95% t-interval over seeds):",
        "",
        "| algorithm | best other at y⁻ | beyond coin-flip labels | others | greedy along y⁺ "
        "| settings | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for algorithm, rows in table.groupby("algorithm", sort=False):
        by = rows.set_index("quantity")
        first = by.iloc[0]
        cells = [
            algorithm,
            cell(by.loc["best_other"], "value", ""),
            cell(by.loc["best_other"], "beyond", "beyond_"),
            cell(by.loc["others"], "value", ""),
            cell(by.loc["greedy"], "value", ""),
            f"{first['reached']:.0f} of {first['settings']:.0f}",
            f"**{first['verdict']}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(row: pd.Series, value: str, bounds: str) -> str:
    if pd.isna(row[value]):
        return "–"
    low, high = row[f"{bounds}low"], row[f"{bounds}high"]
    return f"{row[value]:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if pd.notna(low) else "")


def split_kinds(trajectory: pd.DataFrame, without: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Response types of the train probes: those of words in their order, and the shuffled ones."""
    kinds = trajectory.loc[trajectory["split"] == "train", "response_type"].unique()
    normal = [k for k in kinds if k not in without and not k.startswith(SHUFFLED)]
    return normal, [k for k in kinds if k.startswith(SHUFFLED)]


def mean_change(
    trajectory: pd.DataFrame, column: str, kinds: list[str], per_token: bool = False
) -> np.ndarray:
    """Change since the start, mean over ``kinds``, then over train examples, (evaluations,)."""
    moved = []
    for kind in kinds:
        _, values = series(trajectory, column, kind)
        tokens = series(trajectory, "n_tokens", kind)[1] if per_token else 1.0
        moved.append((values - values[0]) / tokens)
    if not moved:
        return np.full(trajectory["step"].nunique(), np.nan)
    return np.nanmean(mean_over_kinds(np.array(moved)), axis=1)


def _first_at(values: np.ndarray, axis: int, level: float) -> np.ndarray | None:
    """The row of ``values`` (evaluations, columns) where column ``axis`` first reaches ``level``;
    None if it never does."""
    over = np.flatnonzero(values[:, axis] >= level - 1e-9 * abs(level))
    if len(over) == 0:
        return None
    row = values[over[0]]
    if over[0] == 0:
        return row
    before = values[over[0] - 1]
    share = min(1.0, (level - before[axis]) / (row[axis] - before[axis]))
    return before + share * (row - before)


def _twins(here: pd.DataFrame, coin: pd.DataFrame) -> pd.DataFrame | None:
    """The coin-flip twin of every row after as many updates; None unless every row has one."""
    rows = []
    for row in here.itertuples():
        twin = coin[(coin["algorithm"] == row.algorithm) & (coin["lr"] == row.lr)
                    & (coin["setting"] == row.setting)
                    & (coin["seed"] == row.seed)].sort_values("step")  # fmt: skip
        if twin.empty:
            return None
        rows.append([np.interp(row.step, twin["step"], twin[name]) for name in QUANTITIES])
    return pd.DataFrame(rows, columns=QUANTITIES, index=here.index)


def _judge(here: pd.DataFrame, beyond: pd.DataFrame | None, common: float) -> dict:
    """The verdict, and how many settings squeeze or do not."""
    if beyond is None:
        return {"verdict": NO_CONTROL}
    found = [seeds_interval(v) for _, v in beyond["best_other"].groupby(here["run"])]
    squeezing = sum(one.low > 0 for one in found)
    not_squeezing = sum(not one.low > 0 and one.high <= NEGLIGIBLE * common for one in found)
    word = UNDECIDED
    if max(squeezing, not_squeezing) > len(found) / 2:
        word = SQUEEZES if squeezing > not_squeezing else DOES_NOT
    return {"verdict": word, "squeezing": squeezing, "not_squeezing": not_squeezing}


def over_settings(here: pd.DataFrame, quantity: str) -> dict[str, float]:
    """Value and interval over the seeds of the mean over runs; the range of the runs' means."""
    by_run = here.groupby("run")[quantity].mean()
    found = seeds_interval(here.groupby("seed")[quantity].mean())
    return {"value": found.value, "low": found.low, "high": found.high,
            "lowest": by_run.min(), "highest": by_run.max()}  # fmt: skip


def with_interval(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
