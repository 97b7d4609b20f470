"""Rephrase providers: a server that misbehaves, kills, the cache, and what counts as an answer."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import models, providers, sampling
from learning_dynamics.answers import COLUMNS, Asked, Cache, answer, check_rewording, clean
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table, write_table
from learning_dynamics.pairs import GIVEN_COLUMNS
from learning_dynamics.providers import stated
from learning_dynamics.rephrase import ASKED, requests
from learning_dynamics.toyworld import World
from tests.conftest import STUDY
from tests.endpoint import SECRET

ROOT = Path(__file__).resolve().parent.parent
SPEC = {
    **STUDY.datasets["toyworld"]["rephrase"], "provider": "openai", "model": "strong",
    "key_variable": "TEST_KEY", "concurrency": 4, "timeout": 0.5, "retries": 3, "cache": "cache",
}  # fmt: skip
KINDS = {"chosen_gptsemantic": ("semantic", "chosen")}


def probed(count):
    """Pairs whose responses name an item each, with braces in the text."""
    rows = [
        ("train", f"e{i}", f" {{prompt}} {i}", f" The {{words}} of item-{i} are these. ", " no {}")
        for i in range(count)
    ]
    return pd.DataFrame(rows, columns=["split", "example_id", "prompt", "chosen", "rejected"])


def asking(server, folder, count, **changed):
    """The answers to ``count`` items, with the cache in ``folder``."""
    spec = {**SPEC, "base_url": server.url, "cache": str(folder / "cache"), **changed}
    asked = requests(probed(count), KINDS, SPEC["templates"])
    return answer(asked, spec, providers.OpenAI(spec))


def script(folder, spec, *words, start=subprocess.run, **options):
    """Run the script in ``folder`` on all of its pairs."""
    count = len(read_table(folder / "pairs.parquet", ["split"]))
    dataset = {**STUDY.datasets["toyworld"], "rephrase": spec}
    probe = {"train": count, "test": 0, "types": list(KINDS)}
    write_table(folder / "given.parquet", pd.DataFrame(columns=GIVEN_COLUMNS, dtype="str"))
    command = [sys.executable, ROOT / "workflow_scripts/rephrase_probes.py", "--pairs",
               "pairs.parquet", "--given", "given.parquet", "--spec", json.dumps(dataset),
               "--probe", json.dumps(probe), "--out", "out.parquet", "--log", "log",
               *words]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return start(list(map(str, command)), cwd=folder, env=env, **options)


def assert_secret_is_safe(folder, *texts):
    """Check that the key is in no file below ``folder`` and in none of ``texts``."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in files)
    assert not any(SECRET in text for text in texts)


def test_misbehaving_server(server, tmp_path, caplog):
    """Every request gets its answer, or its true status, and a second run asks for nothing."""
    server.plan = {
        0: [429, 429], 1: [500], 2: ["stall"], 3: ["cut"], 4: ["malformed"], 5: ["no-choices"],
        6: ["empty", "null"], 7: ["refusal"], 8: ["same"], 9: ["long", "short"], 10: ["page"],
        11: ["list", "list"], 12: ["refusal"] * 3, 13: ["same"] * 3, 14: ["null"] * 3,
    }  # fmt: skip
    expected = {i: 1 + len(server.plan.get(i, [])) for i in range(30)} | {12: 3, 13: 3, 14: 3}
    received = {6: 3, 7: 2, 8: 2, 9: 3, 12: 3, 13: 3, 14: 3}
    bad = {12: "refusal", 13: "unchanged", 14: "empty"}
    table = asking(server, tmp_path, 30)
    assert list(table.columns) == COLUMNS
    assert list(table["example_id"]) == [f"e{i}" for i in range(30)]
    assert dict(server.asked) == expected
    assert 1 < server.most <= SPEC["concurrency"]
    for i, row in enumerate(table.itertuples()):
        assert (row.split, row.made_by) == ("train", "strong")
        assert row.status == bad.get(i, "ok")
        assert i in bad or row.response == f"Said of item-{i} in words of another kind."
        assert row.attempts == received.get(i, 1)
        assert row.prompt_tokens == 10 * row.attempts and row.completion_tokens == 5 * row.attempts
    assert "1 of the answers are to be dropped: refusal" in caplog.text
    again = asking(server, tmp_path, 30)
    assert dict(server.asked) == expected
    pd.testing.assert_frame_equal(again, table)
    asking(server, tmp_path, 1, temperature=0.6)
    assert server.asked[0] == expected[0] + 1  # another temperature is another request
    assert_secret_is_safe(tmp_path, caplog.text)


def test_unanswered_requests(server, tmp_path):
    """What cannot be had is told at the end; all else is kept and only the rest asked for again."""
    server.plan = {3: [500] * 9, 5: [400], 7: ["malformed"] * 3}
    expected = "3 of 10 requests stay unanswered .last reason: malformed answer.*run again"
    with pytest.raises(InputError, match=expected):
        asking(server, tmp_path, 10, retries=1)
    once = {i: 1 for i in range(10)} | {3: 2, 7: 3}
    assert dict(server.asked) == once
    server.plan = {}
    table = asking(server, tmp_path, 10)
    assert (table["status"] == "ok").all()
    assert dict(server.asked) == {i: once[i] + (i in (3, 5, 7)) for i in range(10)}


@pytest.mark.parametrize("damage", [b"", b'{"text": "ha', b"[]", b'{"text": 1}', b"\xff"])
def test_damaged_cache(server, tmp_path, damage, caplog):
    """A cache file that is no whole answer is asked for again; leftovers are no answers."""
    table = asking(server, tmp_path, 3)
    path = min((tmp_path / "cache").iterdir())
    path.write_bytes(damage)
    (path.parent / f".{path.stem}.77.tmp.json").write_bytes(b"{")
    pd.testing.assert_frame_equal(asking(server, tmp_path, 3), table)
    assert server.asked.total() == 4
    assert f"{path}: not a whole answer" in caplog.text


def test_kill(server, tmp_path):
    """Killed five times: an answer that was stored is never asked for again."""
    spec = {**SPEC, "base_url": server.url, "timeout": 5}
    count, rng = 60, random.Random(1)
    server.plan, server.delay = {3: [429], 9: ["refusal"], 20: ["same", 500]}, 0.1
    needed = count + 4
    write_table(tmp_path / "pairs.parquet", probed(count))

    def stored():
        found = {}
        for path in (tmp_path / "cache").glob("[!.]*.json"):
            text = json.loads(path.read_text(encoding="utf-8"))["text"]
            if "Said of" in text:
                item = int(re.search(r"item-(\d+)", text)[1])
                found[item] = server.asked[item]
        return found

    kept = {}
    for _ in range(5):
        before = server.asked.total()
        process = script(tmp_path, spec, start=subprocess.Popen, stderr=subprocess.PIPE)
        wanted = before + rng.randint(1, 7)
        while server.asked.total() < wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.random() * server.delay)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        time.sleep(2 * server.delay)  # until the server has seen what was in flight
        kept |= stored()
    assert 0 < len(kept) < count
    assert not (tmp_path / "out.parquet").exists()
    done = script(tmp_path, spec, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = read_table(tmp_path / "out.parquet", COLUMNS)
    assert (table["status"] == "ok").all() and len(table) == count
    assert {item: server.asked[item] for item in kept} == kept
    assert needed <= server.asked.total() <= needed + 5 * spec["concurrency"]
    assert_secret_is_safe(tmp_path, done.stderr)


@pytest.mark.parametrize(
    ("status", "changed", "fragments"),
    [
        (401, {}, ["refuses the key in TEST_KEY (401)", "expected a key"]),
        (403, {}, ["refuses the key in TEST_KEY (403)", "'strong'"]),
        (404, {}, ["rephrase.model: 'strong' is not found", "rephrase.base_url"]),
        (None, {"key_variable": "NO_SUCH_KEY"}, ["NO_SUCH_KEY holds no key", "expected an env"]),
        (None, {"model": None}, ["rephrase.model: missing", "expected a model"]),
        (None, {"base_url": "localhost"}, ["rephrase.base_url: 'localhost'", "expected http"]),
        (None, {"refusals": ["("]}, ["rephrase.refusals: '('", "expected a regular expression"]),
    ],
)
def test_one_line(server, tmp_path, status, changed, fragments):
    """What no retry mends is told at once, in one line and without the key."""
    server.plan = {i: [status] for i in range(40)} if status else {}
    write_table(tmp_path / "pairs.parquet", probed(40))
    spec = {**SPEC, "base_url": server.url, **changed}
    done = script(tmp_path, spec, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    for fragment in fragments:
        assert fragment in done.stderr
    assert server.asked.total() <= (2 * SPEC["concurrency"] if status else 0)
    assert not (tmp_path / "out.parquet").exists()
    assert_secret_is_safe(tmp_path, done.stdout, done.stderr)


def test_provider_none(tmp_path):
    """No rows, but a table."""
    write_table(tmp_path / "pairs.parquet", probed(2))
    done = script(tmp_path, {**SPEC, "provider": "none"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_table(tmp_path / "out.parquet", COLUMNS).empty


# -- requests --------------------------------------------------------------------------------

TEXTS = st.text(max_size=30) | st.sampled_from(["{response}", "{", "}}", "{0}", "%s", "{words!r}"])


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_templates_take_any_text(prompt, response, before, after):
    """Whatever the texts and the template's own words hold, they arrive as they are."""
    row = {"split": "train", "example_id": "a", "prompt": prompt, "chosen": response}
    own = [text.replace("{", "{{").replace("}", "}}") for text in (before, after)]
    template = f"{own[0]}{{prompt}}|{{response}}|{{words}}{own[1]}"
    frame = pd.DataFrame([{**row, "rejected": ""}])
    asked = requests(frame, {"mine": ("t", "chosen")}, {"t": template}).iloc[0]
    words = len(response.split())
    assert asked["request"] == f"{before}{prompt.strip()}|{response.strip()}|{words}{after}"
    assert (asked["source"], asked["words"]) == (response.strip(), words)


def test_requests_of_the_published_types():
    """One row per example and type; human-like text rewords nothing."""
    table = requests(probed(2), ASKED, SPEC["templates"])
    assert list(table["response_type"]) == 2 * list(ASKED)
    assert list(table["source"][:5]) == 2 * ["The {words} of item-0 are these."] + 2 * ["no {}"] + [
        ""
    ]
    assert list(table["words"][:5]) == [6, 6, 2, 2, 6]
    assert "is 6 words." in table["request"][4]


@pytest.mark.parametrize(
    ("kinds", "templates", "expected"),
    [
        (KINDS, {"semantic": "{answer}"}, r"templates.semantic: \{answer\}.*expected \{prompt\}"),
        (KINDS, {"semantic": "{response!r}"}, "templates.semantic.*has a format"),
        (KINDS, {"semantic": "{words:>9}"}, "templates.semantic.*has a format"),
        (KINDS, {"semantic": "{response.x}"}, "templates.semantic.*unknown"),
        (KINDS, {"semantic": "{}"}, "templates.semantic.*unknown"),
        (KINDS, {"semantic": "a } b"}, "templates.semantic.*expected"),
        (KINDS, {"semantic": "{response"}, "templates.semantic.*expected"),
        (KINDS, {"format": "a"}, "'chosen_gptsemantic': template 'semantic'; expected one of form"),
        ({"mine": ("a", "both")}, {"a": "a"}, "type 'mine': side 'both'; expected chosen or rej"),
    ],
)
def test_bad_templates(kinds, templates, expected):
    """A template that cannot be filled is named, with what it may hold."""
    with pytest.raises(InputError, match=expected):
        requests(probed(1), kinds, templates)


# -- what counts as an answer ----------------------------------------------------------------

SOURCE = "You can take the train to the coast tomorrow."


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Tomorrow a train may bring you to the sea.", "ok"),
        ("“Tomorrow a train may bring you to the sea.”", "ok"),
        (" \n\t", "empty"),
        ('""', "empty"),
        (' "you can take  the train\nto the COAST tomorrow." ', "unchanged"),
        ("I'm sorry, but as an AI I do not travel.", "refusal"),
        ("As an AI language model, I do not travel by train.", "refusal"),
        ("Unfortunately, I cannot rewrite this text for you now.", "refusal"),
        ("Sure! Here is the reworded text: Tomorrow go by train.", "refusal"),
        ("The text you gave me appears to be empty, friend.", "refusal"),
        ("By train.", "too short"),
        ("word " * 27, "ok"),
        ("word " * 28, "too long"),
    ],
)
def test_check(text, status):
    """Each status."""
    assert check_rewording(text, SOURCE, 9, SPEC) == status


def test_an_apology_may_be_reworded():
    """What refuses as its source does is no refusal."""
    assert (
        check_rewording("I apologize, but I do not know it.", "I’m sorry, I don't know.", 4, SPEC)
        == "ok"
    )


STATUSES = {"ok", "empty", "refusal", "unchanged", "too short", "too long"}


@given(st.text(), st.text(), st.integers(0, 50))
def test_check_of_anything(text, source, words):
    """A status for every text; white space, case and one pair of quotes make no difference."""
    status = check_rewording(text, source, words, SPEC)
    assert status in STATUSES
    assert check_rewording(f"\n {text}\t", source, words, SPEC) == status
    assert check_rewording(source, source, len(source.split()), SPEC) in {"empty", "unchanged"}
    size = len(clean(text).split())
    if status == "ok":
        assert clean(text) and 0.33 * words <= size <= 3 * words
    if '"' not in text and clean(text) == text.strip():
        assert clean(f'"{text}"') == text.strip()


@pytest.mark.parametrize(
    "text", ['"a" and "b"', "'tis Ann's'", '"', "“open", "”a“", '"He said "no""', "'a\""]
)
def test_quotes_that_are_no_pair_stay(text):
    """Only a pair around the whole goes."""
    assert clean(f" {text} ") == text


def test_published_rewordings_pass(hh_rows):
    """Nearly all of the published rewordings are answers; talk before a passage is found."""
    statuses = Counter()
    for row in hh_rows:
        for kind, (_, side) in ASKED.items():
            source = row[side].strip() if kind != "irr_hum" else ""
            statuses[kind, check_rewording(row[kind], source, len(row[side].split()), SPEC)] += 1
    for kind in set(ASKED) - {"irr_hum"}:
        assert statuses[kind, "refusal"] <= 0.03 * len(hh_rows)
        assert statuses[kind, "ok"] >= 0.85 * len(hh_rows)
    chatty = sum("ere is a" in row["irr_hum"][:60] for row in hh_rows)
    assert statuses["irr_hum", "refusal"] >= chatty > 0.3 * len(hh_rows)


# -- the other providers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy():
    """Pairs of the toy world."""
    world, rng, rows = World(1), np.random.default_rng(0), []
    for index in range(0, 800, 80):
        fact = world.facts[index]
        answers = world.answer(rng, fact), world.answer(rng, world.false_fact(rng, fact))
        rows.append(("test", f"fact-{index:04d}", world.prompt(rng, fact), *answers))
    return pd.DataFrame(rows, columns=probed(0).columns)


def test_toyworld(toy):
    """Exact: the same fact in other words, whatever else is asked for and in whatever order."""
    world = World(1)
    provider = providers.Toyworld({"world_seed": 1})
    asked = requests(toy, ASKED, SPEC["templates"])
    table = answer(asked, SPEC, provider)
    assert (table["status"] == "ok").all() and (table["attempts"] == 1).all()
    assert set(table["made_by"]) == {"toyworld"} and not table["prompt_tokens"].any()
    pairs = toy.set_index("example_id")
    content = {*world.lexicon["tools"], *world.lexicon["actions"]}
    for row in table.itertuples():
        side = "rejected" if row.response_type.startswith("reject") else "chosen"
        fact = world.facts[int(row.example_id[-4:])]
        source = pairs.loc[row.example_id, side]
        assert row.response == row.response.strip() != source.strip()
        if row.response_type.endswith("gptsemantic"):
            same = stated(world, fact, row.response)
            assert same == stated(world, fact, source)
            assert (same == fact) == (side == "chosen")
        else:
            assert not content & {word.strip(".,") for word in row.response.split()}
        if row.response_type == "irr_hum":
            assert len(row.response.split()) == len(source.split())
    order = asked.sample(frac=0.5, random_state=0)
    again = answer(order, SPEC, providers.Toyworld({"world_seed": 1}))
    pd.testing.assert_frame_equal(again, table.loc[order.index].reset_index(drop=True))


@pytest.mark.parametrize(
    ("changed", "kinds", "expected"),
    [
        ({}, {"mine": ("semantic", "chosen")}, "'mine'; expected one of chosen_gptsemantic"),
        ({"example_id": "e1"}, ASKED, "'e1': no fact of toy world 1; expected fact-0000"),
        ({"chosen": "Well."}, ASKED, "'Well.': states no fact; expected an answer of toy world 1"),
    ],
)
def test_toyworld_does_not_know(toy, changed, kinds, expected):
    """Types, examples and responses that are not of the world."""
    asked = requests(toy.assign(**changed), kinds, SPEC["templates"])
    with pytest.raises(InputError, match=expected):
        answer(asked, SPEC, providers.Toyworld({"world_seed": 1}))


CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>{% endfor %}<|answer|>"
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT


@pytest.mark.parametrize("template", [None, CHAT, STRICT])
def test_transformers(tiny, tmp_path, monkeypatch, template, toy):
    """A local model: seeded, cached, batched, with its chat template where it has one."""
    model, tokenizer = tiny[0], deepcopy(tiny[1])
    tokenizer.chat_template = template
    models.save(model, tokenizer, tmp_path / "model")
    spec = {**SPEC, "provider": "transformers", "max_tokens": 6, "concurrency": 3, "attempts": 1,
            "templates": {"t": "Reword{response}", "h": "Human-like"}}  # fmt: skip
    kinds = {"mine": ("t", "chosen"), "hum": ("h", "chosen")}
    asked = requests(toy[:2], kinds, spec["templates"])

    def run(cache, seed=0, **changed):
        here = {**spec, "cache": str(tmp_path / cache), **changed}
        folder = tmp_path / "model"
        provider = providers.Transformers(model, tokenizer, here, 512, folder, seed)
        return answer(asked, here, provider), provider

    table, provider = run("a")
    assert (table["attempts"] == 1).all() and set(table["made_by"]) == {provider.name}
    assert (table["response"].str.len() <= 6 * 20).all()
    assert (table[["prompt_tokens", "completion_tokens"]] > 0).all(axis=None)
    assert table["response"][1] != table["response"][3]  # one wording, two requests
    pd.testing.assert_frame_equal(run("b")[0], table)
    assert list(run("a", seed=1)[0]["response"]) != list(table["response"])
    greedy = run("c", temperature=0, concurrency=1)[0]
    assert greedy["response"][1] == greedy["response"][3]
    assert list(run("d", temperature=0)[0]["response"]) == list(greedy["response"])  # padding
    monkeypatch.setattr(sampling, "generate", None)
    pd.testing.assert_frame_equal(run("a")[0], table)
    system = SPEC["system"]
    wordings = {
        None: "x",
        CHAT: f"<|system|>{system}<|endoftext|><|user|>x<|endoftext|><|answer|>",
        STRICT: f"<|user|>{system}\n\nx<|endoftext|><|answer|>",
    }
    assert provider._prompt("x") == wordings[template]
    ids = provider._codec.prompt(provider._prompt("x"), "x")
    assert ids.count(tokenizer.eos_token_id) == {None: 0, CHAT: 2, STRICT: 1}[template]


def test_transformers_script(tiny, tmp_path, toy):
    """Through the script, from a folder."""
    models.save(*tiny, tmp_path / "model")
    write_table(tmp_path / "pairs.parquet", toy[:2].assign(split="train"))
    spec = {**SPEC, "provider": "transformers", "max_tokens": 3, "attempts": 1}
    compute = {"device": "cpu", "threads": 1}
    done = script(tmp_path, spec, "--model", "model", "--model-spec", '{"max_length": 512}',
                  "--compute", json.dumps(compute), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(read_table(tmp_path / "out.parquet", COLUMNS)) == 2


def test_identity_tells_endpoints_apart(tmp_path, monkeypatch):
    """The address counts as the client resolves it, and all that shapes an answer does."""
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other/v1")
    specs = [SPEC, *({**SPEC, key: value} for key, value in {
        "base_url": "http://here/v1", "model": "x", "system": "x", "temperature": 0,
        "max_tokens": 1}.items())]  # fmt: skip
    asked = requests(probed(1), KINDS, SPEC["templates"]).iloc[0]
    row = Asked(**asked, draw=0)
    paths = {Cache(tmp_path, providers.OpenAI(spec).identity)._path(row) for spec in specs}
    assert len(paths) == len(specs)
    assert providers.OpenAI(SPEC).identity["base_url"] == "http://other/v1/"


def test_a_dead_endpoint_is_given_up(tmp_path, monkeypatch):
    """Nobody listens: a few tries per worker and attempt, then one error, not one per request."""
    monkeypatch.setenv("TEST_KEY", SECRET)
    spec = {**SPEC, "base_url": "http://127.0.0.1:9/v1", "retries": 0, "concurrency": 2,
            "cache": str(tmp_path)}  # fmt: skip
    provider, tries = providers.OpenAI(spec), []
    ask = provider._ask
    monkeypatch.setattr(provider, "_ask", lambda request: tries.append(1) or ask(request))
    with pytest.raises(InputError, match=r"200 of 200 requests stay .*APIConnection"):
        answer(requests(probed(200), KINDS, SPEC["templates"]), spec, provider)
    assert 8 <= len(tries) < 100
