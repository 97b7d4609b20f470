"""Losses of one response: finetuning on it, and unlearning it.

Each returns one loss per row, shape ``(rows,)``, in nats. ``response`` is log π(y | x) summed over
the response's tokens, ``ref_response`` the same under the reference; r is their difference.
c = −∂L/∂log π(y) is positive where the response is pulled up.
"""

from torch import Tensor
from torch.nn.functional import softplus

from learning_dynamics.algorithms import Positive


def sft(response: Tensor) -> Tensor:
    """Supervised finetuning: −log π(y). Eq. 4 and 10.

    c = 1. The variants differ in their rows alone: ``target: rejected``, ``extend``, or any
    response type of the probe set.
    """
    return -response


def npo(response: Tensor, ref_response: Tensor, *, beta: Positive = 0.1) -> Tensor:
    """Negative preference optimisation, for unlearning: (2/β) log(1 + (π/ref)^β).
    Zhang et al. 2024, eq. 3.

    c = −2 σ(βr): −1 at the start, fading once the response is less likely than under the reference.
    For β → 0 it is gradient ascent, up to a constant.
    """
    return 2 / beta * softplus(beta * (response - ref_response))


def gradient_ascent(response: Tensor) -> Tensor:
    """Unlearning by gradient ascent on the likelihood loss: log π(y). Section 3.3: the negative
    gradient by itself.

    c = −1, whatever the model already thinks of the response: nothing stops it.
    """
    return response
