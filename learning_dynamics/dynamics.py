"""Changes along a run, per example, with intervals. Every definition is in docs/statistics.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import pandas as pd

from learning_dynamics.errors import InputError

DRAWS = 4000
Trajectories = Mapping[int, pd.DataFrame]  # by seed, of one run


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, and the means of the single seeds."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def side(self) -> int:
        """+1 or −1 when the interval lies wholly on that side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def resampled_means(arrays: list[np.ndarray], paired: bool = True) -> np.ndarray:
    """Bootstrap means of each array (seeds, examples), shape (4000, arrays).

    Seeds and examples are resampled independently (crossed), with a fixed generator; a single seed
    is kept as it is. All arrays share the draw of seeds; ``paired`` arrays are over the same
    examples and share their draw too.
    """
    examples = [values.shape[1] for values in (arrays[:1] if paired else arrays)]
    of_seeds, *of_examples = _shares((len(arrays[0]), *examples))
    if paired:
        of_examples *= len(arrays)
    draws = zip(arrays, of_examples, strict=True)
    return np.stack([((of_seeds @ values) * own).sum(1) for values, own in draws], axis=1)


@lru_cache(maxsize=8)
def _shares(counts: tuple[int, ...]) -> list[np.ndarray]:
    """For each count the share that every one of so many has in each draw, (4000, count); the
    draws of one call are independent. Kept, since a study asks for the same ones again and again.
    """
    rng = np.random.default_rng(0)
    return [rng.multinomial(count, np.full(count, 1 / count), DRAWS) / count for count in counts]


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95% percentile interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def estimate(values: np.ndarray) -> Estimate:
    """Mean of ``values`` (seeds, examples) with a percentile bootstrap over both; examples that
    lack a value (NaN) in some seed are left out. With a single seed the interval covers the choice
    of examples alone."""
    values = values[:, ~np.isnan(values).any(0)]
    low, high = interval(resampled_means([values])[:, 0])
    return Estimate(float(values.mean()), low, high, tuple(values.mean(1)))


def seeds_interval(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed with its 95% t-interval; NaN bounds with a single seed."""
    known = np.asarray(values, dtype=float)
    half = np.nan
    if len(known) > 1:
        half = t_quantile(len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    mean = float(known.mean())
    return Estimate(mean, float(mean - half), float(mean + half), tuple(known.tolist()))


@cache
def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t: with t = √ν tan θ its density is ∝ cos^(ν−1) θ."""
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sqrt(freedom) * np.tan(np.interp(0.95, share / share[-1], angle)))


def series(
    trajectory: pd.DataFrame, column: str, kind: str, split: str = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (evaluations,) and values (evaluations, examples) of one column and response type, all
    examples of the split in the order of their ids; NaN where one lacks the type.

    Raises:
        InputError: when the trajectory has no such rows.
    """
    steps, (values,) = columns(trajectory, [column], kind, split)
    return steps, values


def columns(
    trajectory: pd.DataFrame, names: Sequence[str], kind: str, split: str = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`series` of several columns, values (columns, evaluations, examples).

    Raises:
        InputError: when the trajectory has no such rows, or two of one evaluation and example.
    """
    of_split = (trajectory["split"] == split).to_numpy()
    rows = of_split & (trajectory["response_type"] == kind).to_numpy()
    if not rows.any():
        raise InputError(f"trajectory: no rows of response_type {kind!r} in split {split!r}")
    # Imported runs may hold means alone, without an example_id: one column, "mean".
    ids = trajectory["example_id"].fillna("mean")
    examples = np.sort(ids[of_split].unique())
    steps, evaluation = np.unique(trajectory["step"].to_numpy()[rows], return_inverse=True)
    example = pd.Index(examples).get_indexer(ids[rows])
    if len(set(zip(evaluation, example, strict=True))) < len(example):
        raise InputError(f"trajectory: several rows of response_type {kind!r} in split {split!r} "
                         "for one step and example; expected one")  # fmt: skip
    values = np.full((len(names), len(steps), len(examples)), np.nan)
    for number, name in enumerate(names):
        values[number, evaluation, example] = trajectory[name].to_numpy()[rows]
    return steps, values


def last_step(trajectory: pd.DataFrame) -> int:
    """The update after which the last probe evaluation was made."""
    return int(trajectory["step"].max())


def change(
    runs: Trajectories,
    column: str,
    kinds: list[str],
    at: Mapping[int, float] | None = None,
    split: str = "train",
) -> np.ndarray:
    """Change of ``column`` since the run's start, mean over ``kinds``, shape (seeds, examples).

    ``at`` gives per seed the (fractional) update at which to read, default the last one; values
    between two probe evaluations are interpolated linearly.
    """
    out = []
    for seed, trajectory in runs.items():
        step = last_step(trajectory) if at is None else at[seed]
        parts = []
        for kind in kinds:
            steps, values = series(trajectory, column, kind, split)
            parts.append(_interpolate(steps, values, step) - values[0])
        out.append(mean_over_kinds(np.array(parts)))
    return np.array(out)


def margin(trajectory: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the probe margin at each: the mean change since the start of
    log π(y⁺) − log π(y⁻) over train probes, nats."""
    steps, chosen = series(trajectory, "logp", "chosen")
    _, rejected = series(trajectory, "logp", "rejected")
    gap = np.nanmean(chosen - rejected, axis=1)
    return steps, gap - gap[0]


def equal_margin(runs: list[Trajectories]) -> list[dict[int, float]]:
    """Per run and seed the update at which the run first reaches the margin that, for that seed,
    all of ``runs`` reach: the smallest of their final margins."""
    common = {seed: min(margin(run[seed])[1][-1] for run in runs) for seed in runs[0]}
    return [{s: _first_crossing(*margin(run[s]), common[s]) for s in run} for run in runs]


def mean_over_kinds(values: np.ndarray) -> np.ndarray:
    """Mean over the kinds (first axis) that an example has; NaN where it has none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _interpolate(steps: np.ndarray, values: np.ndarray, step: float) -> np.ndarray:
    after = int(np.clip(np.searchsorted(steps, step), 1, len(steps) - 1))
    share = (step - steps[after - 1]) / (steps[after] - steps[after - 1])
    return (1 - share) * values[after - 1] + share * values[after]


def _first_crossing(steps: np.ndarray, values: np.ndarray, level: float) -> float:
    reached = np.flatnonzero(values >= level)
    if len(reached) == 0 or reached[0] == 0:
        return float(steps[-1] if len(reached) == 0 else steps[0])
    after = reached[0]
    share = (level - values[after - 1]) / (values[after] - values[after - 1])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


GREEDY_COLUMNS = ["logp_argmax", "logp_greedy0", "logp_top_other"]


def changes_table(runs: Mapping[str, Trajectories]) -> pd.DataFrame:
    """Every run × seed × split × response type: what it changed by, and from what.

    Log-probs are sums over the response, nats, means over examples; ``change`` is from the run's
    start, ``from_best`` from the run's own best evaluation. ``p_label`` is the mean probability of
    the response's tokens, ``greedy_share`` the share of positions where the label is greedy and
    ``prob_norm`` the mean ‖π‖₂, at start and end. Rows with seed "all" average the seeds and carry
    the crossed interval.
    """
    rows = []
    for run, by_seed in runs.items():
        any_trajectory = next(iter(by_seed.values()))
        kinds = any_trajectory[["split", "response_type"]].drop_duplicates()
        for split, kind in kinds.itertuples(index=False):
            for seeds in [*([seed] for seed in by_seed), list(by_seed)]:
                part = {seed: by_seed[seed] for seed in seeds}
                label = str(seeds[0]) if len(seeds) == 1 else "all"
                rows.append({"run": run, "seed": label, **_change_row(part, kind, split)})
            if len(by_seed) == 1:
                rows.append({**rows[-1], "seed": "all"})
                rows.pop(-2)
    return pd.DataFrame(rows)


def _change_row(runs: Trajectories, kind: str, split: str) -> dict:
    names = ["logp", *GREEDY_COLUMNS, "energy", "greedy_match", "prob_norm"]
    ends, first, last, best = [], [], [], []
    for trajectory in runs.values():
        steps, values = columns(trajectory, names, kind, split)
        means = np.nanmean(values, axis=2)
        first, last, best = [*first, means[:, 0]], [*last, means[:, -1]], [*best, means[0].max()]
        end = np.array([_interpolate(steps, v, last_step(trajectory)) for v in values[:4]])
        ends.append(end - values[:4, 0])
    start, end = (dict(zip(names, np.mean(v, axis=0), strict=True)) for v in (first, last))
    changes = [estimate(np.array(by_seed)) for by_seed in zip(*ends, strict=True)]
    row = {
        "split": split,
        "response_type": kind,
        "logp_start": start["logp"],
        "logp_end": end["logp"],
        "change": changes[0].value,
        "change_low": changes[0].low,
        "change_high": changes[0].high,
        "from_best": end["logp"] - np.mean(best),
        "p_label_start": 1 - start["energy"],
        "p_label_end": 1 - end["energy"],
        "greedy_share_start": start["greedy_match"],
        "greedy_share_end": end["greedy_match"],
        "prob_norm_start": start["prob_norm"],
        "prob_norm_end": end["prob_norm"],
    }
    for column, it in zip(GREEDY_COLUMNS, changes[1:], strict=True):
        row[f"{column}_change"], row[f"{column}_low"], row[f"{column}_high"] = (
            it.value, it.low, it.high,
        )  # fmt: skip
    return row
