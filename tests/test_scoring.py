"""Packing, and the scores of a probe set, against plain forward passes."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import scoring
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.scoring import METRICS, Engine, Scorer, Tree
from learning_dynamics.tokens import Codec
from learning_dynamics.trajectory import probe_trees

TIE = 1e-4  # where two logits are closer than this, fp32 may order them either way


def by_definition(model, prompt, response, greedy0=None, end_of_text=None, count_end=True):
    """Every metric of one response from one plain forward pass over it, softmax in float64; also
    the greedy tokens, and the share of positions whose greedy token is nearly a tie."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    z = logits.double().numpy()
    logp = z - z.max(1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(1, keepdims=True))
    p, rows = np.exp(logp), np.arange(len(response))
    greedy = logp.argmax(1)
    greedy0 = greedy if greedy0 is None else greedy0
    without_label, without_greedy, residual = logp.copy(), p.copy(), p.copy()
    without_label[rows, response] = -np.inf
    without_greedy[rows, greedy] = 0
    residual[rows, response] -= 1
    norm = np.sqrt((p**2).sum(1))
    label = logp[rows, response]
    ends = {"logp_first": label[0], "logp_end": np.nan}
    if response[-1] == end_of_text:
        ends["logp_end"] = label[-1]
        if not count_end and len(response) > 1:  # all else is of the text alone
            rows, response, greedy0 = rows[:-1], response[:-1], greedy0[:-1]
            logp, p, norm, label, residual, without_label, without_greedy = (
                a[:-1] for a in (logp, p, norm, label, residual, without_label, without_greedy)
            )
    out = {
        "logp": label.sum(),
        "logp_argmax": logp.max(1).sum(),
        "logp_greedy0": logp[rows, greedy0].sum(),
        "logp_top_other": without_label.max(1).sum(),
        "greedy_match": (logp.argmax(1) == response).mean(),
        "logp_complement": np.log(without_greedy.sum(1)).sum(),
        "logp_vocab_mean": logp.mean(),
        "prob_norm": norm.mean(),
        "prob_norm_sq": (norm**2).mean(),
        "logp_median": np.median(label),
        "residual_norm": np.sqrt((residual**2).sum(1)).mean(),
        "energy": (1 - p[rows, response]).mean(),
        "entropy": -(p * logp).sum(1).mean(),
        **ends,
    }
    assert list(out) == METRICS
    two = np.sort(z[: len(rows)], axis=1)[:, -2:]
    return out, greedy, (two[:, 1] - two[:, 0] < TIE).mean()


def check(metrics, model, trees, greedy0=None, **end):
    """Compare ``metrics`` with the definitions to 1e-5 relative (1e-6 absolute: fp32's limit for
    responses of one token); returns the greedy tokens. ``end``: end_of_text and count_end."""
    flat = [(tree.prompt, response) for tree in trees for response in tree.responses]
    known = greedy0 or [None] * len(flat)
    rows = [by_definition(model, *pair, g, **end) for pair, g in zip(flat, known, strict=True)]
    for name in METRICS:
        ours, truth = metrics[name], np.array([row[0][name] for row in rows])
        if name == "greedy_match":
            assert (abs(ours - truth) <= np.array([row[2] for row in rows]) + 1e-9).all()
        else:
            np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6, err_msg=name)
    return [row[1] for row in rows]


def greedy_response(model, prompt, length):
    """What the model finds most likely, token by token: there the label is the greedy token."""
    ids = list(prompt)
    for _ in range(length):
        with torch.no_grad():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[len(prompt) :]


def random_trees(rng, vocabulary, count=4):
    """Trees of random tokens, of very unequal lengths, one-token responses among them."""

    def tokens(n):
        return rng.integers(vocabulary, size=n).tolist()

    return [
        Tree(tokens(rng.integers(1, 12)), [tokens(n) for n in (1, *rng.integers(2, 15, 3))])
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("batch_tokens", "count_end"), [(1, True), (90, True), (90, False), (100_000, False)]
)
def test_scorer_on_toy_text(tiny, toy_pairs, batch_tokens, count_end):
    """Plain forward passes, whatever the batches and whether end-of-text counts, for whole, empty
    and cut responses; and the first call's greedy tokens are followed after the weights changed."""
    model, tokenizer = tiny
    codec = Codec(tokenizer, 128, 60)
    trees = []
    for row in toy_pairs.head(5).itertuples():
        prompt = codec.prompt(row.prompt, row.example_id)
        texts = (row.chosen, "", row.rejected)
        written = [codec.response(text, len(prompt)) for text in texts]
        cut = Codec(tokenizer, len(prompt) + 4, 60).response(row.chosen, len(prompt))
        trees.append(Tree(prompt, [*written, cut, greedy_response(model, prompt, 9)]))
    end = {"end_of_text": tokenizer.eos_token_id, "count_end": count_end}
    scorer = Scorer(trees, batch_tokens, **end)
    first = scorer(Engine(model))
    greedy0 = check(first, model, trees, **end)
    assert (first["greedy_match"][4::5] == 1).all()
    assert np.isnan(first["logp_end"]).reshape(5, 5)[:, :4].tolist() == [[False] * 3 + [True]] * 5
    assert (first["logp_end"] == first["logp"])[1::5].all()  # end-of-text alone
    moved = deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    later = scorer(Engine(moved))
    check(later, moved, trees, greedy0, **end)
    assert (later["logp_greedy0"] < later["logp_argmax"]).any()


@pytest.mark.parametrize("count_end", [True, False])
def test_scorer_on_hh_text(tiny, hh_rows, count_end):
    """Plain forward passes on real text: seven prompts, all 13 types, empty and cut ones among
    them; the count of tokens is of those that enter the sums."""
    model, tokenizer = tiny
    table = pd.DataFrame(
        [
            ("train", str(number), row["prompt"], kind, row[kind])
            for number, row in enumerate(hh_rows[:7])
            for kind in RESPONSE_TYPES
        ],
        columns=["split", "example_id", "prompt", "response_type", "response"],
    )
    assert (table["response"] == "").any()
    probes = probe_trees(table, Codec(tokenizer, 320, 120, count_end=count_end))
    identity, trees = probes.identity, probes.trees
    assert identity["response_type"].tolist() == RESPONSE_TYPES * 7
    end = tokenizer.eos_token_id
    counted = [r if count_end or len(r) == 1 or r[-1] != end else r[:-1]
               for tree in trees for r in tree.responses]  # fmt: skip
    assert identity["n_tokens"].tolist() == list(map(len, counted))
    assert (identity["n_tokens"] == 1).any()
    scored = probes.scorer(4096)(Engine(model))
    assert 0 < np.isnan(scored["logp_end"]).sum() < len(counted)  # some were cut
    check(scored, model, trees, end_of_text=end, count_end=count_end)


TOKENS = st.lists(st.integers(0, 96), min_size=1, max_size=6)
TREES = st.lists(
    st.builds(Tree, TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=3
)


@given(TREES)
def test_pack_gives_each_token_its_own_context(trees):
    """What predicts every token is the end of its own context: the prompt and the response so far,
    read through the layout, at positions 0, 1, 2, …; nothing is padded."""
    batch = scoring.pack(trees)
    responses = [(tree.prompt, r) for tree in trees for r in tree.responses]
    assert batch.responses == len(responses)
    assert batch.target.tolist() == [token for _, r in responses for token in r]
    assert batch.owner.tolist() == [i for i, (_, r) in enumerate(responses) for _ in r]
    assert batch.input_ids.shape == batch.position_ids.shape == (1, sum(map(len, trees)))
    before = {}  # of each position, those that it sees
    for span in batch.layout.spans:
        prompt = list(range(span.prompt.start, span.prompt.stop))
        before |= {n: prompt[: i + 1] for i, n in enumerate(prompt)}
        at = span.prompt.stop
        for size in span.sizes:
            before |= {n: prompt + list(range(at, n + 1)) for n in range(at, at + size)}
            at += size
    assert sorted(before) == list(range(batch.input_ids.shape[1]))
    contexts = [prompt + r[:k] for prompt, r in responses for k in range(len(r))]
    for source, context in zip(batch.source.tolist(), contexts, strict=True):
        seen = before[source]
        assert batch.input_ids[0, seen].tolist() == context
        assert batch.position_ids[0, seen].tolist() == list(range(len(context)))
    assert batch.layout.longest == max(map(len, contexts))


@given(TREES)
def test_pack_plain_gives_each_response_a_row(trees):
    """The same labels; each row is prompt and response, padded on the right."""
    batch, packed = scoring.pack_plain(trees), scoring.pack(trees)
    assert batch.target.tolist() == packed.target.tolist()
    assert batch.owner.tolist() == packed.owner.tolist()
    responses = [(tree.prompt, r) for tree in trees for r in tree.responses]
    rows = [prompt + r[:-1] for prompt, r in responses]
    for ids, filled, row in zip(batch.input_ids, batch.filled, rows, strict=True):
        assert ids[filled].tolist() == row and filled[: len(row)].all()
    flat = batch.input_ids.flatten().tolist()
    assert [flat[n] for n in batch.source] == [
        (prompt + r)[len(prompt) + k - 1] for prompt, r in responses for k in range(len(r))
    ]


@settings(max_examples=15)
@given(trees=TREES, data=st.data())
def test_responses_do_not_see_each_other(tiny, trees, data):
    """Log-probs of all other responses stay as they are when one response is replaced."""
    engine = Engine(tiny[0])
    owners = [i for i, tree in enumerate(trees) for _ in tree.responses]
    chosen = data.draw(st.integers(0, len(owners) - 1))
    place = chosen - owners.index(owners[chosen])
    changed = deepcopy(trees)
    changed[owners[chosen]].responses[place] = data.draw(TOKENS)
    before, after = (Scorer(t, 1000)(engine)["logp"] for t in (trees, changed))
    others = np.arange(len(owners)) != chosen
    np.testing.assert_allclose(after[others], before[others], rtol=1e-6)


@given(TREES, st.integers(1, 80))
def test_batches_hold_every_tree_once_within_budget(trees, budget):
    """A partition of the trees; within the budget unless a tree alone exceeds it."""
    batches = list(scoring.batches_by_budget(trees, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(trees)))
    for batch in batches:
        assert sum(len(trees[i]) for i in batch) <= budget or len(batch) == 1


@given(TREES, st.integers(1, 30))
def test_split_keeps_responses_and_budget(trees, budget):
    """The same responses in order behind the same prompt; within the budget unless one response
    with its prompt exceeds it."""
    for tree in trees:
        parts = scoring.split(tree, budget)
        assert [r for part in parts for r in part.responses] == tree.responses
        for part in parts:
            assert part.prompt == tree.prompt
            assert len(part) <= budget or len(part.responses) == 1


def test_scores_do_not_depend_on_the_split(tiny):
    """A tree of many responses in batches of any size; and no batch exceeds the budget."""
    trees = random_trees(np.random.default_rng(2), 97)
    trees.append(Tree(trees[0].prompt, [r for tree in trees for r in tree.responses] * 3))
    whole = Scorer(trees, 10_000)
    parts = Scorer(trees, 40)
    assert len(whole) == 1 and len(parts) > 5
    one, two = whole(Engine(tiny[0])), parts(Engine(tiny[0]))
    for name in set(METRICS) - {"logp_end"}:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_scorer_of_nothing(tiny):
    """No trees, no rows."""
    assert all(len(value) == 0 for value in Scorer([], 100)(Engine(tiny[0])).values())
