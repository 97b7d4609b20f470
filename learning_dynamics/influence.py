"""What one update does to every response, predicted before it: Proposition 1 on real networks.

To first order, Δlog π(y|x_o) = Σ_l e_lᵀ A_l (∂z_o/∂θ) Δθ with A = I − 1πᵀ; for a plain gradient
step Δθ = −η (∂z_u/∂θ)ᵀ G this is −η A K G (equation 3). K has (positions × V)² entries and is never
needed: the right-hand side is a derivative along the step Δθ, which may be any step, also one that
an optimiser has preconditioned and clipped. Three ways to it, per response token:

* :func:`central_difference`, two passes over the probes, the default: influence is linear in the
  step, so the two points lie as far apart as suits fp32, not as far as the learning rate has it;
* :func:`forward_mode`, exact, about four passes;
* :func:`dot_products` of gradients, one backward pass per token, to check the others.

:func:`explicit` builds A, K and G themselves, for a tiny model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from learning_dynamics.algorithms import residuals
from learning_dynamics.errors import InputError
from learning_dynamics.kernels import MOST_PARAMETERS, logits_of
from learning_dynamics.loss_values import loss_values, reference_values
from learning_dynamics.reference import token_logps
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Batch, Engine, Tree, batches_by_budget, label_logp

if TYPE_CHECKING:
    from learning_dynamics.finetune import Learner

Step = list[Tensor]  # a change of every weight, in the order of the engine's parameters
# Half the distance between the points of a central difference, as a share of the weights' norm:
# rounding falls with it, the third derivative's part grows with its square (benchmarks/influence.py
# prints the error by reach).
REACH = 3e-4


def log_probs(engine: Engine, trees: Sequence[Tree], compute: dict) -> np.ndarray:
    """log π of every response token, nats, (N,) in the order trees → responses → tokens."""
    found = token_logps(engine, trees, compute)
    return np.concatenate([tokens for tree in found for tokens in tree])


def central_difference(
    engine: Engine, trees: Sequence[Tree], step: Step, compute: dict, reach: float = REACH
) -> np.ndarray:
    """First-order change of every response token's log-prob under a step, nats, (N,): two plain
    passes. The weights are as before afterwards, bit for bit."""
    length = float(torch.sqrt(sum((d.double() ** 2).sum() for d in step)))
    if length == 0:
        return np.zeros(sum(len(r) for tree in trees for r in tree.responses))
    norm = float(torch.sqrt(sum((w.detach().double() ** 2).sum() for w in engine.parameters())))
    share = reach * norm / length  # of the step that is taken to either side
    sides = []
    for sign in (1, -1):
        with moved(engine, step, sign * share):
            sides.append(log_probs(engine, trees, compute))
    return (sides[0] - sides[1]) / (2 * share)


@torch.no_grad()
def forward_mode(engine: Engine, trees: Sequence[Tree], step: Step, compute: dict) -> np.ndarray:
    """The same by forward-mode differentiation, exact to rounding, (N,). It needs attention that
    can be differentiated twice, so the fused kernels are off meanwhile."""
    out: list[list[np.ndarray]] = [[] for _ in trees]
    names = [name for name, _ in engine.named_parameters()]
    weights = [weight.detach() for weight in engine.parameters()]
    for group in batches_by_budget(list(trees), compute["batch_tokens"]):
        batch = engine.pack([trees[i] for i in group])
        with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            duals = map(forward_ad.make_dual, weights, step)
            given = dict(zip(names, duals, strict=True))
            logits = functional_call(engine, given, (batch, "logits")).logits
            change = forward_ad.unpack_dual(label_logp(logits, batch.target)).tangent
        lengths = [len(response) for i in group for response in trees[i].responses]
        pieces = iter(np.split(change.double().cpu().numpy(), np.cumsum(lengths)[:-1]))
        for i in group:
            out[i] = [next(pieces) for _ in trees[i].responses]
    return np.concatenate([tokens for tree in out for tokens in tree])


def dot_products(engine: Engine, trees: Sequence[Tree], step: Step) -> np.ndarray:
    """The same as inner products of every token's gradient with the step, (N,)."""
    weights = list(engine.parameters())
    found = []
    for tree in trees:
        batch = engine.pack([tree])
        logp = label_logp(engine(batch, "logits").logits, batch.target)
        for token in logp:
            grads = torch.autograd.grad(token, weights, retain_graph=True, allow_unused=True)
            parts = [(g * d).sum() for g, d in zip(grads, step, strict=True) if g is not None]
            found.append(float(sum(parts)))
    return np.array(found)


@contextmanager
def moved(engine: Engine, step: Step, share: float = 1.0) -> Iterator[None]:
    """The engine with weights θ + share · step; as before afterwards, bit for bit."""
    weights = list(engine.parameters())
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, change in zip(weights, step, strict=True):
                weight.add_(change, alpha=share)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


# -- the step -----------------------------------------------------------------------------------


class Parts(NamedTuple):
    """An update's step Δθ and what it consists of; the parts add up to it.

    Attributes:
        whole: weights after minus before, with the rounding of the stored weights.
        of_responses: by response of the loss (``chosen``, ``rejected``) the part of its gradient:
            clipped and preconditioned as the whole was.
        rest: what is left: momentum and weight decay of AdamW, rounding else.
    """

    whole: Step
    of_responses: dict[str, Step]
    rest: Step


def take_apart(
    learner: "Learner",
    rows: Rows,
    numbers: list[int],
    other: dict[str, Tensor],
    update: Callable[[], dict[str, float]],
) -> tuple[dict[str, float], Parts]:
    """Make an update and take its step apart by the responses that the loss reads.

    Through the loss a response y acts by c_y ∂log π(y)/∂θ with c_y = −∂L/∂log π(y) alone, so the
    gradient is a sum over responses, and so is the step while the optimiser's scaling (RMSprop's
    and Adam's root of squares, which the whole gradient has entered, and clipping) is held fixed.

    Args:
        learner: the run, in one process.
        rows, numbers: what the update trains on.
        other: log-probs of mismatched responses, where the loss asks for them.
        update: makes the update; returns its record with ``grad_norm`` before clipping.

    Raises:
        InputError: for a loss that reads logits, and for weights divided among processes.
    """
    used, engine, spec = learner.algorithm, learner.engine, learner.spec
    if used.logits or learner.accelerator.num_processes > 1:
        raise InputError(
            f"runs: influence: {used.name} reads logits or trains in several processes; expected "
            "a loss of log-probs, in one process"
        )
    weights = list(engine.parameters())
    gradients = _by_response(learner, rows, numbers, other)
    before = [weight.detach().clone() for weight in weights]
    record = update()
    whole = [w.detach() - old for w, old in zip(weights, before, strict=True)]
    clipped = min(1.0, spec["clip"] / (record["grad_norm"] + 1e-6))
    scales = [clipped * _scale(learner.optimizer, weight) for weight in weights]
    parts = {
        name: [scale * g for scale, g in zip(scales, gradient, strict=True)]
        for name, gradient in gradients.items()
    }
    rest = [total - sum(some) for total, *some in zip(whole, *parts.values(), strict=True)]
    return record, Parts(whole, parts, rest)


def _by_response(
    learner: "Learner", rows: Rows, numbers: list[int], other: dict[str, Tensor]
) -> dict[str, Step]:
    """Gradient of the mean loss through each of its responses."""
    used, engine = learner.algorithm, learner.engine
    weights = list(engine.parameters())
    batch = engine.pack([rows.trees[i] for i in numbers])
    found, sides = {}, len(used.responses)
    for side, name in enumerate(used.responses):
        with learner.accelerator.autocast():
            logp = engine(batch).logp  # anew: a score is differentiated once
        reference = reference_values(used, rows, numbers, logp)
        heard = torch.where(batch.owner % sides == side, logp, logp.detach())
        values = loss_values(used, batch, heard, reference, None)
        loss = residuals.row_loss(used, {**values, **other}, learner.spec).mean()
        found[name] = list(torch.autograd.grad(loss, weights))
    return found


def _scale(optimizer: torch.optim.Optimizer, weight: Tensor) -> Tensor | float:
    """What an optimiser has just multiplied this weight's gradient by, after its step."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    state, lr = optimizer.state[weight], group["lr"]
    if isinstance(optimizer, torch.optim.SGD):
        return -lr
    if isinstance(optimizer, torch.optim.RMSprop):
        return -lr / (state["square_avg"].sqrt() + group["eps"])
    first, second = (1 - beta ** float(state["step"]) for beta in group["betas"])
    root = (state["exp_avg_sq"] / second).sqrt() + group["eps"]
    return -lr * (1 - group["betas"][0]) / first / root


# -- the matrices themselves ----------------------------------------------------------------------


class Explicit(NamedTuple):
    """The three factors of equation 3, in float64.

    Attributes:
        a: A = I − 1πᵀ per observed position, (M, V, V).
        k: K = (∂z_o/∂θ)(∂z_u/∂θ)ᵀ, (M, V, L, V).
        g: G = ∂L/∂z_u per updated position, (L, V).
    """

    a: Tensor
    k: Tensor
    g: Tensor

    def change(self, lr: float) -> Tensor:
        """−η A K G: the change of log π(v) for every token v at every observed position, (M, V)."""
        moved = torch.einsum("mvlw,lw->mv", self.k, self.g)
        return -lr * torch.einsum("muv,mv->mu", self.a, moved)


def explicit(model: PreTrainedModel, observed: Batch, updated: Batch, residual: Tensor) -> Explicit:
    """A, K and G of a tiny model between two plain batches (``pack_plain``).

    Args:
        model: at most 20,000 parameters, attention that can be differentiated.
        residual: G of the update batch, (L, V), as ``one_update.batch_residual`` gives it.

    Raises:
        InputError: for a larger model.
    """
    count = sum(p.numel() for p in model.parameters())
    if count > MOST_PARAMETERS:
        raise InputError(
            f"influence: {count} parameters; expected at most {MOST_PARAMETERS}, for which "
            "explicit Jacobians fit in memory"
        )
    jacobians = []
    for batch in (observed, updated):
        logits = logits_of(model, batch)
        flat = logits.reshape(-1)
        rows = torch.autograd.grad(
            flat, list(model.parameters()), torch.eye(len(flat), dtype=flat.dtype),
            is_grads_batched=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        jacobians.append(torch.cat([row.reshape(len(flat), -1) for row in rows], 1).double())
        if batch is observed:
            policy = logits.detach().double().softmax(-1)
    size = policy.shape[1]
    kernel = (jacobians[0] @ jacobians[1].T).reshape(len(policy), size, -1, size)
    return Explicit(torch.eye(size, dtype=torch.float64) - policy[:, None, :], kernel,
                    residual.double())  # fmt: skip
