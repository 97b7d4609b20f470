"""The loop: rows, labels, reference, and runs that end the same however often they are stopped."""

import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import finetune as loop
from learning_dynamics import models
from learning_dynamics.errors import InputError
from learning_dynamics.resume import Checkpoints
from learning_dynamics.tokens import Codec
from learning_dynamics.trajectory import COLUMNS, probe_trees, update_of_epoch

COMPUTE = {"device": "cpu", "precision": "fp32", "threads": 1, "batch_tokens": 600}
SPEC = {
    "algorithm": "dpo", "epochs": 2, "lr": 1e-3, "batch_size": 4, "optimizer": "rmsprop",
    "warmup": 2, "clip": 10.0, "beta": 0.1, "target": "chosen", "labels": "given",
    "probe_every": 2, "checkpoint_every": 2,
}  # fmt: skip
UPDATES = 6  # two passes over 12 rows, four at a time


@pytest.fixture(autouse=True)
def restore_sigterm():
    """The loop installs a handler; tests leave none behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def reference(tiny, toy_pairs):
    """Reference log-probs of the tiny model."""
    return loop.reference_logps(tiny[0], toy_pairs, Codec(tiny[1], 256, 128), COMPUTE)


@pytest.fixture
def run(tiny, toy_pairs, reference, tmp_path):
    """Function that runs one finetuning from the tiny model: (tables, counters, trained model)."""
    model, tokenizer = tiny
    probed = toy_pairs.iloc[[0, 1, 12]]
    probes = pd.concat(
        [
            probed.assign(response_type=kind, response=probed[kind])
            for kind in ("chosen", "rejected")
        ]
    )

    def start(folder="resume", keep=(), **changes):
        spec = {**SPEC, **changes}
        codec = Codec(tokenizer, 256, 128)
        rows = loop.training_rows(toy_pairs, codec, spec, 0, reference)
        trained = deepcopy(model)
        tables, counters = loop.finetune(
            trained, tokenizer, rows, probe_trees(probes, codec), spec, 0, COMPUTE,
            Checkpoints(tmp_path / folder, "mark"), list(keep),
        )  # fmt: skip
        return tables, counters, trained

    return start


def same_weights(one, two):
    """Whether two models are equal bit for bit."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# -- rows ------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_rows_are_drawn_without_replacement(total, size, seed):
    """Every pass is a permutation, with batches laid end to end over three passes."""
    updates = -(-3 * total // size)
    drawn = [n for u in range(updates) for n in loop.rows_of_update(u, total, size, seed)]
    for start in range(0, 3 * total, total):
        assert sorted(drawn[start : start + total]) == list(range(total))


@given(st.integers(0, 500), st.integers(2, 60), st.integers(1, 9), st.integers(0, 9))
def test_rows_depend_on_update_and_seed_alone(update, total, size, seed):
    """Called again, with other calls in between; numpy's global state plays no part."""
    first = loop.rows_of_update(update, total, size, seed)
    np.random.seed(update)
    loop.rows_of_update(update + 1, total, size, seed + 1)
    assert loop.rows_of_update(update, total, size, seed) == first


def test_seeds_and_passes_have_their_own_order():
    """Different seeds, and different passes of one seed, differ."""
    orders = [loop.rows_of_update(u, 30, 30, seed) for seed in range(3) for u in range(3)]
    assert len({tuple(order) for order in orders}) == 9


@pytest.mark.parametrize(("target", "sides"), [
    ("chosen", ["chosen"]), ("rejected", ["rejected"]), ("extend", ["chosen", "rejected"]),
])  # fmt: skip
def test_sft_targets(tiny, toy_pairs, target, sides):
    """One row per pair and trained response, its tokens those of the codec; no reference."""
    codec = Codec(tiny[1], 256, 128)
    rows = loop.training_rows(toy_pairs, codec, {"algorithm": "sft", "target": target}, 0, None)
    train = toy_pairs[toy_pairs["split"] == "train"]
    expected = []
    for pair in train.itertuples():
        prompt = codec.prompt(pair.prompt, "x")
        expected += [(prompt, [codec.response(getattr(pair, s), len(prompt))]) for s in sides]
    assert [(tree.prompt, tree.responses) for tree in rows.trees] == expected
    assert rows.reference is None and len(rows) == 12 * len(sides)


def test_sft_on_a_response_type_of_the_probes(tiny, toy_pairs):
    """rows: probes: one row per train probe that has the type, in the probe set's order, whatever
    the pairs are; an example that lacks the type is passed over."""
    codec = Codec(tiny[1], 256, 128)
    probed = toy_pairs.iloc[[3, 0, 7, 12]]  # the last one is a test probe
    probes = pd.concat(
        [probed.assign(response_type=kind, response=probed["chosen"] + f" {kind}")
         for kind in ("chosen", "irr_hum", "mine")]
    )  # fmt: skip
    lacking = (probes["response_type"] == "mine") & (probes["example_id"] == probed.iloc[1, 1])
    probes = probes[~lacking]
    for target, expected in (("irr_hum", [3, 0, 7]), ("mine", [3, 7])):
        spec = {"algorithm": "sft", "rows": "probes", "target": target}
        rows = loop.training_rows(toy_pairs, codec, spec, 0, None, probes)
        pairs = toy_pairs.iloc[expected]
        for tree, pair in zip(rows.trees, pairs.itertuples(), strict=True):
            assert tree.prompt == codec.prompt(pair.prompt, "x")
            text = f"{pair.chosen} {target}"
            assert tree.responses == [codec.response(text, len(tree.prompt))]
        assert rows.reference is None
    spec = {"algorithm": "sft", "rows": "probes", "target": "irr_test"}
    with pytest.raises(InputError, match=r"'irr_test'.*expected one of chosen, irr_hum, mine"):
        loop.training_rows(toy_pairs, codec, spec, 0, None, probes)


def test_published_truncation_looks_at_the_whole_pair(tiny, toy_pairs):
    """The published cut of a training row depends on both its responses, also where one is trained
    on: the row's trees are those of Codec.row with both."""
    long = toy_pairs.iloc[:1].assign(rejected=" you need a hammer." * 40)
    codec = Codec(tiny[1], 120, 20, published=True)
    row = long.iloc[0]
    whole = codec.row(row.prompt, [row.chosen, row.rejected], "x")
    assert len(whole.prompt) == 20 and len(whole.responses[1]) == 100  # both were cut
    rows = loop.training_rows(long, codec, {"algorithm": "sft", "target": "extend"}, 0, None)
    assert [(t.prompt, *t.responses) for t in rows.trees] == [
        (whole.prompt, response) for response in whole.responses
    ]
    pair = loop.training_rows(long, codec, {"algorithm": "dpo", "labels": "given"}, 0, None)
    assert pair.trees == [whole]


def test_coin_swaps_labels_and_reference_together(tiny, toy_pairs, reference):
    """Given labels as the truth: each row is that pair or its mirror image, reference included;
    the coin is fixed per seed and fair."""
    codec = Codec(tiny[1], 256, 128)

    def rows_of(labels, seed):
        spec = {"algorithm": "dpo", "labels": labels}
        return loop.training_rows(toy_pairs, codec, spec, seed, reference)

    given_rows, swaps = rows_of("given", 0), []
    assert given_rows.reference.tolist() == reference[["chosen", "rejected"]].values.tolist()
    for seed in range(40):
        rows = rows_of("coin", seed)
        for number, tree in enumerate(rows.trees):
            plain = given_rows.trees[number]
            swapped = tree.responses != plain.responses
            order = -1 if swapped else 1
            assert (tree.prompt, tree.responses) == (plain.prompt, plain.responses[::order])
            assert rows.reference[number].tolist() == given_rows.reference[number][::order].tolist()
            swaps.append(swapped)
    assert abs(np.mean(swaps) - 0.5) < 4 * 0.5 / np.sqrt(len(swaps))
    assert rows_of("coin", 3).trees == rows_of("coin", 3).trees != rows_of("coin", 4).trees


def test_a_missing_reference_row_is_named(tiny, toy_pairs, reference):
    """The pair that the reference table lacks."""
    codec, spec = Codec(tiny[1], 256, 128), {"algorithm": "dpo", "labels": "given"}
    missing = reference["example_id"].iloc[5]
    with pytest.raises(InputError, match=missing):
        loop.training_rows(toy_pairs, codec, spec, 0, reference.drop(5))


def test_reference_equals_plain_scoring(tiny, toy_pairs, reference):
    """Plain forward pass and float64 log-softmax of each sequence; end-of-text is in the sum, as it
    is in the loss, also where the probes' sums leave it out."""
    model, tokenizer = tiny
    codec = Codec(tokenizer, 256, 128)
    apart = loop.reference_logps(model, toy_pairs, Codec(tokenizer, 256, 128, count_end=False),
                                 COMPUTE)  # fmt: skip
    pd.testing.assert_frame_equal(apart, reference)
    pairs = toy_pairs.set_index("example_id")
    assert list(reference["example_id"]) == list(pairs.index[pairs["split"] == "train"])
    for row in reference.itertuples():
        for side in ("chosen", "rejected"):
            prompt = codec.prompt(pairs.at[row.example_id, "prompt"], "x")
            response = codec.response(pairs.at[row.example_id, side], len(prompt))
            with torch.no_grad():
                logits = model(torch.tensor([prompt + response])).logits[0].double()
            logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
            truth = logp.gather(1, torch.tensor(response)[:, None]).sum().item()
            assert getattr(row, side) == pytest.approx(truth, rel=1e-5)


# -- the loop --------------------------------------------------------------------------------


def test_dpo_starts_at_margin_zero_and_loss_log_two(run):
    """Policy and reference are the same model before the first update."""
    first = run()[0]["training"].iloc[0]
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_tables_hold_the_whole_run(run):
    """Counters, warm-up and probed states as configured; the margin falls apart from 0."""
    tables, counters, _ = run(probe_every=4)
    trajectory, training = tables["trajectory"], tables["training"]
    assert list(trajectory.columns) == COLUMNS
    assert trajectory["step"].unique().tolist() == [0, 4, 6]
    assert (trajectory.groupby("step").size() == 6).all()
    assert training["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert training["examples"].tolist() == [4, 8, 12, 16, 20, 24]
    assert training["epoch"].iloc[-1] == 2 and trajectory["epoch"].max() == 2
    expected = [1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3, 1e-3]
    assert training["lr"].tolist() == pytest.approx(expected)
    assert training["loss"].iloc[-1] < training["loss"].iloc[0]
    assert counters["updates"] == UPDATES and counters["training_rows"] == 12


def interrupt(monkeypatch, how, at):
    """Make the loop fail at update ``at``: by SIGTERM, in the update, or in a probe evaluation."""
    holder, name = (loop.trajectory, "evaluation") if how == "probe" else (loop, "update")
    original, calls = getattr(holder, name), []

    def once(*args):
        calls.append(args)
        if len(calls) == at:
            if how != "sigterm":
                raise RuntimeError("killed")
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(holder, name, once)


@pytest.mark.parametrize(("how", "at", "attempts"), [
    ("sigterm", 1, 2), ("sigterm", 3, 2), ("sigterm", UPDATES, 2),
    ("update", 1, 1), ("update", 4, 2), ("update", UPDATES, 2), ("probe", 3, 2),
])  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_bits(run, monkeypatch, how, at, attempts):
    """The uninterrupted run: both tables and the weights, but for the speed."""
    whole, _, model = run("whole")
    with monkeypatch.context() as patched:
        interrupt(patched, how, at)
        error = SystemExit if how == "sigterm" else RuntimeError
        with pytest.raises(error, match="143" if how == "sigterm" else "killed"):
            run()
    tables, counters, resumed = run()
    assert counters["attempts"] == attempts
    for name in whole:
        one, two = (t[name].drop(columns="rows_per_s", errors="ignore") for t in (whole, tables))
        pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True),
                                      check_exact=True)  # fmt: skip
    assert same_weights(model, resumed)


def test_a_kept_epoch_is_the_end_of_the_run_that_stops_there(run, tmp_path):
    """The state of a long run at update n, against a run of n updates; loadable from its folder."""
    run("long", keep=["1", "2"])
    for epoch in (1, 2):
        short = run(f"short{epoch}", epochs=epoch)[2]
        kept, _ = models.load(tmp_path / "long" / f"epoch{epoch}")
        assert same_weights(kept, short)


def test_an_epoch_trains_every_row_once(run, monkeypatch):
    """The rows that reach the update, in the order that rows_of_update gives from update 0 on."""
    original, seen = loop.update, []

    def spy(model, optimizer, rows, numbers, *rest):
        seen.append(numbers)
        return original(model, optimizer, rows, numbers, *rest)

    monkeypatch.setattr(loop, "update", spy)
    run(epochs=1)
    assert seen == [loop.rows_of_update(u, 12, 4, 0) for u in range(3)]
    assert sorted(number for numbers in seen for number in numbers) == list(range(12))


def test_extend_counts_both_rows_of_a_pair(run):
    """A pass over 12 pairs is 24 rows: 6 updates of 4."""
    tables, counters, _ = run(algorithm="sft", target="extend", epochs=1)
    assert counters["updates"] == 6 and counters["training_rows"] == 24
    assert tables["trajectory"]["epoch"].max() == 1
    assert tables["training"]["margin"].isna().all()


def test_a_diverged_run_says_so(run):
    """A loss that is not finite is bad input, with the learning rate in the message."""
    with pytest.raises(InputError, match=r"lr = 1e\+30.*expected a finite loss"):
        run(algorithm="sft", lr=1e30)


@given(st.floats(0.01, 20), st.integers(1, 900), st.integers(1, 32))
def test_update_of_epoch_is_the_nearest_one(epoch, rows, size):
    """Rows consumed and asked for differ by half a batch at most; never zero updates."""
    update = update_of_epoch(epoch, rows, size)
    assert update >= 1
    assert update == 1 or abs(update * size - epoch * rows) <= size / 2 + 1e-6
