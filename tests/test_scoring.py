"""The scoring engine against plain forward passes and float64 definitions."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from learning_dynamics import scoring
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.scoring import METRICS, Scorer, Tree
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
    first = scorer(model)
    greedy0 = check(first, model, trees, **end)
    assert (first["greedy_match"][4::5] == 1).all()
    assert np.isnan(first["logp_end"]).reshape(5, 5)[:, :4].tolist() == [[False] * 3 + [True]] * 5
    assert (first["logp_end"] == first["logp"])[1::5].all()  # end-of-text alone
    moved = deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    later = scorer(moved)
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
    scored = probes.scorer(4096, "cpu")(model)
    assert 0 < np.isnan(scored["logp_end"]).sum() < len(counted)  # some were cut
    check(scored, model, trees, end_of_text=end, count_end=count_end)


SMALL = {"vocab_size": 97, "initializer_range": 0.2}
WIDE = {**SMALL, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
ARCHITECTURES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDE)),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(name):
    """Plain forward passes, for learned positions (GPT-2) and grouped queries (Llama, Qwen2)."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().float().eval()
    trees = random_trees(np.random.default_rng(0), 97)
    scored = Scorer(trees, 120)(model)
    check(scored, model, trees)
    assert np.isnan(scored["logp_end"]).all()  # no token was said to close a response


TOKENS = st.lists(st.integers(0, 96), min_size=1, max_size=6)
TREES = st.lists(
    st.builds(Tree, TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=3
)


@given(TREES)
def test_pack_gives_each_token_its_own_context(trees):
    """What every prediction attends to, read off the mask, is its prompt and the response so far,
    at positions 0, 1, 2, …: the definition of teacher forcing."""
    batch = scoring.pack(trees)
    responses = [(tree.prompt, r) for tree in trees for r in tree.responses]
    assert batch.responses == len(responses)
    assert batch.target.tolist() == [token for _, r in responses for token in r]
    assert batch.owner.tolist() == [i for i, (_, r) in enumerate(responses) for _ in r]
    contexts = [prompt + r[:k] for prompt, r in responses for k in range(len(r))]
    width = batch.input_ids.shape[1]
    assert width == max(len(tree) for tree in trees)
    for source, context in zip(batch.source.tolist(), contexts, strict=True):
        row, column = divmod(source, width)
        seen = batch.mask[row, 0, column]
        assert batch.input_ids[row][seen].tolist() == context
        assert batch.position_ids[row][seen].tolist() == list(range(len(context)))
    assert batch.mask.any(-1).all()


@settings(max_examples=15)
@given(trees=TREES, data=st.data())
def test_responses_do_not_see_each_other(tiny, trees, data):
    """Log-probs of all other responses stay as they are when one response is replaced."""
    model, _ = tiny
    owners = [i for i, tree in enumerate(trees) for _ in tree.responses]
    chosen = data.draw(st.integers(0, len(owners) - 1))
    place = chosen - owners.index(owners[chosen])
    changed = deepcopy(trees)
    changed[owners[chosen]].responses[place] = data.draw(TOKENS)
    before, after = (Scorer(t, 1000)(model)["logp"] for t in (trees, changed))
    others = np.arange(len(owners)) != chosen
    np.testing.assert_allclose(after[others], before[others], rtol=1e-6)


@given(TREES, st.integers(1, 80))
def test_batches_hold_every_tree_once_within_budget(trees, budget):
    """A partition of the trees; padded size within the budget unless a tree alone exceeds it."""
    batches = list(scoring.batches_by_budget(trees, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(trees)))
    for batch in batches:
        padded = len(batch) * max(len(trees[i]) for i in batch)
        assert padded <= budget or len(batch) == 1


FLOATS = st.floats(-30, 30, width=32)
LOGITS = st.integers(2, 12).flatmap(
    lambda v: arrays(np.float32, (3, v), elements=FLOATS, unique=True)
)


@given(LOGITS, st.data())
def test_token_metrics_match_float64(z, data):
    """The definitions, in float64, of each per-position quantity."""
    target = data.draw(arrays(np.int64, 3, elements=st.integers(0, z.shape[1] - 1)))
    ours = scoring.token_metrics(torch.from_numpy(z), torch.from_numpy(target))
    logp = torch.from_numpy(z).double().log_softmax(-1)
    p, label = logp.exp(), torch.from_numpy(target)[:, None]
    greedy = torch.from_numpy(z.argmax(-1))[:, None]
    truth = {
        "logp": logp.gather(1, label)[:, 0],
        "logp_argmax": logp.max(-1).values,
        "logp_greedy0": logp.max(-1).values,
        "logp_top_other": logp.scatter(1, label, -torch.inf).max(-1).values,
        "greedy_match": (greedy == label)[:, 0].double(),
        "logp_complement": logp.scatter(1, greedy, -torch.inf).logsumexp(-1),
        "logp_vocab_mean": logp.mean(-1),
        "prob_norm": p.norm(dim=-1),
        "prob_norm_sq": (p * p).sum(-1),
        "energy": 1 - p.gather(1, label)[:, 0],
        "entropy": -(p * logp).sum(-1),
    }
    for name, value in truth.items():
        torch.testing.assert_close(
            ours[name].double(), value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    # The norm is the root of a difference of numbers near 1, so fp32 gives its square to 1e-6.
    square = ((p - torch.zeros_like(p).scatter(1, label, 1)) ** 2).sum(-1)
    torch.testing.assert_close(ours["residual_norm"].double() ** 2, square, rtol=1e-5, atol=2e-6)
    norms = scoring.residual_norms(torch.from_numpy(z), torch.from_numpy(target))
    torch.testing.assert_close(norms**2, ours["residual_norm"] ** 2, rtol=1e-5, atol=2e-6)
    for name in (n for n in ours if n.startswith("logp")):
        assert (ours[name] <= 0).all(), name
    assert (ours["greedy"] == greedy[:, 0]).all()


@pytest.mark.parametrize("gap", [1.0, 20.0, 60.0, 85.0, 120.0, 1000.0])
def test_logp_complement_does_not_underflow(gap):
    """log(1 − p) in closed form, where p itself rounds to 1: three tokens ``gap`` below the top."""
    logits = torch.tensor([[7.0, 7.0 - gap, 7.0 - gap, 7.0 - gap]])
    ours = scoring.token_metrics(logits, torch.tensor([0]))["logp_complement"].item()
    truth = np.log(3) - gap - np.log1p(3 * np.exp(-gap))
    assert ours == pytest.approx(truth, rel=1e-6)


LENGTHS, VALUES = [3, 1, 2], np.array([-1.0, -2.0, -6.0, -5.0, -3.0, -8.0])
CLOSED = np.array([True, True, False])
BY_HAND = {  # (sums, means, medians) of: three tokens, one alone, two that were cut
    True: ([-9.0, -5.0, -11.0], [-3.0, -5.0, -5.5], [-2.0, -5.0, -5.5]),
    False: ([-3.0, -5.0, -11.0], [-1.5, -5.0, -5.5], [-1.5, -5.0, -5.5]),
}


@pytest.mark.parametrize("count_end", [True, False])
def test_aggregate_by_hand(count_end):
    """End-of-text leaves every column but its own, unless it is the whole response."""
    out = scoring.aggregate(dict.fromkeys(METRICS, VALUES), LENGTHS, CLOSED, count_end)
    assert list(out["logp_first"]) == [-1.0, -5.0, -3.0]
    np.testing.assert_array_equal(out["logp_end"], [-6.0, -5.0, np.nan])
    sums, means, medians = BY_HAND[count_end]
    for name in set(METRICS) - {"logp_first", "logp_end"}:
        summed = name.startswith("logp") and name not in ("logp_median", "logp_vocab_mean")
        expected = sums if summed else medians if name == "logp_median" else means
        assert out[name].tolist() == expected, name


def test_aggregate_without_end_of_text():
    """Where nothing is said to close a response, every token is text."""
    for count_end in (True, False):
        out = scoring.aggregate(dict.fromkeys(METRICS, VALUES), LENGTHS, None, count_end)
        assert np.isnan(out["logp_end"]).all()
        assert out["logp"].tolist() == BY_HAND[True][0]
