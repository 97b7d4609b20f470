"""The claims for people."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from learning_dynamics.claims.evidence import VALLEY
from learning_dynamics.claims.imported import OWN
from learning_dynamics.claims.inference import NOT_TESTABLE
from learning_dynamics.claims.mechanism import NAMES
from learning_dynamics.dynamics import Trajectories, series

DIGITS = {"%": 1, "points": 2, "r": 2, "nats": 2}


def number(value: float, unit: str) -> str:
    """A value with its sign and unit: ``+11.5%``, ``−0.17 points``, ``+0.62``."""
    text = f"{value:+.{DIGITS[unit]}f}".replace("-", "−")
    return text + {"%": "%", "points": " points", "r": "", "nats": " nats"}[unit]


def as_markdown(claims: pd.DataFrame, parts: pd.DataFrame) -> str:
    """The claims table, one line per claim × data set × model, and below it what each claim is made
    of; the part that decides stands in the first."""
    lines = [
        "# Claims",
        "",
        'Effects in percent of their start (docs/statistics.md, "Claims"), from each run\'s own '
        "start; interval: 95%; the verdict is corrected for looking at many claims. Predicted by "
        "first order: the share of the effect that first-order influence predicts, step by step, "
        "where the runs were followed.",
        "",
        "| claim | data set, model | what decides | effect [95% interval] | nats | smallest "
        "| dose (lr × updates) | interval | predicted by first order | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in claims.to_dict("records"):
        where = f"{row['dataset']}, {row['model']}"
        where += f" ({row['origin']})" if row["origin"] in ("published", OWN) else ""
        head = f"| {row['claim']}: {row['words']} | {where} "
        if row["verdict"] == NOT_TESTABLE:
            nothing = "| – " * 7
            lines.append(f"{head}{nothing}| not testable: lacks {row['missing']} |")
            continue
        nats = "–" if pd.isna(row["nats"]) else f"{row['nats']:+.1f}".replace("-", "−")
        dose = row["dose"] if isinstance(row["dose"], str) else "–"
        lines.append(
            f"{head}| {row['quantity']} | {effect(row)} | {nats} | "
            f"{number(row['smallest'], row['unit'])} | {dose} | {over(row)} | "
            f"{first_order(row)} | **{row['verdict']}** |"
        )
    lines += ["", "# Their parts", "",
              "| claim | data set, model | part | predicted | effect [95% interval] "
              "| seeds with the sign |", "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row['claim']} | {row['dataset']}, {row['model']} | {row['quantity']} | "
        f"{row['predicted']} | {effect(row)} | {row['seeds_with_sign']:.0f}/{row['seeds']:.0f} |"
        for row in parts.to_dict("records")
    ]
    return "\n".join(lines) + "\n"


def effect(row: Mapping) -> str:
    """Value and 95% interval."""
    text = number(row["value"], row["unit"])
    if pd.isna(row["low"]):
        return text
    low, high = (
        f"{row[end]:+.{DIGITS[row['unit']]}f}".replace("-", "−") for end in ("low", "high")
    )
    return f"{text} [{low}, {high}]"


def first_order(row: Mapping) -> str:
    """The share that first-order influence predicts, with its interval."""
    if pd.isna(row[NAMES[0]]):
        return "–"
    share, low, high = (f"{row[name]:.0%}".replace("-", "−") for name in NAMES)
    return f"{share} [{low}, {high}]"


def over(row: Mapping) -> str:
    """What the interval is over; without one, whether the point value is as predicted."""
    if row["interval"] != "no interval":
        return row["interval"]
    agrees = row["value"] / row["smallest"]
    word = "as predicted" if agrees >= 1 else "opposite" if agrees < 0 else "smaller than predicted"
    return f"no interval ({word})"


def criteria(runs: Mapping[str, Trajectories]) -> str:
    """The world's criteria of docs/statistics.md as measured, one line each, means over seeds."""

    def mean(role: str, column: str, kind: str, at: int) -> float:
        values = [series(t, column, kind)[1][at].mean() for t in runs[role].values()]
        return float(np.mean(values))

    start = {c: mean("sft", c, "chosen", 0) for c in ("prob_norm", "energy", "logp", "logp_argmax")}
    rise = 1 - mean("sft", "logp", "chosen", -1) / start["logp"]
    fall = mean("dpo", "logp", "rejected", -1) / mean("dpo", "logp", "rejected", 0) - 1
    return (
        "Along y⁺ before finetuning (Pythia-410M on HH: 0.51, 0.31, 0.41):\n"
        f"mean ‖π‖₂ {start['prob_norm']:.2f}, mean p(label) {1 - start['energy']:.2f}, "
        f"Σ log p(greedy) / Σ log p(label) {start['logp_argmax'] / start['logp']:.2f}.\n"
        f"SFT raised log π(y⁺) by {rise:.1%} of its start (Pythia-410M after two epochs: 22%); "
        f"DPO lowered log π(y⁻) by {fall:.1%} (63%).\n"
    )


def mass_balance(one_step: Mapping[int, pd.DataFrame]) -> str:
    """Where the mass of y⁻ positions goes in one DPO step, by depth of the valley, one line each:
    mean change of probability over positions of all seeds, in percentage points."""
    table = pd.concat(one_step.values())
    lines = []
    for depth in (VALLEY, 0.01):
        rows = table[(table["kind"] == "dpo") & (table["p_label"] < depth)]
        label, top, rest = (100 * rows[f"dp_{p}"].mean() for p in ("label", "top_other", "rest"))
        lines.append(
            f"One DPO step, {len(rows)} positions with p(y⁻) < {depth}: y⁻ {label:+.3f}, "
            f"best other {top:+.3f}, all the rest {rest:+.3f} percentage points.\n"
        )
    return "".join(lines)
