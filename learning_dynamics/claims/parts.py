"""What a claim is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from learning_dynamics.claims.evidence import Evidence, Move
from learning_dynamics.claims.inference import Spread, spread

PERCENT, POINTS, CORRELATION, NATS = "%", "points", "r", "nats"


@dataclass(frozen=True)
class Part:
    """One number that a claim predicts, with the sign that it predicts for it.

    Attributes:
        label: what it is, in words.
        values: per seed and example, (..., S, E).
        sign: +1 where it is predicted above zero, −1 below.
        smallest: the smallest effect worth the name, in the part's unit, positive.
        unit: percent of the start, points, r (correlation) or nats.
        nats: the same in nats per response, where it is a change of log-prob (...).
        clusters: the conversation of each example, where it is not the evidence's.
        at_most: values for the test that contradicts, where a search (for a peak) makes ``values``
            too small: these are too large if anything.
    """

    label: str
    values: np.ndarray
    sign: int
    smallest: float
    unit: str = PERCENT
    nats: np.ndarray | None = None
    clusters: np.ndarray | None = None
    at_most: np.ndarray | None = None

    def spreads(self, clusters: np.ndarray) -> tuple[Spread, Spread]:
        """Mean and error, predicted side up, for the tests that support and that contradict;
        ``clusters``: the evidence's."""
        own = clusters if self.clusters is None else self.clusters
        fits = len(own) == self.values.shape[-1]
        found = spread(self.sign * self.values, own if fits else None)
        if self.at_most is None:
            return found, found
        return found, spread(self.sign * self.at_most, own if fits else None)


def up(label: str, move: Move, smallest: float) -> Part:
    """A change predicted above zero."""
    return Part(label, move.percent, +1, smallest, nats=move.nats)


def down(label: str, move: Move, smallest: float) -> Part:
    """A change predicted below zero."""
    return Part(label, move.percent, -1, smallest, nats=move.nats)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper with the statistic that decides it.

    Attributes:
        id: its number in docs/statistics.md.
        words: the sentence.
        source: where the paper says it.
        role: the run whose dose (learning rate × updates) the row names.
        parts: the statistic: what must be above (or below) zero. Raises Missing.
    """

    id: str
    words: str
    source: str
    role: str
    parts: Callable[[Evidence], list[Part]]
