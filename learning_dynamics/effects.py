"""The effects of docs/statistics.md: each a number with an interval, beside its controls, with a
verdict. Fixed before the toy world was built; read that page before changing a line here."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from learning_dynamics import dynamics
from learning_dynamics.dynamics import Estimate, Trajectories, change, estimate, last_step

PARTS = ("label", "top_other", "rest")  # of a y⁻ position's mass
VALLEY = 0.05  # p(label) below which a y⁻ position lies in a valley
# id: (sentence, column, response type or "others", predicted sign)
ALONG_DPO = {
    "valley-label": ("DPO pushes y⁻ down", "logp", "rejected", -1),
    "valley-top": ("at y⁻ prefixes the best other token gains", "logp_top_other", "rejected", +1),
    "greedy-up": ("along y⁺ the greedy token gains", "logp_argmax", "chosen", +1),
    "greedy0-up": ("… the one that was greedy at the start", "logp_greedy0", "chosen", +1),
    "chosen-down": ("y⁺ itself falls", "logp", "chosen", -1),
    "others-down": ("every other response falls (mean)", "logp", "others", -1),
}
ONE_STEP = {
    "one-step-top": ("one step, valley of y⁻: the best other token gains", "dlogp_top_other", +1),
    "one-step-rest": ("one step, valley of y⁻: all the rest loses", "dlogp_rest", -1),
    # added after the first results were seen (docs/statistics.md says so); percentage points
    "one-step-mass": ("… the best other token gains mass (% points)", "dp_top_other", +1),
}
EXTEND = {
    "extend-others": ("extend softens the decay of the others", "others-down", +1),
    "extend-greedy": ("extend softens the rise of greedy", "greedy-up", -1),
}


@dataclass(frozen=True)
class Comparison:
    """One row of the effects table: an estimate and the sign that the paper predicts for it."""

    effect: str
    statement: str
    quantity: str
    sign: int
    result: Estimate

    def row(self) -> dict:
        """The row as it is written."""
        signs = sum(self.sign * value > 0 for value in self.result.seeds)
        return {
            "effect": self.effect,
            "statement": self.statement,
            "quantity": self.quantity,
            "predicted": "> 0" if self.sign > 0 else "< 0",
            "value": self.result.value,
            "low": self.result.low,
            "high": self.result.high,
            "seeds_with_sign": signs,
            "seeds": len(self.result.seeds),
            "interval_agrees": {1: "yes", 0: "no", -1: "opposite"}[self.sign * self.result.side()],
        }


def others(trajectory: pd.DataFrame) -> list[str]:
    """The response types besides chosen and rejected."""
    return [k for k in trajectory["response_type"].unique() if k not in ("chosen", "rejected")]


def effects(
    runs: Mapping[str, Trajectories], one_step: Mapping[int, pd.DataFrame]
) -> list[Comparison]:
    """Every comparison of every effect, from the trajectories by role (``sft, dpo, continued,
    coinflip, extend, matched``) and the single-step tables by seed."""
    kinds = others(next(iter(runs["dpo"].values())))

    def of(role: str, column: str, kind: str, at: dict | None = None) -> np.ndarray:
        return change(runs[role], column, kinds if kind == "others" else [kind], at)

    out = []
    for name, (statement, column, kind, sign) in ALONG_DPO.items():
        dpo = of("dpo", column, kind)
        out.append(Comparison(name, statement, "change under dpo", sign, estimate(dpo)))
        for control, title in (("continued", "sft-continued"), ("coinflip", "dpo-coinflip")):
            difference = estimate(dpo - of(control, column, kind))
            out.append(Comparison(name, statement, f"dpo − {title}", sign, difference))
    for name, (statement, column, sign) in ONE_STEP.items():
        steps = {kind: _valley(one_step, kind, column) for kind in ("dpo", "coinflip", "sft")}
        out.append(Comparison(name, statement, "dpo step", sign, estimate(steps["dpo"])))
        for control, title in (("coinflip", "coin-flip step"), ("sft", "SFT step")):
            difference = estimate(steps["dpo"] - steps[control])
            out.append(Comparison(name, statement, f"dpo step − {title}", sign, difference))
    trio = ["dpo", "extend", "matched"]
    same_margin = dict(zip(trio, dynamics.equal_margin([runs[role] for role in trio]), strict=True))
    for name, (statement, measured, sign) in EXTEND.items():
        _, column, kind, _ = ALONG_DPO[measured]
        for basis in ("updates", "margin"):
            at = same_margin if basis == "margin" else dict.fromkeys(trio)
            values = {role: of(role, column, kind, at[role]) for role in trio}
            for control, title in (("dpo", "dpo"), ("matched", "twin")):
                quantity = f"extend − {title}, equal {basis}"
                difference = estimate(values["extend"] - values[control])
                out.append(Comparison(name, statement, quantity, sign, difference))
    statement = "SFT raises answers to other questions"
    irr_train = of("sft", "logp", "irr_train")
    out.append(Comparison("sft-irr", statement, "change under sft", +1, estimate(irr_train)))
    difference = estimate(irr_train - of("sft", "logp", "irr_test"))
    out.append(Comparison("sft-irr", statement, "irr_train − irr_test", +1, difference))
    return out


def effects_table(comparisons: list[Comparison]) -> pd.DataFrame:
    """One row per comparison; ``verdict`` judges the whole effect: ``supported`` when every
    comparison's interval has the predicted sign, ``contradicted`` when any has the opposite one,
    ``undecided`` otherwise."""
    table = pd.DataFrame([comparison.row() for comparison in comparisons])
    verdicts = {}
    for name, group in table.groupby("effect"):
        agreed = set(group["interval_agrees"])
        verdicts[name] = (
            "supported"
            if agreed == {"yes"}
            else "contradicted"
            if "opposite" in agreed
            else "undecided"
        )
    return table.assign(verdict=table["effect"].map(verdicts))


def as_markdown(table: pd.DataFrame) -> str:
    """The effects table for people: one line per comparison."""
    lines = [
        "| effect | quantity (nats) | predicted | value [95% interval] | seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    previous = None
    for row in table.itertuples():
        new = row.effect != previous
        lines.append(
            f"| {f'{row.effect}: {row.statement}' if new else ''} | {row.quantity} | "
            f"{row.predicted} | {row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}] | "
            f"{row.seeds_with_sign}/{row.seeds} | {f'**{row.verdict}**' if new else ''} |"
        )
        previous = row.effect
    return "\n".join(lines) + "\n"


def criteria(runs: Mapping[str, Trajectories]) -> str:
    """The world's criteria of docs/statistics.md as measured, one line each, means over seeds."""

    def mean(role: str, column: str, kind: str, at: int) -> float:
        return float(
            np.mean([dynamics.series(t, column, kind)[1][at].mean() for t in runs[role].values()])
        )

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
        label, top, rest = (100 * rows[f"dp_{part}"].mean() for part in PARTS)
        lines.append(
            f"One DPO step, {len(rows)} positions with p(y⁻) < {depth}: y⁻ {label:+.3f}, "
            f"best other {top:+.3f}, all the rest {rest:+.3f} percentage points.\n"
        )
    return "".join(lines)


def dose_table(runs: Mapping[str, Trajectories], rates: dict[str, float], updates: list[int]):  # noqa: ANN201
    """Table of the dose effects at every learning rate × updates, with intervals and per-seed
    signs. A run is read at an update that it probed (the state there is the end of a run of that
    length); updates beyond its end are left out."""
    rows = []
    for run, by_seed in runs.items():
        kinds = others(next(iter(by_seed.values())))
        last = min(last_step(t) for t in by_seed.values())
        for update in [u for u in updates if u <= last]:
            for name in ("valley-label", "valley-top", "greedy-up", "chosen-down", "others-down"):
                statement, column, kind, sign = ALONG_DPO[name]
                wanted = kinds if kind == "others" else [kind]
                values = change(by_seed, column, wanted, dict.fromkeys(by_seed, update))
                result = Comparison(name, statement, run, sign, estimate(values)).row()
                rows.append({"run": run, "lr": rates[run], "updates": update, **result})
    return pd.DataFrame(rows).drop(columns="quantity")


def _valley(one_step: Mapping[int, pd.DataFrame], kind: str, column: str) -> np.ndarray:
    """Mean over a batch's valley positions, shape (seeds, batches). The batches of two seeds are
    not the same, so seeds are cut to the batches that all have."""
    means = []
    for table in one_step.values():
        rows = table[(table["kind"] == kind) & (table["p_label"] < VALLEY)]
        scale = 100 if column.startswith("dp_") else 1
        means.append(scale * rows.groupby("batch")[column].mean().to_numpy())
    count = min(map(len, means))
    return np.array([values[:count] for values in means])
