"""One gradient step on a softmax: the squeezing effect where it can be computed exactly.

Setting of App. E: logits z = Wᵀx of a linear softmax over V classes, one input x, one gradient
step on the cross entropy of label y. With the effective rate η' = η‖x‖² the logits move by
``z ← z − η' (π − e_y)``; a negative gradient (pushing y away) is η' < 0.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Regime:
    """One case of the theory panel: a distribution, a label and a signed effective rate."""

    title: str
    logits: np.ndarray
    label: int
    rate: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, shape ``(V,)``."""
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def step(logits: np.ndarray, label: int, rate: float) -> np.ndarray:
    """Logits after one gradient step of effective rate ``rate`` (η', negative: push away)."""
    residual = softmax(logits)
    residual[label] -= 1.0
    return logits - rate * residual


def lemma1_ratio(logits: np.ndarray, label: int, rate: float) -> np.ndarray:
    """Lemma 1: α_i = π_i after / π_i before for every class, from the state before alone.

    α_i = Σ_j e^{z_j} / Σ_j β_ij e^{z_j} with
    β_ij = exp(−η' [(π_j − 1[j=y]) − (π_i − 1[i=y])]), both cases of the lemma in one formula.
    """
    residual = softmax(logits)
    residual[label] -= 1.0
    weights = np.exp(logits - logits.max())
    beta = np.exp(-rate * (residual[None, :] - residual[:, None]))
    return weights.sum() / (beta @ weights)


def regimes(classes: int = 50, seed: int = 0) -> list[Regime]:
    """The four regimes of App. E. The peaked distribution holds 40% on its mode and 20% on a
    second, likely label, so that "likely label" and "valley" can differ (the published one is so
    peaked that both look alike)."""
    rng = np.random.default_rng(seed)
    uneven = rng.normal(0.0, 1.0, classes)
    flat = rng.normal(0.0, 0.1, classes)
    bump = np.exp(-0.5 * ((np.arange(classes) - 12) / 3.0) ** 2)
    tail = rng.normal(0.0, 1.0, classes)
    peaked = softmax(3.0 * bump + tail)
    peaked[[12, 15]] = 0.0
    peaked *= 0.4 / peaked.sum()
    peaked[12], peaked[15] = 0.4, 0.2
    valley = int(np.argmin(np.where(np.arange(classes) > 25, peaked, 1.0)))
    return [
        Regime("positive step", uneven, 21, 2.0),
        Regime("negative step,\nflat distribution", flat, 35, -2.0),
        Regime("negative step,\nlikely label", np.log(peaked), 15, -2.0),
        Regime("negative step,\nlabel in a valley", np.log(peaked), valley, -2.0),
    ]
