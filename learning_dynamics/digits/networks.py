"""The two networks of the paper's warm-up. Both return logits (B, 10) for images (B, 1, s, s)."""

import torch
from torch import nn

from learning_dynamics.digits import CLASSES
from learning_dynamics.digits.images import Digits, enlarged

LENET_SIDE = 28
WIDTH = 128


def build(name: str, side: int, seed: int) -> nn.Module:
    """A freshly initialised network (torch's default initialisation), fixed by ``seed``.

    Args:
        name: ``mlp``, four hidden layers of 128 ReLU units on the flattened image, or ``lenet``,
            two convolutions with tanh and average pooling, then 400-60-42-10.
        side: pixels of an image's edge; LeNet's is 28.
        seed: of the weights; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mlp":
            widths = [side * side, WIDTH, WIDTH, WIDTH, WIDTH]
            hidden = [
                layer
                for i in range(len(widths) - 1)
                for layer in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())
            ]
            return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, CLASSES))
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(400, 60), nn.Tanh(), nn.Linear(60, 42), nn.Tanh(), nn.Linear(42, CLASSES),
        )  # fmt: skip


def fitting(name: str, digits: Digits) -> Digits:
    """The images as this network reads them: enlarged to 28×28 for LeNet."""
    return enlarged(digits, LENET_SIDE) if name == "lenet" else digits
