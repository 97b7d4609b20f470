"""Hostile data: files of pairs, probing files, chat templates, the study's own tables, published
runs, and what an endpoint answers."""

import csv
import io
import json
import os
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from learning_dynamics.config import load_config
from learning_dynamics.errors import InputError
from learning_dynamics.study import Study
from tests.reliability.cage import SECRETS
from tests.reliability.configs import BASE, CHECK, PLAN
from tests.reliability.formats import Case, Files, parses
from tests.reliability.hostile import NAMES, as_json, changed, damaged, names
from tests.reliability.valid import FINETUNE, PROBE, ROWS, SCORE, as_jsonl, model_of


@st.composite
def _rows_file(draw: Any, name: str) -> bytes:
    """Rows with something wrong in them, in the format of the name's suffix."""
    how = draw(st.sampled_from(["bytes", "tree", "text", "text"]))
    rows = {"bytes": st.just(ROWS), "tree": changed(ROWS), "text": _other_texts()}[how]
    rows = draw(rows)
    if name.endswith(".parquet"):
        try:
            out = io.BytesIO()
            good = [row for row in rows if isinstance(row, dict)]
            pq.write_table(pa.Table.from_pylist(good), out)
            content = out.getvalue()
        except (pa.ArrowException, ValueError, OverflowError, TypeError, UnicodeError):
            content = _rows_in_parquet()
    elif name.endswith(".csv"):
        out = io.StringIO()
        good = [row for row in rows if isinstance(row, dict)]
        writer = csv.writer(out)
        writer.writerow(good[0] if good else ["prompt"])
        writer.writerows([row.values() for row in good])
        content = out.getvalue().encode(errors="surrogatepass")
    else:
        content = as_jsonl(rows)
    return draw(damaged(content)) if how == "bytes" or draw(st.integers(0, 9)) == 9 else content


@st.composite
def _other_texts(draw: Any) -> list[dict]:
    """Rows, some fields of which hold text that nobody would expect."""
    rows = [dict(row) for row in ROWS]
    for _ in range(draw(st.integers(1, 4))):
        field = draw(st.sampled_from([*ROWS[0], "response", "split", "made_by"]))
        text = draw(st.one_of(names, st.text(max_size=20), st.just("word " * 5000)))
        rows[draw(st.integers(0, len(rows) - 1))][field] = text
    return rows


def _rows_in_parquet() -> bytes:
    """The valid rows as Parquet."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


PLAIN = {"source": "file", "path": "mine.jsonl", "test_share": 0.4}  # a data set of our rows
FORMATS = ["mine.jsonl", "mine.jsonl", "mine.json", "mine.csv", "mine.parquet"]
FILE_NAMES = [n for n in NAMES if n and "/" not in n and "\x00" not in n and len(n) < 240
              and not any("\ud800" <= c <= "\udfff" for c in n)]  # fmt: skip


@st.composite
def _spec(draw: Any) -> dict:
    """The entry of a data file: column map, templates and switches, as far as the schema has it."""
    entry = dict(PLAIN)
    options = {
        "columns": st.dictionaries(
            st.one_of(st.sampled_from(["prompt", "chosen", "split", "example_id", "mine"]), names),
            st.one_of(st.sampled_from(list(ROWS[0])), names), max_size=2),
        "prompt_template": st.sampled_from(["{prompt}", "{prompt}{prompt}", "{0}{prompt!r}\n"]),
        "chat_template": st.sampled_from(["hh", "hh", "gone.jinja"]),
        "given": st.lists(st.sampled_from(["irr_hum", "chosen", "prompt", "split"]), unique=True),
        "test_share": st.sampled_from([0, 0.99]),
        "pretrain_share": st.sampled_from([0.3, 0.99]),
        "train_rows": st.sampled_from([2, 10**6]),
    }  # fmt: skip
    for key in draw(st.lists(st.sampled_from(list(options)), unique=True, max_size=2)):
        entry[key] = draw(options[key])
    return resolved(entry)


def resolved(entry: dict) -> dict:
    """A data set's complete entry; the plain one where the schema refuses this one."""
    return json.loads(_resolved(json.dumps(entry)))


@cache
def _resolved(entry: str) -> str:
    config = load_config([BASE])
    config["datasets"]["it"] = json.loads(entry)
    try:
        return json.dumps(Study(config).datasets["it"])
    except InputError:
        return _resolved(json.dumps(PLAIN))


def _build(spec: dict, file: str) -> list[list[str]]:
    probe = json.dumps(PROBE)
    made = ["--pairs", "made/pairs.parquet", "--given", "made/given.parquet"]
    return [
        ["build_pairs", "--spec", json.dumps(spec), "--files", file, *made, "--corpus",
         "made/corpus.parquet", "--log", "made/log"],
        ["rephrase_probes", "--spec", json.dumps(spec), "--probe", probe, *made, "--out",
         "made/rephrases.parquet"],
        ["build_probes", "--spec", json.dumps(spec), "--probe", probe, *made, "--rephrases",
         "made/rephrases.parquet", "--out", "made/probe.parquet"],
    ]  # fmt: skip


@st.composite
def pairs(draw: Any, files: Files) -> Case:
    """A file of pairs, through to the probe set and sometimes a run's reference."""
    name = draw(st.sampled_from(FORMATS))
    content = draw(_rows_file(name))
    steps = _build(draw(_spec()), name)
    known = {name: content}
    if draw(st.integers(0, 5)) == 5:
        steps.append(["made/pairs.parquet" if w == "pairs.parquet" else w for w in SCORE])
        known |= model_of(files)
    return Case(known, steps, parses(name, content))


@st.composite
def probing(draw: Any, files: Files) -> Case:
    """A probing file under any name, for its data card and sometimes the picture."""
    suffix = draw(st.sampled_from(FORMATS)).removeprefix("mine")
    content = draw(_rows_file(suffix))
    name = draw(st.sampled_from(["mine", "mine", *FILE_NAMES])) + suffix
    card = ["make_card", f"--file={name}", "--table", "made/card.csv", "--findings",
            "made/findings.csv", "--markdown", "made/card.md"]  # fmt: skip
    steps = [card]
    if draw(st.integers(0, 7)) == 7:
        steps.append(["draw_probe", f"--file={name}", "--out", "made/card.pdf"])
    return Case({name: content}, steps, parses(suffix, content))


TEMPLATES = [
    "{{ messages[0].content }}",
    "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os }}",
    "{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "{{ messages.pop() }}",
    "{{ messages.append(1) }}", "{{ 1 / 0 }}", "{{ messages[99].content }}", "{{ nope.nope.nope }}",
    "{{ 'a' * 10**12 }}", "{% for i in range(10**9) %}{% endfor %}",
    "{{ raise_exception('no') }}", "{{ strftime_now('%') }}", "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}", "{% extends 'x' %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages | tojson }}", "{{ messages | map(attribute='x') | list }}", "{{ '%d' % 'a' }}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}", "{{ messages | random }}",
    "{{ ''.join(1) }}", "{{ messages.__class__ }}", "{{ self.__init__.__globals__ }}", "{%",
    "{{ messages[0]['content'].encode('utf-16') }}", "{{ '\\ud800' }}", "{{ {}['a'] }}",
    "{{ messages | sum }}", "{{ messages | int('x', base='y') }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{% set x = namespace() %}{{ x.y.z }}", "{{ '%99999999999d' % 1 }}", "{{ loop.index }}", "",
    "{% if messages %}{% break %}{% endif %}", "@response@{{ messages[-1].content }}",
]  # fmt: skip
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@st.composite
def templates(draw: Any, files: Files) -> Case:
    """A chat template in a file, or in a model's folder."""
    how = draw(st.sampled_from(["known", "bytes", "piece", "folder"]))
    text = draw(st.sampled_from(TEMPLATES))
    if how == "bytes":
        content = draw(damaged(CHAT.encode()))
    elif how == "piece":
        at = draw(st.integers(0, len(CHAT)))
        content = (CHAT[:at] + text + CHAT[at:]).encode()
    else:
        content = text.encode()
    rows = ROWS if draw(st.integers(0, 3)) else draw(changed(ROWS))
    known = {"mine.jsonl": as_jsonl(rows), "t.jinja": content}
    place, parsed = "t.jinja", parses("t.jinja", content)
    if how == "folder":
        facts = {"chat_template": text, "eos_token": "<|end|>", "bos_token": {"content": "<s>"}}
        facts = draw(changed(facts))
        content = as_json(facts)
        known, place = known | {"m/tokenizer_config.json": content}, "m"
    return Case(known, _build(_templated(place), "mine.jsonl"), parsed)


def _templated(place: str) -> dict:
    return resolved(PLAIN | {"chat_template": place})


# -- what the study itself made, or others published -----------------------------------------


@st.composite
def tables(draw: Any, files: Files) -> Case:
    """A table of the study that was damaged, or holds other columns or types."""
    kinds = ["pairs", "given", "rephrases", "probe", "trajectory"]
    name = f"{draw(st.sampled_from(kinds))}.parquet"
    known = {n: c for n, c in files.items() if n.endswith(".parquet") and "/" not in n}
    if draw(st.booleans()):
        known[name] = draw(damaged(files[name]))
    else:
        known[name] = other_table(draw, files[name], numbers=name == "trajectory.parquet")
    if name == "trajectory.parquet":
        known["r/runs/d/m/sft/seed0/trajectory.parquet"] = known[name]
        about = {"study": "s", "seeds": [0], "dataset": "d", "model": "m", "runs": {"sft": "sft"}}
        steps = [["make_changes", "--study", json.dumps(about), "--results", "r", "--out", "o.csv"]]
    elif name == "probe.parquet" or draw(st.integers(0, 3)) == 3:
        steps, known = [FINETUNE], known | model_of(files)
    else:
        spec = json.dumps(resolved(PLAIN))
        steps = [["build_probes", "--spec", spec, "--probe", json.dumps(PROBE), "--pairs",
                  "pairs.parquet", "--given", "given.parquet", "--rephrases",
                  "rephrases.parquet", "--out", "made/probe.parquet"]]  # fmt: skip
    return Case(known, steps, parses(name, known[name]))


def other_table(draw: Any, content: bytes, numbers: bool = False) -> bytes:
    """A table with renamed, missing or doubled columns and rows, or without rows; and, unless it is
    a table of ``numbers``, whose types are taken as they are, with a column of another type."""
    table = pd.read_parquet(io.BytesIO(content))
    column = draw(st.sampled_from(list(table.columns)))
    kinds = ["rename", "drop", "empty", "double", *["type", "null", "value"] * (not numbers)]
    how = draw(st.sampled_from(kinds))
    if how == "type":
        other = draw(st.sampled_from([1, 1.5, True, b"x", [1], ["a"], {"a": 1}, "x"]))
        table[column] = pd.Series([other] * len(table), dtype=object)
    elif how == "null":
        table[column] = None
    elif how == "rename":
        table = table.rename(columns={column: draw(st.sampled_from(FILE_NAMES))})
    elif how == "drop":
        table = table.drop(columns=column)
    elif how == "empty":
        table = table[:0]
    elif how == "double":
        table = pd.concat([table, table])
    elif len(table):
        table[column] = table[column].astype(object)
        table.iloc[draw(st.integers(0, len(table) - 1)), table.columns.get_loc(column)] = (
            "\x00" if table[column].map(type).eq(str).all() else -1
        )
    out = io.BytesIO()
    table.to_parquet(out)
    return out.getvalue()


@st.composite
def published(draw: Any, files: Files) -> Case:
    """A published run's folder: its numbers, its array, its name."""
    here = f"published/run{draw(st.integers(0, 2))}"
    lines = files[f"{here}/prob_train_metrics.json"]
    array = files.get(f"{here}/logp_npy_all_chosen.npy")
    how = draw(st.sampled_from(["tree", "tree", "bytes", "array", "name"]))
    if how == "array" and array is None:
        here = "published/run1"
        lines = files[f"{here}/prob_train_metrics.json"]
        array = files[f"{here}/logp_npy_all_chosen.npy"]
    name = draw(st.sampled_from(FILE_NAMES)) if how == "name" else "run"
    if how == "tree":
        lines = as_jsonl(draw(changed([json.loads(line) for line in lines.splitlines()])))
    elif how == "bytes":
        lines = draw(damaged(lines))
    elif how == "array":
        array = draw(st.one_of(damaged(array), damaged(array[:200]), _arrays()))
    folder = f"all/{name}"
    known = {f"{folder}/prob_train_metrics.json": lines}
    parsed = parses("lines.jsonl", lines)
    if array is not None:
        known[f"{folder}/logp_npy_all_chosen.npy"] = array
        parsed &= how != "array" or parses("array.npy", array)
    steps = [["import_published", f"--folder={folder}", "--out", "made/p.parquet"],
             ["make_published", "--runs", "a=made/p.parquet", "--out",
              "made/published.csv"]]  # fmt: skip
    if how == "name":
        known["overlay.yaml"] = b"published: all\n"
        steps += [CHECK, *[PLAN] * (draw(st.integers(0, 3)) == 3)]
    return Case(known, steps, parsed)


@st.composite
def _arrays(draw: Any) -> bytes:
    """An npy of another type or shape."""
    made = draw(
        st.sampled_from(
            [
                np.zeros((2, 17, 500), "f4"), np.zeros((2, 17, 500), "c8"), np.zeros((2, 17), "f8"),
                np.zeros((0, 17, 500), "f8"), np.full((2, 17, 500), np.nan), np.zeros(3, "U4"),
                np.zeros((2, 17, 500), ">f8"), np.zeros((2, 17, 500), [("a", "f8")]),
                np.array([{"a": 1}], object), np.zeros((2, 17, 500), "f2"), np.zeros(()),
            ]
        )
    )  # fmt: skip
    out = io.BytesIO()
    np.save(out, made, allow_pickle=True)
    return out.getvalue()


# -- what an endpoint answers ----------------------------------------------------------------

REPLY = {
    "choices": [{"message": {"role": "assistant", "content": "Said in words of another kind."}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5}, "model": "m", "id": "1",
    "error": {"message": f"Incorrect API key {SECRETS['OPENAI_API_KEY']}", "code": "x"},
}  # fmt: skip


@st.composite
def replies(draw: Any, files: Files) -> Case:
    """What an endpoint says, which repeats the key in its errors; and damaged cached answers."""
    body = as_json(draw(changed(REPLY)))
    parsed = True
    if draw(st.integers(0, 4)) == 4:
        body = draw(damaged(body))
        parsed = parses("body.json", body)
    code = draw(st.sampled_from([200] * 8 + [204, 301, 400, 401, 403, 404, 418, 500]))
    spec = resolved(PLAIN | {"rephrase": {
        "provider": "openai", "model": "m", "base_url": os.environ["FUZZ_ENDPOINT"],
        "retries": 0, "attempts": 2, "concurrency": 1}})  # fmt: skip
    known = {n: files[n] for n in ("pairs.parquet", "given.parquet")}
    known["../reply"] = f"{code}\n".encode() + body
    steps = [["rephrase_probes", "--spec", json.dumps(spec), "--probe", json.dumps(PROBE),
              "--pairs", "pairs.parquet", "--given", "given.parquet", "--out",
              "made/rephrases.parquet", "--log", "made/log"]]  # fmt: skip
    return Case(known, steps, parsed)
