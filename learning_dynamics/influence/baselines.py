"""What one would guess of an update's influence without its gradient: how alike the texts are, as
tokens and as hidden states. Predictors to hold Proposition 1 against."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from learning_dynamics.scoring import Engine, Tree, batches_by_budget
from learning_dynamics.scoring.trees import pack_plain


def token_overlap(
    observed: Sequence[Tree], update: Sequence[Tree], leave_out: Iterable[int] = ()
) -> np.ndarray:
    """Jaccard index of the sets of tokens of every observed response and every response of the
    update, (observed responses, update responses): 0 no token shared, 1 the same set. Tokens of
    ``leave_out`` (end-of-text, which all share) do not count; two empty sets have 0."""
    apart = set(leave_out)
    ours, theirs = (
        [set(response) - apart for tree in trees for response in tree.responses]
        for trees in (observed, update)
    )
    return np.array([[len(a & b) / max(1, len(a | b)) for b in theirs] for a in ours])


def hidden_cosine(
    engine: Engine, observed: Sequence[Tree], update: Sequence[Tree], batch_tokens: int
) -> np.ndarray:
    """Cosine of the mean hidden states of every observed response and every response of the update,
    (observed responses, update responses). The states are those that the output layer reads where a
    response's tokens are predicted."""
    ours, theirs = (mean_states(engine, trees, batch_tokens) for trees in (observed, update))
    return ours @ theirs.T


@torch.no_grad()
def mean_states(engine: Engine, trees: Sequence[Tree], batch_tokens: int) -> np.ndarray:
    """Mean state of every response, of length 1, (responses, d), float64: two of them have the
    cosine that :func:`hidden_cosine` gives."""
    single = [Tree(tree.prompt, [response]) for tree in trees for response in tree.responses]
    out: list[np.ndarray] = [np.empty(0)] * len(single)
    for group in batches_by_budget(single, batch_tokens):
        batch = pack_plain([single[i] for i in group], engine.device)
        states = engine.model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.filled.long(), use_cache=False
        ).last_hidden_state.flatten(0, 1)[batch.source]
        pooled = states.new_zeros(batch.responses, states.shape[1])
        pooled = pooled.index_add(0, batch.owner, states).double()
        for i, row in zip(group, pooled, strict=True):  # a sum points where the mean does
            out[i] = (row / row.norm()).cpu().numpy()
    return np.stack(out)
