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

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from learning_dynamics.errors import InputError

# HH's own dialogue format, for messages (role, content); the response's space is part of it.
HH_TEMPLATE = (
    r"{% for m in messages %}{{ '\n\nHuman: ' if m.role == 'user' else '\n\nAssistant: ' }}"
    r"{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
MARKER = "@response@"
TEXTS = ("prompt", "chosen", "rejected")
LOG = logging.getLogger(__name__)


def read_rows(path: str | Path, spec: dict | None = None, kinds: list[str] | None = None) -> list:
    """Rows of a local file: ``.jsonl``/``.json`` (one object per line), ``.parquet`` or ``.csv``.

    Args:
        path: the file.
        spec: ``columns`` (our name → the file's column), ``prompt_template`` (text with
            ``{prompt}``) and ``chat_template`` (see :func:`chat_renderer`); None is the published
            probing format, whose columns have our names.
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
                except (json.JSONDecodeError, RecursionError) as error:
                    reason = getattr(error, "msg", "too deep")
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
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
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


# -- chat templates --------------------------------------------------------------------------


def chat_renderer(template: str | None) -> Callable[[str, dict], dict]:
    """A function that turns messages into ``prompt, chosen, rejected`` texts.

    ``template`` is ``hh`` (Human/Assistant turns), a file in Jinja, or a folder with a model's
    ``chat_template.jinja`` or ``tokenizer_config.json``. The prompt is what the template writes
    before the last assistant turn, history included; the response is what follows, up to the end of
    its content. The template's end-of-turn mark is left out: every response is closed by the
    tokenizer's end-of-text token, which for chat models is that mark.

    Raises:
        InputError: when the template cannot be read; the function raises it for messages that are
            not (role, content), or a template that rewrites the prompt once it is answered.
    """
    if template is None:
        return lambda place, row: row
    from transformers.utils.chat_template_utils import render_jinja_template

    source, special = _template_source(template)

    def write(place: str, messages: list[dict], open_turn: bool) -> str:
        try:
            texts, _ = render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=open_turn, **special
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise InputError(f"{place}: chat_template {template}: {error}") from None
        return texts[0]

    def render(place: str, row: dict) -> dict:
        turns = {name: _messages(place, name, value) for name, value in row.items()}
        history = _history(place, turns)
        out = {"prompt": write(place, history, True)}
        for name in ("chosen", "rejected"):
            content = turns[name][-1]["content"]
            whole, marked = (
                write(place, [*history, {"role": "assistant", "content": text}], False)
                for text in (content, MARKER)
            )
            rest = whole.removeprefix(out["prompt"])
            # A template's own words before the answer may hold the answer's text.
            before = max(0, marked.removeprefix(out["prompt"]).find(MARKER))
            at = rest.find(content.strip(), before)
            if rest == whole or at < 0:
                raise InputError(
                    f"{place}: chat_template {template} rewrites the prompt or the response; "
                    "expected one that only appends"
                )
            # What the template writes behind it is the end of the turn: end-of-text, to us.
            out[name] = rest[: at + len(content.strip())]
        return out

    return render


def _history(place: str, turns: dict[str, list[dict]]) -> list[dict]:
    """What stands before the answer: the messages before it, or the prompt, which must agree."""
    before = {name: turns[name][:-1] for name in ("chosen", "rejected")}
    known = before["chosen"] or before["rejected"]
    for name, messages in before.items():
        if messages and messages != known:
            raise InputError(f"{place}: field {name!r} has another history than 'chosen'; expected "
                             "two answers to one prompt")  # fmt: skip
        role = turns[name][-1]["role"]
        if role != "assistant":
            raise InputError(
                f"{place}: field {name!r} ends with role {role!r}; expected the assistant's answer"
            )
    prompt = turns["prompt"]
    texts = [message["content"] for message in known if message["role"] == "user"]
    if (
        known
        and prompt
        and prompt != known
        and not (len(prompt) == 1 and prompt[0]["content"] in texts)
    ):
        raise InputError(f"{place}: field 'prompt' is {str(prompt)[:60]}; expected the messages "
                         "before the answer, or one of them")  # fmt: skip
    if not (known or prompt):
        raise InputError(f"{place}: no message before the response; expected a prompt")
    return known or prompt


def _messages(place: str, name: str, value: object) -> list[dict]:
    """Messages from a list, its JSON text, or plain text (one turn); a prompt may be absent."""
    if value is None and name == "prompt":
        return []
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return [{"role": "user" if name == "prompt" else "assistant", "content": value}]
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise InputError(f"{place}: field {name!r} is neither text nor JSON") from None
    good = isinstance(value, list) and value
    for message in value if good else [None]:
        parts = [message.get(k) for k in ("role", "content")] if isinstance(message, dict) else [0]
        if not all(isinstance(part, str) for part in parts):
            raise InputError(
                f"{place}: field {name!r} is {str(value)[:60]}; expected text or a list of "
                "messages with role and content"
            )
    return [{key: message[key] for key in ("role", "content")} for message in value]


def _template_source(template: str) -> tuple[str, dict]:
    """The Jinja text, and the special tokens that it may name."""
    if template == "hh":
        return HH_TEMPLATE, {}
    path, special = Path(template), {}
    try:
        if path.is_dir():
            config = path / "tokenizer_config.json"
            facts = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
            for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
                token = facts.get(name)
                special[name] = token.get("content") if isinstance(token, dict) else token or ""
            if (path / "chat_template.jinja").is_file():
                path = path / "chat_template.jinja"
            elif isinstance(facts.get("chat_template"), str):
                return facts["chat_template"], special
        return path.read_text(encoding="utf-8"), special
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        raise InputError(
            f"chat_template: {template}: cannot be read; expected hh, a Jinja file, or a model "
            "folder with a chat template"
        ) from None


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
