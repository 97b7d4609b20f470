"""The mutual kernel of responses: what one plain SFT step on each does to every other, for a saved
model; and the paper's proxies of it, of the same steps (docs/statistics.md, section "The mutual
kernel and its stability").

I[u, o] = ⟨∇ log π(y_u|x_u), ∇ log π(y_o|x_o)⟩, nats per unit of learning rate: A K G of equations 3
and 5 with the residual of SFT on u, summed over the labels of o.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from learning_dynamics.influence.directions import trainable
from learning_dynamics.influence.predict import Probes, _step_size, line, response_gradient
from learning_dynamics.one_update import a_norm_sq, token_log_probs
from learning_dynamics.scoring import Engine, Tree, residual_norms

# docs/architecture.md; what reads it is learning_dynamics.stability.
COLUMNS = ["update_id", "update_type", "update_tokens", "observed_id", "observed_type",
           "observed_tokens", "influence", "a_sq", "g_sq", "delta_sq", "sign_delta"]  # fmt: skip


def gram(engine: Engine, trees: Sequence[Tree], most_bytes: int) -> np.ndarray:
    """I between all responses of the trees, (responses, responses), symmetric, float64; exact but
    for the rounding of the gradients in the weights' own type.

    The sum over parameters is taken block by block: as many numbers of every response's gradient as
    fit in ``most_bytes``, one backward pass per response and block.
    """
    single = Probes(engine, trees, 1).single
    weights = list(trainable(engine).values())
    total = torch.zeros(len(single), len(single), dtype=torch.float64, device=engine.device)
    for block in _blocks([p.numel() for p in weights], max(1, most_bytes // (8 * len(single)))):
        leaves = [weights[number] for number, _, _ in block]
        width = sum(stop - start for _, start, stop in block)
        stack = torch.empty(len(single), width, dtype=torch.float64, device=engine.device)
        for row, response in zip(stack, single, strict=True):
            found = response_gradient(engine, response, leaves)
            parts = zip(found, block, strict=True)
            row.copy_(torch.cat([g.flatten()[start:stop] for g, (_, start, stop) in parts]))
        total += stack @ stack.T
    return total.cpu().numpy()


def _blocks(sizes: list[int], width: int) -> Iterator[list[tuple[int, int, int]]]:
    """The numbers of all tensors in blocks of at most ``width``: (tensor, first, behind last)."""
    block, room = [], width
    for number, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            block.append((number, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield block
                block, room = [], width
    if block:
        yield block


@torch.no_grad()
def norms(engine: Engine, trees: Sequence[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """‖A‖²_F and ‖G‖²_F of every response, (responses,) each: A = I − 1πᵀ, G = π − e_label, summed
    over its positions."""
    found = []
    for tree in trees:
        logp = token_log_probs(engine, tree)
        target = engine.pack([tree]).target
        sizes = [len(response) for response in tree.responses]
        a_sq, g_sq = a_norm_sq(logp), residual_norms(logp, target) ** 2
        pairs = zip(a_sq.split(sizes), g_sq.split(sizes), strict=True)
        found += [(float(a.sum()), float(g.sum())) for a, g in pairs]
    a_sq, g_sq = zip(*found, strict=True)
    return np.array(a_sq), np.array(g_sq)


def small_steps(
    engine: Engine, trees: Sequence[Tree], batch_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a plain SFT step on every response does to the whole softmax along every other, per unit
    of learning rate, in the limit of a small one: ‖∂ log π/∂η‖²_F, its mean over positions and
    vocabulary, and its sum over the labels (I again), (updates, observed) each.

    By a central difference along the response's gradient; weights are put back, bit for bit. One
    tree's log-probs over the whole vocabulary, (N, V), are in memory, three times in float64.
    """
    weights, probes = trainable(engine), Probes(engine, trees, batch_tokens)
    out = np.empty((3, len(probes.single), len(probes.single)))
    for number, update in enumerate(probes.single):
        found = response_gradient(engine, update, list(weights.values()))
        direction = dict(zip(weights, found, strict=True))
        rows = []
        with torch.no_grad(), line(engine, direction) as move:
            step = _step_size(engine, direction, probes, move)
            for tree in trees:
                move(step)
                slope = token_log_probs(engine, tree)
                move(-step)
                slope = (slope - token_log_probs(engine, tree)) / (2 * step)
                label = slope.gather(-1, engine.pack([tree]).target[:, None])[:, 0]
                sizes = [len(response) for response in tree.responses]
                for one, at in zip(slope.split(sizes), label.split(sizes), strict=True):
                    rows.append([float(x) for x in ((one**2).sum(), one.mean(), at.sum())])
        out[:, number] = np.array(rows).T
    return tuple(out)


def measure(
    engine: Engine,
    trees: Sequence[Tree],
    identity: pd.DataFrame,
    batch_tokens: int,
    most_bytes: int,
) -> pd.DataFrame:
    """Table of :data:`COLUMNS`, one row per ordered pair of responses.

    Args:
        engine: the model; its weights are as they were afterwards.
        trees: prompts with their responses.
        identity: ``example_id, response_type, n_tokens`` of the responses; of each the first
            ``n_tokens`` tokens count.
        batch_tokens: tokens of a scoring batch.
        most_bytes: of gradients that are in memory at once (:func:`gram`).
    """
    sizes = iter(identity["n_tokens"])
    trees = [Tree(tree.prompt, [r[: next(sizes)] for r in tree.responses]) for tree in trees]
    a_sq, g_sq = norms(engine, trees)
    delta_sq, sign_delta, _ = small_steps(engine, trees, batch_tokens)
    count = len(identity)
    update, observed = (index.ravel() for index in np.indices((count, count)))
    head = {
        f"{side}_{name}": identity[column].to_numpy()[rows]
        for side, rows in (("update", update), ("observed", observed))
        for name, column in (("id", "example_id"), ("type", "response_type"),
                             ("tokens", "n_tokens"))
    }  # fmt: skip
    values = {
        "influence": gram(engine, trees, most_bytes).ravel(),
        "a_sq": a_sq[observed],
        "g_sq": g_sq[update],
        "delta_sq": delta_sq.ravel(),
        "sign_delta": sign_delta.ravel(),
    }
    return pd.DataFrame({**head, **values})[COLUMNS]
