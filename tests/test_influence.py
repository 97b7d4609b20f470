"""One-step influence: predictions against each other, against closed forms and against what a step
really does. Gold values are float64."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from learning_dynamics import influence
from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.errors import InputError
from learning_dynamics.finetune import Learner, update
from learning_dynamics.influence import explicit
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.rows import Rows, mismatched_trees, training_rows
from learning_dynamics.scoring import Engine, Tree
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import Trained
from tests.conftest import COMPUTE, run_spec

VOCABULARY = 30


def network(seed=0, hidden=8, **changes):
    """A random GPT-NeoX in float64 that is far from uniform."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * hidden, max_position_embeddings=64, initializer_range=0.3,
        use_cache=False, **changes,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).double().eval()


def trees(seed, sizes, count):
    """Prompts of five random tokens, each with responses of these sizes."""
    rng = np.random.default_rng(seed)

    def tokens(size):
        return rng.integers(0, VOCABULARY, size).tolist()

    return [Tree(tokens(5), [tokens(size) for size in sizes]) for _ in range(count)]


def start(algorithm="dpo", model=None, rows=3, **changes):
    """(learner, rows): two or three short pairs, and a reference near the policy."""
    spec = run_spec(algorithm, **changes)
    trained = Trained(model or network(), None, Path())
    learner = Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
    sizes = (4, 3)[: len(learner.algorithm.responses)]
    data = trees(1, sizes, rows)
    rng = np.random.default_rng(2)
    flat = influence.log_probs(learner.engine, influence.Probes(learner.engine, data, 600))
    flat = iter(np.split(flat + 0.3 * rng.normal(size=len(flat)), np.cumsum(sizes * rows)[:-1]))
    reference = [[next(flat) for _ in sizes] for _ in data]
    if not learner.algorithm.mismatched:
        return learner, Rows(data, reference)
    return learner, Rows(data, reference, mismatched_trees(data), rng.normal(size=rows) - 9)


def observed(engine, sizes=(3, 5), count=2, batch_tokens=600):
    return influence.Probes(engine, trees(3, sizes, count), batch_tokens)


def close(found, truth, tolerance):
    """Whether the largest difference is that small beside the largest value."""
    return np.abs(found - truth).max() < tolerance * np.abs(truth).max()


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "simpo"])
def test_three_ways_agree(algorithm):
    """Forward mode, gradient dot products, the finite difference and −η A K G, in float64, with and
    without the split by response; K G is the gradient's effect on every logit."""
    learner, rows = start(algorithm)
    engine, lr, numbers = learner.engine, 1e-3, [0, 2]
    probes = observed(engine)
    step = influence.gradient_step(influence.gradients(learner, rows, numbers), lr)
    factors = [t for tree in probes.trees for t in explicit.terms(learner, rows, numbers, tree)]
    labels = [torch.tensor(r)[:, None] for tree in probes.trees for r in tree.responses]
    directions = [(None, step.total), *enumerate(step.parts.values())]
    for side, direction in directions:
        found = influence.forward_mode(engine, direction, probes)
        product = torch.cat([
            one.change(lr, side).gather(1, label)[:, 0]
            for one, label in zip(factors, labels, strict=True)
        ])  # fmt: skip
        assert close(product.numpy(), found, 1e-9), side
        dots = influence.gradient_dots(engine, direction, probes)
        assert close(probes.sums(found), dots, 1e-9), side
        assert close(influence.finite_difference(engine, direction, probes), found, 1e-7), side
    for one in factors:  # log π is normalised: Σ_v π_v Δ log π_v = 0
        prob = torch.eye(VOCABULARY) - one.a
        assert (prob[:, 0] * one.change(lr)).sum(1).abs().max() < 1e-9 * one.change(lr).abs().max()


def test_kernel_is_the_one_whose_norm_is_known():
    """Against kernels.kernel_sq, and against one gradient per logit."""
    from learning_dynamics import kernels
    from learning_dynamics.scoring.trees import pack_plain

    model = network()
    one, two = trees(5, (3,), 2)
    found = [kernels.sequence(model, t.prompt, t.responses[0]) for t in (one, two)]
    weight = model.get_output_embeddings().weight.detach()
    k = explicit.kernel(*found, weight)
    assert k.shape == (3, VOCABULARY, 3, VOCABULARY)
    assert float(k.square().sum()) == pytest.approx(kernels.kernel_sq(*found, weight), rel=1e-9)
    jacobians = []
    for tree in (one, two):
        logits = kernels.logits_of(model, pack_plain([tree])).flatten()
        rows = [torch.autograd.grad(z, list(model.parameters()), retain_graph=True) for z in logits]
        jacobians.append(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
    truth = (jacobians[0] @ jacobians[1].T).view_as(k)
    torch.testing.assert_close(k, truth, rtol=1e-9, atol=1e-9)


def errors_over_lr(step_of, engine, probes, rates):
    """‖measured − predicted‖ / ‖measured‖ over probe responses, per learning rate."""
    out = []
    for lr in rates:
        step = step_of(lr)
        truth = probes.sums(influence.measured(engine, step.total, probes))
        found = probes.sums(influence.forward_mode(engine, step.total, probes))
        out.append(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    return np.array(out)


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_the_first_order_is_left_linearly_in_lr(algorithm):
    """Plain gradient descent: the relative error falls with lr, ten times for ten, below 1%."""
    learner, rows = start(algorithm)
    probes = observed(learner.engine)
    found = influence.gradients(learner, rows, [0, 1, 2])
    rates = [1e-4, 1e-5, 1e-6]
    errors = errors_over_lr(
        lambda lr: influence.gradient_step(found, lr), learner.engine, probes, rates
    )
    assert errors[-1] < 1e-2
    np.testing.assert_allclose(errors[:-1] / errors[1:], 10, rtol=0.2)


def warmed(learner, rows, updates=3):
    """The learner after some real updates, so that its optimiser has a past."""
    for number in range(updates):
        update(learner, rows, [number % len(rows)])
    return learner


def test_rmsprop_with_clipping_too():
    """As the run takes it: clipped, preconditioned, from moments of earlier updates."""
    learner, rows = start("dpo", clip=0.05)
    warmed(learner, rows)
    probes = observed(learner.engine)

    def step_of(lr):
        learner.optimizer.param_groups[0]["lr"] = lr
        return influence.optimizer_step(learner, rows, [0, 1, 2])

    errors = errors_over_lr(step_of, learner.engine, probes, [1e-4, 1e-5, 1e-6])
    assert errors[-1] < 1e-2
    np.testing.assert_allclose(errors[:-1] / errors[1:], 10, rtol=0.2)


def test_the_step_is_the_runs_own():
    """θ + Δθ are the weights after finetune.update, and looking leaves no trace: the update after
    it is the one that would have been."""
    (one, rows), (two, _) = start(clip=0.05), start(clip=0.05)
    warmed(one, rows), warmed(two, rows)
    before = {n: p.detach().clone() for n, p in one.engine.named_parameters()}
    step = influence.optimizer_step(one, rows, [0, 1])
    weights = dict(one.engine.named_parameters())
    assert all(torch.equal(before[n], weights[n]) and weights[n].grad is None for n in weights)
    records = [update(learner, rows, [0, 1]) for learner in (one, two)]
    assert records[0] == records[1] and records[0]["grad_norm"] > 0.05
    for name, other in two.engine.named_parameters():
        assert torch.equal(weights[name], other)
        torch.testing.assert_close(before[name] + step.total[name], other, rtol=0, atol=1e-15)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "rmsprop with momentum": (torch.optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_add_up_and_the_rest_is_what_the_formulas_say(name):
    """Δθ is y⁺'s part, y⁻'s part and the rest: nothing for optimisers without momentum and decay,
    else what the documented update does with a gradient of zero and the same second moments."""
    kind, settings = OPTIMIZERS[name]
    learner, rows = start("dpo", clip=0.05)
    weights = influence.directions.trainable(learner.engine)
    learner.optimizer = learner.accelerator.prepare(kind(weights.values(), lr=1e-3, **settings))
    warmed(learner, rows)
    past = deepcopy([learner.optimizer.state.get(p, {}) for p in weights.values()])
    step = influence.optimizer_step(learner, rows, [0, 1, 2])
    for key, total in step.total.items():
        parts = sum(part[key] for part in step.parts.values())
        torch.testing.assert_close(parts, total, rtol=1e-12, atol=1e-16)
    scale = max(float(part.abs().max()) for part in step.parts["chosen"].values())
    update(learner, rows, [0, 1, 2])  # for the second moments as this step leaves them
    for (key, p), old in zip(weights.items(), past, strict=True):
        state, theta = learner.optimizer.state.get(p, {}), p.detach() - step.total[key]
        if name == "rmsprop with momentum":
            root = state["square_avg"].sqrt() + 1e-8
            rest = -1e-3 * (0.9 * old["momentum_buffer"] + 0.1 * theta / root)
        elif name == "adamw":
            done = float(state["step"])
            root = (state["exp_avg_sq"] / (1 - 0.999**done)).sqrt() + 1e-8
            rest = -1e-3 * (0.1 * theta + 0.9 * old["exp_avg"] / (1 - 0.9**done) / root)
        else:
            rest = torch.zeros_like(theta)
        torch.testing.assert_close(step.parts["rest"][key], rest, rtol=1e-7, atol=1e-9 * scale)
    probes = observed(learner.engine)
    whole, *some = (
        influence.forward_mode(learner.engine, one, probes)
        for one in (step.total, *step.parts.values())
    )
    assert close(sum(some), whole, 1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_loss_is_the_sum_of_its_responses(algorithm):
    """A real unclipped gradient step, in pieces, is −η times the parts' sum."""
    learner, rows = start(algorithm, optimizer="sgd", clip=1e9, accumulate=2)
    step = influence.optimizer_step(learner, rows, [0, 1, 2])
    largest = max(float(one.abs().max()) for one in step.total.values())
    assert largest > 0
    for rest in step.parts["rest"].values():
        assert float(rest.abs().max()) < 1e-8 * largest + 1e-15
    assert list(step.parts) == [*learner.algorithm.responses, "rest"]


def test_dpo_parts_are_the_papers_terms():
    """Through y⁺: −η times the mean of −β(1 − a) ∇ log π(y⁺); through y⁻ the same with a plus
    (equations 12 to 15)."""
    learner, rows = start("dpo")
    engine, numbers = learner.engine, [1, 2]
    step = influence.gradient_step(influence.gradients(learner, rows, numbers), 1.0)
    weights = influence.directions.trainable(engine)
    truth = {side: {n: torch.zeros_like(p) for n, p in weights.items()} for side in step.parts}
    for number in numbers:
        tree, sums = rows.trees[number], []
        for response in tree.responses:
            sums.append(engine(engine.pack([Tree(tree.prompt, [response])])).logp.sum())
        ratios = [s.item() - r.sum() for s, r in zip(sums, rows.reference[number], strict=True)]
        pull = 0.1 * (1 - 1 / (1 + np.exp(-0.1 * (ratios[0] - ratios[1]))))
        for side, total, sign in zip(truth, sums, (1, -1), strict=True):
            found = torch.autograd.grad(total, weights.values(), retain_graph=True)
            for name, gradient in zip(weights, found, strict=True):
                truth[side][name] += sign * pull * gradient / len(numbers)
    for side, one in truth.items():
        for name, value in one.items():
            torch.testing.assert_close(step.parts[side][name], value, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def toy(tiny, toy_pairs):
    """(learner in fp32, its engine in fp64, rows, probes' trees) on the toy world's text."""
    learner = Learner.of(
        Trained(deepcopy(tiny[0]), tiny[1], Path()), run_spec("sft"), COMPUTE,
        accelerator_of(COMPUTE),
    )  # fmt: skip
    rows = training_rows(toy_pairs, Codec(tiny[1], 256, 128), {**learner.spec}, 0, None)
    both = training_rows(toy_pairs, Codec(tiny[1], 256, 128), run_spec("dpo", labels="given"), 0,
                         None)  # fmt: skip
    return learner, Engine(deepcopy(tiny[0]).double()), rows, both.trees[:8]


def median_error(found, truth):
    return float(np.median(np.abs(found - truth) / np.abs(truth)))


@pytest.mark.parametrize("kind", ["gradient", "optimiser"])
def test_finite_difference_in_fp32(toy, kind):
    """Median relative error below 1e-3 of a response's influence, whatever the direction's length;
    the step is near the best of a ladder; weights are put back, bit for bit."""
    learner, exact, rows, probed = toy
    probes = influence.Probes(learner.engine, probed, 600)
    if kind == "gradient":
        step = influence.gradient_step(influence.gradients(learner, rows, [0, 1, 2, 3]), 1e-6).total
    else:
        step = influence.optimizer_step(learner, rows, [0, 1, 2, 3]).total
    wide = {name: change.double() for name, change in step.items()}
    gold = influence.Probes(exact, probed, 600)
    truth = gold.sums(influence.forward_mode(exact, wide, gold))
    before = [p.detach().clone() for p in learner.engine.parameters()]
    found = probes.sums(influence.finite_difference(learner.engine, step, probes))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.engine.parameters(), strict=True))
    error = median_error(found, truth)
    assert error < 1e-3
    chosen = influence.step_size(learner.engine, step, probes)
    ladder = [
        median_error(
            probes.sums(influence.finite_difference(learner.engine, step, probes, chosen * scale)),
            truth,
        )
        for scale in (0.01, 0.1, 1, 10, 100)
    ]
    assert error < 5 * min(ladder) and max(ladder) > 10 * error
    longer = {name: 1000 * change for name, change in step.items()}
    assert influence.step_size(learner.engine, longer, probes) == pytest.approx(
        chosen / 1000, rel=0.2
    )


def test_forward_mode_in_fp32(toy):
    """fp32 forward mode is as exact as fp32 is."""
    learner, exact, rows, probed = toy
    step = influence.gradient_step(influence.gradients(learner, rows, [0, 1]), 1e-6).total
    probes, gold = (influence.Probes(e, probed, 600) for e in (learner.engine, exact))
    wide = {name: change.double() for name, change in step.items()}
    truth = gold.sums(influence.forward_mode(exact, wide, gold))
    found = probes.sums(influence.forward_mode(learner.engine, step, probes))
    assert median_error(found, truth) < 1e-4


def test_order_and_sums(toy):
    """Small batches give the values of one large one, in the trees' order; a response's sum leaves
    out what is not counted; and plain rows give what packed trees give."""
    _, exact, _, probed = toy
    whole, parts = (influence.Probes(exact, probed, size) for size in (10**6, 60))
    found = influence.log_probs(exact, parts)
    np.testing.assert_allclose(found, influence.log_probs(exact, whole), rtol=1e-9)
    alone = [
        float(exact(exact.pack([Tree(t.prompt, [r])])).logp.sum())
        for t in probed
        for r in t.responses
    ]
    np.testing.assert_allclose(parts.sums(found), alone, rtol=1e-9)
    less = parts.sums(found, parts.lengths - 1)
    last = found[np.cumsum(parts.lengths) - 1]
    np.testing.assert_allclose(less, np.array(alone) - last, rtol=1e-9)
    rng = torch.Generator().manual_seed(0)
    direction = {
        n: torch.randn(p.shape, generator=rng, dtype=p.dtype) for n, p in exact.named_parameters()
    }
    slopes = influence.forward_mode(exact, direction, parts)
    exact.shares_prompts = False
    plain = influence.Probes(exact, probed, 600)
    exact.shares_prompts = True
    assert close(influence.forward_mode(exact, direction, plain), slopes, 1e-9)


def test_frozen_weights_stay_out():
    """Only what is trained moves, and the three predictions agree on it."""
    model = network()
    model.get_input_embeddings().requires_grad_(False)
    learner, rows = start("dpo", model)
    found = influence.gradients(learner, rows, [0, 1])
    frozen = "model.gpt_neox.embed_in.weight"
    assert frozen in dict(learner.engine.named_parameters()) and frozen not in found["chosen"]
    step = influence.gradient_step(found, 1e-3).total
    probes = observed(learner.engine)
    slopes = influence.forward_mode(learner.engine, step, probes)
    assert close(probes.sums(slopes), influence.gradient_dots(learner.engine, step, probes), 1e-9)
    assert close(influence.finite_difference(learner.engine, step, probes), slopes, 1e-7)
    with pytest.raises(InputError, match="frozen weights"):
        explicit.terms(learner, rows, [0], probes.trees[0])


def test_wrong_input_is_one_line():
    learner, rows = start()
    engine, probes = learner.engine, observed(learner.engine)
    with pytest.raises(InputError, match=r"direction: nobody: \(2,\), the model's: no such"):
        influence.forward_mode(engine, {"nobody": torch.zeros(2)}, probes)
    name, p = next(iter(engine.named_parameters()))
    with pytest.raises(InputError, match=r"direction: .*: \(2,\), the model's: \(30, 8\)"):
        influence.measured(engine, {name: torch.zeros(2)}, probes)
    with pytest.raises(InputError, match=r"its norm is 0\.0; expected"):
        influence.finite_difference(engine, {name: torch.zeros_like(p)}, probes)
    weights = influence.directions.trainable(engine).values()
    before = [p.detach().clone() for p in weights]
    for kind, settings, message in (
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, "nesterov = True"),
        (torch.optim.Adagrad, {}, "Adagrad: expected one of rmsprop, adamw, sgd"),
    ):
        optimizer = learner.accelerator.prepare(kind(weights, lr=1e-3, **settings))
        with pytest.raises(InputError, match=message):
            influence.optimizer_step(replace(learner, optimizer=optimizer), rows, [0])
        assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    for model, message in (
        (network(hidden=48), r"model: \d+ parameters; expected at most 20000"),
        (network(tie_word_embeddings=True), "its output layer is its embedding"),
    ):
        learner, rows = start(model=model)
        with pytest.raises(InputError, match=message):
            explicit.terms(learner, rows, [0], probes.trees[0])


def test_baselines():
    """Overlap by hand; cosines from plain forward passes, 1 with itself."""
    one = [Tree([9], [[1, 2, 3, 0], [4, 0]])]
    two = [Tree([8], [[2, 3, 5, 0]]), Tree([7], [[0]])]
    found = influence.token_overlap(one, two, [0])
    assert found.tolist() == [[2 / 4, 0], [0, 0]]
    assert influence.token_overlap(one, one).tolist() == [[1, 1 / 5], [1 / 5, 1]]
    model = network()
    engine = Engine(model)
    ours, theirs = trees(3, (3, 5), 2), trees(4, (1, 4), 1)
    cosines = influence.hidden_cosine(engine, ours, theirs, 20)
    means = []
    for tree in (*ours, *theirs):
        for r in tree.responses:
            with torch.no_grad():
                ids = torch.tensor([[*tree.prompt, *r[:-1]]])
                states = model(ids, output_hidden_states=True).hidden_states[-1][0]
            means.append(states[len(tree.prompt) - 1 :].mean(0))
    truth = torch.nn.functional.cosine_similarity(
        torch.stack(means[:4])[:, None], torch.stack(means[4:])[None], dim=-1
    )
    np.testing.assert_allclose(cosines, truth.numpy(), rtol=1e-9)
    assert np.diag(influence.hidden_cosine(engine, ours, ours, 20)) == pytest.approx(1)
