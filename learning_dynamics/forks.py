"""Branches of one saved model: what of each response's change is due to which part of the loss.

Every branch takes the same rows in the same order from the same weights and differs in one thing:
the whole loss; y⁻ without gradient; of y⁻ only the tokens that lie in a valley; labels of a coin;
a random step of the same length. Differences of their changes are effects of that one thing, not
correlations (docs/statistics.md, section "Forks").
"""

from collections.abc import Mapping

import pandas as pd

from learning_dynamics.dynamics import seeds_interval, series
from learning_dynamics.frontier import mean_change, with_interval

# What is followed beside the log-prob of every response type: the column, along which type.
BESIDE = {
    "best other at y⁻": ("logp_top_other", "rejected"),
    "greedy along y⁺": ("logp_argmax", "chosen"),
}
# The parts of the whole loss's change, each a difference of two branches; they add up to it.
CAUSES = {
    "y⁺": ("without", None),
    "y⁻ in the valley": ("valley", "without"),
    "y⁻ elsewhere": ("loss", "valley"),
}
CONTROLS = ["coin", "random"]


def changes(trajectory: pd.DataFrame) -> pd.DataFrame:
    """``step, quantity, change``: mean change since the branch began over train probes, nats per
    response, of every response type and of :data:`BESIDE`.

    Raises:
        InputError: when the trajectory has no responses of a type that is followed.
    """
    kinds = list(trajectory["response_type"].unique())
    of = {kind: ("logp", kind) for kind in kinds} | BESIDE
    parts = []
    for quantity, (column, kind) in of.items():
        steps = series(trajectory, column, kind)[0]
        change = mean_change(trajectory, column, [kind])
        parts.append(pd.DataFrame({"step": steps, "quantity": quantity, "change": change}))
    return pd.concat(parts, ignore_index=True)


def table_of(runs: Mapping[tuple[str, str, str, int], pd.DataFrame]) -> pd.DataFrame:
    """:func:`changes` of all trajectories, which are given by algorithm, start, branch and seed:
    ``algorithm, from, branch, seed, step, quantity, change``."""
    names = ["algorithm", "from", "branch", "seed"]
    parts = [changes(one).assign(**dict(zip(names, key, strict=True))) for key, one in runs.items()]
    return pd.concat(parts, ignore_index=True)[[*names, "step", "quantity", "change"]]


def decomposition(table: pd.DataFrame) -> pd.DataFrame:
    """One row per algorithm, start, quantity and part after the last update: ``value, low, high``
    (nats, 95% t-interval over seeds; NaN bounds with one seed).

    The parts are ``all`` (the whole loss), :data:`CAUSES`, which add up to it, :data:`CONTROLS`
    as they are, and ``labels``: the whole loss minus coin flips.
    """
    last = table[table["step"] == table.groupby(["algorithm", "from"])["step"].transform("max")]
    rows = []
    for (algorithm, start, quantity), here in last.groupby(
        ["algorithm", "from", "quantity"], sort=False
    ):
        by = here.pivot(index="seed", columns="branch", values="change")
        parts = {"all": by["loss"]}
        for cause, (branch, minus) in CAUSES.items():
            parts[cause] = by[branch] - (by[minus] if minus else 0.0)
        parts |= {name: by[name] for name in CONTROLS}
        parts["labels"] = by["loss"] - by["coin"]
        step = int(here["step"].iloc[0])
        for part, values in parts.items():
            row = {"algorithm": algorithm, "from": start, "step": step, "quantity": quantity}
            rows.append({**row, "part": part, **with_interval("value", seeds_interval(values))})
    return pd.DataFrame(rows).rename(columns={"value_low": "low", "value_high": "high"})
