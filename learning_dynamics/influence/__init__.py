"""One-step influence on real networks: Proposition 1, predicted and measured.

* :mod:`directions`: how an update moves the weights, and what of it comes through y⁺ and y⁻.
* :mod:`predict`: what a move does to every probed token: to first order, and really.
* :mod:`mutual`: what every probed response's own step does to every other: the kernel between them.
* :mod:`explicit`: A, K and G as tensors, for tiny models.
* :mod:`baselines`: what token overlap and hidden states would predict.
* :mod:`meter`: all of it along a run, while it trains.
"""

from learning_dynamics.influence.baselines import hidden_cosine, token_overlap
from learning_dynamics.influence.directions import (
    REST,
    Direction,
    Step,
    gradient_step,
    gradients,
    optimizer_step,
    residual_weights,
)
from learning_dynamics.influence.predict import (
    Probes,
    finite_difference,
    forward_mode,
    gradient_dots,
    log_probs,
    measured,
    step_size,
)

__all__ = [
    "REST",
    "Direction",
    "Probes",
    "Step",
    "finite_difference",
    "forward_mode",
    "gradient_dots",
    "gradient_step",
    "gradients",
    "hidden_cosine",
    "log_probs",
    "measured",
    "optimizer_step",
    "residual_weights",
    "step_size",
    "token_overlap",
]
