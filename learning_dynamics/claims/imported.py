"""The published runs as evidence: which run plays which role, for which data and model."""

from collections.abc import Mapping

import pandas as pd

from learning_dynamics.claims.recorded import Recorded
from learning_dynamics.claims.verdicts import Column
from learning_dynamics.known import known_runs

# Rows of the released HH probing file that share a first turn with an earlier row.
CONTINUES = {24: 18, 144: 53, 176: 11, 234: 226, 237: 50, 450: 402, 459: 419, 478: 428}
CONVERSATIONS = {f"row-{row:05d}": f"row-{first:05d}" for row, first in CONTINUES.items()}
RATE = 5e-7  # of all published runs that are given a role


def columns(runs: Mapping[str, pd.DataFrame]) -> list[Column]:
    """One column per ``group`` of the table of known runs (published_runs.yaml), of imported runs
    by name; runs without a role there are left out."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in runs:
        known = known_runs().get(name, {})
        roles = known.get("role") or []
        for role in [roles] if isinstance(roles, str) else roles:
            groups.setdefault((known["group"], known["model"]), {})[role] = name
    found = []
    for (data, model), roles in groups.items():
        peers = {other: them for (group, other), them in groups.items()
                 if group == data and other != model}  # fmt: skip
        named = roles | {f"{role}@{peer}": name for peer, them in peers.items()
                         for role, name in them.items()}  # fmt: skip
        evidence = Recorded(
            {role: {0: runs[name]} for role, name in named.items()},
            CONVERSATIONS,
            text="hh",
            peers=tuple(peers),
        )
        dose = {role: _dose(runs[name]) for role, name in roles.items()}
        found.append(Column("published", data, model, evidence, dose))
    return found


def _dose(table: pd.DataFrame) -> str:
    last = table["step"].max()
    return f"{RATE:.0e} × {'?' if pd.isna(last) else int(last)}"
