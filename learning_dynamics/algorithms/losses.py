"""The losses, one function each, and the residual coefficients that follow from any of them.

A loss maps the summed log-probs of a batch's responses (nats, shape ``(rows,)`` each, in the order
of ``Algorithm.responses``: first under the policy, then under the reference) and the run's
hyper-parameters to one loss per row. The batch loss is their mean, in the paper's shape: sums over
tokens, no length normalisation.

The residual of a position with distribution π and label e is ``∂L/∂z = c (π − e) / rows`` with
``c = −∂L/∂log π(y)`` (:func:`coefficients`): c₊ > 0 pulls y⁺ up, c₋ < 0 is the negative gradient.
"""

from torch import Tensor, autograd
from torch.nn.functional import logsigmoid

from learning_dynamics.algorithms import ALGORITHMS


def sft(policy: list[Tensor], reference: list[Tensor], spec: dict) -> Tensor:
    """Negative log-likelihood of the whole response, −Σ_l log π(y_l | x, y_<l). Eq. 4 and 10."""
    return -policy[0]


def dpo(policy: list[Tensor], reference: list[Tensor], spec: dict) -> Tensor:
    """−log σ(β [log π(y⁺)/ref(y⁺) − log π(y⁻)/ref(y⁻)]). Eq. 6; ``spec["beta"]`` is β."""
    return -logsigmoid(spec["beta"] * margin(policy, reference))


def margin(policy: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Implicit reward margin without β: log-ratio of y⁺ minus log-ratio of y⁻, nats."""
    return (policy[0] - reference[0]) - (policy[1] - reference[1])


def row_loss(name: str, policy: list[Tensor], reference: list[Tensor], spec: dict) -> Tensor:
    """Loss per row, shape ``(rows,)``, of the algorithm called ``name``."""
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm {name!r}: unknown; expected one of {', '.join(ALGORITHMS)}")
    return globals()[name](policy, reference, spec)


def coefficients(
    name: str, policy: list[Tensor], reference: list[Tensor], spec: dict
) -> list[Tensor]:
    """Residual coefficients c = −∂L/∂log π(y) per response, each of shape ``(rows,)``."""
    leaves = [p.detach().clone().requires_grad_(True) for p in policy]
    total = row_loss(name, leaves, reference, spec).sum()
    return [-gradient for gradient in autograd.grad(total, leaves)]
