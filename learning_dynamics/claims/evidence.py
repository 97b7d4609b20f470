"""What claims are judged by: curves of roles, as arrays per seed and example, and moves in percent
of their start (docs/statistics.md, section "Claims")."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from learning_dynamics.along import Runs
from learning_dynamics.dynamics import mean_over_kinds

SHUFFLED = "random_"  # types of shuffled words begin so
VALLEY = 0.05  # p(label) below which a y⁻ position lies in a valley


class Missing(Exception):
    """What a claim needs and this evidence lacks; the text names it."""


@dataclass(frozen=True)
class Move:
    """A change: ``percent`` of its start, one number per seed and example (..., S, E), whose mean
    is the change's sum over that of |start|; ``nats``: its mean, per response (...)."""

    percent: np.ndarray
    nats: np.ndarray

    def __sub__(self, other: "Move") -> "Move":
        one, two = self.percent, other.percent
        if one.shape[-1] != two.shape[-1]:  # one has means alone
            one, two = (np.nanmean(each, -1, keepdims=True) for each in (one, two))
        return Move(one - two, self.nats - other.nats)

    def times(self, factor: float) -> "Move":
        return Move(factor * self.percent, factor * self.nats)


def percent(change: np.ndarray, start: np.ndarray) -> Move:
    """``change`` (..., S, E) in percent of |``start``|, summed over examples. The numbers per
    example are the ratio's linearisation: their spread is that of the ratio."""
    size = np.where(np.isnan(change), np.nan, np.abs(start))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a seed without any value stays NaN
        scale = np.nanmean(size, -1, keepdims=True)
        ratio = np.nanmean(change, -1, keepdims=True) / scale
        nats = np.nanmean(change, (-2, -1))
    return Move(100 * (ratio + (change - ratio * size) / scale), nats)


def mean_move(moves: Sequence[Move]) -> Move:
    """The mean of moves, per example over those that it has."""
    if any(np.isnan(move.percent).any() for move in moves):
        together = mean_over_kinds(np.array([move.percent for move in moves]))
    else:
        together = sum(move.percent for move in moves) / len(moves)
    return Move(together, sum(move.nats for move in moves) / len(moves))


class Evidence:
    """Curves by role. Arrays are (..., S, T, E): seeds, evaluations, examples; leading axes, if
    any, are draws. Subclasses give :meth:`curve`, :meth:`kinds`, :meth:`examples` and
    :meth:`valley`.

    Attributes:
        clusters: the conversation of each example, (E,).
        text: ``hh`` or ``ultrafeedback`` where the data are, else None.
        peers: other models on the same data; their runs are the roles ``<role>@<peer>``.
    """

    clusters: np.ndarray
    text: str | None = None
    peers: tuple[str, ...] = ()

    def curve(self, role: str, column: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (T,) and values (..., S, T, E). Raises Missing."""
        raise NotImplementedError

    def kinds(self, role: str) -> list[str]:
        """The response types of a role's train probes. Raises Missing."""
        raise NotImplementedError

    def examples(self, role: str) -> np.ndarray:
        """Training rows consumed at each evaluation, (T,). Raises Missing."""
        raise NotImplementedError

    def valley(self, kind: str, column: str) -> np.ndarray:
        """Mean over the valley positions of single steps (..., S, batches), ``kind``: dpo,
        coinflip or sft; probabilities in percentage points. Raises Missing."""
        raise NotImplementedError

    def win_rate(self, last: bool) -> np.ndarray:
        """Win rate of extend over the baseline in percent, (..., S, E): before DPO, or at the
        ``last`` epoch. Raises Missing."""
        raise NotImplementedError

    def has(self, role: str) -> bool:
        try:
            return bool(self.kinds(role))
        except Missing:
            return False

    # -- what claims ask -----------------------------------------------------------------------

    def change(
        self,
        role: str,
        column: str,
        kind: str,
        until: float | np.ndarray | None = None,
        since: float | None = None,
    ) -> Move:
        """Change of a column from the run's start (or ``since`` a step) to its end (or ``until``
        a step, a number or one per seed), in percent of the run's start."""
        steps, values = self.curve(role, column, kind)
        end = values[..., -1, :] if until is None else read(steps, values, until)
        begin = values[..., 0, :] if since is None else read(steps, values, since)
        return percent(end - begin, values[..., 0, :])

    def mean_change(self, role: str, column: str, kinds: list[str], **when) -> Move:  # noqa: ANN003
        """The mean over ``kinds`` of :meth:`change`."""
        return mean_move([self.change(role, column, kind, **when) for kind in kinds])

    def last_step(self, role: str) -> float:
        return float(self.curve(role, "logp", "chosen")[0][-1])

    def others(self, role: str) -> list[str]:
        """The response types besides y⁺ and y⁻."""
        return self._some(role, [k for k in self.kinds(role) if k not in ("chosen", "rejected")])

    def shuffled(self, role: str) -> list[str]:
        return self._some(role, [k for k in self.kinds(role) if k.startswith(SHUFFLED)])

    def _some(self, role: str, kinds: list[str]) -> list[str]:
        """``kinds`` that have a log-prob at all."""
        found = []
        for kind in kinds:
            try:
                self.curve(role, "logp", kind)
            except Missing:
                continue
            found.append(kind)
        if not found:
            raise Missing(f"log-probs of other types in run {role}")
        return found

    def margin(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and the margin gained, (..., S, T, E)."""
        steps, chosen = self.curve(role, "logp", "chosen")
        gap = chosen - self.curve(role, "logp", "rejected")[1]
        return steps, gap - gap[..., :1, :]

    def at_equal_margin(
        self, roles: list[str], move: Callable[[str, np.ndarray], Move]
    ) -> list[Move]:
        """Per role, ``move(role, step)`` at the step, (..., S), at which its mean margin first
        reaches the smallest final one; NaN where that is not above zero: then there is nothing to
        compare at.

        That step is itself read from the examples. So an example that lets a run reach the margin
        earlier, or the run with the smallest one end higher, moves what is read; the numbers per
        example carry this to first order (their mean does not change).
        """
        margins = [self.margin(role) for role in roles]
        ends = np.stack([gained[..., -1, :] for _, gained in margins])
        finals = np.nanmean(ends, -1)
        common, limiting = finals.min(0), finals.argmin(0)
        asked = np.take_along_axis(ends, limiting[None, ..., None], 0)[0]
        nothing = np.where(common > 0, 0.0, np.nan)
        found = []
        for role, (steps, gained) in zip(roles, margins, strict=True):
            means = np.nanmean(gained, -1)
            at = first_reached(steps, means, common)
            after = np.clip(np.searchsorted(steps, at), 1, len(steps) - 1)
            gain = np.diff(means, axis=-1)
            gain = np.take_along_axis(gain, after[..., None] - 1, -1)[..., 0]
            ahead, behind = (
                np.nanmean(move(role, steps[i]).percent, -1) for i in (after, after - 1)
            )
            exchange = np.divide(ahead - behind, gain, np.zeros_like(gain), where=gain > 0)
            short = asked - read(steps, gained, at)
            short = np.nan_to_num(short - np.nanmean(short, -1, keepdims=True))
            moved = move(role, at + nothing)
            found.append(replace(moved, percent=moved.percent + exchange[..., None] * short))
        return found

    def bell(self, role: str, kind: str, apart: bool) -> tuple[Move, Move]:
        """Rise to the peak of the mean curve and change from it to the end. ``apart``: each half of
        the conversations in each seed is read at the peak of the other half in the other seeds:
        noise makes no peak then, but blurs one; otherwise at its own, which noise makes higher."""
        _, values = self.curve(role, "logp", kind)
        ups, downs = (np.full(values[..., 0, :].shape, np.nan) for _ in range(2))
        for mine, other in self.halves(values, apart):
            means = np.nanmean(values[..., other], -1)
            if apart and means.shape[-2] > 1:
                means = means.sum(-2, keepdims=True) - means
            peak = means.argmax(-1)[..., None, None]
            top = np.take_along_axis(values[..., mine], peak, -2)[..., 0, :]
            ups[..., mine] = top - values[..., 0, mine]
            downs[..., mine] = values[..., -1, mine] - top
        start = values[..., 0, :]
        return percent(ups, start), percent(downs, start)

    def largest(self, moves: list[Move], apart: bool) -> np.ndarray:
        """The largest of several moves, in percent (..., S, E); ``apart`` as in :meth:`bell`."""
        stack = np.stack([move.percent for move in moves])
        out = np.full(stack.shape[1:], np.nan)
        for mine, other in self.halves(stack, apart):
            best = np.nanmean(stack[..., other], (-2, -1)).argmax(0)[None, ..., None, None]
            out[..., mine] = np.take_along_axis(stack[..., mine], best, 0)[0]
        return out

    def halves(self, values: np.ndarray, apart: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """Halves of the conversations as masks over examples, each with the other one; the whole
        with itself unless ``apart``, and where there is a single conversation."""
        half = np.unique(self._clusters(values), return_inverse=True)[1] % 2 == 1
        if not apart or not half.any():
            return [(np.ones_like(half), np.ones_like(half))]
        return [(half, ~half), (~half, half)]

    def correlation(self, one: list[Move], two: list[Move]) -> tuple[np.ndarray, np.ndarray]:
        """Pearson's correlation over types of two lists of moves: jackknife pseudo-values over
        conversations, (..., S, C), and the conversations' numbers."""
        stacks = [np.stack([move.percent for move in moves]) for moves in (one, two)]
        if stacks[0].shape[-1] != stacks[1].shape[-1]:  # one has means alone
            stacks = [np.nanmean(stack, -1, keepdims=True) for stack in stacks]
        clusters = self._clusters(stacks[0])
        number = np.unique(clusters, return_inverse=True)[1]
        count = int(number.max()) + 1
        whole = _correlation(*(np.nanmean(stack, -1) for stack in stacks))
        if count == 1:
            return whole[..., None], np.zeros(1, dtype=int)
        member = np.eye(count)[number]
        without = []
        for stack in stacks:
            sums = np.nan_to_num(stack) @ member
            sizes = (~np.isnan(stack)).astype(float) @ member
            total, size = sums.sum(-1, keepdims=True), sizes.sum(-1, keepdims=True)
            without.append((total - sums) / np.maximum(size - sizes, 1))
        left_out = _correlation(*without)
        return count * whole[..., None] - (count - 1) * left_out, np.arange(count)

    def _clusters(self, values: np.ndarray) -> np.ndarray:
        examples = values.shape[-1]
        return self.clusters if len(self.clusters) == examples else np.arange(examples)


@dataclass(frozen=True)
class Column:
    """One data set × model: what its claims are judged by.

    Attributes:
        origin: whose runs they are: the study's name, or ``published``. Columns of one origin are
            corrected together.
        dose: learning rate × updates of each role's run, in words.
        followed: influence.parquet of the roles whose runs have it.
    """

    origin: str
    dataset: str
    model: str
    evidence: Evidence
    dose: Mapping[str, str] = field(default_factory=dict)
    followed: Runs = field(default_factory=dict)


def read(steps: np.ndarray, values: np.ndarray, at: float | np.ndarray) -> np.ndarray:
    """``values`` (..., T, E) at a step (a number, or (...)), interpolated linearly: (..., E)."""
    at = np.asarray(at, dtype=float)
    after = np.clip(np.searchsorted(steps, at), 1, len(steps) - 1)  # NaN reads as NaN
    share = (at - steps[after - 1]) / (steps[after] - steps[after - 1])
    if at.ndim == 0:
        return (1 - share) * values[..., after - 1, :] + share * values[..., after, :]
    before, behind = (
        np.take_along_axis(values, index[..., None, None], -2)[..., 0, :]
        for index in (after - 1, after)
    )
    return (1 - share[..., None]) * before + share[..., None] * behind


def first_reached(steps: np.ndarray, values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The step, (...), at which ``values`` (..., T) first reach ``level`` (...), interpolated; the
    last where they never do."""
    over = values >= level[..., None]
    first = np.where(over.any(-1), over.argmax(-1), len(steps) - 1)
    after = np.maximum(first, 1)
    ends = [np.take_along_axis(values, i[..., None], -1)[..., 0] for i in (after - 1, after)]
    gap = np.where(ends[1] == ends[0], 1.0, ends[1] - ends[0])
    share = np.clip((level - ends[0]) / gap, 0.0, 1.0)
    found = steps[after - 1] + share * (steps[after] - steps[after - 1])
    found = np.where(first == 0, steps[0], found)
    return np.where(over.any(-1), found, steps[-1])


def _correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Pearson's correlation along the first axis."""
    one, two = (each - each.mean(0) for each in (one, two))
    return (one * two).sum(0) / np.sqrt((one**2).sum(0) * (two**2).sum(0))
