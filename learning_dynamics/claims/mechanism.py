"""What first-order influence says of a claim's numbers: the share of each that it predicts, over
the windows in which the claim's runs were followed (docs/statistics.md, section "Claims")."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from learning_dynamics.along import Runs
from learning_dynamics.claims.evidence import Evidence, Missing, Move
from learning_dynamics.claims.parts import Claim
from learning_dynamics.claims.recorded import Recorded
from learning_dynamics.dynamics import seeds_interval

NAMES = ["first_order", "first_order_low", "first_order_high"]


class Followed(Recorded):
    """Evidence of log-probs that move within windows alone, as measured or as predicted, of one
    seed. What windows do not know, and what is no linear combination of log-probs' changes, is NaN:
    a part that reads it is NaN, and its claim's other parts are not.

    Args:
        tables: influence.parquet by role, of one seed.
        column: ``measured``, or what predicts it.
    """

    def __init__(self, tables: Mapping[str, pd.DataFrame], column: str) -> None:
        super().__init__({role: {0: curves(one, column)} for role, one in tables.items()})
        self._any = next(iter(tables))

    def kinds(self, role: str) -> list[str]:
        return super().kinds(role if role in self._runs else self._any)

    def curve(self, role: str, column: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        known = role in self._runs and column == "logp"
        steps, values = super().curve(role if known else self._any, "logp", kind)
        return steps, values if known else np.full(values.shape, np.nan)

    def examples(self, role: str) -> np.ndarray:
        return self.curve(role, "logp", self.kinds(role)[0])[0]

    def at_equal_margin(
        self, roles: list[str], move: Callable[[str, np.ndarray], Move]
    ) -> list[Move]:
        return [self._nothing() for _ in roles]

    def bell(self, role: str, kind: str, apart: bool) -> tuple[Move, Move]:
        return self._nothing(), self._nothing()

    def _nothing(self) -> Move:
        return self.change(self._any, "prob_norm", self.kinds(self._any)[0])


def curves(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A trajectory whose ``logp`` moves within the longest windows of a run alone, by ``column``,
    from an arbitrary start."""
    names = ["example_id", "response_type"]
    longest = table[table["updates"] == table["updates"].max()]
    rows = longest[longest["factor"] == 1].sort_values("step", kind="stable")
    after = rows.groupby(names)[column].cumsum() - 1.0
    return pd.concat(
        rows[names].assign(step=step, logp=logp, split="train")
        for step, logp in (
            (rows["step"], after - rows[column]), (rows["step"] + rows["updates"], after)
        )
    )  # fmt: skip


def shares(claim: Claim, runs: Runs) -> dict[str, dict[str, float]]:
    """Per part of a claim, by its label, :data:`NAMES`: Σ predicted (every step to first order) ÷ Σ
    measured over windows, probes and seeds, with its 95% t-interval over seeds. Left out are parts
    of which windows say nothing, and those of which they measured a sum whose own interval over
    seeds holds 0 (with one seed, all): a share of nothing."""
    seeds = list(runs[claim.role]) if claim.role in runs else []
    found: dict[str, list[list[float]]] = {}
    for seed in seeds:
        tables = {role: by_seed[seed] for role, by_seed in runs.items()}
        both = [_nats(claim, Followed(tables, column)) for column in ("steps", "measured")]
        for label in both[0]:
            found.setdefault(label, []).append([one[label] for one in both])
    return {
        label: _ratio(values)
        for label, values in found.items()
        if np.isfinite(values).all() and seeds_interval([one[1] for one in values]).side()
    }


def _nats(claim: Claim, evidence: Evidence) -> dict[str, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing, which are NaN
        try:
            parts = claim.parts(evidence)
        except Missing:
            return {}
    return {part.label: float(part.nats) for part in parts if part.nats is not None}


def _ratio(values: Sequence[Sequence[float]]) -> dict[str, float]:
    """The ratio of two sums over seeds, (S, 2), with the interval of its linearisation."""
    predicted, measured = np.transpose(values)
    ratio = predicted.sum() / measured.sum()
    error = seeds_interval(predicted - ratio * measured)
    half = error.high / abs(measured.mean())  # the errors' mean is 0
    return dict(zip(NAMES, map(float, (ratio, ratio - half, ratio + half)), strict=True))
