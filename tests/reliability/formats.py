"""What a case of the fuzz is, and whether the parser of a format accepts its input."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load as load_tensors

Files = dict[str, bytes]


@dataclass
class Case:
    """An input and what is done with it.

    Attributes:
        files: the study's folder before; paths below it.
        steps: commands, each run if those before it ended well.
        parsed: whether the format's own parser accepts what was changed.
    """

    files: Files
    steps: list[list[str]]
    parsed: bool


def accepts(parser: Callable[[bytes], Any], content: bytes) -> bool:
    """Whether a parser accepts the content; tried in a fork, where a crash does no harm."""
    job = os.fork()
    if not job:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            parser(content)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(job, 0)[1] == 0


def lines_of_json(content: bytes) -> None:
    """Parses JSON lines; fails unless each is an object."""
    for line in content.decode().splitlines():
        if line.strip() and not isinstance(json.loads(line), dict):
            raise ValueError("no object")


def table_of(content: bytes) -> pa.Table:
    """Parses Parquet."""
    return pq.read_table(io.BytesIO(content))


def fields_of(content: bytes) -> None:
    """Parses CSV; fails where the numbers of fields differ."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    if len({len(row) for row in rows}) > 1:
        raise ValueError("ragged")


def mapping_of(content: bytes) -> None:
    """Parses YAML; fails unless it is a mapping."""
    if not isinstance(yaml.load(content, Loader=yaml.CSafeLoader), dict):
        raise ValueError("no mapping")


PARSERS = {".jsonl": lines_of_json, ".json": json.loads, ".parquet": table_of, ".csv": fields_of,
           ".safetensors": load_tensors, ".yaml": mapping_of, ".npy": lambda c: np.load(
               io.BytesIO(c), allow_pickle=False),
           ".jinja": lambda c: jinja2.Environment().parse(c.decode())}  # fmt: skip


def parses(name: str, content: bytes) -> bool:
    """Whether the parser of a file's suffix accepts its content."""
    parser = PARSERS.get("." + name.rpartition(".")[2], bytes.decode)
    return accepts(parser, content)
