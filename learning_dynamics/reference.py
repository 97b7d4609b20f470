"""Log-probs under a model that does not change: those that preference losses compare with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from learning_dynamics import models
from learning_dynamics.rows import REFERENCE_COLUMNS, mismatched_trees, pair_trees, training_pairs
from learning_dynamics.scoring import Engine, Tree, batches_by_budget
from learning_dynamics.tokens import Codec


@torch.no_grad()
def token_logps(engine: Engine, trees: Sequence[Tree], compute: dict) -> list[list[np.ndarray]]:
    """log π per token (nats) of every response of every tree."""
    out: list[list[np.ndarray]] = [[] for _ in trees]
    for group in batches_by_budget(list(trees), compute["batch_tokens"]):
        with models.autocast(compute):
            logp = engine(engine.pack([trees[i] for i in group])).logp
        lengths = [len(response) for i in group for response in trees[i].responses]
        pieces = iter(np.split(logp.double().cpu().numpy(), np.cumsum(lengths)[:-1]))
        for i in group:
            out[i] = [next(pieces) for _ in trees[i].responses]
    return out


def reference_logps(
    engine: Engine, pairs: pd.DataFrame, codec: Codec, compute: dict
) -> pd.DataFrame:
    """Log-probs of the training pairs under the engine's model: ``example_id``, ``chosen`` and
    ``rejected`` (nats per token, lists), ``mismatched`` (nats, a sum). They depend on model and
    data alone, so all runs that start there share them."""
    train = training_pairs(pairs).reset_index(drop=True)
    trees = pair_trees(train, codec)
    both = token_logps(engine, trees, compute)
    other = token_logps(engine, mismatched_trees(trees), compute)
    return train[["example_id"]].assign(
        chosen=[values[0] for values in both],
        rejected=[values[1] for values in both],
        mismatched=[values[0].sum() for values in other],
    )[REFERENCE_COLUMNS]
