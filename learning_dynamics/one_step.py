"""Single gradient steps from one model: where the mass of each y⁻ position goes.

On a fixed list of batches of pairs, three steps are taken from the same weights: DPO, DPO with
coin-flip labels, and SFT on y⁺, all of the same length in parameter space. Before and after, every
position of the batch's y⁻ is scored, and the weights are restored. The definitions are those of
docs/statistics.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from learning_dynamics import scoring
from learning_dynamics.algorithms import ALGORITHMS, residuals
from learning_dynamics.errors import InputError
from learning_dynamics.rows import Rows

KINDS = ["dpo", "coinflip", "sft"]
PARTS = ["label", "top_other", "rest"]
COLUMNS = ["kind", "batch", "example_id", "position", "p_label", "p_top_other", "dlogp_label",
           "dlogp_top_other", "dlogp_rest", "dp_label", "dp_top_other", "dp_rest"]  # fmt: skip


def gradient(
    engine: scoring.Engine, rows: Rows, numbers: list[int], algorithm: str, flips: np.ndarray
) -> list[torch.Tensor]:
    """Gradient of the batch loss, with the pairs marked in ``flips`` swapped; β = 0.1.

    At the start of DPO the reference is the model itself, so the margin is 0 whatever the labels.
    """
    logp = _batch_logps(engine, rows, numbers)
    swapped = torch.where(torch.as_tensor(flips, device=logp.device)[:, None], logp.flip(1), logp)
    chosen, rejected = swapped.unbind(1)
    values = {"chosen": chosen, "rejected": rejected, "response": chosen,
              "ref_chosen": chosen.detach(), "ref_rejected": rejected.detach()}  # fmt: skip
    loss = residuals.row_loss(ALGORITHMS[algorithm], values, {"beta": 0.1}).mean()
    return list(torch.autograd.grad(loss, list(engine.parameters())))


def rejected_slope(
    engine: scoring.Engine, rows: Rows, numbers: list[int], step: list[torch.Tensor]
) -> float:
    """First-order change of the batch's mean log π(y⁻) along ``step`` (nats per response)."""
    rejected = _batch_logps(engine, rows, numbers)[:, 1].mean()
    grads = torch.autograd.grad(rejected, list(engine.parameters()))
    return float(sum((g * s).sum() for g, s in zip(grads, step, strict=True)))


@torch.no_grad()
def rejected_logits(
    engine: scoring.Engine, rows: Rows, numbers: list[int]
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Log-probs (N, V) at the y⁻ positions of a batch, their labels, row and position numbers."""
    batch = engine.pack([rows.trees[i] for i in numbers])
    logits = engine(batch, "logits").logits.double()
    of_rejected = batch.owner % 2 == 1
    owner = batch.owner[of_rejected].cpu().numpy() // 2
    counts = np.bincount(owner)
    positions = np.concatenate([np.arange(n) for n in counts])
    return logits[of_rejected].log_softmax(-1), batch.target[of_rejected], owner, positions


def move(engine: scoring.Engine, step: list[torch.Tensor], length: float) -> None:
    """Add ``length`` times ``step`` to the weights, in place."""
    with torch.no_grad():
        for parameter, change in zip(engine.parameters(), step, strict=True):
            parameter.add_(change, alpha=length)


@dataclass(frozen=True)
class Step:
    """One step, and the y⁻ positions of its batch before and after it.

    Attributes:
        kind: one of :data:`KINDS`.
        batch: number of the batch.
        rows: numbers of its rows.
        before, after: log π over the vocabulary at its y⁻ positions, (N, V), fp64.
        label: tokens of y⁻ there, (N,).
        owner: number within the batch of the row that each position belongs to, (N,).
        position: number of the position within y⁻, (N,).
    """

    kind: str
    batch: int
    rows: list[int]
    before: torch.Tensor
    after: torch.Tensor
    label: torch.Tensor
    owner: np.ndarray
    position: np.ndarray


def steps(engine: scoring.Engine, rows: Rows, batches: int, size: int, seed: int) -> Iterator[Step]:
    """Every kind of step on every batch; the weights are restored before a step is told.

    Raises:
        InputError: when the DPO step lowers log π(y⁻) on no batch, so that no length is defined.
    """
    rng = np.random.default_rng([seed, 20])
    order = rng.permutation(len(rows))[: batches * size].reshape(-1, size).tolist()
    plain = np.zeros(size, dtype=bool)
    coins = rng.random((batches, size)) < 0.5
    lengths = []
    for numbers in order:
        step = _unit_descent(gradient(engine, rows, numbers, "dpo", plain))
        slope = rejected_slope(engine, rows, numbers, step)
        if slope < 0:  # where y⁺ and y⁻ are nearly alike, DPO may raise y⁻ to first order
            lengths.append(-1.0 / slope)
    if not lengths:
        raise InputError("one step: no batch whose DPO step lowers log π(y⁻) to first order")
    length = float(np.median(lengths))
    start = [p.detach().clone() for p in engine.parameters()]
    for number, numbers in enumerate(order):
        before, label, owner, position = rejected_logits(engine, rows, numbers)
        for kind in KINDS:
            flips = coins[number] if kind == "coinflip" else plain
            loss = "sft" if kind == "sft" else "dpo"
            move(engine, _unit_descent(gradient(engine, rows, numbers, loss, flips)), length)
            after = rejected_logits(engine, rows, numbers)[0]
            with torch.no_grad():
                for parameter, value in zip(engine.parameters(), start, strict=True):
                    parameter.copy_(value)
            yield Step(kind, number, numbers, before, after, label, owner, position)


def best_other(step: Step) -> torch.Tensor:
    """The most likely token besides the label before the step, (N,): y* of section 3.3."""
    return step.before.scatter(-1, step.label[:, None], -torch.inf).argmax(-1)


def measure(
    engine: scoring.Engine, rows: Rows, names: list[str], batches: int, size: int, seed: int
) -> pd.DataFrame:
    """Table of :data:`COLUMNS`, one row per kind × batch × position of y⁻.

    ``top_other`` is the most likely token besides the label *before* the step; ``rest`` is all
    others together. Changes of log-probs are in nats, changes of mass in probability.

    Raises:
        InputError: as :func:`steps`.
    """
    tables = []
    for step in steps(engine, rows, batches, size, seed):
        top = best_other(step)
        one, two = (_three_parts(logp, step.label, top) for logp in (step.before, step.after))
        facts = {
            "kind": step.kind,
            "batch": step.batch,
            "example_id": [names[step.rows[i]] for i in step.owner],
            "position": step.position,
            "p_label": np.exp(one[0]),
            "p_top_other": np.exp(one[1]),
        }
        for part, first, then in zip(PARTS, one, two, strict=True):
            facts[f"dlogp_{part}"] = then - first
            facts[f"dp_{part}"] = np.exp(then) - np.exp(first)
        tables.append(pd.DataFrame(facts))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def _batch_logps(engine: scoring.Engine, rows: Rows, numbers: list[int]) -> torch.Tensor:
    """log π of y⁺ and y⁻ of each row, shape (rows, 2), with gradient."""
    batch = engine.pack([rows.trees[i] for i in numbers])
    return scoring.sum_by_response(engine(batch).logp, batch).view(-1, 2)


def _three_parts(logp: torch.Tensor, label: torch.Tensor, top: torch.Tensor) -> list[np.ndarray]:
    """Log-mass of the label, of the best other token, and of all remaining tokens."""
    rest = logp.scatter(-1, torch.stack([label, top], -1), -torch.inf).logsumexp(-1)
    parts = [logp.gather(-1, token[:, None])[:, 0] for token in (label, top)]
    return [part.cpu().numpy() for part in (*parts, rest)]


def _unit_descent(grads: list[torch.Tensor]) -> list[torch.Tensor]:
    norm = torch.sqrt(sum((g * g).sum() for g in grads))
    return [-g / norm for g in grads]
