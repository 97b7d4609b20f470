"""The log-prob engine: one for probing, reference log-probs and training (docs/architecture.md)."""

from learning_dynamics.scoring.engine import Engine, Scored
from learning_dynamics.scoring.metrics import (
    METRICS,
    SUMS,
    aggregate,
    label_logp,
    residual_norms,
    token_metrics,
)
from learning_dynamics.scoring.scorer import Scorer, score
from learning_dynamics.scoring.trees import (
    Batch,
    Tree,
    batches_by_budget,
    pack,
    pack_plain,
    split,
    sum_by_response,
)

__all__ = [
    "METRICS",
    "SUMS",
    "Batch",
    "Engine",
    "Scored",
    "Scorer",
    "Tree",
    "aggregate",
    "batches_by_budget",
    "label_logp",
    "pack",
    "pack_plain",
    "residual_norms",
    "score",
    "split",
    "sum_by_response",
    "token_metrics",
]
