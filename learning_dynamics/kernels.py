"""The empirical neural tangent kernel of a tiny model, exactly: K = (∂z_o/∂θ)(∂z_u/∂θ)ᵀ between the
logits of two responses (equation 3), and what one plain gradient step does to both.

With z = W h (+ b), the Jacobian of the output layer is known in closed form, so only that of the
hidden states is computed: K_{m,l} = (h_m · h_l) I + W Q Wᵀ with Q = (∂h_m/∂θ)(∂h_l/∂θ)ᵀ.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.errors import InputError
from learning_dynamics.one_update import a_norm_sq, batch_residual
from learning_dynamics.scoring import Tree
from learning_dynamics.scoring.trees import Batch, pack_plain

MOST_PARAMETERS = 20_000
COLUMNS = ["update", "observed", "total", "per_position", "lbk", "sign_delta"]
BETA = 0.1  # of the DPO step


class Sequence(NamedTuple):
    """A response after its prompt.

    Attributes:
        states: hidden states h that the output layer reads, (M, d); with a 1 behind where it has a
            bias.
        jacobian: ∂h/∂θ of the weights before the output layer, (M, d without the 1, P).
    """

    states: Tensor
    jacobian: Tensor


def check(model: PreTrainedModel) -> None:
    """Fail unless the kernel of this model can be computed here.

    Raises:
        InputError: for more than 20,000 parameters, or an output layer that shares its weights.
    """
    count = sum(p.numel() for p in model.parameters())
    if count > MOST_PARAMETERS:
        raise InputError(
            f"figures.entk_proxies.kernel.model: {count} parameters; expected at most "
            f"{MOST_PARAMETERS}, for which explicit Jacobians fit in memory"
        )
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        raise InputError(
            "figures.entk_proxies.kernel.model: its output layer is its embedding; expected "
            "weights of its own"
        )


def sequence(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Sequence:
    """Hidden states and their Jacobian at the positions that predict the response's tokens."""
    ids = torch.tensor([[*prompt, *response[:-1]]])
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    states = states[len(prompt) - 1 :]
    weights = [p for p in model.base_model.parameters() if p.requires_grad]
    flat = states.reshape(-1)
    rows = torch.autograd.grad(
        flat, weights, torch.eye(len(flat), dtype=flat.dtype), is_grads_batched=True,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    jacobian = torch.cat([row.reshape(len(flat), -1) for row in rows], 1)
    states = states.detach()
    if model.get_output_embeddings().bias is not None:
        states = torch.cat([states, torch.ones_like(states[:, :1])], 1)
    return Sequence(states, jacobian.reshape(len(response), -1, jacobian.shape[1]))


def kernel_sq(one: Sequence, two: Sequence, weight: Tensor) -> float:
    """‖K‖²_F between two responses, summed over all pairs of positions; ``weight`` is that of the
    output layer, (V, d)."""
    m, d, size = one.jacobian.shape
    between = one.jacobian.reshape(-1, size) @ two.jacobian.reshape(-1, size).T
    between = between.reshape(m, d, len(two.states), d).permute(0, 2, 1, 3).double()
    same = (one.states @ two.states.T).double()
    gram = (weight.T @ weight).double()
    inner = gram @ between @ gram
    trace = (between * gram.T).sum((-2, -1))
    total = len(weight) * same**2 + 2 * same * trace + (inner * between).sum((-2, -1))
    return float(total.sum())


def measure(
    model: PreTrainedModel,
    trees: list[dict[str, Tree]],
    updates: Mapping[str, list[str]],
    lr: float,
) -> pd.DataFrame:
    """:data:`COLUMNS`: per update × observed type the true ‖K_uo‖²_F (summed over the update's
    responses, mean over the examples; ``per_position`` divided by the observed positions first),
    and LBK and SignDelta of one plain gradient step of ``lr`` on those responses.

    Args:
        model: the model, in float32 or float64, with an attention that can be differentiated.
        trees: per example and response type, a prompt with its one response.
        updates: per update the types that it is trained on: one (SFT), or y⁺ and y⁻ (DPO).
        lr: learning rate of the step.
    """
    kinds = [kind for kind in trees[0] if all(kind in example for example in trees)]
    weight = model.get_output_embeddings().weight.detach()
    found = [{k: sequence(model, t.prompt, t.responses[0]) for k, t in e.items()} for e in trees]
    pairs = {}
    for source in sorted({kind for used in updates.values() for kind in used}):
        for kind in kinds:
            pairs[source, kind] = np.array(
                [sum(kernel_sq(o[kind], u[source], weight) for u in found) for o in found]
            )
    lengths = {kind: np.array([len(e[kind].states) for e in found]) for kind in kinds}
    rows = []
    for update, used in updates.items():
        moved = _one_step(model, trees, used, kinds, lr)
        for kind in kinds:
            norm = sum(pairs[source, kind] for source in used)
            rows.append((update, kind, norm.mean(), (norm / lengths[kind]).mean(), *moved[kind]))
    return pd.DataFrame(rows, columns=COLUMNS)


def logits_of(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Logits at the response tokens of a plain batch, (N, V)."""
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.filled.long(), use_cache=False
    ).logits
    return logits.flatten(0, 1)[batch.source]


def gradient(model: PreTrainedModel, batch: Batch, algorithm: str) -> tuple[list[Tensor], Tensor]:
    """Gradient of the mean loss over a batch's rows, and G = ∂L/∂z, (N, V)."""
    logits = logits_of(model, batch)
    reference = torch.log_softmax(logits.detach(), -1).gather(-1, batch.target[:, None])[:, 0]
    residual = batch_residual(ALGORITHMS[algorithm], batch, logits, reference, {}, {"beta": BETA})
    grads = torch.autograd.grad(logits, list(model.parameters()), residual.to(logits.dtype))
    return list(grads), residual


def _one_step(
    model: PreTrainedModel, trees: list[dict[str, Tree]], used: list[str], kinds: list[str],
    lr: float,
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """LBK and SignDelta of each observed type, means over the examples; weights are restored."""
    rows = [Tree(e[used[0]].prompt, [e[kind].responses[0] for kind in used]) for e in trees]
    grads, residual = gradient(model, pack_plain(rows), "sft" if len(used) == 1 else "dpo")
    observed = {kind: [pack_plain([example[kind]]) for example in trees] for kind in kinds}
    weights = list(model.parameters())
    start = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        before = {k: [logits_of(model, b).double().log_softmax(-1) for b in batches]
                  for k, batches in observed.items()}  # fmt: skip
        for weight, grad in zip(weights, grads, strict=True):
            weight -= lr * grad
        out = {}
        for kind, batches in observed.items():
            values = []
            for old, batch in zip(before[kind], batches, strict=True):
                delta = logits_of(model, batch).double().log_softmax(-1) - old
                scale = a_norm_sq(old).sum() * (residual**2).sum()
                values.append([float((delta**2).sum() / scale), float(delta.mean())])
            out[kind] = tuple(np.mean(values, axis=0))
        for weight, value in zip(weights, start, strict=True):
            weight.copy_(value)
    return out
