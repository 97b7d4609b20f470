"""Metrics per position and per response against float64 definitions and values by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learning_dynamics import scoring
from learning_dynamics.scoring import METRICS, head

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


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("size", [5, 64, 300])
@pytest.mark.parametrize("biased", [True, False])
def test_blocks_of_the_vocabulary_equal_the_definition(monkeypatch, scale, size, biased):
    """One pass over blocks gives what all logits at once give, from flat to saturated
    distributions, labels that are greedy among them, whatever the blocks."""
    monkeypatch.setitem(head.COLUMNS, "cpu", 64)
    monkeypatch.setitem(head.POSITIONS, "cpu", 7)
    rng = torch.Generator().manual_seed(size)
    states, weight = (torch.randn(n, 16, generator=rng, dtype=torch.float64) for n in (20, size))
    bias = torch.randn(size, generator=rng, dtype=torch.float64) if biased else None
    weight *= scale / 4
    logits = states @ weight.T + (0 if bias is None else bias)
    target, greedy0 = (torch.randint(size, (20,), generator=rng) for _ in range(2))
    target[::3] = logits.argmax(1)[::3]
    for known in (None, greedy0):
        truth = scoring.token_metrics(logits, target, known)
        ours = head.probe(head.Head(weight, bias, None), states, target, known)
        assert ours.keys() == truth.keys()
        for name, value in truth.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("gap", [1.0, 60.0, 120.0, 1000.0])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_blocks_do_not_underflow(gap, label):
    """log(1 − p) in closed form from blocks in fp32, whether the label is greedy or not."""
    weight = torch.tensor([[7.0], [7.0 - gap], [7.0 - gap], [7.0 - gap]])
    states, target = torch.ones(1, 1), torch.tensor([label])
    ours = head.probe(head.Head(weight, None, None), states, target, None)
    truth = np.log(3) - gap - np.log1p(3 * np.exp(-gap))
    assert ours["logp_complement"].item() == pytest.approx(truth, rel=1e-6)
    assert all(torch.isfinite(value).all() for value in ours.values())


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
def test_label_logp_and_its_gradients(monkeypatch, biased, frozen):
    """Log-softmax by autograd, in float64; what is frozen gets no gradient."""
    monkeypatch.setitem(head.COLUMNS, "cpu", 64)
    rng = torch.Generator().manual_seed(0)
    leaves = [torch.randn(n, 16, generator=rng, dtype=torch.float64) for n in (20, 150)]
    leaves.append(torch.randn(150, generator=rng, dtype=torch.float64) if biased else None)
    target = torch.randint(150, (20,), generator=rng)
    factor = torch.randn(20, generator=rng, dtype=torch.float64)
    found = []
    for ours in (True, False):
        inputs = [x if x is None else x.clone().requires_grad_(i not in frozen)
                  for i, x in enumerate(leaves)]  # fmt: skip
        if ours:
            logp, norms = head.LabelLogp.apply(*inputs, target, None, head.Workspace())
            assert not norms.requires_grad
        else:
            logits = torch.nn.functional.linear(*inputs)
            logp, norms = (f(logits, target) for f in (scoring.label_logp, scoring.residual_norms))
        (factor * logp).sum().backward()
        found.append([logp.detach(), norms.detach(), *(x.grad for x in inputs if x is not None)])
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_two_scores_before_one_backward():
    """The buffer that is lent to one pass is not lent to another; a second backward is refused."""
    states = torch.randn(6, 8).requires_grad_()
    weight, target, space = torch.randn(90, 8), torch.arange(6), head.Workspace()
    one, two = (head.LabelLogp.apply(states, weight, None, target + i, None, space)[0].sum()
                for i in range(2))  # fmt: skip
    together = torch.autograd.grad(one + two, states, retain_graph=True)[0]
    logits = states @ weight.T
    truth = sum(scoring.label_logp(logits, target + i).sum() for i in range(2))
    torch.testing.assert_close(together, torch.autograd.grad(truth, states)[0])
    with pytest.raises(RuntimeError, match="twice"):
        one.backward()
