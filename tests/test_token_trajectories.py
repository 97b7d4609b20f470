"""Log-probs token by token: the run's own numbers, their storage, classes of tokens, the figure."""

import logging
import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learning_dynamics import finetune as loop
from learning_dynamics import models, token_classes, token_trajectory
from learning_dynamics.errors import InputError
from learning_dynamics.figures import style
from learning_dynamics.figures import tokens as figure
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import training_rows
from learning_dynamics.token_classes import (
    END,
    FIRST,
    FUNCTION,
    NEITHER,
    OF_CHOSEN,
    OF_REJECTED,
    SHARED,
)
from learning_dynamics.token_trajectory import UNIT, rounded
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import prepared
from learning_dynamics.trajectory import probe_trees
from tests.conftest import COMPUTE, run_spec

KINDS = ["chosen", "rejected"]
KEYS = ["step", "split", "example_id", "response_type"]


def assert_same(one, two):
    """Check that two tables hold the same responses, log-probs and texts."""
    pd.testing.assert_frame_equal(one[KEYS], two[KEYS], check_dtype=False)
    for name in ("logp", "logp_argmax"):
        for a, b in zip(one[name], two[name], strict=True):
            assert a.dtype == b.dtype == np.float32 and np.array_equal(a, b)
    for a, b in zip(one["text"], two["text"], strict=True):
        assert (a is None) == (b is None) and (a is None or list(a) == list(b))


# -- storage ---------------------------------------------------------------------------------


def test_rounding_is_off_by_half_a_unit_at_most():
    """From probability one down to log-probs that no other format of two bytes holds."""
    rng = np.random.default_rng(0)
    values = -np.concatenate([rng.gamma(0.5, 4, 5000), rng.uniform(0, 2000, 5000), [0.0, 1e-9]])
    found = rounded(values)
    error = np.abs(found.astype(np.float64) - values)
    assert found.dtype == np.float32 and UNIT / 2.1 < error.max() <= UNIT / 2
    assert (rounded(found) == found).all()
    assert np.abs(values.astype(np.float16).astype(float) - values).max() > 100 * UNIT


def synthetic(rng, responses=400, evaluations=6, kinds=("chosen", "rejected")):
    """A table as a run leaves it: log-probs spread as a language model's, drifting."""
    parts = []
    lengths = rng.integers(5, 40, responses)
    start = [-rng.gamma(0.5, 4, n) for n in lengths]
    greedy = [-rng.gamma(0.5, 1, n) for n in lengths]
    texts = [[f" w{rng.integers(300)}" for _ in range(n)] for n in lengths]
    for step in range(evaluations):
        drift = [values - 0.3 * step * rng.random(len(values)) for values in start]
        parts.append(
            pd.DataFrame(
                {
                    "step": step * 10,
                    "split": "train",
                    "example_id": [f"e{i // len(kinds)}" for i in range(responses)],
                    "response_type": [kinds[i % len(kinds)] for i in range(responses)],
                    "closed": True,
                    "logp": [rounded(values) for values in drift],
                    "logp_argmax": [rounded(values) for values in greedy],
                    "text": texts if step == 0 else [None] * responses,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[token_trajectory.COLUMNS]


def test_a_number_takes_less_than_three_bytes(tmp_path, caplog):
    """The whole file, names and texts included, divided by its log-probs; it is read back as it
    was, names are dictionary-encoded, numbers are plain float32 nats, and the log says the size."""
    table = synthetic(np.random.default_rng(1))
    path = tmp_path / "tokens.parquet"
    with caplog.at_level(logging.INFO):
        token_trajectory.write(path, table)
    numbers = 2 * table["logp"].map(len).sum()
    per_number = path.stat().st_size / numbers
    assert 1 < per_number < 3 and f"{per_number:.2f} bytes a number" in caplog.text
    schema = pq.read_schema(path)
    for name in ("split", "example_id", "response_type"):
        assert pa.types.is_dictionary(schema.field(name).type)
        assert "DICTIONARY" in str(pq.ParquetFile(path).metadata.row_group(0).column(
            schema.names.index(name)).encodings)  # fmt: skip
    assert schema.field("logp").type == pa.list_(pa.float32())
    assert_same(token_trajectory.read(path), table)


def test_what_is_no_such_table(tmp_path):
    """Texts that lack, numbers that are too many."""
    path = tmp_path / "tokens.parquet"
    table = synthetic(np.random.default_rng(2), 4, 2)
    token_trajectory.write(path, table.assign(text=None))
    with pytest.raises(InputError, match=r"tokens\.parquet: the first evaluation lacks text"):
        token_trajectory.read(path)
    longer = table.copy()
    longer.at[5, "logp"] = np.append(longer.at[5, "logp"], np.float32(-1))
    token_trajectory.write(path, longer)
    with pytest.raises(InputError, match=r"logp: expected a number per token"):
        token_trajectory.read(path)
    with pytest.raises(InputError, match="no such file"):
        token_trajectory.read(tmp_path / "absent.parquet")


def test_pieces_are_the_text(tiny):
    """What the tokens add to each other is the text, spaces and all; so are letters of several
    bytes, however they are divided."""
    tokenizer = tiny[1]
    texts = [" sure, you need a hammer.", "no space\n\nHuman: two  spaces", " naïve 東京 ✓ $x$"]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = token_trajectory.pieces(tokenizer, ids)
        assert len(found) == len(ids)
        if text.isascii():
            assert "".join(found) == text
            assert found == [tokenizer.decode([i]) for i in ids]
    assert token_trajectory.pieces(tokenizer, [tokenizer.eos_token_id]) == [tokenizer.eos_token]


# -- in a run --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def restore_sigterm():
    """The loop installs a handler; tests leave none behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def run(tiny, toy_pairs, tmp_path_factory):
    """Function that makes a whole run of DPO on three probed prompts (a fourth is held out): its
    tables and the probe set as tokens."""
    model, tokenizer = tiny
    home = tmp_path_factory.mktemp("init")
    models.save(model, tokenizer, home)
    probed = toy_pairs.iloc[[0, 1, 2, 12]]
    probes = pd.concat([probed.assign(response_type=k, response=probed[k]) for k in KINDS])

    def whole(folder, **changes):
        spec = run_spec("dpo", **{"rows": "probes", "batch_size": 3, "epochs": 3, **changes})
        codec = Codec(tokenizer, 256, 128, count_end=False)
        rows = training_rows(toy_pairs, codec, spec, 0, None, probes)
        trained = prepared(home, tokenizer, None, 0, deepcopy(model))
        learner = loop.Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
        trees = probe_trees(probes, codec)
        return loop.finetune(learner, rows, trees, 0, Checkpoints(folder, "mark"), [])[0], trees

    return whole


@pytest.fixture(scope="module")
def kept(run, tmp_path_factory):
    """(tables, probe trees) of a run that keeps all tokens, evaluated at 0, 2 and 3 updates."""
    before = signal.getsignal(signal.SIGTERM)
    made = run(tmp_path_factory.mktemp("whole"), tokens={"examples": None})
    signal.signal(signal.SIGTERM, before)
    return made


def test_keeping_tokens_changes_no_bit(run, kept, tmp_path):
    """The same run without has the same trajectory and training table, and no table of tokens."""
    plain = run(tmp_path)[0]
    assert "tokens" not in plain
    for name in ("trajectory", "training"):
        one, two = (t[name].drop(columns="rows_per_s", errors="ignore") for t in (plain, kept[0]))
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_tokens_add_up_to_the_trajectory(kept):
    """Every evaluation × response; the sums of the labels' and of the greedy tokens' log-probs, the
    first token's and end-of-text's, within what rounding allows."""
    tables, trees = kept
    tokens, trajectory = tables["tokens"], tables["trajectory"]
    assert list(tokens.columns) == token_trajectory.COLUMNS and len(tokens) == len(trajectory) == 24
    assert tokens["step"].unique().tolist() == [0, 2, 3]
    assert set(tokens["split"]) == {"train", "test"}
    both = tokens.merge(trajectory, on=KEYS, suffixes=("", "_sum"), validate="1:1")
    responses = [response for tree in trees.trees for response in tree.responses] * 3
    for row, response in zip(both.to_dict("records"), responses, strict=True):
        size = len(response)
        assert len(row["logp"]) == len(row["logp_argmax"]) == size
        assert size == row["n_tokens"] + row["closed"]
        body = slice(0, size - row["closed"])
        for name in ("logp", "logp_argmax"):
            total = row[name][body].astype(float).sum()
            assert abs(total - row[f"{name}_sum"]) <= size * UNIT / 2 + 1e-4
        assert abs(row["logp"][0] - row["logp_first"]) <= UNIT
        assert abs(row["logp"][-1] - row["logp_end"]) <= UNIT
        assert (row["logp_argmax"] >= row["logp"]).all()
        assert (row["text"] is None or np.ndim(row["text"]) == 0) == (row["step"] > 0)
    moved = token_classes.changes(tokens)
    assert moved["change"].abs().max() > 10 * UNIT  # the run did something


def test_the_first_examples_alone(run, kept, tmp_path, caplog):
    """So many training prompts, with the numbers that they have otherwise; the log says how much it
    will be before the first update."""
    with caplog.at_level(logging.INFO):
        some = run(tmp_path, tokens={"examples": 2})[0]["tokens"]
    whole = kept[0]["tokens"]
    first = [n for n in whole["example_id"].unique() if n in set(some["example_id"])]
    assert len(first) == 2 and set(some["split"]) == {"train"}
    expected = whole[whole["example_id"].isin(first)].reset_index(drop=True)
    assert_same(some, expected)
    count = some.loc[some["step"] == 0, "logp"].map(len).sum()
    said = f"{count} tokens of 4 responses at 3 evaluations: {6 * count} numbers"
    lines = [record.getMessage() for record in caplog.records]
    assert said in next(line for line in lines if line.startswith("tokens.parquet"))
    assert lines.index(next(line for line in lines if said in line)) < lines.index(
        next(line for line in lines if line.startswith("update"))
    )


def test_a_stopped_run_keeps_the_same_tokens(run, kept, tmp_path, monkeypatch):
    """Stopped by SIGTERM after update 2 and run again."""
    original, calls = loop.update, []

    def update(*args):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(SystemExit):
        run(tmp_path, tokens={"examples": None})
    again = run(tmp_path, tokens={"examples": None})[0]["tokens"]
    assert_same(again, kept[0]["tokens"])


# -- classes of tokens -----------------------------------------------------------------------


def test_classes():
    """The first that fits; a word's parts belong to it, a part of a word is no word."""
    tokens = [" the", " ham", "mer", " is", " after", "wards", ",", " a", "x", " saw", " nail",
              " don", "’t", " end", "<eos>"]  # fmt: skip
    chosen, rejected = {" ham", " saw", "x"}, {" ham", " nail"}
    found = token_classes.classes(tokens, True, chosen, rejected)
    expected = [FIRST, SHARED, NEITHER, FUNCTION, NEITHER, NEITHER, FUNCTION, NEITHER, OF_CHOSEN,
                OF_CHOSEN, OF_REJECTED, FUNCTION, FUNCTION, NEITHER, END]  # fmt: skip
    assert found == expected
    assert token_classes.classes(["<eos>"], True, set(), set()) == [END]
    assert token_classes.classes([" the", " end"], False, set(), set()) == [FIRST, NEITHER]
    assert token_classes.classes([], False, set(), set()) == []
    assert token_classes.classes(["x", " in", "to"], False, set(), set())[1:] == [FUNCTION] * 2


def planted(shift=0.0):
    """Two evaluations of one prompt and a held-out one."""
    rows = []
    for step, by in ((0, 0.0), (5, 1.0 + shift)):
        for split, example in (("train", "a"), ("test", "b")):
            for kind, text in (("chosen", [" x", " p", " q", "<e>"]), ("rejected", [" x", " r"])):
                size = len(text)
                logp = np.float32([-1.0 - by * n for n in range(size)])
                greedy, known = np.float32([-0.5 * by] * size), None if step else text
                rows.append((step, split, example, kind, kind == "chosen", logp, greedy, known))
    return pd.DataFrame(rows, columns=token_trajectory.COLUMNS)


def test_changes_of_planted_tokens():
    """Last evaluation minus first, with position, class and text; held-out prompts on request."""
    found = token_classes.changes(planted())
    assert list(found.columns) == token_classes.COLUMNS and set(found["example_id"]) == {"a"}
    assert found["change"].tolist() == [0, -1, -2, -3, 0, -1]
    assert found["greedy_change"].tolist() == [-0.5] * 6
    assert found["class"].tolist() == [FIRST, OF_CHOSEN, OF_CHOSEN, END, FIRST, OF_REJECTED]
    assert found["position"].tolist() == [0, 1, 2, 3, 0, 1] and found["start"].eq(-1).all()
    assert set(token_classes.changes(planted(), "test")["example_id"]) == {"b"}


# -- the figure ------------------------------------------------------------------------------


def moves(seed, role):
    """Changes of some prompts in which y⁻ falls by as much as the prompt's number says."""
    rng, rows = np.random.default_rng([seed, len(role)]), []
    words = [" the", " hammer", ",", " $", " a_very^long_" + "x" * 120, "\n", " nail"]
    for example in range(5):
        for kind in ("chosen", "rejected", "irr_hum"):
            tokens = [str(rng.choice(words)) for _ in range(30)]
            names = [FIRST, *rng.choice(token_classes.CLASSES[1:-1], 28), END]
            base = -example if kind == "rejected" else 0.3
            change = base + rng.normal(0, 0.1, 30)
            for n, (token, name, value) in enumerate(zip(tokens, names, change, strict=True)):
                rows.append((f"e$_{example}", kind, n, token, name, -2.0, value, -value))
    return pd.DataFrame(rows, columns=token_classes.COLUMNS)


STUDY = {"study": "test", "dataset": "toy", "model": "tiny", "seeds": [0, 1]}


def test_the_figure(tmp_path):
    """It draws, from hostile texts too; its example is the median one; no line is too long."""
    moved = {role: {seed: moves(seed, role) for seed in (0, 1)} for role in ("sft", "dpo")}
    assert figure._typical(moved["dpo"]) == "e$_2"
    lines = figure._lines(moved["dpo"][0], "e$_2", "rejected")
    for line in lines:
        assert sum(len(text) for text, _ in line) <= figure.WIDTH or len(line) == 1
    drawn = figure.draw(STUDY, moved)
    style.save(drawn, [str(tmp_path / "tokens.png"), str(tmp_path / "tokens.pdf")])
    assert (tmp_path / "tokens.png").stat().st_size > 10_000


def test_means_are_over_seeds():
    """By hand: a mean per seed, then over seeds; end-of-text is no position."""
    seeds = {s: figure._grouped(token_classes.changes(planted(s))) for s in (0, 1)}
    found = figure._means(seeds, "change", "place", "chosen")
    assert {name: one.value for name, one in found.items()} == {"1": 0, "2": -1.5, "3–4": -3}
    assert found["2"].seeds == (-1, -2)
    by_class = figure._means(seeds, "change", "class", "chosen")
    assert by_class[OF_CHOSEN].value == pytest.approx(-2.25) and by_class[END].value == -4.5
