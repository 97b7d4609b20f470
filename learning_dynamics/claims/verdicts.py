"""Claims × data sets × models: what the runs say of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from learning_dynamics.claims import mechanism
from learning_dynamics.claims.dpo import DPO_CLAIMS
from learning_dynamics.claims.evidence import Column, Missing
from learning_dynamics.claims.inference import (
    CONTRADICTED,
    NOT_TESTABLE,
    UNDECIDED,
    Spread,
    judge,
    significance,
)
from learning_dynamics.claims.parts import Claim, Part
from learning_dynamics.claims.sft import SFT_CLAIMS


def _place(claim: Claim) -> tuple[int, int, str]:
    letter, number = claim.id[0], int("".join(c for c in claim.id if c.isdigit()))
    return "CSO".index(letter), number, claim.id


CLAIMS = sorted([*SFT_CLAIMS, *DPO_CLAIMS], key=_place)
COLUMNS = ["claim", "words", "source", "origin", "dataset", "model", "verdict", "quantity",
           "predicted", "value", "low", "high", "corrected_low", "corrected_high", "unit",
           "smallest", "nats", "dose", "seeds", "seeds_with_sign", "interval", "p_support",
           "p_contradict", "significant_at", *mechanism.NAMES, "missing"]  # fmt: skip
OVER = {(True, True): "over seeds and examples", (True, False): "over seeds only",
        (False, True): "over examples only", (False, False): "no interval"}  # fmt: skip


@dataclass(frozen=True)
class Weighed:
    """A claim's parts, tested: ``p`` for support and contradiction, (..., 2), NaN without an
    interval; ``enough``: whether every estimate is at least the smallest effect; per part its
    spread and its own p-values, (parts, ..., 2)."""

    parts: Sequence[Part]
    spreads: Sequence[Spread]
    each: np.ndarray
    p: np.ndarray
    enough: np.ndarray


def weigh(parts: Sequence[Part], clusters: np.ndarray) -> Weighed:
    """Both tests of every part, and of the claim: all parts must hold, one that fails is enough."""
    both = [part.spreads(clusters) for part in parts]
    spreads = [one for one, _ in both]
    each = np.array([
        np.stack([one.p_above(0.0), 1 - other.p_above(part.smallest)], -1)
        for (one, other), part in zip(both, parts, strict=True)
    ])  # fmt: skip
    p = np.stack([each[..., 0].max(0), np.minimum(1.0, len(parts) * each[..., 1].min(0))], -1)
    enough = np.all([s.value >= q.smallest for s, q in zip(spreads, parts, strict=True)], axis=0)
    return Weighed(parts, spreads, each, p, enough)


def tables(columns: Sequence[Column]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per claim × data set × model (:data:`COLUMNS`), and one row per part of each."""
    found = []
    for column in columns:
        for claim in CLAIMS:
            head = {"claim": claim.id, "words": claim.words, "source": claim.source,
                    "origin": column.origin, "dataset": column.dataset, "model": column.model,
                    "dose": column.dose.get(claim.role)}  # fmt: skip
            try:
                weighed = weigh(claim.parts(column.evidence), column.evidence.clusters)
                for part, one in zip(weighed.parts, weighed.spreads, strict=True):
                    if np.isnan(one.value):
                        raise Missing(f"a value of {part.label!r}")
            except Missing as lacking:
                head |= {"verdict": NOT_TESTABLE, "missing": str(lacking)}
                found.append((head, None, {}))
            else:
                found.append((head, weighed, mechanism.shares(claim, column.followed)))
    rows, parts = [], []
    for origin in dict.fromkeys(column.origin for column in columns):
        mine = [entry for entry in found if entry[0]["origin"] == origin]
        tested = [w.p for _, w, _ in mine if w is not None and not np.isnan(w.p).any()]
        level = float(significance(np.array(tested))) if tested else np.nan
        for head, weighed, shares in mine:
            if weighed is not None:
                verdict, decides = _verdict(weighed, level)
                described = [
                    _describe(weighed, number, level) | shares.get(part.label, {})
                    for number, part in enumerate(weighed.parts)
                ]
                facts = {"verdict": verdict, "p_support": weighed.p[0],
                         "p_contradict": weighed.p[1], "significant_at": level}  # fmt: skip
                parts += [head | {"verdict": verdict} | one for one in described]
                head = head | described[decides] | facts
            rows.append(head)
    keys = [name for name in COLUMNS if name not in ("significant_at", "missing")]
    return (pd.DataFrame(rows).reindex(columns=COLUMNS), pd.DataFrame(parts).reindex(columns=keys))


def _verdict(weighed: Weighed, level: float) -> tuple[str, int]:
    """The verdict, and the number of the part that decides."""
    if np.isnan(weighed.p).any():
        short = [
            s.value / part.smallest for s, part in zip(weighed.spreads, weighed.parts, strict=True)
        ]
        return UNDECIDED, int(np.argmin(short))
    verdict = str(judge(weighed.p, weighed.enough, np.array(level)))
    if verdict == CONTRADICTED:
        return verdict, int(weighed.each[:, 1].argmin())
    return verdict, int(weighed.each[:, 0].argmax())


def _describe(weighed: Weighed, number: int, level: float) -> dict:
    part, found = weighed.parts[number], weighed.spreads[number]
    value = part.sign * float(found.value)
    row = {
        "quantity": part.label, "predicted": "> 0" if part.sign > 0 else "< 0", "value": value,
        "unit": part.unit, "smallest": part.sign * part.smallest,
        "nats": float(part.nats) if part.nats is not None else np.nan,
        "seeds": len(found.by_seed), "seeds_with_sign": int((found.by_seed > 0).sum()),
        "interval": OVER[tuple(map(bool, found.freedom))],
        "p_support": weighed.each[number, 0], "p_contradict": weighed.each[number, 1],
    }  # fmt: skip
    if found.known:
        half = float(found.half_width(0.025))
        row |= {"low": value - half, "high": value + half}
        # Below by the test for support, above by that for contradiction: one part in so many.
        below = float(found.half_width(level))
        above = float(found.half_width(level / len(weighed.parts)))
        below, above = (below, above) if part.sign > 0 else (above, below)
        row |= {"corrected_low": value - below, "corrected_high": value + above}
    return row
