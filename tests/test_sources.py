"""Readers of local files, chat templates and hub data sets: the same rows from every form, and one
clear line for every malformed one."""

import csv
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning_dynamics.chat import chat_renderer
from learning_dynamics.errors import InputError
from learning_dynamics.sources import HubRows, read_rows

ROWS = [
    {"prompt": "\n\nHuman: Was heißt „naïve“?\n\nAssistant:", "chosen": ' "simple", or\r\nso',
     "rejected": " a,b;c\t|", "example_id": "one", "split": "train", "irr_hum": "A cat\u2028sat."},
    {"prompt": "Q 2", "chosen": "", "rejected": " no\n\nHuman: really\x85 no", "example_id": "two",
     "split": "test", "irr_hum": "日本 😀"},
]  # fmt: skip
SUFFIXES = [".jsonl", ".json", ".csv", ".parquet"]


def write(path, rows):
    """Rows as a file of the format that the suffix names, by libraries of their own."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_bytes("\n".join(lines).encode())
    return path


def fails(path, *fragments, spec=None, kinds=()):
    """Check that reading fails in one line that names the file and holds all fragments."""
    with pytest.raises(InputError) as caught:
        read_rows(path, spec, list(kinds))
    for fragment in (str(path), *fragments):
        assert fragment in str(caught.value)


# -- local files -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_every_format(suffix, tmp_path):
    """The rows that were written, byte for byte: quotes, line breaks of all kinds, empty texts."""
    assert read_rows(write(tmp_path / f"mine{suffix}", ROWS), None, ["irr_hum"]) == ROWS


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
PROMPT = TEXT.filter(str.strip)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PROMPT, TEXT, TEXT), min_size=1, max_size=4, unique=True))
def test_formats_agree_on_any_text(tmp_path, texts):
    """Whatever the characters: identical rows from JSON lines, CSV and Parquet."""
    rows = [dict(zip(("prompt", "chosen", "rejected"), t, strict=True)) for t in texts]
    expected = [{"example_id": f"row-{i:05d}", **row} for i, row in enumerate(rows)]
    for suffix in (".jsonl", ".csv", ".parquet"):
        assert read_rows(write(tmp_path / f"mine{suffix}", rows)) == expected


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_column_map(suffix, tmp_path):
    """Our name → the file's column, for texts, id, split and typed responses; columns that nobody
    asked for stay out, whatever they hold."""
    names = {"prompt": "question", "chosen": "good", "rejected": "bad", "example_id": "uid",
             "split": "part", "irr_hum": "human"}  # fmt: skip
    rows = [{**{new: row[old] for old, new in names.items()}, "score": "7", "prompt": "unused"}
            for row in ROWS]  # fmt: skip
    path = write(tmp_path / f"mine{suffix}", rows)
    assert read_rows(path, {"columns": names}, []) == ROWS
    fails(path, "1" if suffix == ".parquet" else "line", "field 'answer' is missing", "question",
          spec={"columns": {**names, "chosen": "answer"}})  # fmt: skip


def test_typed_responses_that_are_asked_for(tmp_path):
    """Those named, where the file holds them; all text columns when none are named."""
    rows = [{**ROWS[0], "random_permute": "x y", "chosen_selfr": None}, ROWS[1]]
    path = write(tmp_path / "mine.jsonl", rows)
    named = read_rows(path, None, ["random_permute", "chosen_selfr", "irr_train"])
    plain = [{k: v for k, v in row.items() if k != "irr_hum"} for row in ROWS]
    assert named == [{**plain[0], "random_permute": "x y"}, plain[1]]
    assert read_rows(path) == [{**ROWS[0], "random_permute": "x y"}, ROWS[1]]


def test_prompt_template(tmp_path):
    """The prompt is put in as it is, braces and all; the responses stay."""
    rows = [{"prompt": "{prompt} {x}", "chosen": "{a}", "rejected": "b"}]
    spec = {"prompt_template": "Human: {prompt} {y}\nAssistant:"}
    (row,) = read_rows(write(tmp_path / "mine.jsonl", rows), spec)
    assert row["prompt"] == "Human: {prompt} {x} {y}\nAssistant:"
    assert (row["chosen"], row["rejected"]) == ("{a}", "b")


GOOD = [{"prompt": f"q {i}", "chosen": f"yes {i}", "rejected": f"no {i}", "split": "train"}
        for i in range(3)]  # fmt: skip
LINES = [json.dumps(row) for row in GOOD]
CSV = "prompt,chosen,rejected,split\nq,y,n,train\n"
CHAT = {"chat_template": "hh"}


MALFORMED = {
    "missing.jsonl": (None, "no such file", "expected"),
    "suffix.tsv": ("a", "suffix '.tsv'", ".jsonl, .json, .csv, .parquet"),
    "empty.jsonl": ("", "empty", "at least one row"),
    "blank.jsonl": ("\n \n", "empty", "at least one row"),
    "empty.csv": ("", "empty", "at least one row"),
    "header.csv": ("prompt,chosen,rejected\n", "empty", "at least one row"),
    "cut.jsonl": ("\n".join(LINES)[:-5], "line 3: not JSON", "truncated?"),
    "blank-lines-count.jsonl": (f"{LINES[0]}\n\n\n{{\n", "line 4: not JSON"),
    "list.jsonl": (f"{LINES[0]}\n[1]", "line 2: '[1]'", "expected a JSON object"),
    "array.json": (json.dumps(GOOD), "line 1:", "expected a JSON object"),
    "missing-field.jsonl": (f'{LINES[0]}\n{{"prompt": "a", "chosen": "b"}}', "line 2: field 'rej",
                            "found prompt, chosen"),
    "number.jsonl": (LINES[0].replace('"yes 0"', "3"), "line 1: field 'chosen' is 3", "expected"),
    "null.jsonl": (LINES[0].replace('"yes 0"', "null"), "line 1: field 'chosen' is None"),
    "messages.jsonl": (LINES[0].replace('"yes 0"', '[{"role": "user"}]'), "line 1: field 'chosen'",
                       "give a chat_template"),
    "surrogate.jsonl": (LINES[0].replace("yes 0", "\\ud800"), "line 1: field 'chosen' has a lone"),
    "blank-prompt.jsonl": (LINES[0].replace("q 0", " "), "line 1: field 'prompt' is empty"),
    "split.jsonl": (LINES[0].replace("train", "dev"), "line 1: field 'split' is 'dev'",
                    "expected train or test"),
    "no-split.jsonl": (LINES[0].replace('"train"', "null"), "line 1: field 'split' is None"),
    "row-twice.jsonl": (f"{LINES[0]}\n{LINES[1]}\n{LINES[0]}", "line 3:", "repeats line 1"),
    "id-twice.csv": ("prompt,chosen,rejected,example_id\na,b,c,7\nd,e,f,7\n", "line 3:",
                     "example_id '7' repeats line 2"),
    "utf8.jsonl": (b'{"prompt": "\xff"}', "not UTF-8 (byte 0xff)", "expected UTF-8"),
    "utf8-late.jsonl": (("\n".join(LINES) + "\n" * 9000).encode() + b"\xe9", "not UTF-8 (byte 0x"),
    "utf8.csv": (CSV.encode() + b"\xff,a,b,test\n", "not UTF-8", "expected UTF-8"),
    "few-fields.csv": (CSV + "q,y\n", "line 3: another number of fields than the header's 4"),
    "many-fields.csv": (CSV + "q,y,n,train,more\n", "line 3: another number of fields"),
    "open-quote.csv": (CSV + 'q,y,"n\nm', "line 4: not CSV"),
    "stray-quote.csv": (CSV + 'q,"y"z,n,test\n', "line 3: not CSV"),
    "multi-line.csv": (CSV + '"a\nb",y,n,test\nq,y,n,dev\n', "line 5: field 'split' is 'dev'"),
    "not.parquet": (b"PAR1 but nothing else", "not a whole Parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(name, tmp_path):
    """File, line (or row), field, value and what was expected."""
    content, *fragments = MALFORMED[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(path, *fragments)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_truncated_parquet(share, tmp_path):
    """A Parquet file that was cut anywhere."""
    rows = [{"prompt": f"q {i}", "chosen": f"y {i}" * 20, "rejected": "n"} for i in range(500)]
    path = write(tmp_path / "mine.parquet", rows)
    whole = path.read_bytes()
    assert len(read_rows(path)) == 500
    path.write_bytes(whole[: int(share * len(whole))])
    fails(path, "not a whole Parquet file")


def test_damaged_parquet(tmp_path):
    """A Parquet file whose footer is whole and whose data is not."""
    rows = [{"prompt": f"q {i}", "chosen": f"y {i}", "rejected": "n"} for i in range(500)]
    path = write(tmp_path / "mine.parquet", rows)
    content = bytearray(path.read_bytes())
    content[10:400] = b"\0" * 390
    path.write_bytes(content)
    fails(path, "not a whole Parquet file")


def test_rows_of_parquet_are_counted_across_batches(tmp_path):
    """The number of a bad row far into the file."""
    rows = [{"prompt": f"q {i}", "chosen": "y", "rejected": "n"} for i in range(3000)]
    rows[2499]["prompt"] = " "
    fails(write(tmp_path / "mine.parquet", rows), "row 2500: field 'prompt' is empty")


# -- chat templates --------------------------------------------------------------------------


def turns(*contents):
    """Messages of alternating roles, the user first."""
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content']"
    " + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_hh_template():
    """Human/Assistant turns by hand: the history is in the prompt, the space in the response."""
    render = chat_renderer("hh")
    history = turns("Hi.", "Hello!", "Who?")
    row = {"prompt": None, "chosen": [*history, {"role": "assistant", "content": "Me."}],
           "rejected": [*history, {"role": "assistant", "content": "You."}]}  # fmt: skip
    assert render("here", row) == {
        "prompt": "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Who?\n\nAssistant:",
        "chosen": " Me.",
        "rejected": " You.",
    }
    plain = {"prompt": "Hi.", "chosen": "Hello!", "rejected": "No."}
    assert render("here", plain) == {
        "prompt": "\n\nHuman: Hi.\n\nAssistant:",
        "chosen": " Hello!",
        "rejected": " No.",
    }


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "a file"])
def test_template_of_a_model(tiny, tmp_path, where):
    """transformers' own rendering, special tokens included, from the folder that it reads."""
    from transformers import AutoTokenizer

    tiny[1].save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts |= {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "<|im_end|>"}
    template = CHATML
    if where == "tokenizer_config.json":
        facts["chat_template"] = template
    else:
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    path.write_text(json.dumps(facts), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    source = tmp_path
    if where == "a file":  # it knows no special tokens
        source, bare = tmp_path / "mine.jinja", template
        bare = bare.replace("bos_token", "'<s>'").replace("eos_token", "'<|im_end|>'")
        source.write_text(bare, encoding="utf-8")
    history = [{"role": "system", "content": "Be  brief.\n"}, *turns(" Hi {{ x }}", "A", "B ")]
    answers = {side: {"role": "assistant", "content": side} for side in ("chosen", "rejected")}
    row = {"prompt": history, **{side: [*history, m] for side, m in answers.items()}}
    out = chat_renderer(str(source))("here", row)
    known = {"tokenize": False, "add_generation_prompt": True}
    assert out["prompt"] == tokenizer.apply_chat_template(history, **known)
    assert out["prompt"].startswith("<s><|im_start|>system\nBe  brief.\n<|im_end|>")
    for side, message in answers.items():
        whole = tokenizer.apply_chat_template([*history, message], tokenize=False)
        assert whole == f"{out['prompt']}{side}<|im_end|>\n" and out[side] == side


@pytest.mark.parametrize("first", [turns("A", "B", "C"), [{"role": "system", "content": "S"}]])
def test_history_beside_a_prompt_in_text(first):
    """As in UltraFeedback, `prompt` is the last question (or the first); what else stands before
    the answer is part of what the model reads, or else an error: it is never lost."""
    question = {"role": "user", "content": "Q"}
    history = [*first, *([question] if first[0]["role"] == "system" else [])]
    answers = {side: [*history, {"role": "assistant", "content": side}]
               for side in ("chosen", "rejected")}  # fmt: skip
    out = chat_renderer("hh")("here", {"prompt": history[-1]["content"], **answers})
    assert all(message["content"] in out["prompt"] for message in history)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_messages_in_every_format(suffix, tmp_path):
    """UltraFeedback's shape (the prompt as text, the answers as two messages), and messages alone:
    as lists, or in CSV as their JSON text."""
    rows = [
        {"prompt": f"Q{i}, \"so\"", "chosen": turns(f"Q{i}, \"so\"", f"yes {i}"),
         "rejected": turns(f"Q{i}, \"so\"", f"no\n{i}")}
        for i in range(2)
    ]  # fmt: skip
    kept = suffix != ".csv"
    wrap = (lambda m: m) if kept else json.dumps
    written = [{k: v if k == "prompt" else wrap(v) for k, v in row.items()} for row in rows]
    found = read_rows(write(tmp_path / f"a{suffix}", written), CHAT)
    assert [[row[k] for k in ("prompt", "chosen", "rejected")] for row in found] == [
        [f"\n\nHuman: Q{i}, \"so\"\n\nAssistant:", f" yes {i}", f" no\n{i}"] for i in range(2)
    ]  # fmt: skip
    deep = [{k: wrap(turns("A", "B", f"C{i}", k)) for k in ("chosen", "rejected")}
            for i in range(2)]  # fmt: skip
    found = read_rows(write(tmp_path / f"b{suffix}", deep), CHAT)
    assert [row["prompt"] for row in found] == [
        f"\n\nHuman: A\n\nAssistant: B\n\nHuman: C{i}\n\nAssistant:" for i in range(2)
    ]
    assert {(row["chosen"], row["rejected"]) for row in found} == {(" chosen", " rejected")}


BAD_TEMPLATES = {
    "rewrites": ("{% for m in messages %}{{ m.content }}{% endfor %}{{ messages|length }}",
                 "rewrites the prompt or the response", "expected one that only appends"),
    "syntax": ("{% for m in messages %}", "chat_template", "expected"),
    "raises": ("{{ raise_exception('no system role') }}", "no system role"),
    "undefined": ("{{ messages[0].tools.first }}", "tools"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_templates_that_do_not_work(name, tmp_path):
    """File, line, template and reason."""
    template, *fragments = BAD_TEMPLATES[name]
    (tmp_path / "my.jinja").write_text(template, encoding="utf-8")
    path = write(tmp_path / "mine.jsonl", GOOD)
    spec = {"chat_template": str(tmp_path / "my.jinja")}
    fails(path, "line 1", "my.jinja", *fragments, spec=spec)


@pytest.mark.parametrize("content", [None, b"\xff\xfe{{"], ids=["no-file", "not-utf8"])
def test_templates_that_cannot_be_read(content, tmp_path):
    """No such file, an empty folder, not UTF-8: what was given and what would do."""
    path = tmp_path / "my.jinja"
    if content is not None:
        path.write_bytes(content)
    (tmp_path / "model").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer_config.json").write_text("{", encoding="utf-8")
    for place in (path, tmp_path / "model", broken):
        with pytest.raises(InputError, match=rf"chat_template: {place}: cannot be read; expected"):
            chat_renderer(str(place))


BAD_MESSAGES = {
    "no-prompt": ({"chosen": "a", "rejected": "b"}, "no message before the response"),
    "one-message": ({"chosen": turns("a"), "rejected": turns("b")}, "ends with role 'user'"),
    "empty-list": ({"prompt": "q", "chosen": [], "rejected": turns("b")}, "field 'chosen' is []"),
    "numbers": ({"prompt": "q", "chosen": [1], "rejected": turns("b")}, "field 'chosen' is [1]"),
    "no-content": ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"},
                   "field 'prompt' is [{'role': 'user'}]", "messages with role and content"),
    "cut-json": ({"prompt": "q", "chosen": '[{"role": ', "rejected": "b"},
                 "field 'chosen' is neither text nor JSON"),
    "missing": ({"prompt": "q", "chosen": "a"}, "field 'rejected' is missing"),
    "number": ({"prompt": 3, "chosen": "a", "rejected": "b"}, "field 'prompt' is 3"),
    "null": ({"prompt": "q", "chosen": None, "rejected": "b"}, "field 'chosen' is None"),
    "no-role": ({"chosen": [{"content": "q"}, {"content": "a"}], "rejected": turns("q", "b")},
                "field 'chosen'", "messages with role and content"),
    "ends-with-user": ({"chosen": turns("q", "a", "q"), "rejected": turns("q", "a", "r")},
                       "field 'chosen' ends with role 'user'"),
    "other-prompt": ({"prompt": "p", "chosen": turns("q", "a"), "rejected": turns("q", "b")},
                     "field 'prompt'", "the messages before the answer"),
    "other-history": ({"chosen": turns("q", "a", "r", "b"), "rejected": turns("q", "x", "y", "z")},
                      "field 'rejected'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_messages_that_are_none(name, tmp_path):
    """File, line, field and value."""
    row, *fragments = BAD_MESSAGES[name]
    fails(write(tmp_path / "mine.jsonl", [row]), "line 1", *fragments, spec=CHAT)


# -- the hub ---------------------------------------------------------------------------------


@pytest.fixture
def hub(hub_folder):
    """Function that writes the splits of a data set; HubRows of one of them."""

    def load(rows, split="train", suffix=".jsonl", **entry):
        for name in ("train", "test"):
            content = rows[name] if isinstance(rows, dict) else rows
            write(hub_folder / name / f"{name}{suffix}", content)
        spec = dataset(source="hub", hub=str(hub_folder), revision="0" * 40, **entry)
        return HubRows(spec, split)

    return load


def test_hub_hh(hub):
    """HH: all turns but the last answer are the prompt, which also cuts the rejected text."""
    history = "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:"
    rows = [
        {"chosen": f"{history} yes", "rejected": f"{history} no\n\nHuman: D"},
        {"chosen": "\n\nHuman: E\n\nAssistant:", "rejected": "\n\nHuman: E\n\nAssistant: x"},
    ]
    found = hub(rows, format="hh")
    assert len(found) == 2
    assert found[0] == {"prompt": history, "chosen": " yes", "rejected": " no\n\nHuman: D"}
    assert found[1] == {"prompt": rows[1]["chosen"], "chosen": "", "rejected": " x"}


def test_hub_ultrafeedback(hub):
    """UltraFeedback: "Human: " prompt, newline, "Assistant:"; the second message of each list."""
    rows = [{"prompt": "Q\nR", "chosen": turns("Q\nR", "yes"), "rejected": turns("Q\nR", "no"),
             "score_chosen": 8.5}]  # fmt: skip
    found = hub(rows, format="ultrafeedback", suffix=".parquet")
    assert found[0] == {"prompt": "Human: Q\nR\nAssistant:", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_hub_columns(hub, suffix):
    """Any text columns, by a map and a template; the split that is asked for."""
    rows = {split: [{"q": f"{split} {i}", "up": f"y{i}", "down": f"n{i}", "score": i}
                    for i in range(3)] for split in ("train", "test")}  # fmt: skip
    columns = {"prompt": "q", "chosen": "up", "rejected": "down"}
    found = hub(rows, "test", suffix, format="columns", columns=columns,
                prompt_template="Q: {prompt}\nA:")  # fmt: skip
    assert [found[i] for i in range(3)] == [
        {"prompt": f"Q: test {i}\nA:", "chosen": f"y{i}", "rejected": f"n{i}"} for i in range(3)
    ]


def test_hub_messages(hub):
    """Lists of messages through a chat template, history included."""
    rows = [{"chosen": turns("A", "B", "C", "yes"), "rejected": turns("A", "B", "C", "no")}]
    found = hub(rows, format="columns", chat_template="hh")
    prompt = "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:"
    assert found[0] == {"prompt": prompt, "chosen": " yes", "rejected": " no"}


HH = "\n\nHuman: a\n\nAssistant: b"
WRONG_HUB = {
    "no-mark": ("hh", {"chosen": "no mark", "rejected": HH}, "expected the format 'hh'"),
    "lists": ("hh", {"chosen": turns("q", "a"), "rejected": turns("q", "b")}, "format 'hh'"),
    "no-column": ("hh", {"chosen": HH, "worse": HH}, "expected the format 'hh'"),
    "text": ("ultrafeedback", {"prompt": "q", "chosen": HH, "rejected": HH}, "'ultrafeedback'"),
    "one": ("ultrafeedback", {"prompt": "q", "chosen": turns("q"), "rejected": turns("q")}, "'ult"),
    "columns": ("columns", {"prompt": "q", "chosen": "a"}, "field 'rejected' is missing"),
    "list": ("columns", {"prompt": "q", "chosen": ["a"], "rejected": "b"}, "field 'chosen' is"),
}


@pytest.mark.parametrize("name", WRONG_HUB)
def test_hub_rows_of_another_format(hub, name):
    """Data set, split, row and what was expected."""
    form, row, fragment = WRONG_HUB[name]
    found = hub([row], format=form)
    with pytest.raises(InputError, match=rf"data: train row 0.*{re.escape(fragment)}"):
        found[0]


def test_hub_that_is_not_there(hub, tmp_path):
    """Data set, revision, split and reason, for a missing data set and a missing split."""
    with pytest.raises(InputError, match=r"data at revision 0+: split gone cannot be loaded"):
        hub(GOOD, format="columns", train_split="gone")
    spec = dataset(source="hub", hub=str(tmp_path / "nowhere"), revision="0" * 40, format="hh")
    with pytest.raises(InputError, match=r"nowhere at revision 0+: split train cannot be loaded"):
        HubRows(spec, "train")
