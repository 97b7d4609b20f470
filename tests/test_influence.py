"""Influence before the step: three ways to the same derivative, and what a step consists of."""

import itertools
from copy import deepcopy

import numpy as np
import pytest
import torch

from learning_dynamics import finetune as loop
from learning_dynamics import influence, kernels
from learning_dynamics.errors import InputError
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.reference import reference_logps
from learning_dynamics.rows import training_rows
from learning_dynamics.scoring import Engine, Tree
from learning_dynamics.scoring.trees import pack_plain
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import Trained
from tests.conftest import COMPUTE, ROOT, run_spec
from tests.test_kernels import network, tree

PROBES = [Tree(tree(n).prompt, [*tree(n).responses, tree(n + 10, 3).responses[0]]) for n in (1, 2)]


def gradient_step(model, rows, algorithm, lr=1.0):
    """Plain gradient step on rows of a network in float64, and G of its rows."""
    grads, residual = kernels.gradient(model, pack_plain(rows), algorithm)
    return [-lr * grad.detach() for grad in grads], residual


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_three_ways_and_the_explicit_matrices_agree(algorithm):
    """Token by token: forward mode, gradient dot products and −η A K G; SFT and DPO (eager
    attention takes its softmax in fp32, hence 1e-5 for the matrices)."""
    model = network()
    sides = 1 if algorithm == "sft" else 2
    rows = [Tree(tree(5).prompt, [tree(5 + side).responses[0] for side in range(sides)])]
    step, residual = gradient_step(model, rows, algorithm)
    found = [influence.explicit(deepcopy(model), pack_plain([probe]), pack_plain(rows), residual)
             for probe in PROBES]  # fmt: skip
    labels = [torch.tensor([t for r in probe.responses for t in r]) for probe in PROBES]
    matrices = np.concatenate([
        one.change(1.0).gather(-1, label[:, None])[:, 0].numpy()
        for one, label in zip(found, labels, strict=True)
    ])  # fmt: skip
    engine = Engine(model)
    exact = influence.forward_mode(engine, PROBES, step, COMPUTE)
    scale = np.abs(exact).max()
    assert scale > 1e-3
    assert np.abs(influence.dot_products(engine, PROBES, step) - exact).max() < 1e-6 * scale
    assert np.abs(matrices - exact).max() < 1e-5 * scale
    near = influence.central_difference(engine, PROBES, step, COMPUTE, reach=1e-4)
    assert np.abs(near - exact).max() < 1e-5 * scale


def test_log_probs_stay_normalised():
    """Σ_v π(v) Δlog π(v) = 0: what −η A K G does to all tokens is a change of one distribution."""
    model = network()
    rows = [tree(5)]
    _, residual = gradient_step(model, rows, "sft")
    found = influence.explicit(model, pack_plain(PROBES[:1]), pack_plain(rows), residual)
    policy = kernels.logits_of(model, pack_plain(PROBES[:1])).detach().softmax(-1)
    total = (policy * found.change(1.0)).sum(-1)
    assert float(total.abs().max()) < 1e-10 * float(found.change(1.0).abs().max())


def test_a_large_model_has_no_explicit_matrices():
    """One line says why."""
    batch = pack_plain([tree(1)])
    with pytest.raises(InputError, match="parameters; expected at most 20000"):
        influence.explicit(network(hidden=64), batch, batch, torch.zeros(4, 30))


# -- steps that optimisers make ------------------------------------------------------------------


@pytest.fixture(scope="module")
def updated(tiny, toy_pairs):
    """Function: (engine before, parts of one update's step, engine after) of a tiny run in
    float64."""
    model, tokenizer = deepcopy(tiny[0]).double(), tiny[1]
    codec = Codec(tokenizer, 256, 128)
    reference = reference_logps(Engine(deepcopy(model)), toy_pairs, codec, COMPUTE)

    def update(algorithm="dpo", updates=1, **changes):
        spec = run_spec(algorithm, **changes)
        used = deepcopy(model)
        trained = Trained(used, tokenizer, ROOT)
        learner = loop.Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
        rows = training_rows(toy_pairs, codec, spec, 0, reference, None)
        for number in range(updates):
            before = deepcopy(used)
            numbers = [4 * number + i for i in range(4)]
            _, parts = influence.take_apart(
                learner, rows, numbers, {}, lambda n=numbers: loop.update(learner, rows, n)
            )
        return Engine(before), parts, Engine(used), rows.trees[8:10]

    return update


SETTINGS = [
    {"algorithm": "sft", "optimizer": "sgd", "clip": 1e9},
    {"algorithm": "dpo", "optimizer": "sgd", "clip": 1e9},
    {"algorithm": "dpo", "optimizer": "rmsprop", "clip": 0.5, "updates": 2},
    {"algorithm": "ipo", "optimizer": "adamw", "clip": 0.5, "updates": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s['algorithm']}-{s['optimizer']}")
def test_the_error_falls_with_the_learning_rate(updated, settings):
    """Measured against predicted change of other rows' responses: the remainder is O(η²), so the
    relative error falls tenfold with η, to under 1%."""
    errors = []
    for lr in (1e-4, 1e-5, 1e-6):
        before, parts, after, probes = updated(**settings, lr=lr)
        predicted = influence.forward_mode(before, probes, parts.whole, COMPUTE)
        measured = influence.log_probs(after, probes, COMPUTE)
        measured -= influence.log_probs(before, probes, COMPUTE)
        errors.append(np.linalg.norm(measured - predicted) / np.linalg.norm(measured))
    assert errors[-1] < 0.01
    for large, small in itertools.pairwise(errors):
        assert 5 < large / small < 20, errors


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_the_parts_are_the_whole(updated, optimizer):
    """y⁺ and y⁻ leave nothing, with clipping, after several updates; and both matter."""
    _, parts, _, _ = updated(optimizer=optimizer, clip=0.5, updates=2, lr=1e-3)
    length = influence_norm(parts.whole)
    assert influence_norm(parts.rest) < 1e-6 * length
    assert list(parts.of_responses) == ["chosen", "rejected"]
    assert min(map(influence_norm, parts.of_responses.values())) > 0.01 * length


def test_what_adamw_adds_is_its_weight_decay(updated):
    """On its first update, when there is no momentum: −lr · 0.01 · θ."""
    before, parts, _, _ = updated(optimizer="adamw", lr=1e-3)
    decay = [-1e-3 * 0.01 * weight.detach() for weight in before.parameters()]
    difference = [a - b for a, b in zip(parts.rest, decay, strict=True)]
    assert influence_norm(difference) < 1e-6 * influence_norm(decay)


def test_the_part_of_y_plus_is_a_step_without_y_minus(updated):
    """Two ways to leave out y⁻: in the part, and in the run (plain gradient steps)."""
    settings = {"optimizer": "sgd", "clip": 1e9, "lr": 1e-3}
    _, parts, _, _ = updated(**settings)
    _, alone, _, _ = updated(**settings, negative="none")
    difference = [a - b for a, b in zip(parts.of_responses["chosen"], alone.whole, strict=True)]
    assert influence_norm(difference) < 1e-6 * influence_norm(alone.whole)


def influence_norm(step):
    """‖Δθ‖."""
    return float(torch.sqrt(sum((d**2).sum() for d in step)))


def test_the_default_is_within_a_thousandth_in_fp32(updated):
    """Median relative error of the central difference on fp32 weights, whatever the learning rate,
    against forward mode in float64; the weights are back bit for bit."""
    for lr in (1e-3, 1e-7):
        before, parts, _, probes = updated(optimizer="rmsprop", lr=lr)
        exact = influence.forward_mode(before, probes, parts.whole, COMPUTE)
        single = Engine(deepcopy(before.model).float())
        start = [weight.detach().clone() for weight in single.parameters()]
        step = [change.float() for change in parts.whole]
        found = influence.central_difference(single, probes, step, COMPUTE)
        assert np.median(np.abs(found - exact) / np.abs(exact)) < 1e-3
        assert all(map(torch.equal, start, single.parameters()))
