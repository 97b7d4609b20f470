"""How much of a run first-order influence predicts: the table that a run's windows leave behind,
and its scores (docs/statistics.md, section "Influence along a run"). Torch-free."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import DRAWS, estimate, interval, seeds_interval
from learning_dynamics.frontier import with_interval
from learning_dynamics.influence_table import PARTS

PREDICTORS = ["steps", "start", "overlap", "hidden"]
BASELINES = PREDICTORS[2:]
SCORES = ["r2", "r2_change", "slope", "share"]
ALL = "all"
CELL = ["step", "updates", "factor", "response_type"]

Runs = Mapping[str, Mapping[int, pd.DataFrame]]  # influence.parquet by role and seed


def scores(runs: Runs) -> pd.DataFrame:
    """``role, step, updates, factor, response_type, predictor, lr, points, seeds`` and every one of
    :data:`SCORES` with ``_low`` and ``_high``; ``step`` and ``response_type`` are ``all`` where
    windows or types are put together. ``points`` counts responses of one seed."""
    return pd.DataFrame([row for role, by_seed in runs.items() for row in _rows(role, by_seed)])


def _rows(role: str, by_seed: Mapping[int, pd.DataFrame]) -> list[dict]:
    out, lr = [], next(iter(by_seed.values()))["lr"].iloc[0]
    for predictor in PREDICTORS:
        named = [_moments(table, predictor) for table in by_seed.values()]
        index = named[0][0]
        moments = np.stack([_aligned(index, *one) for one in named])  # (seeds, cells, examples, 6)
        sums = moments.sum(2)[:, None] if len(named) > 1 else _resampled(moments[0])
        cells = index.to_frame(index=False)
        pooled = [
            cells.assign(**dict.fromkeys(put, ALL))
            for put in ([], ["step"], ["response_type"], ["step", "response_type"])
        ]
        groups: dict[tuple, np.ndarray] = {}
        for table in pooled:
            for key, rows in table.groupby(CELL, sort=False).indices.items():
                groups.setdefault(key, rows)
        for key, rows in groups.items():
            found = score(sums[:, :, rows])  # (scores, seeds, 1 or 1 + draws)
            row = {"role": role, **dict(zip(CELL, key, strict=True)), "predictor": predictor}
            row["lr"] = key[2] * lr  # of the step, as it was scaled
            row |= {"points": int(moments[0, rows, :, 0].sum()), "seeds": len(named)}
            for name, values in zip(SCORES, found, strict=True):
                known = name in SCORES[:2] or predictor not in BASELINES
                row |= _interval(name, values if known else np.full(values.shape, np.nan))
            out.append(row)
    return out


def score(sums: np.ndarray) -> np.ndarray:
    """R², R² of change, slope and share, (4, ...), from sums over examples (..., cells, 6) of
    1, m, p, m², p², mp (measured, predicted); means are those of single cells."""
    n, m, p, mm, pp, mp = np.moveaxis(sums, -1, 0)
    n = np.maximum(n, 1)
    error = (mm - 2 * mp + pp).sum(-1)
    apart, spread, both = ((square - one * other / n).sum(-1) for square, one, other in
                           ((mm, m, m), (pp, p, p), (mp, m, p)))  # fmt: skip
    # A draw of one prompt again and again leaves no spread but rounding.
    apart, spread = (np.where(one > 1e-9 * square.sum(-1), one, np.nan) for one, square in
                     ((apart, mm), (spread, pp)))  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(
            [1 - error / apart, 1 - error / mm.sum(-1), both / spread, p.sum(-1) / m.sum(-1)]
        )


def _moments(table: pd.DataFrame, predictor: str) -> tuple[pd.MultiIndex, np.ndarray]:
    """The cells that have this prediction, and per cell and example (by id) 1, m, p, m², p², mp."""
    rows = table[table[predictor].notna()]
    measured, predicted = rows["measured"], rows[predictor]
    if predictor in BASELINES:
        keys = [rows["response_type"], rows["updates"], rows["factor"]]
        square = (predicted**2).groupby(keys).transform("sum")
        best = (measured * predicted).groupby(keys).transform("sum") / square.where(square > 0)
        predicted = predicted * best.fillna(0.0)
    values = {"n": 1.0, "m": measured, "p": predicted, "mm": measured**2, "pp": predicted**2,
              "mp": measured * predicted}  # fmt: skip
    long = rows[[*CELL, "example_id"]].assign(**values)
    wide = long.pivot(index=CELL, columns="example_id", values=list(values)).fillna(0.0)
    return wide.index, wide.to_numpy().reshape(len(wide), len(values), -1).swapaxes(1, 2)


def _aligned(index: pd.MultiIndex, own: pd.MultiIndex, moments: np.ndarray) -> np.ndarray:
    """A seed's moments in the order of the first one's cells; 0 where it lacks one."""
    place = own.get_indexer(index)
    return np.where((place < 0)[:, None, None], 0.0, moments[place])


def _resampled(moments: np.ndarray) -> np.ndarray:
    """Sums of one seed (cells, examples, 6) over its examples, then over drawn ones: (1, 1 + draws,
    cells, 6)."""
    count = moments.shape[1]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    weights = np.concatenate([np.ones((1, count)), drawn])
    return np.einsum("de,ceq->dcq", weights, moments)[None]


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    """A score with its interval: a value per seed, (seeds, 1), or one and its draws, (1, draws)."""
    if len(values) > 1:
        return with_interval(name, seeds_interval(values[:, 0]))
    draws = values[0, 1:]
    known = draws[np.isfinite(draws)]
    low, high = interval(known) if len(known) else (np.nan, np.nan)
    return {name: float(values[0, 0]), f"{name}_low": low, f"{name}_high": high}


def parts(runs: Runs) -> pd.DataFrame:
    """What one step does to each type, and through what: ``role, step, response_type, part, value,
    low, high``, nats per response, means over examples. ``part`` is ``measured``, one of
    :data:`PARTS`, or ``higher`` (orders beyond the first), which add up to it; ``step`` is ``all``
    where windows are averaged. Interval as in :func:`scores`."""
    rows = []
    for role, by_seed in runs.items():
        one = {seed: t[(t["updates"] == 1) & (t["factor"] == 1)] for seed, t in by_seed.items()}
        first = next(iter(one.values()))
        for kind in first["response_type"].unique():
            for step in [*first["step"].unique().tolist(), ALL]:
                here = [
                    t[(t["response_type"] == kind) & ((t["step"] == step) | (step == ALL))]
                    for t in one.values()
                ]
                for part in ["measured", *PARTS, "higher"]:
                    row = {"role": role, "step": step, "response_type": kind, "part": part}
                    rows.append(row | _mean([_part(table, part) for table in here]))
    return pd.DataFrame(rows)


def _part(table: pd.DataFrame, part: str) -> np.ndarray:
    """One part's mean per example; 0 where the loss has no such response."""
    values = table["measured"] - table["steps"] if part == "higher" else table[part].fillna(0.0)
    return values.groupby(table["example_id"]).mean().to_numpy()


def _mean(values: list[np.ndarray]) -> dict[str, float]:
    several = len(values) > 1
    found = seeds_interval([v.mean() for v in values]) if several else estimate(np.array(values))
    return {"value": found.value, "low": found.low, "high": found.high}
