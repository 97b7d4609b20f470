"""Files appear whole or not at all, and a bad one is named."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from learning_dynamics.errors import InputError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` (a file or a folder to be made) that replaces it on
    success; on any error nothing is left behind."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename}: not a folder; expected one for {path.name}") from None
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _remove(temporary)  # of a killed process that had the same number
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as strict, indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_table(path: str | Path, table: pd.DataFrame, schema: pa.Schema | None = None) -> None:
    """Write a table as Parquet, atomically; ``schema`` fixes column order and types."""
    arrow = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    with atomic(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd")


def read_table(path: str | Path, columns: list[str]) -> pd.DataFrame:
    """Read a Parquet table that must have ``columns``.

    Raises:
        InputError: when the file is missing, truncated, not Parquet, or lacks a column.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected a Parquet table")
    try:
        table = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a whole Parquet file ({reason}); rebuild it") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing; expected {', '.join(columns)}")
    return table
