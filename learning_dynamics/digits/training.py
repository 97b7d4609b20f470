"""SGD on images of digits, epoch by epoch."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from learning_dynamics.digits.images import Digits


def cosine(epoch: int, epochs: int, start: float, end: float) -> float:
    """Learning rate during epoch number ``epoch`` (from 0) of ``epochs``: from ``start`` towards
    ``end`` along half a cosine, one value per epoch."""
    return end + (start - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def train(
    network: nn.Module, digits: Digits, spec: dict, lrs: list[float], seed: int
) -> Iterator[dict]:
    """Train in place on cross-entropy by SGD with momentum; yields before the first update and
    after every epoch.

    Args:
        network: returns logits (B, 10).
        digits: the training images, as the network reads them.
        spec: ``batch_size`` (the last batch of an epoch may be smaller), ``momentum``,
            ``weight_decay``.
        lrs: the learning rate of every epoch.
        seed: of the order of the images.

    Yields:
        ``epoch`` and ``updates`` done, and of the epoch behind (NaN before the first) its ``lr``,
        ``train_loss`` (nats, mean over its images as they were met) and ``moved`` (length of the
        way of the weights, relative to the weights before).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = list(network.parameters())
    # lr=1: the real one is set epoch by epoch
    optimizer = torch.optim.SGD(
        weights, lr=1.0, momentum=spec["momentum"], weight_decay=spec["weight_decay"]
    )
    updates = 0
    yield {"epoch": 0, "updates": 0, "lr": math.nan, "train_loss": math.nan, "moved": math.nan}
    for epoch, lr in enumerate(lrs, 1):
        optimizer.param_groups[0]["lr"] = lr
        before = nn.utils.parameters_to_vector(weights).detach().clone()
        total = 0.0
        order = torch.randperm(len(digits.labels), generator=generator)
        for rows in order.split(spec["batch_size"]):
            loss = cross_entropy(network(digits.images[rows]), digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            updates += 1
        way = nn.utils.parameters_to_vector(weights).detach() - before
        yield {
            "epoch": epoch,
            "updates": updates,
            "lr": lr,
            "train_loss": total / len(order),
            "moved": float(way.norm() / before.norm()),
        }


@torch.no_grad()
def tested(network: nn.Module, digits: Digits) -> dict[str, float]:
    """``test_loss`` (nats, mean) and ``test_accuracy`` on images."""
    logits = network(digits.images)
    return {
        "test_loss": float(cross_entropy(logits, digits.labels)),
        "test_accuracy": float((logits.argmax(1) == digits.labels).float().mean()),
    }
