"""The eNTK proxies and what is made of them, from trajectories and the runs' measured updates.
Torch-free. Every definition is in docs/statistics.md, section "eNTK proxies"."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import Trajectories, change, series
from learning_dynamics.frontier import seeds_interval, with_interval

KEPT = 0.9  # of the smoothed value, per evaluation
DEFINED, PUBLISHED = "as_defined", "as_published"
QUANTITIES = ["lbk", "sign_delta"]
CURVE_COLUMNS = ["update", "seed", "observed", "definition", "quantity", "step", "value", "ema"]


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Exponential moving average s₀ = x₀, s_t = 0.9 s_{t−1} + 0.1 x_t, as in the authors' notebook;
    NaN from the first NaN on."""
    out = np.array(values, dtype=float)
    for i in range(1, len(out)):
        out[i] = KEPT * out[i - 1] + (1 - KEPT) * out[i]
    return out


def kinds_of(trajectory: pd.DataFrame) -> list[str]:
    """The response types of the train probes."""
    return list(trajectory.loc[trajectory["split"] == "train", "response_type"].unique())


def peakiness(trajectory: pd.DataFrame, kind: str, logits: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and ‖A_o‖_F = √(V · mean‖π‖² + V − 2) as defined, mean over examples."""
    steps, values = series(trajectory, "prob_norm_sq", kind)
    return steps, np.nanmean(np.sqrt(logits * values + logits - 2), axis=1)


def as_published(
    trajectory: pd.DataFrame, kind: str, logits: int | None = None
) -> pd.DataFrame | None:
    """``step, lbk, sign_delta`` of an observed type as the authors' notebook computes them: one row
    per evaluation but the first. NaN for an LBK from means alone; None where the trajectory lacks
    A_o or p_e.

    Args:
        logits: V, for trajectories without a column A_o.
    """
    table = trajectory
    if table["step"].isna().any():  # published runs whose updates are not known
        table = table.assign(step=table["evaluation"])
    table = table.assign(step=table["step"].astype(int))
    steps, logp = series(table, "logp", kind)
    a_o, p_e = _a_norm(table, kind, logits), _residual(table)
    if a_o is None or p_e is None:
        return None
    scale = np.sqrt(a_o[1:]) * p_e[1:]
    delta = np.diff(logp, axis=0)
    delta = delta[:, ~np.isnan(delta).any(0)]
    if delta.size == 0:
        return None
    norm = np.linalg.norm(delta, axis=1) if delta.shape[1] > 1 else np.nan
    return pd.DataFrame(
        {"step": steps[1:], "lbk": norm / scale, "sign_delta": delta.mean(1) / scale}
    )


def _a_norm(table: pd.DataFrame, kind: str, logits: int | None) -> np.ndarray | None:
    """The published A_o, mean over examples, (evaluations,)."""
    if "A_o" in table:
        own = table.loc[table["response_type"] == kind, "A_o"]
        known = table.loc[table["A_o"].notna(), "response_type"].unique()
        if own.isna().all() and len(known) != 1:
            return None
        return series(table, "A_o", known[0] if own.isna().all() else kind)[1].mean(1)
    if logits is None:
        return None
    norm = series(table, "prob_norm", kind)[1]
    return np.nanmean(np.sqrt(logits * norm**2 + logits - 2), axis=1)


def _residual(table: pd.DataFrame) -> np.ndarray | None:
    """The published p_e: along random_nonhum, else along the first type that has one."""
    known = table.loc[table["residual_norm"].notna() & (table["split"] == "train"), "response_type"]
    kinds = known.unique()
    if len(kinds) == 0:
        return None
    kind = "random_nonhum" if "random_nonhum" in kinds else kinds[0]
    return np.nanmean(series(table, "residual_norm", kind)[1], axis=1)


def as_defined(measured: pd.DataFrame, kind: str) -> pd.DataFrame:
    """``step, lbk, sign_delta`` of an observed type from a run's proxies.parquet: means over the
    measured examples."""
    rows = measured[measured["response_type"] == kind]
    return rows.groupby("step")[QUANTITIES].mean().reset_index()


def curves(
    updates: Mapping[str, Trajectories],
    measured: Mapping[str, Trajectories],
    logits: Mapping[int, int | None],
) -> pd.DataFrame:
    """Both definitions of both proxies along every run: :data:`CURVE_COLUMNS`; ``ema`` is
    :func:`smoothed` of ``value``, and ``step`` the updates done when the change was complete
    (as published) or began (as defined).

    Args:
        updates: trajectories by update type and seed.
        measured: proxies.parquet by update type and seed, where a run has one.
        logits: V by seed; None for published runs, which bring their A_o.
    """
    rows = []
    for update, runs in updates.items():
        for seed, trajectory in runs.items():
            for kind in kinds_of(trajectory):
                found = {PUBLISHED: as_published(trajectory, kind, logits.get(seed))}
                if seed in measured.get(update, {}):
                    found[DEFINED] = as_defined(measured[update][seed], kind)
                for definition, table in found.items():
                    for quantity in QUANTITIES if table is not None and len(table) else []:
                        part = table[["step"]].assign(
                            value=table[quantity], ema=smoothed(table[quantity])
                        )
                        head = {"update": update, "seed": seed, "observed": kind,
                                "definition": definition, "quantity": quantity}  # fmt: skip
                        rows.append(part.assign(**head)[CURVE_COLUMNS])
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=CURVE_COLUMNS)


def accumulated_by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Per update, seed, observed type, definition and quantity: ``value``, the sum over the run (as
    published: of the smoothed curve), and ``variance``, that of the smoothed curve."""
    keys = ["update", "seed", "observed", "definition", "quantity"]
    whole = table.assign(
        part=table["ema"].where(table["definition"] == PUBLISHED, table["value"])
    ).groupby(keys, sort=False)
    total = whole["part"].sum().where(whole["part"].count() == whole["part"].size())
    variance = whole["ema"].var(ddof=0)
    return pd.DataFrame({"value": total, "variance": variance}).reset_index()


def accumulated(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of :func:`accumulated_by_seed` with its t-interval: ``update, observed,
    definition, quantity, value, low, high, variance, seeds``."""
    keys = ["update", "observed", "definition", "quantity"]
    rows = []
    for key, one in accumulated_by_seed(table).groupby(keys, sort=False):
        variance = one["variance"].mean()
        rows.append([*key, *_interval(one["value"]), variance, len(one)])
    columns = [*keys, "value", "low", "high", "variance", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def heatmap(updates: Mapping[str, Trajectories], table: pd.DataFrame) -> pd.DataFrame:
    """The accumulated influence of every update on every observed type: ``update, observed,
    definition, value, low, high, seeds``.

    ``change``: change of log π over the run, nats per response. ``as_published``: accumulated
    SignDelta, each update's column divided by its range over the observed types.

    Args:
        updates: trajectories by update type and seed.
        table: their :func:`curves`.
    """
    rows = []
    for update, runs in updates.items():
        for kind in kinds_of(next(iter(runs.values()))):
            by_seed = np.nanmean(change(runs, "logp", [kind]), axis=1)
            rows.append((update, kind, "change", *_interval(by_seed), len(by_seed)))
    found = accumulated_by_seed(table)
    found = found[(found["definition"] == PUBLISHED) & (found["quantity"] == "sign_delta")]
    column = found.groupby(["update", "seed"])["value"]
    width = column.transform("max") - column.transform("min")
    found = found.assign(value=found["value"] / width.where(width > 0))
    for (update, kind), one in found.groupby(["update", "observed"], sort=False):
        rows.append((update, kind, PUBLISHED, *_interval(one["value"]), len(one)))
    columns = ["update", "observed", "definition", "value", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    found = seeds_interval(values)
    return found.value, found.low, found.high


# -- agreement with the kernel ---------------------------------------------------------------


def rank_correlation(one: pd.Series, two: pd.Series) -> float:
    """Spearman's ρ, ties at their mean rank; NaN where one side is constant."""
    with np.errstate(invalid="ignore"):
        return float(one.rank().corr(two.rank()))


def agreement(kernels: Mapping[int, pd.DataFrame], table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of each proxy with the true kernel: ``setting, definition, proxy, kernel, over,
    spearman, low, high, pairs, seeds``.

    Args:
        kernels: by seed, one row per update × observed type: ``total, per_position``, and ``lbk,
            sign_delta`` of one plain gradient step.
        table: :func:`curves` of the runs on the same model.
    """
    found = accumulated_by_seed(table)
    rows: dict[tuple, list[float]] = {}
    for seed, truth in kernels.items():
        steps = truth[["update", "observed", *QUANTITIES]]
        settings = {("one_step", DEFINED): steps}
        for definition in (DEFINED, PUBLISHED):
            part = found[(found["seed"] == seed) & (found["definition"] == definition)]
            if len(part):
                wide = part.pivot(index=["update", "observed"], columns="quantity", values="value")
                settings["run", definition] = wide.reset_index()
        for head, proxies in settings.items():
            proxies = proxies.assign(abs_sign_delta=proxies["sign_delta"].abs())
            both = truth[["update", "observed", "total", "per_position"]].merge(
                proxies, on=["update", "observed"]
            )
            for proxy in [*QUANTITIES, "abs_sign_delta"]:
                for kernel in ("total", "per_position"):
                    rho = rank_correlation(both[proxy], both[kernel])
                    each = [rank_correlation(one[proxy], one[kernel])
                            for _, one in both.groupby("update")]  # fmt: skip
                    for over, value in (("all", rho), ("within", float(np.mean(each)))):
                        rows.setdefault((*head, proxy, kernel, over, len(both)), []).append(value)
    out = [
        {"setting": s, "definition": d, "proxy": p, "kernel": k, "over": o,
         **with_interval("spearman", seeds_interval(values)), "pairs": n, "seeds": len(values)}
        for (s, d, p, k, o, n), values in rows.items()
    ]  # fmt: skip
    return pd.DataFrame(out).rename(columns={"spearman_low": "low", "spearman_high": "high"})
