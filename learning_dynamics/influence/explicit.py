"""A, K and G of Proposition 1 as tensors, for a model of at most 20,000 parameters.

[Δ log π(χ_o)]_m = −η Σ_l A_m K_{m,l} G_l (equations 3 and 5), l over the response tokens of the
update's batch, with A = I − 1πᵀ, K = (∂z_o/∂θ)(∂z_u/∂θ)ᵀ and G = ∂L/∂z. Here G carries the sign of
each response and the mean over the rows, so y⁻'s term needs no minus of its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from learning_dynamics import finetune, kernels
from learning_dynamics.errors import InputError
from learning_dynamics.loss_values import reference_values
from learning_dynamics.one_update import batch_residual
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Tree
from learning_dynamics.scoring.trees import pack_plain


class Terms(NamedTuple):
    """The three factors for one observed response of M tokens and an update of N.

    Attributes:
        a: ∂ log π/∂z per observed position, (M, V, V).
        k: the kernel, (M, V, N, V).
        g: ∂L/∂z of the update's batch, (N, V), in the order rows → responses → tokens.
        side: number of the response (0: y⁺ or the only one, 1: y⁻) that each of the N belongs to.
    """

    a: Tensor
    k: Tensor
    g: Tensor
    side: Tensor

    def change(self, lr: float, side: int | None = None) -> Tensor:
        """−η A K G: the first-order change of log π of every token, (M, V), nats; through one side
        of the update alone where given."""
        g = self.g if side is None else self.g * (self.side == side)[:, None]
        return -lr * torch.einsum("mvw,mwnx,nx->mv", self.a, self.k, g)


def kernel(observed: kernels.Sequence, update: kernels.Sequence, weight: Tensor) -> Tensor:
    """K_{m,l} = (h_m · h_l) I + W Q Wᵀ between two responses, (M, V, L, V); ``weight`` is that of
    the output layer, (V, d). :func:`kernels.kernel_sq` has its norm alone."""
    inner = torch.einsum("mip,ljp->mlij", observed.jacobian, update.jacobian)
    out = torch.einsum("vi,mlij,wj->mvlw", weight, inner, weight)
    same = observed.states @ update.states.T
    return out + same[:, None, :, None] * torch.eye(len(weight)).to(out)[None, :, None, :]


def terms(learner: finetune.Learner, rows: Rows, numbers: list[int], observed: Tree) -> list[Terms]:
    """The factors for every response of a tree and the update on the rows called ``numbers``.

    Raises:
        InputError: for a model of more than 20,000 parameters, or one whose output layer is its
            embedding, or where not all weights are trained.
    """
    model = learner.engine.model
    _check(model)
    weight = model.get_output_embeddings().weight.detach()
    trees = [rows.trees[i] for i in numbers]
    batch = pack_plain(trees, weight.device)
    other = finetune._mismatched(learner, rows, numbers)
    with sdpa_kernel(SDPBackend.MATH):
        sources = [kernels.sequence(model, t.prompt, r) for t in trees for r in t.responses]
        with torch.no_grad():
            logits = kernels.logits_of(model, batch)
        reference = reference_values(learner.algorithm, rows, numbers, logits.double())
        g = batch_residual(learner.algorithm, batch, logits, reference, other, learner.spec)
        side = batch.owner % len(learner.algorithm.responses)
        out = []
        for response in observed.responses:
            one = kernels.sequence(model, observed.prompt, response)
            with torch.no_grad():
                plain = pack_plain([Tree(observed.prompt, [response])], weight.device)
                prob = kernels.logits_of(model, plain).softmax(-1)
            a = torch.eye(len(weight)).to(prob) - prob[:, None, :]
            k = torch.cat([kernel(one, source, weight) for source in sources], 2)
            out.append(Terms(a, k, g.to(k.dtype), side))
    return out


def _check(model: torch.nn.Module) -> None:
    """Fail unless the factors of this model can be computed here."""
    count = sum(p.numel() for p in model.parameters())
    if count > kernels.MOST_PARAMETERS:
        raise InputError(
            f"model: {count} parameters; expected at most {kernels.MOST_PARAMETERS}, for which "
            "explicit Jacobians fit in memory"
        )
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        raise InputError("model: its output layer is its embedding; expected weights of its own")
    if not all(p.requires_grad for p in model.parameters()):
        raise InputError("model: frozen weights; expected a model all of whose weights are trained")
