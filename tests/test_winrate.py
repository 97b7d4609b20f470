"""Win rates: answers at checkpoints, judges, intervals, and nothing asked for twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import models, providers, winrate
from learning_dynamics.errors import InputError
from learning_dynamics.figures import style
from learning_dynamics.figures import winrate as figure
from learning_dynamics.files import read_table, write_table
from learning_dynamics.judge import judge_of
from learning_dynamics.provenance import code_of
from learning_dynamics.sampling import sample_answers
from learning_dynamics.study import Study, load_config
from learning_dynamics.tokens import Codec
from learning_dynamics.toyworld import World
from tests.conftest import ROOT, STUDY
from tests.endpoint import SECRET

SPEC = {**STUDY.config["judge"], "world_seed": 1}
PUBLISHED = {**SPEC, "protocol": "as_published", "temperature": 0.7, "attempts": 1}
OPENAI = {**SPEC, "provider": "openai", "model": "strong", "key_variable": "TEST_KEY",
          "concurrency": 4, "timeout": 5, "retries": 3, "cache": "cache"}  # fmt: skip
ANSWERS = {"test": None, "train": 0, "max_tokens": 8, "temperature": 1.0, "cut": True}


def answers_of(texts, split="test"):
    """A table of answers, to prompts that name an item each."""
    names = [f"e{number:02d}" for number in range(len(texts))]
    prompts = [f"what is item-{number}?" for number in range(len(texts))]
    return pd.DataFrame({"split": split, "example_id": names, "prompt": prompts, "response": texts,
                         "ended": True})  # fmt: skip


def pairs_of(ours, theirs, seed=0):
    """What a judge is asked of two runs' answers."""
    answers = {("a", 0, seed): answers_of(ours), ("b", 0, seed): answers_of(theirs)}
    return winrate.paired({"a vs b": ["a", "b"]}, [0], answers)


def verdicts(signs):
    """Verdicts (seeds, prompts) as a table; NaN: none was had."""
    rows = [("a vs b", "a", "b", 2.0, seed, f"e{number:02d}", np.nan, np.nan, sign)
            for seed, row in enumerate(signs) for number, sign in enumerate(row)]  # fmt: skip
    return pd.DataFrame(rows, columns=winrate.JUDGED)


# -- intervals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "n", "low", "high"),
    # Known values: Newcombe (1998), Statistics in Medicine 17, Table I, method 3.
    [(81 / 263, 263, 0.2553, 0.3662), (15 / 148, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1 / 29, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson_gives_published_values(rate, n, low, high):
    """To four digits."""
    assert winrate.wilson(rate, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_solves_its_equation(n, rate):
    """Its ends are where a share p lies 1.96 of its own standard errors from the rate; swapping
    winners mirrors it."""
    low, high = winrate.wilson(rate, n)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(rate - end) == pytest.approx(winrate.Z * np.sqrt(end * (1 - end) / n))
    assert winrate.wilson(1 - rate, n) == pytest.approx((1 - high, 1 - low))
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1
    assert np.isnan(winrate.wilson(rate, 0)).all()


SIGNS = st.sampled_from([1.0, -1.0, 0.0, np.nan])


@given(st.integers(1, 3).flatmap(lambda seeds: st.lists(
    st.lists(SIGNS, min_size=seeds, max_size=seeds), min_size=1, max_size=12)))  # fmt: skip
def test_table_counts(columns):
    """Counts, rates and columns are those of the definition; all seeds are their sum."""
    signs = np.array(columns).T
    table = winrate.table(verdicts(signs), SPEC)
    assert list(table.columns) == winrate.COLUMNS
    assert set(table["interval"]) <= {"wilson", "paired bootstrap", "t over seeds"}
    for seed, row in enumerate(signs):
        found = table[table["seed"] == str(seed)].iloc[0]
        counts = [(row == sign).sum() for sign in (1, -1, 0)]
        assert list(found[["wins", "losses", "ties"]]) == counts
        assert found["n"] == (~np.isnan(row)).sum() == sum(counts)
        if found["n"]:
            assert found["rate"] == pytest.approx((counts[0] + counts[2] / 2) / sum(counts))
    for _, whole in table[table["seed"] == "all"].iterrows():
        assert whole["n"] == (~np.isnan(signs)).sum()
        if whole["n"]:
            assert whole["rate"] == pytest.approx(np.nanmean((signs + 1) / 2))
    assert len(table) == len(signs) + 1 + (len(signs) > 1)


def test_bootstrap_of_one_seed_has_the_binomial_spread():
    """Against theory: 400 independent prompts at 0.6 spread by sqrt(pq / n); prompts that all
    seeds share count once, so that more seeds of equal verdicts narrow nothing."""
    signs = np.array([[1.0] * 240 + [-1.0] * 160])
    one = winrate.table(verdicts(signs), SPEC)
    three = winrate.table(verdicts(np.repeat(signs, 3, axis=0)), SPEC)
    for table in (one, three):
        row = table[table["interval"] == "paired bootstrap"].iloc[0]
        half = 1.96 * np.sqrt(0.6 * 0.4 / 400)
        assert (row["low"], row["high"]) == pytest.approx((0.6 - half, 0.6 + half), abs=0.006)
    assert three.loc[three["interval"] == "t over seeds", ["low", "high"]].to_numpy() == (
        pytest.approx(0.6)
    )


def test_interval_over_seeds_is_students():
    """Three seeds: mean ± 4.303 s / √3."""
    signs = [[1] * 5 + [-1] * 5, [1] * 6 + [-1] * 4, [1] * 8 + [-1] * 2]
    table = winrate.table(verdicts(signs), SPEC)
    row = table[table["interval"] == "t over seeds"].iloc[0]
    half = 4.30265 * np.std([0.5, 0.6, 0.8], ddof=1) / np.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((19 / 30 - half, 19 / 30 + half), abs=1e-5)


# -- verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ours", "published"),
    [
        ("Comparison: A is fuller.\nMore helpful: A", 1, 1),
        ("Comparison: B says: more.\nMore helpful: B", -1, -1),
        ("Comparison: equal.\nMore helpful: tie", 0, None),
        ("comparison: both.\n**More helpful:** **b**.", -1, None),
        ("More helpful: Answer A", 1, None),
        ("More helpful: <B>", -1, None),
        ("More helpful: A\nMore helpful: B", -1, -1),
        ("More helpful: A or B", None, None),
        ("More helpful: Both", None, None),
        ("A more careful answer is hard to find.", None, None),
        ("It is a draw.\n\nTIE.", 0, None),
        ("They differ.\nA", 1, None),
        ("The better one: A", None, 1),
        ("More helpful: A ", 1, None),
        ("", None, None),
        (": ", None, None),
    ],
)
def test_what_a_reply_decides(text, ours, published):
    """Ours reads whatever stands around the letter; the published reading is to the letter."""
    assert winrate.verdict_of(text) == ours
    assert winrate.verdict_of(text, published=True) == published


@given(st.text(alphabet="ABtie: \n*more helpful<>", max_size=40))
def test_any_reply_is_a_verdict_or_none(text):
    """And what can be read can be read again from a line of its own."""
    for published in (False, True):
        assert winrate.verdict_of(text, published) in (None, -1.0, 0.0, 1.0)
    known = winrate.verdict_of(text)
    if known is not None:
        word = {1: "A", -1: "B", 0: "tie"}[known]
        assert winrate.verdict_of(f"{text}\nMore helpful: {word}") == known


def longer(prompt, one, two):
    """A judge that likes length, and the first answer a little."""
    return len(one) - len(two) + 2


@settings(max_examples=12)
@given(st.lists(st.tuples(st.text("xy", max_size=9), st.text("xy", max_size=9)), min_size=1,
                max_size=12))  # fmt: skip
def test_swapping_the_runs_gives_one_minus_the_rate(texts):
    """Exactly: wins and losses change places, whatever the judge's liking for the first answer; the
    published order keeps that liking."""
    ours, theirs = map(list, zip(*texts, strict=True))
    one, other = (
        winrate.judged(pairs, SPEC, longer)
        for pairs in (pairs_of(ours, theirs), pairs_of(theirs, ours))
    )
    assert one["verdict"].tolist() == (-other["verdict"]).tolist()
    rates = [winrate.table(found, SPEC).iloc[0] for found in (one, other)]
    places = ["wins", "losses", "ties", "n"]
    swapped = ["losses", "wins", "ties", "n"]
    assert rates[0][places].tolist() == rates[1][swapped].tolist()
    assert rates[0]["rate"] + rates[1]["rate"] == 1
    same = winrate.judged(pairs_of(ours, ours), SPEC, longer)
    assert (same["verdict"] == 0).all() and (same["first"] == 1).all()
    biased = winrate.judged(pairs_of(ours, ours), PUBLISHED, longer)
    assert (biased["verdict"] == 1).all() and biased["second"].isna().all()


def test_as_published_leaves_out_what_is_long_or_tied():
    """2,000 characters are let in, 2,001 on either side are not; a tie counts in neither."""
    ours = ["x" * 2000, "x" * 2001, "x", "x", "x"]
    theirs = ["x", "x", "x" * 2001, "x", "xxx"]
    found = winrate.judged(pairs_of(ours, theirs), PUBLISHED, lambda _, a, b: len(a) - len(b))
    assert found["verdict"].tolist()[0] == 1 and found["verdict"].tolist()[4] == -1
    assert found["verdict"].isna().tolist() == [False, True, True, True, False]
    row = winrate.table(found, PUBLISHED).iloc[0]
    assert (row["wins"], row["losses"], row["ties"], row["n"]) == (1, 1, 0, 2)
    swapped = winrate.judged(pairs_of(ours, theirs), SPEC, lambda _, a, b: len(a) - len(b))
    assert swapped["verdict"].tolist() == [1, 1, -1, 0, -1]


def test_the_toy_world_judges_by_its_facts():
    """True facts beat false ones, style decides nothing, and the order is nothing to it."""
    world, rng = World(1), np.random.default_rng(0)
    facts = world.facts[::40]
    table = answers_of([""] * len(facts))
    table["prompt"] = [world.prompt(rng, fact) for fact in facts]
    right = table.assign(response=[world.answer(rng, fact) for fact in facts])
    again = table.assign(response=[world.answer(rng, fact) for fact in facts])
    wrong = table.assign(response=[world.answer(rng, world.false_fact(rng, f)) for f in facts])
    answers = {("a", 0, 0): right, ("b", 0, 0): wrong, ("c", 0, 0): again}
    pairs = winrate.paired({"x": ["a", "b"], "y": ["a", "c"]}, [0], answers)
    found = winrate.judged(pairs, SPEC, judge_of(SPEC)).groupby("comparison")["verdict"]
    assert found.unique().to_dict() == {"x": [1.0], "y": [0.0]}


def test_answers_that_do_not_match_are_named():
    """Runs that answered other prompts, or no held-out ones, or share no epoch."""
    one, two = answers_of(["x", "y"]), answers_of(["x"])
    for other in (two, one.assign(split="train"), one.assign(example_id=["q", "e01"])):
        with pytest.raises(InputError, match=r"'a' and 'b' at epoch 0, seed 3: .*expected the sam"):
            winrate.paired({"x": ["a", "b"]}, [0], {("a", 0, 3): one, ("b", 0, 3): other})
    with pytest.raises(InputError, match=r"figures\.winrate\.epochs: none that both"):
        winrate.paired({"x": ["a", "b"]}, [0, 1], {("a", 0, 3): one, ("b", 1, 3): one})


# -- judges that are asked -------------------------------------------------------------------


def decided(request):
    """A judge that prefers the answer with the larger number, and shown equal ones the first."""
    a, b = (int(request.split(f"Answer {side}:\n")[1].split("\n")[0].split()[-1]) for side in "AB")
    return f"Comparison: {a} and {b}.\nMore helpful: {'A' if a >= b else 'B'}"


def asked(server, folder, ours, theirs, **changed):
    """Verdicts of the endpoint."""
    server.fine = decided
    spec = {**OPENAI, "base_url": server.url, "cache": str(folder / "cache"), **changed}
    pairs = pairs_of([f"says {n}" for n in ours], [f"says {n}" for n in theirs])
    return winrate.judged(pairs, spec, provider=providers.OpenAI(spec, "judge"))


def test_an_endpoint_judges_in_both_orders(server, tmp_path):
    """Two requests a pair; a liking for the first place becomes a tie; a second run asks nothing.
    What cannot be read is asked for once more, and then left out."""
    server.plan = {3: ["malformed", "long"], 4: ["long"] * 2}  # the second has no verdict twice
    found = asked(server, tmp_path, [5, 1, 4, 9, 9], [2, 1, 8, 1, 1])
    assert found["verdict"].tolist()[:4] == [1, 0, -1, 1]
    assert found.loc[1, ["first", "second"]].tolist() == [1, -1]
    # Either order of item-4 may have met the mishap; both of its chances are one order's or split.
    counts = {0: 2, 1: 2, 2: 2, 3: 4, 4: 4}
    assert dict(server.asked) == counts
    again = asked(server, tmp_path, [5, 1, 4, 9, 9], [2, 1, 8, 1, 1])
    pd.testing.assert_frame_equal(again, found)
    assert dict(server.asked) == counts
    once = asked(server, tmp_path, [5, 1, 4], [2, 1, 8], protocol="as_published", attempts=1)
    assert once["verdict"].tolist() == [1, 1, -1] and once["second"].isna().all()
    assert server.asked.total() == sum(counts.values()) + 3


def test_a_reply_without_a_verdict_is_left_out(server, tmp_path):
    """And counted neither way, while the rest stands."""
    server.plan = {1: ["long"] * 4}
    found = asked(server, tmp_path, [5, 1, 4], [2, 3, 8])
    assert found["verdict"].isna().tolist() == [False, True, False]
    row = winrate.table(found, OPENAI).iloc[0]
    assert (row["judge"], row["protocol"], row["n"], row["rate"]) == ("strong", "swapped", 2, 0.5)


def test_a_template_that_cannot_be_filled(server, tmp_path):
    """One line, before anything is asked."""
    with pytest.raises(InputError, match=r"judge\.template: \{response\} is unknown.*\{options\}"):
        asked(server, tmp_path, [1], [2], template="{prompt} {response}")
    assert not server.asked


def script(folder, spec, *words, start=subprocess.run, **options):
    """Run the judging script on the answers in ``folder``."""
    study = {
        "comparisons": {"a vs b": ["a", "b"]}, "epochs": [0],
        "answers": [{"run": run, "epoch": 0, "seed": 0, "path": f"{run}.parquet"} for run in "ab"],
    }  # fmt: skip
    command = [sys.executable, ROOT / "workflow_scripts/judge_answers.py", "--study",
               json.dumps(study), "--judge", json.dumps(spec), "--out", "verdicts.parquet",
               "--log", "log", *words]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return start(list(map(str, command)), cwd=folder, env=env, **options)


def assert_secret_is_safe(folder, *texts):
    """Check that the key is in no file below ``folder`` and in none of ``texts``."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in content for content in files)
    assert not any(SECRET in text for text in texts)


def test_killed_and_resumed(server, tmp_path):
    """Killed three times: no verdict that was stored is asked for again, and none is missing."""
    server.fine, server.delay = decided, 0.05
    server.item = lambda request: request
    count, rng = 20, random.Random(2)
    for name in "ab":
        texts = [f"says {rng.randint(0, 9)}" for _ in range(count)]
        write_table(tmp_path / f"{name}.parquet", answers_of(texts))
    spec = {**OPENAI, "base_url": server.url}
    stored = lambda: len(list((tmp_path / "cache").glob("[!.]*.json")))  # noqa: E731
    kept = 0
    for _ in range(3):
        process = script(tmp_path, spec, start=subprocess.Popen, stderr=subprocess.DEVNULL)
        wanted = stored() + 6
        while stored() < wanted and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        time.sleep(0.2)
        kept = stored()
    assert 0 < kept < 2 * count and not (tmp_path / "verdicts.parquet").exists()
    before = server.asked.total()
    done = script(tmp_path, spec, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert server.asked.total() - before == 2 * count - kept == stored() - kept
    found = read_table(tmp_path / "verdicts.parquet", winrate.JUDGED)
    ours, theirs = (
        [int(text.split()[1]) for text in pd.read_parquet(tmp_path / f"{n}.parquet")["response"]]
        for n in "ab"
    )
    assert found["verdict"].tolist() == [float(np.sign(a - b)) for a, b in
                                         zip(ours, theirs, strict=True)]  # fmt: skip
    assert_secret_is_safe(tmp_path, done.stderr)


@pytest.mark.parametrize(
    ("status", "changed", "fragment"),
    [
        (401, {}, "judge.key_variable: the endpoint refuses the key in TEST_KEY (401)"),
        (404, {}, "judge.model: 'strong' is not found"),
        (500, {"retries": 0}, "judge: 4 of 4 requests stay unanswered"),
        (None, {"key_variable": "NO_SUCH_KEY"}, "judge.key_variable: NO_SUCH_KEY holds no key"),
    ],
)
def test_one_line(server, tmp_path, status, changed, fragment):
    """What no retry mends is told in one line that names the section, without the key."""
    server.plan = {0: [status] * 9, 1: [status] * 9} if status else {}
    for name in "ab":
        write_table(tmp_path / f"{name}.parquet", answers_of(["says 1", "says 2"]))
    done = script(tmp_path, {**OPENAI, "base_url": server.url, **changed}, capture_output=True,
                  text=True)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and fragment in done.stderr
    assert_secret_is_safe(tmp_path, done.stdout, done.stderr)


def test_a_local_model_judges(tiny, tmp_path):
    """A random model is asked in both orders and decides nothing that can be read: n is 0."""
    models.save(*tiny, tmp_path / "model")
    for name in "ab":
        write_table(tmp_path / f"{name}.parquet", answers_of(["says 1", "says 2"]))
    spec = {**SPEC, "provider": "transformers", "model": "m", "max_tokens": 4, "attempts": 1,
            "cache": "cache", "template": "{prompt} {a} {b} {options}"}  # fmt: skip
    compute = json.dumps({"device": "cpu", "threads": 1})
    limits = json.dumps({"max_length": 200})
    done = script(tmp_path, spec, "--model", "model", "--model-spec", limits, "--compute", compute,
                  capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = read_table(tmp_path / "verdicts.parquet", winrate.JUDGED)
    assert len(found) == 2 and found["verdict"].isna().all()
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert winrate.table(found, spec)["n"].tolist() == [0, 0]


# -- answers ---------------------------------------------------------------------------------


def test_answers_of_a_checkpoint(tiny, toy_pairs):
    """The held-out prompts (and as many training ones as asked for), the same for every seed; the
    seed fixes the draws; nothing of the next turn."""
    model, tokenizer = tiny
    codec = Codec(tokenizer, 200, None)

    def written(seed=0, **changed):
        spec = {**ANSWERS, **changed}
        return sample_answers(toy_pairs, model, codec, spec, " ", 600, seed)

    whole = written()
    test = toy_pairs[toy_pairs["split"] == "test"]
    assert whole["example_id"].tolist() == test["example_id"].tolist()
    assert whole["prompt"].tolist() == test["prompt"].tolist()
    assert not whole["response"].str.contains(" ").any()
    assert written(cut=False)["response"].str.contains(" ").any()
    pd.testing.assert_frame_equal(written(), whole)
    assert (written(1)["response"] != whole["response"]).any()
    mixed = written(1, test=3, train=5)
    assert mixed["split"].tolist() == ["test"] * 3 + ["train"] * 5
    assert mixed["example_id"].tolist() == written(2, test=3, train=5)["example_id"].tolist()
    with pytest.raises(InputError, match=r"answers\.train = 99: the data set has 12 train pairs"):
        written(train=99)


# -- the study -------------------------------------------------------------------------------


def study_of(**overlay):
    """config.yaml with some sections changed."""
    config = load_config([ROOT / "config.yaml"])
    for key, value in overlay.items():
        config[key] = {**config[key], **value}
    return Study(config)


def test_models_are_saved_where_answers_are_written():
    """Epoch 0 is what a run starts from, its end needs no checkpoint, beyond it is nothing."""
    spec = {**STUDY.config["figures"]["winrate"], "epochs": [0, 0.5, 3, 9]}
    study = study_of(figures={"winrate": spec})
    states = study.states("winrate")
    assert states["dpo", 0] == ("sft", None) and states["dpo-extend", 0] == ("sft-extend", None)
    assert states["dpo", 0.5] == ("dpo", "0.5") and states["dpo", 3] == ("dpo", None)
    assert ("dpo", 9) not in states
    assert study.checkpoints("dpo") == ["0.5", "1", "2"]  # hallucination's too
    assert study.checkpoints("dpo-matched") == ["0.5"]
    assert STUDY.states("hallucination")["sft", 0] == ("base", None)
    config = {name: entry for name, entry in study.config["figures"].items()
              if name not in ("winrate", "hallucination", "forks", "kernel")}  # fmt: skip
    bare = load_config([ROOT / "config.yaml"])
    bare["figures"] = config
    assert Study(bare).checkpoints("dpo") == []


def test_judges_of_a_study():
    """Temperature and attempts follow the protocol; the toy world judges no other data set; an
    endpoint judges no run while it trains."""
    assert (SPEC["temperature"], SPEC["attempts"]) == (0.0, 2)
    judge = study_of(judge={"protocol": "as_published"}).config["judge"]
    assert (judge["temperature"], judge["attempts"]) == (0.7, 1)
    assert study_of().no_judge() == ""
    local = load_config([ROOT / "config.yaml", ROOT / "studies/hh-local.yaml"])
    assert "cannot judge data set 'hh-local'; expected openai" in Study(local).no_judge()
    with pytest.raises(InputError, match=r"judge\.model: none given; expected the endpoint's"):
        study_of(judge={"provider": "openai"})
    with pytest.raises(InputError, match=r"judge\.model: 'gpt': not defined"):
        study_of(judge={"provider": "transformers", "model": "gpt"})
    online = {"online": {"algorithm": "online_dpo", "init": "sft", "epochs": 1, "lr": 0.1}}
    with pytest.raises(InputError, match=r"'openai': cannot judge run 'online' on data set"):
        study_of(judge={"provider": "openai", "model": "m"}, runs=online,
                 active={"runs": ["online"]})  # fmt: skip
    comparisons = {**STUDY.config["figures"]["winrate"], "comparisons": {"x": ["dpo", "absent"]}}
    with pytest.raises(InputError, match=r"figures\.winrate\.comparisons\.x: 'absent': not defi"):
        study_of(figures={"winrate": comparisons})


# -- the figure ------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
def test_figure_draws_the_table(tmp_path, seeds):
    """Every rate is a marker, every drawn interval that over seeds where there is one; the paper's
    numbers are there."""
    rng = np.random.default_rng(0)
    signs = rng.choice([1.0, 0.0, -1.0], size=(seeds, 30))
    parts = [verdicts(signs).assign(epoch=float(epoch)) for epoch in (0, 1, 2)]
    table = winrate.table(pd.concat(parts), SPEC)
    study = {"study": "t", "dataset": "d", "model": "m", "seeds": list(range(seeds))}
    path = tmp_path / "w.csv"
    table.to_csv(path, index=False)
    drawn = figure.draw(study, pd.read_csv(path))
    axes = drawn.axes[0]
    expected = table.loc[(table["seed"] == "all")].drop_duplicates("epoch")["rate"]
    lines = [line.get_ydata() for line in axes.lines]
    assert any(len(y) == 3 and np.allclose(y, expected, atol=1e-9) for y in map(np.array, lines))
    for rates in winrate.PUBLISHED.values():
        assert any(list(y) == list(rates.values()) for y in lines)
    shown = "t over seeds" if seeds > 1 else "paired bootstrap"
    low = table.loc[table["interval"] == shown, "low"].iloc[0]
    ends = [segment[0][1] for c in axes.collections for segment in c.get_segments()]
    assert max(0, low) == pytest.approx(min(ends, key=lambda end: abs(end - max(0, low))))
    words = Counter(text.get_text() for text in [*drawn.texts, *axes.texts])
    assert words["paper, ChatGPT"] == words["paper, Claude"] == 1
    style.save(drawn, [str(tmp_path / "w.png")])


def test_figures_need_no_torch():
    """What draws them imports neither torch nor transformers."""
    for name in ("draw_winrate", "draw_hallucination", "make_winrate", "make_hallucination"):
        for path in code_of(f"workflow_scripts/{name}.py"):
            text = (ROOT / path).read_text(encoding="utf-8")
            top = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
            assert not any("torch" in line or "transformers" in line for line in top), path
