"""What a loss reads of a batch, by argument name."""

import numpy as np
import torch
from torch import Tensor

from learning_dynamics.algorithms import Algorithm
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Batch, sum_by_response


def loss_values(
    used: Algorithm, batch: Batch, logp: Tensor, reference: Tensor | None, logits: Tensor | None
) -> dict[str, Tensor]:
    """What the loss asks for, by argument name, of a batch whose trees each hold the algorithm's
    responses in order.

    Args:
        logp: log π(label) per response token, nats, (N,).
        reference: the same under the reference, or None.
        logits: (N, V), where the loss asks for them.
    """
    sides = len(used.responses)
    owner = batch.owner
    lengths = torch.bincount(owner, minlength=batch.responses)
    position = torch.arange(len(owner), device=owner.device) - (lengths.cumsum(0) - lengths)[owner]
    values: dict[str, Tensor] = {}
    for side, name in enumerate(used.responses):
        here = (owner % sides == side).nonzero()[:, 0]
        at = (owner[here] // sides, position[here])
        length = lengths[side::sides]
        values[f"{name}_length"] = length
        shape = (len(length), int(length.max()))

        def padded(
            flat: Tensor, here: Tensor = here, at: tuple = at, shape: tuple = shape
        ) -> Tensor:
            out = flat.new_zeros(shape + flat.shape[1:])
            return out.index_put(at, flat[here])

        for prefix, flat in (("", logp), ("ref_", reference)):
            if flat is not None:
                values[f"{prefix}{name}"] = sum_by_response(flat, batch)[side::sides]
                if used.tokens:
                    values[f"{prefix}{name}_tokens"] = padded(flat)
        if used.tokens or used.logits:
            values[f"{name}_mask"] = padded(torch.ones_like(owner, dtype=torch.bool))
        if used.logits:
            values[f"{name}_logits"] = padded(logits)
            values[f"{name}_labels"] = padded(batch.target)
    return values


def reference_values(
    used: Algorithm, rows: Rows, numbers: list[int], like: Tensor
) -> Tensor | None:
    """The reference's log-probs per response token of some rows, (N,), with type and device of
    ``like``; None where the loss compares with no reference."""
    if not used.reference:
        return None
    flat = np.concatenate([value for i in numbers for value in rows.reference[i]])
    return torch.as_tensor(flat, dtype=like.dtype, device=like.device)
