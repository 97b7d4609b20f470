"""From numbers per seed and example to p-values, intervals and verdicts (docs/statistics.md,
section "Claims"). Everything works on leading axes too, so that many draws are judged at once."""

from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.03  # of the false discovery rate
SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, NOT_TESTABLE = "undecided", "not testable"
SMALLEST_P = 1e-9
# The one-sided p-values at which quantiles are tabulated.
GRID = np.geomspace(SMALLEST_P, 0.5, 4001)


@cache
def t_quantiles(freedom: int) -> np.ndarray:
    """Student's t above which a share :data:`GRID` lies: with t = √ν tan θ the density of θ is
    ∝ cos^(ν−1) θ, summed here from the tail, where it is small."""
    angle = np.linspace(np.pi / 2, 0, 400_001)
    density = np.cos(angle) ** (freedom - 1)
    tail = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    tail /= 2 * tail[-1]
    wanted = np.interp(np.log(GRID), np.log(np.maximum(tail, 1e-300)), angle)
    return np.sqrt(freedom) * np.tan(wanted)


@dataclass(frozen=True)
class Spread:
    """A mean and what is known of its error.

    Attributes:
        value: the mean over seeds and examples, (...).
        seeds, conversations: variance of the mean through either, (...); zero where there is one.
        freedom: degrees of freedom of the two; 0 where there is one.
        by_seed: the seeds' means, (..., S).
    """

    value: np.ndarray
    seeds: np.ndarray
    conversations: np.ndarray
    freedom: tuple[int, int]
    by_seed: np.ndarray

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return any(self.freedom)

    def half_width(self, p: float | np.ndarray) -> np.ndarray:
        """Distance from the value to a one-sided bound that is wrong with probability ``p``."""
        place = np.interp(np.log(p), np.log(GRID), np.arange(len(GRID)))
        return np.sqrt(self._squared(place))

    def p_above(self, bound: float | np.ndarray) -> np.ndarray:
        """One-sided p-value of the null that the mean is at most ``bound``, (...)."""
        distance = np.asarray(self.value - bound, dtype=float)
        low = np.zeros(distance.shape, dtype=int)
        high = np.full(distance.shape, len(GRID) - 1)
        for _ in range(12):  # 2¹² > len(GRID); the squared half-width falls along the grid
            middle = (low + high) // 2
            within = self._squared(middle) >= distance**2
            low, high = np.where(within, middle, low), np.where(within, high, middle)
        ends = self._squared(low), self._squared(high)
        gap = np.where(ends[0] > ends[1], ends[0] - ends[1], 1.0)
        share = np.clip((ends[0] - distance**2) / gap, 0.0, 1.0)
        p = np.exp(np.log(GRID[low]) * (1 - share) + np.log(GRID[high]) * share)
        nothing = (self.seeds == 0) & (self.conversations == 0)  # no spread at all
        p = np.where(nothing, np.where(distance == 0, 0.5, SMALLEST_P), p)
        p = np.where(distance < 0, 1 - p, p)
        return np.where(np.isnan(distance) | (not self.known), np.nan, p)

    def _squared(self, place: np.ndarray) -> np.ndarray:
        total = 0.0
        for variance, freedom in zip((self.seeds, self.conversations), self.freedom, strict=True):
            if freedom:
                t = t_quantiles(freedom)
                at = t[place] if np.asarray(place).dtype.kind == "i" else _between(t, place)
                total = total + variance * at**2
        return np.asarray(total)


def _between(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    return np.interp(place, np.arange(len(values)), values)


def spread(values: np.ndarray, clusters: np.ndarray | None = None) -> Spread:
    """The mean of ``values`` (..., S, E) with its variance through seeds and conversations.

    Args:
        values: one number per seed and example; an example with NaN in some seed is left out. A
            seed that has none makes everything NaN.
        clusters: the conversation of each example, (E,); None: each its own.
    """
    clusters = np.arange(values.shape[-1]) if clusters is None else clusters
    holes = np.isnan(values)
    bad = (holes & ~holes.all(-1, keepdims=True)).any(tuple(range(values.ndim - 1)))
    values, clusters = values[..., ~bad], clusters[~bad]
    seeds, examples = values.shape[-2:]
    if examples == 0:
        nothing = np.full(values.shape[:-2], np.nan)
        return Spread(nothing, nothing, nothing, (0, 0), np.full(values.shape[:-1], np.nan))
    by_seed = values.mean(-1)
    value = by_seed.mean(-1)
    zero = np.zeros(value.shape)
    through_seeds = by_seed.var(-1, ddof=1) / seeds if seeds > 1 else zero
    _, number = np.unique(clusters, return_inverse=True)
    count = int(number.max()) + 1
    through_examples = zero
    if count > 1:
        apart = values.mean(-2) - value[..., None]
        if count < examples:
            apart = apart @ np.eye(count)[number]
        through_examples = count / (count - 1) * (apart**2).sum(-1) / examples**2
    return Spread(value, through_seeds, through_examples, (seeds - 1, count - 1), by_seed)


def significance(p: np.ndarray) -> np.ndarray:
    """The p-value up to which a test is significant (Benjamini–Hochberg), (...).

    Args:
        p: both tests of every testable row, (..., m, 2).
    """
    m = p.shape[-2]
    both = np.sort(p.reshape(*p.shape[:-2], 2 * m), axis=-1)
    unit = LEVEL / m  # of the 2m nulls at most m are true
    ranks = np.arange(1, 2 * m + 1)
    return unit * np.maximum(np.where(both <= ranks * unit, ranks, 0).max(-1), 1)


def judge(p: np.ndarray, enough: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The verdicts, (...): ``p`` (..., 2) for support and contradiction, ``enough``: whether every
    part's estimate is at least the smallest effect, ``level``: :func:`significance`."""
    supports = (p[..., 0] <= level) & enough
    out = np.where(supports, SUPPORTED, UNDECIDED)
    return np.where((p[..., 1] <= level) & ~supports, CONTRADICTED, out)
