"""Log-probs token by token along a run: the table beside the trajectory, and how it is stored.

Off unless a run asks for it (``tokens``). Log-probs are kept to the next multiple of 1/1024 nat, so
each is off by at most 1/2048 = 0.00049 nats, whatever its size, and a sum over n tokens by n times
that. They are float32 in the file; what rounding has emptied of their bits costs nothing on the
disk, because the bytes are stored apart (byte stream split) and compressed: about 2 bytes a number.
Torch-free.
"""

import logging
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from learning_dynamics.errors import InputError
from learning_dynamics.files import atomic, read_table

if TYPE_CHECKING:
    from learning_dynamics.trajectory import ProbeTrees

LOG = logging.getLogger(__name__)
UNIT = 1 / 1024  # nats
NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),  # optimiser updates done
        ("split", NAMES),
        ("example_id", NAMES),
        ("response_type", NAMES),
        ("closed", pa.bool_()),  # whether the last token is end-of-text
        ("logp", pa.list_(pa.float32())),  # log π(label) of every token, nats
        ("logp_argmax", pa.list_(pa.float32())),  # of the token that is greedy there now
        ("text", pa.list_(pa.string())),  # the tokens, at the first evaluation; later null
    ]
)
COLUMNS = SCHEMA.names
VALUES = ["logp", "logp_argmax"]


def rounded(values: np.ndarray) -> np.ndarray:
    """Nats to the next multiple of :data:`UNIT`, float32 (exact down to −16,384 nats)."""
    return (np.round(np.asarray(values, dtype=np.float64) / UNIT) * UNIT).astype(np.float32)


class TokenTrajectory:
    """Keeps the tokens' log-probs of a run.

    Attributes:
        tables: what was kept so far, one table per evaluation.
    """

    def __init__(
        self, probes: "ProbeTrees", examples: int | None, tokenizer: Any, evaluations: int
    ) -> None:
        """Choose the responses, and say in the log how large the table will be.

        Args:
            probes: the probe set.
            examples: so many probed training prompts, the first ones; None: all prompts of both
                splits.
            tokenizer: what the tokens' text is read with.
            evaluations: how many evaluations the run will make.
        """
        trees, self._rows = probes.first(examples)
        self._responses = [r for i in trees for r in probes.trees[i].responses]
        closed = [response[-1] == probes.end_of_text for response in self._responses]
        names = probes.identity.iloc[self._rows][["split", "example_id", "response_type"]]
        self._identity = names.reset_index(drop=True).assign(closed=closed)
        self._tokenizer, self.tables = tokenizer, []
        count = sum(map(len, self._responses))
        numbers = 2 * count * evaluations
        LOG.info(
            "tokens.parquet: %d tokens of %d responses at %d evaluations: %d numbers, about %.2f "
            "MB (2 bytes each; %.2f MB of memory)", count, len(self._responses), evaluations,
            numbers, 2 * numbers / 1e6, 4 * numbers / 1e6,
        )  # fmt: skip

    def add(self, step: int, scores: dict[str, np.ndarray]) -> None:
        """Keep the evaluation after ``step`` updates: ``tokens_logp`` and ``tokens_logp_argmax`` of
        every probe response, an array each."""
        found = {}
        for name in VALUES:
            values = scores[f"tokens_{name}"]
            found[name] = pd.Series([rounded(values[n]) for n in self._rows], dtype=object)
        texts = [None] * len(self._rows)
        if not self.tables:
            texts = [pieces(self._tokenizer, response) for response in self._responses]
        text = pd.Series(texts, dtype=object)
        self.tables.append(self._identity.assign(step=step, **found, text=text)[COLUMNS])

    def table(self) -> pd.DataFrame:
        """Everything kept: one row per evaluation × response."""
        return pd.concat(self.tables, ignore_index=True)


def pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    """The text that each token adds to the one before it, spaces included."""
    whole = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    alone = [tokenizer.decode([token], **whole) for token in tokens]
    pairs = [tokenizer.decode(pair, **whole) for pair in pairwise(tokens)]
    return alone[:1] + [both[len(one) :] for one, both in zip(alone[:-1], pairs, strict=True)]


def write(path: str | Path, table: pd.DataFrame) -> None:
    """Write the table as Parquet, atomically, and its size to the log."""
    arrow = pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False)
    apart = [f"{name}.list.element" for name in VALUES]
    others = [name for name in COLUMNS if name not in (*VALUES, "text")]
    with atomic(path) as temporary:
        pq.write_table(
            arrow.replace_schema_metadata(None), temporary, compression="zstd",
            compression_level=9, use_dictionary=[*others, "text.list.element"],
            use_byte_stream_split=apart, write_page_checksum=True,
        )  # fmt: skip
        size = temporary.stat().st_size
    numbers = sum(int(table[name].map(len).sum()) for name in VALUES)
    LOG.info("%s: %d numbers, %.2f MB, %.2f bytes a number", path, numbers, size / 1e6,
             size / max(numbers, 1))  # fmt: skip


def read(path: str | Path) -> pd.DataFrame:
    """A run's table; log-probs as float32 arrays.

    Raises:
        InputError: when it is no such table, or a response has no text or changes its length.
    """
    table = read_table(path, COLUMNS)
    keys = ["split", "example_id", "response_type"]
    table = table.astype(dict.fromkeys(keys, str))
    first = table[table["step"] == table["step"].min()]
    if table.empty or first["text"].isna().any() or first.duplicated(keys).any():
        raise InputError(f"{path}: the first evaluation lacks text; expected every response's once")
    sizes = first.set_index(keys)["text"].map(len)
    known = sizes.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    for name in VALUES:
        if (table[name].map(len).to_numpy() != known).any():
            raise InputError(f"{path}: {name}: expected a number per token of the response")
    return table
