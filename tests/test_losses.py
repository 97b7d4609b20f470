"""The losses against closed forms, finite differences, autograd and TRL."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import scoring
from learning_dynamics.algorithms import ALGORITHMS, losses
from learning_dynamics.finetune import training_rows
from learning_dynamics.scoring import Tree
from learning_dynamics.tokens import Codec

SPEC = {"beta": 0.1}
LOGP = st.floats(-300, 0)
ROW = st.tuples(LOGP, LOGP, LOGP, LOGP, st.floats(0.01, 2))


def tensors(*values):
    """One-row float64 tensors."""
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def random_inputs(algorithm, rows=5, seed=0):
    """Policy and reference log-probs of a batch, float64."""
    generator = torch.Generator().manual_seed(seed)
    sides = len(ALGORITHMS[algorithm].responses)

    def draw():
        return list(-60 * torch.rand(sides, rows, generator=generator, dtype=torch.float64))

    return draw(), draw() if ALGORITHMS[algorithm].reference else []


@given(LOGP)
def test_sft_is_the_negative_log_likelihood(logp):
    """Closed form, and c = 1."""
    assert losses.row_loss("sft", tensors(logp), [], SPEC).item() == -logp
    assert losses.coefficients("sft", tensors(logp), [], SPEC)[0].item() == 1


@given(ROW)
def test_dpo_in_closed_form(row):
    """log(1 + e^{−β·margin}) and c₊ = β(1 − a), c₋ = −c₊ with a = σ(β·margin)."""
    up, down, ref_up, ref_down, beta = row
    policy, reference, spec = tensors(up, down), tensors(ref_up, ref_down), {"beta": beta}
    gap = (up - ref_up) - (down - ref_down)
    value = losses.row_loss("dpo", policy, reference, spec).item()
    assert value == pytest.approx(np.logaddexp(0, -beta * gap), rel=1e-9, abs=1e-300)
    plus, minus = (c.item() for c in losses.coefficients("dpo", policy, reference, spec))
    assert plus == pytest.approx(beta / (1 + np.exp(beta * gap)), rel=1e-9, abs=1e-300)
    assert minus == -plus
    assert losses.margin(policy, reference).item() == gap


def test_dpo_starts_at_log_two():
    """Policy and reference equal: margin 0, loss log 2, c₊ = β/2."""
    policy = tensors(-20.0, -30.0)
    assert losses.row_loss("dpo", policy, policy, SPEC).item() == pytest.approx(math.log(2))
    assert losses.coefficients("dpo", policy, policy, SPEC)[0].item() == pytest.approx(0.05)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_coefficients_are_finite_differences(name):
    """Central differences of the loss of each row in each response's log-prob."""
    policy, reference = random_inputs(name)
    for side, ours in enumerate(losses.coefficients(name, policy, reference, SPEC)):
        values = []
        for shift in (1e-5, -1e-5):
            moved = [p + shift * (s == side) for s, p in enumerate(policy)]
            values.append(losses.row_loss(name, moved, reference, SPEC))
        torch.testing.assert_close(ours, (values[1] - values[0]) / 2e-5, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradient_at_the_logits_is_c_times_the_residual(tiny, name):
    """∂L/∂z = c (π − e) / rows at every position, autograd against the formula, on a batch whose
    responses have unequal lengths."""
    rng = np.random.default_rng(0)
    sides, lengths = len(ALGORITHMS[name].responses), iter([3, 1, 9, 4, 2, 6])
    trees = [
        Tree([1, 2, 3], [rng.integers(90, size=next(lengths)).tolist() for _ in range(sides)])
        for _ in range(3)
    ]
    batch = scoring.pack(trees)
    with torch.no_grad():
        logits = scoring.response_logits(tiny[0], batch).double()
    logits.requires_grad_(True)
    logp = scoring.sum_by_response(scoring.label_logp(logits, batch.target), batch)
    policy = list(logp.view(-1, sides).unbind(1))
    reference = [p.detach() - shift for p, shift in zip(policy, (1.0, -4.0), strict=False)]
    loss = losses.row_loss(name, policy, reference, SPEC).mean()
    gradient = torch.autograd.grad(loss, logits)[0]
    c = torch.stack(losses.coefficients(name, policy, reference, SPEC), 1).flatten()
    labels = torch.nn.functional.one_hot(batch.target, logits.shape[1])
    formula = c[batch.owner, None] * (logits.detach().softmax(-1) - labels) / len(trees)
    torch.testing.assert_close(gradient, formula, rtol=1e-9, atol=1e-12)


def test_every_algorithm_has_its_loss():
    """A function of the same name, one finite value per row."""
    for name in ALGORITHMS:
        value = losses.row_loss(name, *random_inputs(name), SPEC)
        assert callable(getattr(losses, name)) and value.shape == (5,)
        assert value.isfinite().all()


@pytest.mark.parametrize("name", ["ppo", "margin", "row_loss"])
def test_an_unknown_algorithm_is_named(name):
    """Names outside the table, functions of the module among them."""
    with pytest.raises(ValueError, match=rf"'{name}': unknown; expected one of sft, dpo"):
        losses.row_loss(name, *random_inputs("dpo"), SPEC)


def test_dpo_equals_trl(tiny, toy_pairs, tmp_path):
    """TRL's sigmoid DPO: its tokens, its loss of each row and of the batch, and its gradient."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    model, tokenizer = tiny
    pairs = toy_pairs.head(4)
    start, policy = deepcopy(model), deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    ours = deepcopy(policy)
    codec = Codec(tokenizer, 512, None)
    rows = training_rows(pairs, codec, {"algorithm": "dpo", "labels": "given"}, 0, None)
    batch = scoring.pack(rows.trees)

    def logps(model):
        values = scoring.label_logp(scoring.response_logits(model, batch), batch.target)
        return list(scoring.sum_by_response(values, batch).view(-1, 2).unbind(1))

    with torch.no_grad():
        reference = logps(start)
    by_row = losses.row_loss("dpo", logps(ours), reference, SPEC)
    by_row.mean().backward()

    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), beta=0.1, loss_type=["sigmoid"], max_length=None, use_cpu=True,
        bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        policy, start, arguments, processing_class=tokenizer,
        train_dataset=Dataset.from_pandas(pairs[["prompt", "chosen", "rejected"]]),
    )  # fmt: skip
    examples = [trainer.train_dataset[i] for i in range(4)]
    for example, tree in zip(examples, rows.trees, strict=True):
        theirs = example["prompt_ids"], [example["chosen_ids"], example["rejected_ids"]]
        assert theirs == (tree.prompt, tree.responses)

    def loss_of(some):
        return trainer.compute_loss(trainer.model, trainer.data_collator(some))

    with torch.no_grad():
        single = torch.stack([loss_of([example]) for example in examples])
    # margins are differences of sums of hundreds of nats, in fp32
    torch.testing.assert_close(by_row.detach(), single, rtol=0, atol=5e-5)
    loss = loss_of(examples)
    torch.testing.assert_close(by_row.mean().detach(), loss.detach(), rtol=0, atol=5e-5)
    loss.backward()
    for mine, theirs in zip(ours.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)
