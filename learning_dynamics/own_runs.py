"""Trajectories of anyone's training (docs/callback.md) as imported runs."""

from pathlib import Path

import numpy as np
import pandas as pd

from learning_dynamics import trajectory
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table
from learning_dynamics.known import TRAJECTORY, facts_of
from learning_dynamics.published import SCHEMA


def import_trajectory(folder: Path) -> pd.DataFrame:
    """The trajectory in ``folder`` with the columns of ``published.SCHEMA``; what FACTS beside it
    says of conversations becomes a column.

    Raises:
        InputError: for a file that is no whole trajectory, without rows, without steps, or with two
            rows of one response at one step.
    """
    path = folder / TRAJECTORY
    table = read_table(path, trajectory.COLUMNS)
    key = ["step", "split", "example_id", "response_type"]
    if table.empty or table["step"].isna().any() or table.duplicated(key).any():
        wrong = table[table["step"].isna() | table.duplicated(key)][key].to_dict("records")
        raise InputError(
            f"{path}: {wrong[0] if wrong else 'no rows'}; expected one row for each step, split, "
            "example_id and response_type"
        )
    first = facts_of(folder).get("conversations", {})
    added = {
        "evaluation": table["step"].rank(method="dense").astype(int) - 1,
        "attempt": 1,
        "n_examples": 1,
        "A_o": np.nan,
        "conversation": [first.get(example, example) for example in table["example_id"]],
    }
    return table.assign(**added)[SCHEMA.names]
