"""Where one update moves the weights, and through which response: directions in parameter space.

An update moves the weights by Δθ. For plain gradient descent Δθ = −η ∂L/∂θ (equation 1); for the
optimisers that runs use it is what they do, with clipping, preconditioner, momentum and weight
decay. The gradient of a batch is the sum of what comes through y⁺ and through y⁻, so is Δθ.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from learning_dynamics import finetune
from learning_dynamics.algorithms import residuals
from learning_dynamics.errors import InputError
from learning_dynamics.loss_values import loss_values, reference_values
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Engine, label_logp, sum_by_response

# Changes of parameters by name, as in engine.named_parameters(), each of its parameter's shape.
Direction = dict[str, Tensor]
REST = "rest"


@dataclass(frozen=True)
class Step:
    """One update of the weights.

    Attributes:
        total: Δθ.
        parts: what of it comes through each response of the algorithm, by its name; and through
            neither, as ``rest``, where an optimiser has momentum or weight decay. They sum to Δθ.
    """

    total: Direction
    parts: dict[str, Direction]


def trainable(engine: Engine) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in engine.named_parameters() if p.requires_grad}


def gradients(learner: finetune.Learner, rows: Rows, numbers: list[int]) -> dict[str, Direction]:
    """∂L/∂θ of the update on the rows called ``numbers``, through each response apart: what the
    loss reads of the other response is held fixed. They sum to the gradient, whatever the loss.

    L is the mean over the rows, as in a run; with ``accumulate`` in as many pieces. One process,
    whole weights; takes two passes forward and backward for a pair algorithm.
    """
    # The loop's own: a batch statistic is taken as the run takes it.
    other = finetune._mismatched(learner, rows, numbers)
    weights = trainable(learner.engine)
    pieces = [numbers[i :: learner.spec["accumulate"]] for i in range(learner.spec["accumulate"])]
    out = {}
    for side, name in enumerate(learner.algorithm.responses):
        total = {key: torch.zeros_like(p) for key, p in weights.items()}
        for piece in pieces:
            loss = _loss(learner, rows, piece, other, side) / len(numbers)
            found = torch.autograd.grad(
                loss, list(weights.values()), allow_unused=True, materialize_grads=True
            )
            for one, gradient in zip(total.values(), found, strict=True):
                one += gradient
        out[name] = {key: one.detach() for key, one in total.items()}
    return out


def _loss(
    learner: finetune.Learner,
    rows: Rows,
    numbers: list[int],
    other: dict[str, Tensor],
    side: int,
) -> Tensor:
    """Summed loss of some rows, with gradient through the response number ``side`` alone."""
    used = learner.algorithm
    batch = learner.engine.pack([rows.trees[i] for i in numbers])
    with learner.accelerator.autocast():
        scored = learner.engine(batch, "logits" if used.logits else "logp")
    here = batch.owner % len(used.responses) == side
    logits, logp = scored.logits, scored.logp
    if used.logits:
        logits = torch.where(here[:, None], logits, logits.detach())
        logp = label_logp(logits, batch.target)
    else:
        logp = finetune._heard(torch.where(here, logp, logp.detach()), batch, learner.spec)
    reference = reference_values(used, rows, numbers, logp)
    values = loss_values(used, batch, logp, reference, logits)
    return residuals.row_loss(used, {**values, **other}, learner.spec).sum()


def residual_weights(learner: finetune.Learner, rows: Rows, numbers: list[int]) -> list[float]:
    """−∂L/∂ log π of every response of the update's rows, rows → responses: positive where the loss
    pushes it up, mean over its tokens (a loss of sums has one value for all). L is the mean over
    the rows. A loss of logits has none: ±1/rows, by its side."""
    used, spec = learner.algorithm, learner.spec
    sides = len(used.responses)
    if used.logits:
        return [(1 - 2 * side) / len(numbers) for _ in numbers for side in range(sides)]
    batch = learner.engine.pack([rows.trees[i] for i in numbers])
    with torch.no_grad(), learner.accelerator.autocast():
        leaf = learner.engine(batch).logp.double()
    leaf.requires_grad_(True)
    values = loss_values(used, batch, finetune._heard(leaf, batch, spec),
                         reference_values(used, rows, numbers, leaf), None)  # fmt: skip
    other = finetune._mismatched(learner, rows, numbers)
    loss = residuals.row_loss(used, {**values, **other}, spec).mean()
    slope = torch.autograd.grad(loss, leaf)[0]
    count = torch.bincount(batch.owner, minlength=batch.responses)
    return (-sum_by_response(slope, batch) / count).tolist()


def gradient_step(found: dict[str, Direction], lr: float) -> Step:
    """Plain gradient descent, Δθ = −η ∂L/∂θ, from what :func:`gradients` found."""
    parts = {
        name: {key: -lr * gradient for key, gradient in one.items()} for name, one in found.items()
    }
    return Step(_sum(parts), parts)


def optimizer_step(learner: finetune.Learner, rows: Rows, numbers: list[int]) -> Step:
    """The step that the run's optimiser takes next, at the learning rate that it now has.

    Δθ is θ after minus θ before: the run's own update (:func:`finetune.update`) is done, then
    weights and optimiser are put back, bit for bit. So clipping, momentum and weight decay are in
    it, and so is the rounding of the weights, which at 5e-7 is no small part of a step in fp32.

    The split holds fixed what depends on the gradient's size: the clipping factor κ, and the second
    moments v as this very step leaves them. Then a step is linear in the gradient, with a diagonal
    preconditioner D (SGD: η; RMSprop: η / (√v + ε); AdamW: η (1 − β₁) / (1 − β₁ᵗ) / (√v̂ + ε)), and
    a response's part is −D κ ∂L/∂θ through that response. ``rest`` is what remains: momentum of
    earlier gradients, weight decay, rounding.

    Raises:
        InputError: for an optimiser, or a setting of it, whose preconditioner is not known here.
    """
    weights = trainable(learner.engine)
    found = gradients(learner, rows, numbers)
    before = {name: p.detach().clone() for name, p in weights.items()}
    state = deepcopy(learner.optimizer.state_dict())
    try:
        record = finetune.update(learner, rows, numbers)
        # torch's own clip_grad_norm_ has the 1e-6
        kept = min(1.0, learner.spec["clip"] / (record["grad_norm"] + 1e-6))
        scale = _preconditioner(learner.optimizer, weights)
        total = {name: p.detach() - before[name] for name, p in weights.items()}
    finally:
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(before[name])
        learner.optimizer.load_state_dict(state)
    parts = {
        response: {name: -kept * scale[name] * gradient for name, gradient in one.items()}
        for response, one in found.items()
    }
    through = _sum(parts)
    rest = {name: change - through[name] for name, change in total.items()}
    return Step(total, {**parts, REST: rest})


def _sum(parts: dict[str, Direction]) -> Direction:
    """The sum of directions."""
    first, *others = parts.values()
    return {name: sum((one[name] for one in others), change) for name, change in first.items()}


@torch.no_grad()
def _preconditioner(
    optimizer: torch.optim.Optimizer, weights: dict[str, torch.nn.Parameter]
) -> Direction:
    """D ≥ 0 of the step that the optimiser has just done: minus the derivative of Δθ by the clipped
    gradient, second moments held fixed. Formulas: torch's documentation of each optimiser."""
    kind = type(getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    out = {}
    for name, p in weights.items():
        group, state = groups[id(p)], optimizer.state.get(p, {})
        for setting in ("nesterov", "dampening", "centered", "amsgrad", "maximize"):
            if group.get(setting):
                raise InputError(
                    f"optimizer: {setting} = {group[setting]!r}: expected none (its step is not "
                    "divided among responses here)"
                )
        lr = group["lr"]
        if kind is torch.optim.SGD:
            out[name] = torch.full_like(p, lr)
        elif kind is torch.optim.RMSprop:
            out[name] = lr / (state["square_avg"].sqrt() + group["eps"])
        elif kind is torch.optim.AdamW:
            (one, two), done = group["betas"], float(state["step"])
            root = (state["exp_avg_sq"] / (1 - two**done)).sqrt()
            out[name] = lr * (1 - one) / (1 - one**done) / (root + group["eps"])
        else:
            known = ", ".join(finetune.OPTIMIZERS)
            raise InputError(f"optimizer: {kind.__name__}: expected one of {known}")
    return out
