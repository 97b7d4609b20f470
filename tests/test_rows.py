"""Training rows: what a run trains on, in which order, and the reference beside it."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics.errors import InputError
from learning_dynamics.reference import reference_logps
from learning_dynamics.rows import Rows, mismatched_trees, rows_of_update, training_rows
from learning_dynamics.scoring import Engine, Tree
from learning_dynamics.tokens import Codec
from tests.conftest import COMPUTE


@pytest.fixture(scope="module")
def reference(tiny, toy_pairs):
    """Reference log-probs of the tiny model."""
    return reference_logps(Engine(deepcopy(tiny[0])), toy_pairs, Codec(tiny[1], 256, 128), COMPUTE)


def blank(total, lengths=None):
    """Rows of which only the number, and the lengths, matter."""
    return Rows([Tree([1] * n, [[1]]) for n in lengths or [1] * total])


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_rows_are_drawn_without_replacement(total, size, seed):
    """Every pass is a permutation, with batches laid end to end over three passes."""
    updates = -(-3 * total // size)
    drawn = [n for u in range(updates) for n in rows_of_update(u, blank(total), size, seed)]
    for start in range(0, 3 * total, total):
        assert sorted(drawn[start : start + total]) == list(range(total))


@given(st.integers(0, 500), st.integers(2, 60), st.integers(1, 9), st.integers(0, 9))
def test_rows_depend_on_update_and_seed_alone(update, total, size, seed):
    """Called again, with other calls in between; numpy's global state plays no part."""
    first = rows_of_update(update, blank(total), size, seed)
    np.random.seed(update)
    rows_of_update(update + 1, blank(total), size, seed + 1)
    assert rows_of_update(update, blank(total), size, seed) == first


def test_seeds_and_passes_have_their_own_order():
    """Different seeds, and different passes of one seed, differ."""
    orders = [rows_of_update(u, blank(30), 30, seed) for seed in range(3) for u in range(3)]
    assert len({tuple(order) for order in orders}) == 9


@pytest.mark.parametrize(("target", "sides"), [
    ("chosen", ["chosen"]), ("rejected", ["rejected"]), ("extend", ["chosen", "rejected"]),
])  # fmt: skip
def test_sft_targets(tiny, toy_pairs, target, sides):
    """One row per pair and trained response, its tokens those of the codec; no reference."""
    codec = Codec(tiny[1], 256, 128)
    rows = training_rows(toy_pairs, codec, {"algorithm": "sft", "target": target}, 0, None)
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
        rows = training_rows(toy_pairs, codec, spec, 0, None, probes)
        pairs = toy_pairs.iloc[expected]
        for tree, pair in zip(rows.trees, pairs.itertuples(), strict=True):
            assert tree.prompt == codec.prompt(pair.prompt, "x")
            text = f"{pair.chosen} {target}"
            assert tree.responses == [codec.response(text, len(tree.prompt))]
        assert rows.reference is None
    spec = {"algorithm": "sft", "rows": "probes", "target": "irr_test"}
    with pytest.raises(InputError, match=r"'irr_test'.*expected one of chosen, irr_hum, mine"):
        training_rows(toy_pairs, codec, spec, 0, None, probes)


def test_published_truncation_looks_at_the_whole_pair(tiny, toy_pairs):
    """The published cut of a training row depends on both its responses, also where one is trained
    on: the row's trees are those of Codec.row with both."""
    long = toy_pairs.iloc[:1].assign(rejected=" you need a hammer." * 40)
    codec = Codec(tiny[1], 120, 20, published=True)
    row = long.iloc[0]
    whole = codec.row(row.prompt, [row.chosen, row.rejected], "x")
    assert len(whole.prompt) == 20 and len(whole.responses[1]) == 100  # both were cut
    rows = training_rows(long, codec, {"algorithm": "sft", "target": "extend"}, 0, None)
    assert [(t.prompt, *t.responses) for t in rows.trees] == [
        (whole.prompt, response) for response in whole.responses
    ]
    pair = training_rows(long, codec, {"algorithm": "dpo", "labels": "given"}, 0, None)
    assert pair.trees == [whole]


def test_coin_swaps_labels_and_reference_together(tiny, toy_pairs, reference):
    """Given labels as the truth: each row is that pair or its mirror image, reference included;
    the coin is fixed per seed and fair."""
    codec = Codec(tiny[1], 256, 128)

    def rows_of(labels, seed):
        spec = {"algorithm": "dpo", "labels": labels}
        return training_rows(toy_pairs, codec, spec, seed, reference)

    def values(row):
        return [tokens.tolist() for tokens in row]

    given_rows, swaps = rows_of("given", 0), []
    table = reference[["chosen", "rejected"]].values
    assert [values(row) for row in given_rows.reference] == [values(row) for row in table]
    for seed in range(40):
        rows = rows_of("coin", seed)
        for number, tree in enumerate(rows.trees):
            plain = given_rows.trees[number]
            swapped = tree.responses != plain.responses
            order = -1 if swapped else 1
            assert (tree.prompt, tree.responses) == (plain.prompt, plain.responses[::order])
            known = values(given_rows.reference[number])
            assert values(rows.reference[number]) == known[::order]
            swaps.append(swapped)
    assert abs(np.mean(swaps) - 0.5) < 4 * 0.5 / np.sqrt(len(swaps))
    assert rows_of("coin", 3).trees == rows_of("coin", 3).trees != rows_of("coin", 4).trees


def test_a_missing_reference_row_is_named(tiny, toy_pairs, reference):
    """The pair that the reference table lacks."""
    codec, spec = Codec(tiny[1], 256, 128), {"algorithm": "dpo", "labels": "given"}
    missing = reference["example_id"].iloc[5]
    with pytest.raises(InputError, match=missing):
        training_rows(toy_pairs, codec, spec, 0, reference.drop(5))


def plain(model, prompt, response):
    """log π per token of one response, from one plain forward pass, log-softmax in float64."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logp.gather(1, torch.tensor(response)[:, None])[:, 0].numpy()


def test_reference_equals_plain_scoring(tiny, toy_pairs, reference):
    """Plain forward passes, token by token; end-of-text is among them, as it is in the loss, also
    where the probes' sums leave it out."""
    model, tokenizer = tiny
    codec = Codec(tokenizer, 256, 128)
    apart = reference_logps(Engine(deepcopy(model)), toy_pairs,
                            Codec(tokenizer, 256, 128, count_end=False), COMPUTE)  # fmt: skip
    pd.testing.assert_frame_equal(apart, reference)
    pairs = toy_pairs.set_index("example_id")
    names = list(pairs.index[pairs["split"] == "train"])
    assert list(reference["example_id"]) == names
    for number, row in enumerate(reference.itertuples()):
        prompt = codec.prompt(pairs.at[row.example_id, "prompt"], "x")
        for side in ("chosen", "rejected"):
            response = codec.response(pairs.at[row.example_id, side], len(prompt))
            truth = plain(model, prompt, response)
            np.testing.assert_allclose(getattr(row, side), truth, rtol=1e-4, atol=1e-5)
        following = pairs.loc[names[(number + 1) % len(names)]]
        other = codec.response(following["rejected" if number % 2 else "chosen"], len(prompt))
        assert row.mismatched == pytest.approx(plain(model, prompt, other).sum(), rel=1e-5)


def test_one_response_algorithms_take_their_side_of_the_reference(tiny, toy_pairs, reference):
    """NPO on y⁻ compares with the reference's y⁻; on both, row by row."""
    codec = Codec(tiny[1], 256, 128)
    for target, sides in (("rejected", ["rejected"]), ("extend", ["chosen", "rejected"])):
        spec = {"algorithm": "npo", "rows": "pairs", "target": target}
        rows = training_rows(toy_pairs, codec, spec, 0, reference)
        expected = [row[side] for _, row in reference.iterrows() for side in sides]
        assert len(rows.reference) == len(rows.trees) == len(expected)
        for known, tree, truth in zip(rows.reference, rows.trees, expected, strict=True):
            assert known[0].tolist() == truth.tolist() and len(truth) == len(tree.responses[0])


def test_mismatched_responses_are_other_rows(tiny, toy_pairs):
    """No prompt is paired with a response of its own."""
    codec = Codec(tiny[1], 256, 128)
    rows = training_rows(toy_pairs, codec, {"algorithm": "kto", "labels": "given"}, 0, None)
    for tree, other in zip(rows.trees, rows.mismatched, strict=True):
        assert other.prompt == tree.prompt
        assert other.responses[0] not in tree.responses
    assert rows.mismatched == mismatched_trees(rows.trees)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 6), st.integers(2, 5),
       st.integers(0, 5))  # fmt: skip
def test_length_buckets_deal_out_the_same_rows(lengths, size, buckets, seed):
    """The rows of each bucket of updates are those of the plain order; a batch never spans two
    neighbours of another batch in length."""
    rows = blank(0, lengths)
    for bucket in range(3):
        updates = range(bucket * buckets, (bucket + 1) * buckets)
        plain_order = [n for u in updates for n in rows_of_update(u, rows, size, seed)]
        dealt = [rows_of_update(u, rows, size, seed, buckets) for u in updates]
        assert sorted(n for batch in dealt for n in batch) == sorted(plain_order)
        spans = sorted((min(lengths[n] for n in b), max(lengths[n] for n in b)) for b in dealt)
        for (_, high), (low, _) in pairwise(spans):
            assert high <= low
