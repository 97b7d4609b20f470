"""Imported runs as evidence: which run plays which role, for which data and model."""

from collections.abc import Iterable, Mapping

import pandas as pd

from learning_dynamics.claims.evidence import Column
from learning_dynamics.claims.recorded import Recorded

# Rows of the released HH probing file that share a first turn with an earlier row.
CONTINUES = {24: 18, 144: 53, 176: 11, 234: 226, 237: 50, 450: 402, 459: 419, 478: 428}
CONVERSATIONS = {f"row-{row:05d}": f"row-{first:05d}" for row, first in CONTINUES.items()}
RATE = 5e-7  # of all published runs that are given a role
OWN = "own runs"  # origin of what is no published run; no study has a name with a space


def columns(runs: Mapping[str, pd.DataFrame], facts: Mapping[str, dict]) -> list[Column]:
    """One column per data and model, published runs apart from others; runs without a role are left
    out.

    Args:
        runs: imported trajectories, by name.
        facts: what is known of each (:func:`known.facts_of`); data are its ``group``.
    """
    groups: dict[tuple[bool, str, str], dict[str, dict[int, str]]] = {}
    for name in runs:
        known = facts.get(name, {})
        roles = known.get("role") or []
        place = (known.get("own", False), known.get("group", "-"), known.get("model", "-"))
        for role in [roles] if isinstance(roles, str) else roles:
            groups.setdefault(place, {}).setdefault(role, {})[known.get("seed", 0)] = name
    found = []
    for (own, data, model), roles in groups.items():
        peers = {other: them for (whose, group, other), them in groups.items()
                 if (whose, group) == (own, data) and other != model}  # fmt: skip
        named = roles | {f"{role}@{peer}": names for peer, them in peers.items()
                         for role, names in them.items()}  # fmt: skip
        named = _by_seed(named)
        evidence = Recorded(
            {role: {seed: runs[name] for seed, name in names.items()}
             for role, names in named.items()},
            _conversations(runs[n] for names in named.values() for n in names.values())
            if own else CONVERSATIONS,
            text=None if own else "hh",
            peers=tuple(peers),
        )  # fmt: skip
        dose = {role: _dose([(runs[name], facts[name]) for name in named[role].values()])
                for role in roles}  # fmt: skip
        found.append(Column(OWN if own else "published", data, model, evidence, dose))
    return found


def _by_seed(named: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
    """The same seeds for every role: those that all have; without one, first with first and so
    on."""
    common = set.intersection(*(set(names) for names in named.values()))
    if common:
        return {role: {s: names[s] for s in sorted(common)} for role, names in named.items()}
    count = min(map(len, named.values()))
    return {role: dict(enumerate([names[s] for s in sorted(names)][:count]))
            for role, names in named.items()}  # fmt: skip


def _conversations(tables: Iterable[pd.DataFrame]) -> dict[str, str]:
    """The conversation of each train example, where the tables know it."""
    known: dict[str, str] = {}
    for table in tables:
        rows = table[(table["split"] == "train") & table["conversation"].notna()]
        rows = rows.drop_duplicates("example_id")
        known |= dict(zip(rows["example_id"], rows["conversation"], strict=True))
    return known


def _dose(runs: list[tuple[pd.DataFrame, dict]]) -> str:
    """Learning rate × updates of a role's runs, the longest of its seeds."""
    last = max((table["step"].max() for table, _ in runs), key=lambda n: -1 if pd.isna(n) else n)
    known = runs[0][1]
    rate = known.get("lr") if known.get("own") else RATE
    words = "?" if rate is None else f"{rate:.0e}" if rate == RATE else f"{rate:g}"
    return f"{words} × {'?' if pd.isna(last) else int(last)}"
