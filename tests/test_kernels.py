"""The exact kernel against brute force, and the theory of one gradient step on it."""

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from learning_dynamics import kernels
from learning_dynamics.errors import InputError
from learning_dynamics.one_update import a_norm_sq
from learning_dynamics.scoring import Tree
from learning_dynamics.scoring.trees import pack_plain

VOCABULARY = 30


def network(seed=0, hidden=8, **changes):
    """A random GPT-NeoX in float64 that is far from uniform."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * hidden, max_position_embeddings=64, initializer_range=0.3,
        use_cache=False, attn_implementation="eager", **changes,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).double().eval()


def tree(seed, size=4):
    """A prompt with one response of random tokens."""
    rng = np.random.default_rng(seed)
    return Tree(
        rng.integers(0, VOCABULARY, 5).tolist(), [rng.integers(0, VOCABULARY, size).tolist()]
    )


def brute_force(model, one):
    """∂z/∂θ of every logit at the response's positions, (M·V, P), one gradient per output."""
    logits = kernels.logits_of(model, pack_plain([one])).flatten()
    rows = [torch.autograd.grad(z, list(model.parameters()), retain_graph=True) for z in logits]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.mark.parametrize("sizes", [(4, 3), (1, 5)])
def test_kernel_equals_brute_force(sizes):
    """‖K‖²_F from one gradient per logit, all weights together (eager attention takes its softmax
    in fp32: hence 1e-7); and with a bias in the head."""
    model = network()
    for bias in (False, True):
        if bias:
            head = model.get_output_embeddings()
            head.bias = torch.nn.Parameter(torch.randn(VOCABULARY, dtype=torch.float64))
        one, two = tree(1, sizes[0]), tree(2, sizes[1])
        truth = (brute_force(model, one) @ brute_force(model, two).T).square().sum()
        found = [kernels.sequence(model, t.prompt, t.responses[0]) for t in (one, two)]
        weight = model.get_output_embeddings().weight.detach()
        assert kernels.kernel_sq(*found, weight) == pytest.approx(float(truth), rel=1e-7)


UPDATES = {"a": ["a"], "b": ["b"], "dpo": ["a", "b"]}


def examples(count=2):
    """Some prompts with three typed responses each."""
    out = []
    for number in range(count):
        prompt = tree(10 + number).prompt
        kinds = zip("abc", (3, 4, 5), strict=True)
        out.append({k: Tree(prompt, [tree(100 * number + n, n).responses[0]]) for k, n in kinds})
    return out


def test_one_step_obeys_the_papers_bound():
    """‖Δ log π‖² ≤ η²‖A‖²‖K‖²‖G‖² to first order (equation 23), so LBK ≤ η²‖K‖²; and the change is
    −η A K G itself, from brute-force Jacobians: to 0.5%, between the fp32 softmax of a smaller step
    and the second order of a larger one. The weights are as before."""
    model, trees, lr = network(), examples(1), 3e-5
    jacobians = {kind: brute_force(model, one) for kind, one in trees[0].items()}
    before = [p.detach().clone() for p in model.parameters()]
    table = kernels.measure(model, trees, UPDATES, lr).set_index(["update", "observed"])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert len(table) == 9
    assert (table["lbk"] <= lr**2 * table["total"] * (1 + 5e-3)).all()
    assert (table["lbk"] > 0).all()
    for update, used in UPDATES.items():
        batch = pack_plain([Tree(trees[0]["a"].prompt, [trees[0][k].responses[0] for k in used])])
        grads, residual = kernels.gradient(model, batch, "sft" if len(used) == 1 else "dpo")
        jacobian = torch.cat([jacobians[k] for k in used])
        flat = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(flat, residual.flatten() @ jacobian, rtol=1e-5, atol=1e-6)
        for kind in "abc":
            logp = kernels.logits_of(model, pack_plain([trees[0][kind]])).log_softmax(-1).detach()
            moved = (jacobians[kind] @ jacobian.T @ residual.flatten()).view_as(logp)
            delta = -lr * (moved - (logp.exp() * moved).sum(-1, keepdim=True))  # A = I − 1πᵀ
            scale = a_norm_sq(logp).sum() * residual.square().sum()
            lbk = float(delta.square().sum() / scale)
            assert table.loc[(update, kind), "lbk"] == pytest.approx(lbk, rel=5e-3)
            found = table.loc[(update, kind), "sign_delta"]
            assert found == pytest.approx(float(delta.mean()), rel=1e-2, abs=1e-12)


def test_dpo_adds_the_kernels_of_both_responses():
    """And a longer observed response counts all its positions in total, not per position."""
    table = kernels.measure(network(), examples(), UPDATES, 1e-3).set_index(["update", "observed"])
    for kind, length in zip("abc", (3, 4, 5), strict=True):
        total = table["total"].xs(kind, level="observed")
        assert total["dpo"] == pytest.approx(total["a"] + total["b"])
        ratio = table.loc[("a", kind), "total"] / table.loc[("a", kind), "per_position"]
        assert ratio == pytest.approx(length)


def test_models_that_are_too_large_or_tied_are_refused():
    """One line each."""
    with pytest.raises(InputError, match=r"kernel\.model: \d+ parameters; expected at most 20000"):
        kernels.check(network(hidden=48))
    with pytest.raises(InputError, match="its output layer is its embedding"):
        kernels.check(network(tie_word_embeddings=True))
    kernels.check(network())
