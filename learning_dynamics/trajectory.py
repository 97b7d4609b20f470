"""The trajectory: scores of every probe response along a run, and its schema."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from learning_dynamics.errors import InputError
from learning_dynamics.scoring import METRICS, Scorer, Tree
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


@dataclass(frozen=True)
class ProbeTrees:
    """A probe set as tokens: one tree per probed prompt; and what each response is (split,
    example_id, response_type, n_tokens), in the trees' order."""

    identity: pd.DataFrame
    trees: list[Tree]
    end_of_text: int
    count_end: bool

    def scorer(
        self, batch_tokens: int, first: int = 0, every: int = 1, by_token: bool = False
    ) -> Scorer:
        """What scores them along a run, in batches of at most ``batch_tokens`` tokens: all trees,
        or one process's share of them."""
        trees = self.trees[first::every]
        return Scorer(trees, batch_tokens, self.end_of_text, self.count_end, by_token)

    def first(self, examples: int | None) -> tuple[list[int], list[int]]:
        """Numbers of the trees of the first ``examples`` probed training prompts (None: of all
        prompts of both splits), and of their responses' rows of ``identity``."""
        starts = np.cumsum([0, *(len(tree.responses) for tree in self.trees)])
        splits = self.identity["split"].to_numpy()
        train = [i for i, at in enumerate(starts[:-1]) if splits[at] == "train"]
        chosen = list(range(len(self.trees))) if examples is None else train[:examples]
        return chosen, [n for i in chosen for n in range(starts[i], starts[i + 1])]


def probe_trees(probes: pd.DataFrame, codec: Codec) -> ProbeTrees:
    """The probe table's responses as tokens; ``n_tokens`` counts those that enter the sums.

    Raises:
        InputError: when there is no row, an example has the same response type twice, or a prompt
            leaves no room.
    """
    keys = ["split", "example_id"]
    twice = probes.duplicated([*keys, "response_type"])
    if twice.any():
        row = probes[twice].iloc[0]
        raise InputError(
            f"probe set: example_id {row['example_id']!r} has response_type "
            f"{row['response_type']!r} twice; expected one response per type"
        )
    if probes.empty:
        raise InputError("probe set: no rows; expected at least one response")
    trees, rows = [], []
    for (split, example), group in probes.groupby(keys, sort=False):
        tree = codec.row(group["prompt"].iloc[0], list(group["response"]), f"probe {example!r}")
        trees.append(tree)
        for kind, tokens in zip(group["response_type"], tree.responses, strict=True):
            apart = not codec.count_end and tokens[-1] == codec.end_of_text and len(tokens) > 1
            rows.append((split, example, kind, len(tokens) - apart))
    identity = pd.DataFrame(rows, columns=["split", "example_id", "response_type", "n_tokens"])
    return ProbeTrees(identity, trees, codec.end_of_text, codec.count_end)


def evaluation(
    identity: pd.DataFrame, metrics: dict[str, np.ndarray], step: int, examples: int, rows: int
) -> pd.DataFrame:
    """The trajectory's rows of one probe evaluation; ``rows`` is the training set's size."""
    head = identity.assign(step=step, examples=examples, epoch=examples / rows)
    return head.assign(**metrics)[COLUMNS]


def update_of_epoch(epoch: float, rows: int, batch_size: int) -> int:
    """The update after which ``epoch`` passes over ``rows`` rows are complete (at least 1)."""
    return max(1, round(float(epoch) * rows / batch_size))
