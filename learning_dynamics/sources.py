"""Rows from outside: local JSON lines, Parquet or CSV, and data sets of the hub.

Every reader ends in the same rows: ``prompt, chosen, rejected`` as text, ``example_id``, perhaps
``split``, and any typed responses that the source brings along. A column map names the columns; a
prompt template or a chat template turns them into the text that a model reads.
"""

import csv
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from learning_dynamics.chat import chat_renderer
from learning_dynamics.errors import InputError

TEXTS = ("prompt", "chosen", "rejected")
LOG = logging.getLogger(__name__)


def read_rows(path: str | Path, spec: dict | None = None, kinds: list[str] | None = None) -> list:
    """Rows of a local file: ``.jsonl``/``.json`` (one object per line), ``.parquet`` or ``.csv``.

    Args:
        path: the file.
        spec: ``columns`` (our name → the file's column), ``prompt_template`` (text with
            ``{prompt}``) and ``chat_template`` (:mod:`learning_dynamics.chat`); None is the
            published probing format, whose columns have our names.
        kinds: names of typed responses to bring along where the file holds them; None takes every
            text column.

    Raises:
        InputError: naming file, row and field for a missing or empty file, text that is not UTF-8,
            a truncated or malformed row, a missing or non-text field, a repeated id or row.
    """
    path, spec = Path(path), spec or {}
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a probing file or a file of pairs")
    readers = {".jsonl": _json_lines, ".json": _json_lines, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: suffix {path.suffix!r}; expected one of {', '.join(readers)}")
    columns = {name: name for name in (*TEXTS, "example_id", "split")}
    columns |= {k: v for k, v in (spec.get("columns") or {}).items() if v}
    render = chat_renderer(spec.get("chat_template"))
    rows, seen = [], {}
    for place, raw in readers[path.suffix](path):
        row = _row(f"{path}: {place}", raw, columns, spec, kinds, render)
        row.setdefault("example_id", f"row-{len(rows):05d}")
        texts = tuple(row[name] for name in TEXTS)
        for what, key in ((f"example_id {row['example_id']!r}", row["example_id"]),
                          ("prompt, chosen and rejected", texts)):  # fmt: skip
            if key in seen:
                raise InputError(
                    f"{path}: {place}: {what} repeats {seen[key]}; expected distinct rows"
                )
            seen[key] = place
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: empty; expected at least one row")
    for kind, column in columns.items():
        if kind not in ("example_id", "split") and not any(kind in row for row in rows):
            raise InputError(f"{path}: columns.{kind}: no row has a column {column!r}")
    empty = sum(not row[name].strip() for row in rows for name in ("chosen", "rejected"))
    if empty:
        LOG.warning("%s: %d empty chosen or rejected responses: end-of-text alone", path, empty)
    return rows


def _json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    number = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:  # also a number of 5,000 digits
                    reason = getattr(error, "msg", "too deep, or too long a number")
                    raise InputError(
                        f"{path}: line {number}: not JSON ({reason} at column "
                        f"{getattr(error, 'colno', 1)}); is the file truncated?"
                    ) from None
                if not isinstance(row, dict):
                    raise InputError(
                        f"{path}: line {number}: {str(row)[:40]!r}; expected a JSON object"
                    )
                yield f"line {number}", row
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: after line {number}: not UTF-8 (byte {error.object[error.start]:#04x}); "
            "expected UTF-8 text"
        ) from None


def _csv(path: Path) -> Iterator[tuple[str, dict]]:
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}: line {reader.line_num}: another number of fields than the "
                        f"header's {len(reader.fieldnames or [])}; is the file truncated?"
                    )
                yield f"line {reader.line_num}", row
    except csv.Error as error:
        line = reader.reader.line_num  # the DictReader's own is that of the row before
        raise InputError(f"{path}: line {line}: not CSV ({error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; expected UTF-8 text") from None


def _parquet(path: Path) -> Iterator[tuple[str, dict]]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a whole Parquet file ({reason})") from None


def _row(
    place: str, raw: dict, columns: dict, spec: dict, kinds: list[str] | None, render: Callable
) -> dict:
    """One row in our names, as text."""
    chat = spec.get("chat_template")
    for name in ("chosen", "rejected") if chat else TEXTS:
        if columns[name] not in raw:
            raise InputError(
                f"{place}: field {columns[name]!r} is missing; found {', '.join(map(str, raw))}"
            )
    typed = {k: k for k in (raw if kinds is None else kinds) if k in raw and k not in columns}
    typed |= {k: v for k, v in columns.items() if k not in (*TEXTS, "example_id", "split")}
    row = {name: raw[columns[name]] for name in ("example_id", "split") if columns[name] in raw}
    row |= {name: raw[column] for name, column in typed.items() if raw.get(column) is not None}
    if type(row.get("example_id")) is int:
        row["example_id"] = str(row["example_id"])
    row |= {name: raw.get(columns[name]) for name in TEXTS}
    if chat:
        row |= render(place, {name: row[name] for name in TEXTS})
    for name, value in row.items():
        if not isinstance(value, str):
            hint = "; or give a chat_template" if isinstance(value, list) else ""
            raise InputError(f"{place}: field {name!r} is {str(value)[:60]}; expected text{hint}")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"{place}: field {name!r} has a lone surrogate; expected text")
    if not row["prompt"].strip():
        raise InputError(f"{place}: field 'prompt' is empty; expected text to respond to")
    if "split" in row and row["split"] not in ("train", "test"):
        raise InputError(f"{place}: field 'split' is {row['split']!r}; expected train or test")
    if spec.get("prompt_template") and not chat:
        row["prompt"] = spec["prompt_template"].replace("{prompt}", row["prompt"])
    return row


# -- the hub ---------------------------------------------------------------------------------


class HubRows:
    """One split of a hub data set, row by row, as ``prompt, chosen, rejected``.

    Pinned to a revision; the client retries five times. Offline: what was fetched once is found in
    the cache when ``HF_HUB_OFFLINE=1`` is set.

    Raises:
        InputError: when the data set cannot be loaded; a row raises it for another format.
    """

    def __init__(self, spec: dict, split: str) -> None:
        from datasets import DownloadConfig, load_dataset
        from datasets.exceptions import DatasetsError

        name = spec[f"{split}_split"]
        try:
            self._data = load_dataset(
                spec["hub"],
                data_dir=spec["data_dir"],
                revision=spec["revision"],
                split=name,
                download_config=DownloadConfig(max_retries=5),
            )
        except (OSError, ValueError, DatasetsError) as error:
            raise InputError(
                f"data set {spec['hub']} at revision {spec['revision']}: split {name} cannot be "
                f"loaded ({str(error).splitlines()[0]}); expected a reachable hub or a filled cache"
            ) from None
        self._spec, self._split = spec, split
        formats = {"hh": _cut_hh, "ultrafeedback": _cut_ultrafeedback, "columns": None}
        self._cut = formats[spec["format"]]
        self._render = chat_renderer(spec.get("chat_template"))
        columns = {name: name for name in (*TEXTS, "example_id", "split")}
        self._columns = columns | (spec.get("columns") or {})

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> dict[str, str]:
        raw = self._data[int(number)]
        place = f"{self._spec['hub']}: {self._split} row {number}"
        if self._cut is None:
            row = _row(place, raw, self._columns, self._spec, [], self._render)
            return {name: row[name] for name in TEXTS}
        try:
            texts = self._cut(raw)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"{place} is {str(raw)[:80]!r}...; expected the format {self._spec['format']!r}"
            ) from None
        return dict(zip(TEXTS, texts, strict=True))


def _cut_hh(row: dict) -> tuple[str, str, str]:
    """HH: the prompt is everything up to and including the last ``\\n\\nAssistant:`` of chosen."""
    mark = "\n\nAssistant:"
    end = row["chosen"].rindex(mark) + len(mark)
    return row["chosen"][:end], row["chosen"][end:], row["rejected"][end:]


def _cut_ultrafeedback(row: dict) -> tuple[str, str, str]:
    """UltraFeedback: a "Human:" line with the prompt, then "Assistant:"; the second message."""
    prompt = f"Human: {row['prompt']}\nAssistant:"
    return prompt, row["chosen"][1]["content"], row["rejected"][1]["content"]
