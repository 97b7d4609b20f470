"""The response types placed by their measured mutual influence: the paper's Figure 10b, drawn from
data. Torch-free. Every definition is in docs/statistics.md, section "eNTK proxies"."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import Trajectories, change, series
from learning_dynamics.proxies import kinds_of

SUB_SPACES = ("Y_IF", "Y_non-IF", "Y_non-hum")


def sub_space(kind: str) -> str:
    """The paper's sub-space of a response type; of a user's own type, Y_IF."""
    if kind.startswith("random_"):
        return "Y_non-hum"
    return "Y_non-IF" if kind.startswith("irr_") else "Y_IF"


def profiles(updates: Mapping[str, Trajectories]) -> dict[int, pd.DataFrame]:
    """By seed, the influence of every update (column) on every observed type (row): change of log π
    over the run per token of the response, nats, mean over train probes."""
    seeds = next(iter(updates.values()))
    out = {}
    for seed in seeds:
        columns = {}
        for update, runs in updates.items():
            one = {seed: runs[seed]}
            columns[update] = {
                kind: float(
                    np.nanmean(
                        change(one, "logp", [kind])[0] / series(runs[seed], "n_tokens", kind)[1][0]
                    )
                )
                for kind in kinds_of(runs[seed])
            }
        out[seed] = pd.DataFrame(columns)
    return out


def standardised(profile: pd.DataFrame) -> np.ndarray:
    """Columns centred and divided by their standard deviation over the types; a constant column
    becomes 0."""
    values = profile.to_numpy(dtype=float)
    values = values - values.mean(0)
    width = values.std(0)
    return values / np.where(width > 0, width, 1.0)


def placement(profile: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """First two principal components of the standardised rows, (types, 2), and the share of the
    variance that each explains. ``chosen`` is at the right; ``rejected``, or else the first type
    that is off the axis, above."""
    left, size, _ = np.linalg.svd(standardised(profile), full_matrices=False)
    points = (left * size)[:, :2]
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    share = np.pad(size**2, (0, 2))[:2] / max((size**2).sum(), 1e-300)
    kinds = list(profile.index)
    for axis, first in enumerate(("chosen", "rejected")):
        order = sorted(range(len(kinds)), key=lambda i, first=first: kinds[i] != first)
        off = [points[i, axis] for i in order if abs(points[i, axis]) > 1e-9]
        if off and off[0] < 0:
            points[:, axis] = -points[:, axis]
    return points, share


def laid_over(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Orthogonal Procrustes: ``points`` rotated or reflected to be nearest to ``target``."""
    left, _, right = np.linalg.svd(points.T @ target)
    return points @ (left @ right)


def response_space(by_seed: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """The placement of the response types: ``seed, response_type, sub_space, x, y, share_x,
    share_y, nearest, own_sub_space, silhouette``; seed ``all`` places the mean over seeds.

    Args:
        by_seed: :func:`profiles`.
    """
    mean = sum(by_seed.values()) / len(by_seed)
    target, _ = placement(mean)
    rows = []
    for seed, profile in {"all": mean, **by_seed}.items():
        points, share = placement(profile)
        points = laid_over(points, target)
        nearest, silhouette = _neighbours(profile)
        for number, kind in enumerate(profile.index):
            rows.append((seed, kind, sub_space(kind), *points[number], *share,
                         profile.index[nearest[number]],
                         sub_space(profile.index[nearest[number]]) == sub_space(kind),
                         silhouette[number]))  # fmt: skip
    columns = ["seed", "response_type", "sub_space", "x", "y", "share_x", "share_y", "nearest",
               "own_sub_space", "silhouette"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def expected_by_chance(kinds: Sequence[str]) -> float:
    """The expected share of types whose nearest neighbour is of their own sub-space when the
    labels are shuffled."""
    counts = pd.Series([sub_space(kind) for kind in kinds]).value_counts()
    return float((counts * (counts - 1)).sum() / (len(kinds) * (len(kinds) - 1)))


def _neighbours(profile: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Each type's nearest other type, and its silhouette among the sub-spaces (0 where it is the
    only one of its own), by the distance of standardised rows."""
    values = standardised(profile)
    distance = np.linalg.norm(values[:, None] - values[None], axis=2)
    groups = np.array([sub_space(kind) for kind in profile.index])
    apart = np.where(np.eye(len(values), dtype=bool), np.inf, distance)
    silhouette = np.zeros(len(values))
    for i, group in enumerate(groups):
        own = (groups == group) & (np.arange(len(groups)) != i)
        others = [distance[i, groups == g].mean() for g in set(groups) - {group}]
        if own.any() and others:
            a, b = distance[i, own].mean(), min(others)
            silhouette[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0.0
    return apart.argmin(1), silhouette
