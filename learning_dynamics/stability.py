"""How the mutual kernel between response types changes over saved models, and how well the paper's
proxies track it. Torch-free. Every definition is in docs/statistics.md, section "The mutual kernel
and its stability"."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from learning_dynamics.frontier import seeds_interval, with_interval
from learning_dynamics.proxies import rank_correlation

# What is read of a mutual.parquet (docs/architecture.md).
NEEDS = ["update_id", "update_type", "update_tokens", "observed_id", "observed_type",
         "observed_tokens", "influence", "a_sq", "g_sq", "delta_sq", "sign_delta"]  # fmt: skip
SCOPES = ["all", "within", "between"]
UNITS = ["influence", "cosine", "per_token"]
# Each proxy with the kernel in its own units.
PROXIES = {"lbk": "influence_sq", "sign_delta": "per_token"}
PAIR = ["update_type", "observed_type"]
RESPONSES = ["update_id", "update_type", "observed_id", "observed_type"]

# Tables of saved models: by stage, in order, and seed.
Stages = Mapping[str, Mapping[int, pd.DataFrame]]


def in_units(table: pd.DataFrame) -> pd.DataFrame:
    """A mutual.parquet without each response's pair with itself, and with ``cosine``, ``per_token``
    (nats per unit of learning rate and token), ``influence_sq`` and ``lbk`` (both divided by
    ‖A_o‖²‖G_u‖²) and ``scope`` (within, between)."""
    alike = table["update_id"] == table["observed_id"]
    own = alike & (table["update_type"] == table["observed_type"])
    length = table[own].set_index(["update_id", "update_type"])["influence"] ** 0.5
    sides = [pd.MultiIndex.from_frame(table[[f"{side}_id", f"{side}_type"]])
             for side in ("update", "observed")]  # fmt: skip
    lengths = length.loc[sides[0]].to_numpy() * length.loc[sides[1]].to_numpy()
    scale = table["a_sq"] * table["g_sq"]
    return table.assign(
        cosine=table["influence"] / lengths,
        per_token=table["influence"] / table["observed_tokens"],
        influence_sq=table["influence"] ** 2 / scale,
        lbk=table["delta_sq"] / scale,
        scope=np.where(alike, "within", "between"),
    )[~own]


def of_scope(table: pd.DataFrame, scope: str) -> pd.DataFrame:
    """The rows of :func:`in_units` of one of :data:`SCOPES`."""
    return table if scope == "all" else table[table["scope"] == scope]


def means(table: pd.DataFrame, scope: str, column: str) -> pd.DataFrame:
    """A column of :func:`in_units` by type: a row per update, a column per observed type; NaN where
    there is no such pair."""
    return of_scope(table, scope).groupby(PAIR)[column].mean().unstack()


def rank_correlations(one: pd.DataFrame, two: pd.DataFrame) -> dict[str, float]:
    """Spearman's ρ between two kernels by type, as :func:`means` gives them: over all ``pairs``,
    and the mean over updates of that over the observed types (``each_update``)."""
    one, two = one.align(two, join="inner")
    one, two = one.where(two.notna()), two.where(one.notna())
    each = one.rank(axis=1).corrwith(two.rank(axis=1), axis=1)
    flat = (pd.Series(table.to_numpy().ravel()).dropna() for table in (one, two))
    return {"pairs": rank_correlation(*flat), "each_update": float(each.mean())}


def stability(stages: Stages) -> pd.DataFrame:
    """``compared, from, to, scope, unit, statistic, value, low, high, pairs, seeds``: every pair of
    stages, mean over seeds with t-interval (``compared`` = ``stages``); and every stage between
    different seeds, the mean over pairs of seeds (``seeds``)."""
    tables = {s: {k: in_units(t) for k, t in by_seed.items()} for s, by_seed in stages.items()}
    rows = []
    for scope in SCOPES:
        parts = {s: {k: of_scope(t, scope).set_index(RESPONSES)[UNITS] for k, t in by.items()}
                 for s, by in tables.items()}  # fmt: skip
        for unit in UNITS:
            types = {s: [means(t, scope, unit) for t in by.values()] for s, by in tables.items()}
            head = {"scope": scope, "unit": unit}
            for start, end in combinations(stages, 2):
                found = pd.DataFrame(
                    [
                        rank_correlations(*pair) | _norms(one[unit], parts[end][seed][unit])
                        for seed, one, *pair in zip(
                            parts[start], parts[start].values(), types[start], types[end],
                            strict=True,
                        )
                    ]
                )  # fmt: skip
                rows += _rows({"compared": "stages", "from": start, "to": end, **head}, found,
                              types[start])  # fmt: skip
            for stage in stages:
                pairs = [rank_correlations(*pair) for pair in combinations(types[stage], 2)]
                of = {"compared": "seeds", "from": stage, "to": stage, **head}
                # Pairs of seeds are not independent: no interval.
                rows += [row | {"low": np.nan, "high": np.nan}
                         for row in _rows(of, pd.DataFrame(pairs), types[stage])]  # fmt: skip
    return pd.DataFrame(rows)


def _norms(one: pd.Series, two: pd.Series) -> dict[str, float]:
    """Cosine of two kernels between the same responses, and the relative change of their norm."""
    one, two = one.align(two, join="inner")
    lengths = np.linalg.norm(one), np.linalg.norm(two)
    cosine = float(one.to_numpy() @ two.to_numpy() / (lengths[0] * lengths[1]))
    return {"matrix_cosine": cosine, "norm_change": float(lengths[1] / lengths[0] - 1)}


def _rows(head: dict, found: pd.DataFrame, types: list[pd.DataFrame]) -> list[dict]:
    """A row per statistic (column of ``found``, a row per seed)."""
    counts = {"pairs": int(types[0].notna().to_numpy().sum()), "seeds": len(types)}
    return [{**head, "statistic": name, **_interval(found[name]), **counts} for name in found]


def proxies(stages: Stages) -> pd.DataFrame:
    """``stage, scope, proxy, kernel, statistic, value, low, high, pairs, seeds``: the correlations
    of each proxy with the kernel in its own units (``kernel``), and for SignDelta the share of type
    pairs with the kernel's sign (``sign``). Mean over seeds with t-interval."""
    rows = []
    for stage, by_seed in stages.items():
        tables = [in_units(table) for table in by_seed.values()]
        for scope in SCOPES:
            for proxy, kernel in PROXIES.items():
                guess, truth = ([means(t, scope, c) for t in tables] for c in (proxy, kernel))
                pairs = list(zip(guess, truth, strict=True))
                found = pd.DataFrame([rank_correlations(*pair) for pair in pairs])
                if proxy == "sign_delta":
                    found["sign"] = [_same_sign(*pair) for pair in pairs]
                head = {"stage": stage, "scope": scope, "proxy": proxy, "kernel": kernel}
                rows += _rows(head, found, truth)
    return pd.DataFrame(rows)


def _same_sign(one: pd.DataFrame, two: pd.DataFrame) -> float:
    """The share of entries that are known and have the same sign."""
    known = one.notna() & two.notna()
    return float(((one > 0) == (two > 0))[known].to_numpy(dtype=float)[known.to_numpy()].mean())


def by_types(stages: Stages) -> pd.DataFrame:
    """The kernel and its proxies by type: ``stage, scope, update, observed, seeds``, and for each
    of :data:`UNITS` and :data:`PROXIES` the mean over seeds, ``<name>_low`` and ``<name>_high``;
    scopes ``within`` and ``between``."""
    columns, rows = [*UNITS, *PROXIES], []
    for stage, by_seed in stages.items():
        parts = [in_units(t).groupby(["scope", *PAIR])[columns].mean() for t in by_seed.values()]
        groups = pd.concat(parts).groupby(level=[0, 1, 2])
        for (scope, update, observed), values in groups:
            row = {"stage": stage, "scope": scope, "update": update, "observed": observed}
            for name in columns:
                row |= with_interval(name, seeds_interval(values[name]))
            rows.append({**row, "seeds": len(values)})
    return pd.DataFrame(rows)


def _interval(values: pd.Series) -> dict[str, float]:
    found = with_interval("value", seeds_interval(values))
    return {name.removeprefix("value_"): number for name, number in found.items()}
