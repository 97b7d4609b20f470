"""A loss on a batch: its value per row, and the residual coefficients that follow from it.

The residual of a position with distribution π and label e is ``∂L/∂z = c (π − e) / rows`` with
``c = −∂L/∂log π(label)``, L being the mean over the batch's rows. Losses of sums have one c per
response; losses of single tokens one per position.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from learning_dynamics.algorithms import Algorithm, guarded, losses, one_response
from learning_dynamics.errors import InputError
from learning_dynamics.own import load_function

MODULES = {Path(module.__file__).name: module for module in (one_response, losses, guarded)}


def row_loss(algorithm: Algorithm, values: Mapping[str, Tensor], spec: Mapping) -> Tensor:
    """Loss of each row, shape ``(rows,)``, with gradient where the values have one.

    Args:
        algorithm: the loss.
        values: at least what it ``wants``, by name (docs/algorithms.md).
        spec: at least its ``settings``, by name; other keys are not read.

    Raises:
        InputError: when a user's loss cannot be loaded, raises, or returns anything but a tensor of
            shape ``(rows,)``.
    """
    given = {want: values[want] for want in algorithm.wants}
    settings = {name: spec[name] for name in algorithm.settings}
    function = _function(algorithm)
    try:
        loss = function(*given.values(), **settings)
    except Exception as error:
        if algorithm.file is None:
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"algorithm {algorithm.place!r}: fails ({reason})") from None
    rows = len(next(given[w] for w in algorithm.wants if "mismatched" not in w))
    if not isinstance(loss, Tensor) or loss.shape != (rows,):
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(
            f"algorithm {algorithm.place!r}: returned {found}; expected one loss per row, a tensor "
            f"of shape ({rows},)"
        )
    if not loss.requires_grad and any(value.requires_grad for value in given.values()):
        raise InputError(
            f"algorithm {algorithm.place!r}: its loss has no gradient; expected one that depends "
            "on the policy's log-probs"
        )
    return loss


def coefficients(
    algorithm: Algorithm, values: Mapping[str, Tensor], spec: Mapping
) -> dict[str, Tensor]:
    """Residual coefficients c per position, shape ``(rows, L)``, by response; 0 beyond its end.

    Args:
        algorithm: the loss.
        values: ``<response>_tokens`` and ``<response>_mask`` of each response; the same with
            ``ref_`` before it, or the sums ``ref_<response>``, where the loss compares with the
            reference; and ``mismatched`` values where it wants them.
        spec: at least its ``settings``.

    Raises:
        InputError: when the loss reads logits: it is no function of the labels' log-probs.
    """
    if algorithm.logits:
        raise InputError(
            f"algorithm {algorithm.place!r}: reads logits; expected a loss of log-probs, which has "
            "coefficients"
        )
    leaves = {
        response: values[f"{response}_tokens"].detach().clone().requires_grad_(True)
        for response in algorithm.responses
    }
    known = {name: value for name, value in values.items() if name not in algorithm.responses}
    known |= {f"{response}_tokens": leaf for response, leaf in leaves.items()}
    total = row_loss(algorithm, derived(known), spec).sum()
    # materialised: a loss need not read both responses
    gradients = torch.autograd.grad(
        total, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return {
        response: -gradient * values[f"{response}_mask"]
        for response, gradient in zip(leaves, gradients, strict=True)
    }


def derived(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values with what follows from them: sums from log-probs per token, which are 0 beyond the
    response's end, and lengths from masks. What is already there stays."""
    out = {}
    for name, value in values.items():
        if name.endswith("_tokens"):
            out[name.removesuffix("_tokens")] = value.sum(1)
        if name.endswith("_mask"):
            out[f"{name.removesuffix('_mask')}_length"] = value.sum(1)
    return {**out, **values}


def _function(algorithm: Algorithm) -> Callable[..., Tensor]:
    """The loss itself: the package's, or from the user's file, which is executed once."""
    if algorithm.file is None:
        module = MODULES[Path(algorithm.place.rpartition(":")[0]).name]
        return getattr(module, algorithm.name)
    return load_function(algorithm.place, "algorithm")
