"""The update that a loss imposes on one softmax: the paper's Figure 2, from the losses themselves.

Nothing here knows a loss: gradients come by automatic differentiation. Responses are one token long
for the steps, and the policy starts at the reference.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learning_dynamics.algorithms import Algorithm, residuals
from learning_dynamics.theory import softmax

CLASSES, PEAK, CHOSEN, LIKELY, VALLEY = 30, 10, 6, 13, 24
PROBABILITIES = {PEAK: 0.42, LIKELY: 0.2, CHOSEN: 0.08, VALLEY: 0.002}
LENGTH = 2.0  # of the step: the larger of |η c₊| and |η c₋|, the same for every loss
TOKENS, SPREAD = 20, 1.5  # of the responses behind c(m): −2 ± 1.5 nats a token, evenly spaced
MARGINS = np.linspace(-20, 20, 81)
PLACES = {"chosen": CHOSEN, "rejected": LIKELY, "rejected in a valley": VALLEY}


def distribution() -> np.ndarray:
    """A peaked distribution over 30 tokens: a mode, a likely and an unlikely y⁻, and y⁺."""
    rng = np.random.default_rng(0)
    bump = np.exp(-0.5 * ((np.arange(CLASSES) - PEAK) / 3.0) ** 2)
    rest = softmax(3.0 * bump + 0.7 * rng.normal(size=CLASSES))
    rest[list(PROBABILITIES)] = 0.0
    rest *= (1 - sum(PROBABILITIES.values())) / rest.sum()
    rest[list(PROBABILITIES)] = list(PROBABILITIES.values())
    return rest


def gradient(algorithm: Algorithm, spec: dict, labels: dict[str, int]) -> dict[str, np.ndarray]:
    """∂L/∂z at the position of each response, shape (30,), from the distribution above.

    Args:
        algorithm: the loss.
        spec: its hyper-parameters.
        labels: the token of each response that it reads.
    """
    start = torch.log(torch.tensor(distribution()))
    leaves = {name: start.clone().requires_grad_(True) for name in labels}
    values: dict[str, Tensor] = {}
    for name, label in labels.items():
        tokens = torch.log_softmax(leaves[name], 0)[label].reshape(1, 1)
        values |= {
            f"{name}_tokens": tokens,
            f"ref_{name}_tokens": tokens.detach(),
            f"{name}_mask": torch.ones(1, 1, dtype=torch.bool),
            f"{name}_logits": leaves[name].reshape(1, 1, -1),
            f"{name}_labels": torch.tensor([[label]]),
        }
    loss = residuals.row_loss(algorithm, residuals.derived({**values, **_batch()}), spec).sum()
    found = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return {name: one.numpy() for name, one in zip(leaves, found, strict=True)}


def steps_table(algorithms: Sequence[Algorithm]) -> pd.DataFrame:
    """One gradient step per algorithm at its default hyper-parameters, a row per token:
    ``algorithm, place, label, peak, token, coefficient, before, after``.

    ``place`` is y⁺'s position, or y⁻'s where y⁻ is a likely token or one in a valley. The rate
    makes the larger of |η c±| equal to 2 with the likely y⁻: directions are compared, not sizes. A
    loss of one response stands where its c puts it: y⁺ when it pulls up, y⁻ when it pushes away.
    """
    before = distribution()
    rows = []
    for algorithm in algorithms:
        found = _gradients(algorithm)
        coefficients = {
            place: one[PLACES[place]] / (before[PLACES[place]] - 1) for place, one in found.items()
        }
        size = max(abs(coefficients.get(place, 0.0)) for place in ("chosen", "rejected"))
        for place, one in found.items():
            after = softmax(np.log(before) - LENGTH / (size or 1.0) * one)
            for token in range(CLASSES):
                rows.append((algorithm.name, place, PLACES[place], PEAK, token,
                             coefficients[place], before[token], after[token]))  # fmt: skip
    columns = ["algorithm", "place", "label", "peak", "token", "coefficient", "before", "after"]
    return pd.DataFrame(rows, columns=columns)


def coefficients_table(algorithms: Sequence[Algorithm]) -> pd.DataFrame:
    """c₊ and c₋ (mean over positions) against the margin m, at default hyper-parameters:
    ``algorithm, margin, chosen, rejected``; NaN for a response that the loss does not read.

    Both log-ratios share the margin, r₊ = m/2 and r₋ = −m/2, evenly over 20 tokens, which under the
    reference have −2 nats on average. Losses of logits have no coefficients and no rows.
    """
    base = -2.0 + SPREAD * torch.linspace(-1, 1, TOKENS, dtype=torch.float64)
    margins = torch.tensor(MARGINS)[:, None]
    rows = []
    for algorithm in algorithms:
        if algorithm.logits:
            continue
        spec = _defaults(algorithm)
        places = _places(algorithm)
        values: dict[str, Tensor] = {}
        for name, place in places.items():
            ratio = (margins if place == "chosen" else -margins) / 2
            values |= {
                f"{name}_tokens": base + ratio / TOKENS,
                f"ref_{name}_tokens": base.expand(len(MARGINS), TOKENS),
                f"{name}_mask": torch.ones(len(MARGINS), TOKENS, dtype=torch.bool),
            }
        found = residuals.coefficients(algorithm, {**values, **_batch()}, spec)
        by_place = {places[name]: one.mean(1).numpy() for name, one in found.items()}
        rows.append(
            pd.DataFrame(
                {
                    "algorithm": algorithm.name,
                    "margin": MARGINS,
                    "chosen": by_place.get("chosen", np.nan),
                    "rejected": by_place.get("rejected", np.nan),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def _batch() -> dict[str, Tensor]:
    """Log-probs of other rows' responses: the policy is at the reference."""
    zero = torch.zeros(1, dtype=torch.float64)
    return {"mismatched": zero, "ref_mismatched": zero}


def _defaults(algorithm: Algorithm) -> dict[str, float]:
    return {name: setting.default for name, setting in algorithm.settings.items()}


def _places(algorithm: Algorithm) -> dict[str, str]:
    """Where each response of the loss stands."""
    if algorithm.responses != ("response",):
        return {name: name for name in algorithm.responses}
    slope = gradient(algorithm, _defaults(algorithm), {"response": LIKELY})["response"][LIKELY]
    return {"response": "chosen" if slope < 0 else "rejected"}


def _gradients(algorithm: Algorithm) -> dict[str, np.ndarray]:
    """∂L/∂z by place."""
    spec, places = _defaults(algorithm), _places(algorithm)
    out = {}
    for unlikely in (False, True):
        at = {"chosen": CHOSEN, "rejected": VALLEY if unlikely else LIKELY}
        labels = {name: at[place] for name, place in places.items()}
        for name, one in gradient(algorithm, spec, labels).items():
            if places[name] == "rejected":
                out["rejected in a valley" if unlikely else "rejected"] = one
            elif not unlikely:
                out["chosen"] = one
    return out
