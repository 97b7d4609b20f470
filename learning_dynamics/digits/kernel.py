"""The empirical neural tangent kernel of a network of logits, exact, and Proposition 1 built on it.

With J(x) = ∂z(x)/∂θ (10 × parameters), K(x_o, x_u) = J(x_o) J(x_u)ᵀ, 10 × 10 (Sec. 2, App. C.1).
"""

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

FLOATS = 2**25  # numbers that one block of Jacobians may hold: 128 MB


def jacobians(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """∂z/∂θ of every image: one tensor (B, 10, size) for each of the network's parameters."""
    weights = dict(network.named_parameters())

    def logits(parameters: dict, image: torch.Tensor) -> torch.Tensor:
        return functional_call(network, parameters, (image[None],))[0]

    found = vmap(jacrev(logits), in_dims=(None, 0))(weights, images)
    return [part.detach().flatten(2) for part in found.values()]


def entk(
    network: nn.Module, observed: torch.Tensor, updated: torch.Tensor, floats: int = FLOATS
) -> torch.Tensor:
    """K(x_o, x_u) for all pairs of observed and updated images, shape (O, U, 10, 10).

    Computed block by block, so that no more than two blocks of ``floats`` numbers of Jacobians
    are held at any time.
    """
    classes = network(observed[:1]).shape[1]
    parameters = sum(weights.numel() for weights in network.parameters())
    size = max(1, floats // (classes * parameters))
    rows = []
    for some in updated.split(size):
        right = jacobians(network, some)
        columns = []
        for others in observed.split(size):
            left = jacobians(network, others)
            pairs = zip(left, right, strict=True)
            products = (a.flatten(0, 1) @ b.flatten(0, 1).T for a, b in pairs)
            product = sum(products).reshape(len(others), classes, len(some), classes)
            columns.append(product.transpose(1, 2))
        rows.append(torch.cat(columns))
    return torch.cat(rows, 1)


def residual(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """G = π − e_y, the gradient of cross-entropy in the logits: (U, 10) from logits (U, 10)."""
    return logits.softmax(1) - nn.functional.one_hot(labels, logits.shape[1])


@torch.no_grad()
def first_order(
    network: nn.Module,
    observed: torch.Tensor,
    updated: torch.Tensor,
    labels: torch.Tensor,
    lr: float,
) -> torch.Tensor:
    """Proposition 1 (eq. 3): −η A(x_o) K(x_o, x_u) G(x_u, y_u), the change of log π(· | x_o) in
    nats, to first order, by one gradient step on (x_u, y_u) alone; shape (O, U, 10).

    A = I − 1 πᵀ, so that A v is v minus its mean under π(· | x_o).
    """
    pulled = torch.einsum(
        "ouij,uj->oui", entk(network, observed, updated), residual(network(updated), labels)
    )
    mean = torch.einsum("oi,oui->ou", network(observed).softmax(1), pulled)
    return -lr * (pulled - mean[..., None])
