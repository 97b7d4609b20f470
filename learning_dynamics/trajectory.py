"""The trajectory: scores of every probe response along a run, and its schema."""

import numpy as np
import pandas as pd
import pyarrow as pa

from learning_dynamics.errors import InputError
from learning_dynamics.scoring import METRICS, Tree
from learning_dynamics.tokens import Codec

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),  # optimiser updates done
        ("examples", pa.int64()),  # training rows consumed
        ("epoch", pa.float64()),  # rows consumed / rows of the training set
        ("split", pa.string()),
        ("example_id", pa.string()),
        ("response_type", pa.string()),
        ("n_tokens", pa.int32()),
        *[(name, pa.float64()) for name in METRICS],
    ]
)
COLUMNS = SCHEMA.names


def probe_trees(probes: pd.DataFrame, codec: Codec) -> tuple[pd.DataFrame, list[Tree]]:
    """One tree per probed prompt, and the identity (split, example_id, response_type, n_tokens) of
    each response in the trees' order.

    Raises:
        InputError: when an example has the same response type twice, or a prompt leaves no room.
    """
    keys = ["split", "example_id"]
    twice = probes.duplicated([*keys, "response_type"])
    if twice.any():
        row = probes[twice].iloc[0]
        raise InputError(
            f"probe set: example_id {row['example_id']!r} has response_type "
            f"{row['response_type']!r} twice; expected one response per type"
        )
    trees, rows = [], []
    for (split, example), group in probes.groupby(keys, sort=False):
        prompt = codec.prompt(group["prompt"].iloc[0], f"probe {example!r}")
        responses = [codec.response(text, len(prompt)) for text in group["response"]]
        trees.append(Tree(prompt, responses))
        for kind, tokens in zip(group["response_type"], responses, strict=True):
            rows.append((split, example, kind, len(tokens)))
    identity = pd.DataFrame(rows, columns=["split", "example_id", "response_type", "n_tokens"])
    return identity, trees


def evaluation(
    identity: pd.DataFrame, metrics: dict[str, np.ndarray], step: int, examples: int, rows: int
) -> pd.DataFrame:
    """The trajectory's rows of one probe evaluation; ``rows`` is the training set's size."""
    head = identity.assign(step=step, examples=examples, epoch=examples / rows)
    return head.assign(**metrics)[COLUMNS]


def update_of_epoch(epoch: float, rows: int, batch_size: int) -> int:
    """The update after which ``epoch`` passes over ``rows`` rows are complete (at least 1)."""
    return max(1, round(float(epoch) * rows / batch_size))
