"""Where the mass of y⁻ lands, by depth, position and alignment: the tables of :mod:`mass` added up.

Torch-free. Every definition is in docs/statistics.md, section "Where the mass lands".
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import seeds_interval

PARTS = ["label", "greedy", "chosen", "both", "rest"]
RECEIVERS = PARTS[1:]
COLUMNS = [
    "kind", "batch", "example_id", "position", "aligned", "p_label", "p_greedy", "label_greedy",
    *(f"dp_{part}" for part in PARTS), "rate", *(f"lemma_{part}" for part in RECEIVERS),
    "total_p", "left_p", "left_p_proportional", "total_logp", "left_logp",
]  # fmt: skip
# How deep in a valley y⁻ lies: π(label) before the step.
DEPTHS = [0.0, 0.01, 0.05, 0.2, 0.5, 1.0]
DEPTH_LABELS = ["<.01", ".01–.05", ".05–.2", ".2–.5", ">.5"]
PLACES = [0, 1, 2, 4, 8, 16, 32, np.inf]
PLACE_LABELS = ["1", "2", "3–4", "5–8", "9–16", "17–32", "33+"]
ALIGNED = ["shared", "fork", "apart"]
# Prediction → (squares left, squares in all).
EXPLAINED = {
    "explained_p": ("left_p", "total_p"),
    "explained_p_proportional": ("left_p_proportional", "total_p"),
    "explained_logp": ("left_logp", "total_logp"),
}
SUMMARY = ["kind", "by", "bin", "quantity", "value", "low", "high", "seeds"]


def summary(tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """What all positions come to: a row per kind × grouping × bin × quantity, :data:`SUMMARY`.

    Groupings (``by``): ``all``; ``depth``, bins of p(label) before the step; ``position`` in y⁻,
    from 1; ``aligned``. Value: mean over seeds of one value per seed, with its 95% t-interval (NaN
    with one seed); ``seeds``: how many have a value. Quantities:

    * ``positions``; ``fell``: the share of them where the label loses mass; ``removed``: what it
      loses there, percentage points per position;
    * ``greedy``, ``chosen``, ``both``, ``rest``: the share of what is removed that lands there
      (sums over those positions, which add up to 1); ``lemma_…``: the same as Lemma 1 has it;
    * ``explained_p``, ``explained_logp``: 1 − squares left by Lemma 1 ÷ squares left by a constant,
      over the changes of probability, and of log-prob, of all tokens besides the label, summed
      over all positions. The constant is what the label's own change leaves: an even share of
      probability, the same change of log-prob. ``explained_p_proportional``: ``explained_p`` of
      that second constant; ``…_median``: the median over positions.

    Args:
        tables: what :func:`mass.measure` gave, by seed.
    """
    rows = []
    for seed, table in tables.items():
        for by, bins in _groupings(table).items():
            for (kind, name), part in table.groupby([table["kind"], bins], observed=True):
                for quantity, value in _quantities(part).items():
                    rows.append((kind, by, str(name), quantity, seed, value))
    found = pd.DataFrame(rows, columns=["kind", "by", "bin", "quantity", "seed", "value"])
    out = []
    for key, one in found.groupby(["kind", "by", "bin", "quantity"], sort=False):
        known = one["value"].dropna()
        if len(known):
            mean = seeds_interval(known)
            out.append((*key, mean.value, mean.low, mean.high, len(known)))
    return pd.DataFrame(out, columns=SUMMARY)


def _groupings(table: pd.DataFrame) -> dict[str, pd.Series]:
    depth = pd.cut(table["p_label"], DEPTHS, labels=DEPTH_LABELS, include_lowest=True)
    place = pd.cut(table["position"], PLACES, labels=PLACE_LABELS, right=False)
    whole = pd.Series("all", index=table.index)
    return {"all": whole, "depth": depth, "position": place, "aligned": table["aligned"]}


def _quantities(part: pd.DataFrame) -> dict[str, float]:
    """The quantities of :func:`summary` of some positions of one seed."""
    falling = part[part["dp_label"] < 0]
    predicted = falling[falling["rate"].notna()]
    out = {
        "positions": len(part),
        "fell": len(falling) / len(part),
        "removed": -100 * falling["dp_label"].mean(),
    }
    for rows, prefix, column in ((falling, "", "dp_"), (predicted, "lemma_", "lemma_")):
        lost = -rows["dp_label"].sum()
        for receiver in RECEIVERS:
            share = rows[f"{column}{receiver}"].sum() / lost if lost > 0 else np.nan
            out[f"{prefix}{receiver}"] = float(share)
    known = part[part["rate"].notna()]
    for name, (left, total) in EXPLAINED.items():
        some = known[known[total] > 0]
        out[name] = 1 - some[left].sum() / some[total].sum() if len(some) else np.nan
        out[f"{name}_median"] = float((1 - some[left] / some[total]).median())
    return out
