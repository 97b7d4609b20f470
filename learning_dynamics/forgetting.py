"""Pushing away a likely response or an unlikely one, at equal fall of that response.

Every definition is in docs/statistics.md, section "Algorithms", paragraph "Forgetting". All
changes are nats per token of the response that they belong to.
"""

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import seeds_interval, series
from learning_dynamics.frontier import (
    at_level,
    best_reached,
    cell,
    mean_change,
    over_settings,
    split_kinds,
    with_interval,
)

QUANTITIES = ["best_other", "greedy", "others", "chosen", "shuffled", "greedy_chosen"]
# What the paper predicts of unlikely minus likely.
PREDICTED = {"best_other": +1, "greedy": +1, "others": -1}


def fall_curve(trajectory: pd.DataFrame, target: str) -> pd.DataFrame:
    """``step, fall, logp`` (mean log-prob per token of the forgotten response) and
    :data:`QUANTITIES` after every evaluation of a run that forgets ``target``, over train probes.

    Raises:
        InputError: when the trajectory has no responses of type ``target`` or ``chosen``.
    """
    steps, values = series(trajectory, "logp", target)
    tokens = series(trajectory, "n_tokens", target)[1]
    normal, shuffled = split_kinds(trajectory, without=("chosen",))
    of = {
        "best_other": ("logp_top_other", [target]),
        "greedy": ("logp_argmax", [target]),
        "others": ("logp", normal),
        "chosen": ("logp", ["chosen"]),
        "shuffled": ("logp", shuffled),
        "greedy_chosen": ("logp_argmax", ["chosen"]),
    }
    columns = {name: mean_change(trajectory, *what, per_token=True) for name, what in of.items()}
    fall = -mean_change(trajectory, "logp", [target], per_token=True)
    return pd.DataFrame(
        {"step": steps, "fall": fall, "logp": np.nanmean(values / tokens, axis=1), **columns}
    )


def comparison(table: pd.DataFrame) -> pd.DataFrame:
    """One row per algorithm × target × quantity at the fall that both targets reach.

    ``start`` is the mean log-prob per token before; ``fall`` the common fall; ``value, low, high``
    over seeds; ``lowest, highest`` over settings; ``reached`` of ``settings``. On the rows of
    unlikely targets also ``difference`` (minus the likely target) with its interval, ``predicted``
    and ``verdict``.

    Args:
        table: curves of :func:`fall_curve` with their ``run, algorithm, target, seed``.
    """
    starts = table[table["step"] == 0].groupby("target")["logp"].mean()
    order = list(starts.sort_values(ascending=False).index)
    rows = []
    for algorithm, runs in table.groupby("algorithm", sort=False):
        fall = max(0.0, float(best_reached(runs, "fall", "target").min()))
        here = at_level(runs, "fall", fall)
        likely: dict[str, pd.Series] = {}
        for target in [name for name in order if name in set(runs["target"])]:
            part = here[here["target"] == target]
            settings = runs.loc[runs["target"] == target, "run"].nunique()
            row = {"algorithm": algorithm, "target": target, "start": starts[target]}
            row |= {"fall": fall, "reached": part["run"].nunique(), "settings": settings}
            for quantity in QUANTITIES:
                by_seed = part.groupby("seed")[quantity].mean()
                versus = {}
                if quantity in likely:
                    difference = seeds_interval(by_seed - likely[quantity])
                    versus = with_interval("difference", difference)
                    versus |= _verdict(quantity, difference.side())
                else:
                    likely[quantity] = by_seed
                rows.append({**row, "quantity": quantity, **over_settings(part, quantity),
                             **versus})  # fmt: skip
    columns = ["algorithm", "target", "quantity", "start", "fall", "value", "low", "high", "lowest",
               "highest", "difference", "difference_low", "difference_high", "predicted",
               "verdict", "reached", "settings"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns)


def _verdict(quantity: str, side: int) -> dict[str, str]:
    if quantity not in PREDICTED:
        return {}
    sign = PREDICTED[quantity]
    word = {1: "supported", 0: "undecided", -1: "contradicted"}[sign * side]
    return {"predicted": "> 0" if sign > 0 else "< 0", "verdict": word}


def as_markdown(table: pd.DataFrame) -> str:
    """The comparison for people: one line per algorithm and predicted quantity."""
    lines = [
        "Forgetting: change at equal fall (nats per token; 95% t-interval over seeds):",
        "",
        "| algorithm | quantity | likely | unlikely | difference | predicted | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table[table["verdict"].notna()].to_dict("records"):
        same = (table["algorithm"] == row["algorithm"]) & (table["quantity"] == row["quantity"])
        likely = table[same & table["difference"].isna()].iloc[0]
        cells = [
            f"{row['algorithm']}, −{row['fall']:.2f}",
            row["quantity"],
            f"{likely['target']} {cell(likely, 'value', '')}",
            f"{row['target']} {cell(row, 'value', '')}",
            cell(row, "difference", "difference_"),
            row["predicted"],
            f"**{row['verdict']}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
