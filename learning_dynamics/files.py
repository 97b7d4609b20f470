"""Files appear whole or not at all, and a bad one is named."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from learning_dynamics.errors import InputError

# What is wrong with a disk, not with what is written to it.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` (a file or a folder to be made) that replaces it on
    success; on any error nothing is left behind.

    What appears is on the disk: a machine that loses power right after has it. A full, read-only or
    broken disk is an OSError that names ``path``, whichever library found out.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename}: not a folder; expected one for {path.name}") from None
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _remove(temporary)  # of a killed process that had the same number
    try:
        yield temporary
        _to_disk(temporary)
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
        _to_disk(path.parent, deep=False)
    except Exception as error:
        if (number := _disk_error(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None
    finally:
        _remove(temporary)


def sweep(folder: str | Path) -> None:
    """Remove what killed processes left of :func:`atomic` in ``folder``; for its only writer."""
    for path in Path(folder).glob(".*.tmp*"):
        _remove(path)


def _to_disk(path: Path, deep: bool = True) -> None:
    """Flush a file, or a folder with (``deep``) all that it holds."""
    if path.is_dir():
        for inner in path.iterdir() if deep else []:
            _to_disk(inner)
    file = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with suppress(OSError):  # not every file system flushes folders
                os.fsync(file)
        else:
            os.fsync(file)
    finally:
        os.close(file)


def _disk_error(error: Exception) -> int | None:
    """The number of an error of DISK, if it is one. safetensors and tokenizers have it in their
    message alone."""
    number = error.errno if isinstance(error, OSError) else None
    if told := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(told[1])
    return number if number in DISK else None


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
        pq.write_table(
            arrow.replace_schema_metadata(None), temporary, compression="zstd",
            write_page_checksum=True,
        )  # fmt: skip


def read_table(path: str | Path, columns: list[str]) -> pd.DataFrame:
    """Read a Parquet table that must have ``columns``.

    Raises:
        InputError: when the file is missing, truncated, not Parquet, or lacks a column.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected a Parquet table")
    try:
        table = pq.read_table(path, page_checksum_verification=True).to_pandas()
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a whole Parquet file ({reason}); rebuild it") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing; expected {', '.join(columns)}")
    return table


def read_texts(path: str | Path, columns: list[str]) -> pd.DataFrame:
    """:func:`read_table` of a table whose ``columns`` all hold text.

    Raises:
        InputError: as :func:`read_table`; or when a column holds something else.
    """
    table = read_table(path, columns)
    for name in columns:
        wrong = [value for value in table[name] if not isinstance(value, str)]
        if wrong:
            raise InputError(f"{path}: column {name!r} holds {wrong[0]!r}; expected text")
    return table
