"""What one update of a run does to probed responses, token by token: the proxies of the empirical
neural tangent kernel as equations 23 to 31 of the paper define them (docs/statistics.md, section
"eNTK proxies"). Measuring changes nothing of the run."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learning_dynamics.algorithms import Algorithm, residuals
from learning_dynamics.errors import InputError
from learning_dynamics.loss_values import loss_values, reference_values
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Batch, Engine, Tree, label_logp
from learning_dynamics.trajectory import ProbeTrees

if TYPE_CHECKING:
    from learning_dynamics.finetune import Learner

COLUMNS = ["step", "lr", "example_id", "response_type", "n_tokens", "delta_sq", "a_sq", "g_sq",
           "lbk", "sign_delta", "delta_logp"]  # fmt: skip


def a_norm_sq(logp: Tensor) -> Tensor:
    """‖A‖²_F = V‖π‖² + V − 2 per position, (N,), of A = I − 1πᵀ; from log π, (N, V)."""
    logits = logp.shape[-1]
    return logits * (2 * logp).exp().sum(-1) + logits - 2


def batch_residual(
    used: Algorithm,
    batch: Batch,
    logits: Tensor,
    reference: Tensor | None,
    other: dict[str, Tensor],
    spec: dict,
) -> Tensor:
    """G = ∂L/∂z of the mean loss over the batch's rows at its response tokens, (N, V).

    A token's logits count as its own also where two responses of a row share the position (the
    end of their prompt): in the paper χ⁺ and χ⁻ are two sequences.

    Args:
        used: the loss.
        batch: the update's rows, packed.
        logits: (N, V) under the policy.
        reference: the reference's log-probs, (N,), or None.
        other: log-probs of mismatched responses, where the loss asks for them.
        spec: the run's settings.
    """
    leaf = logits.detach().double().requires_grad_(True)
    with torch.enable_grad():
        logp = label_logp(leaf, batch.target)
        values = loss_values(used, batch, logp, reference, leaf if used.logits else None)
        loss = residuals.row_loss(used, {**values, **other}, spec).mean()
        return torch.autograd.grad(loss, leaf)[0]


class Meter:
    """Measures single updates of a run; every process measures the same.

    Attributes:
        tables: what was measured so far, one table per update.
    """

    def __init__(self, learner: "Learner", probes: ProbeTrees) -> None:
        """Choose the first probed training examples.

        Raises:
            InputError: when the model has more logits than the run allows.
        """
        self._learner, self.tables = learner, []
        wanted = learner.spec["proxies"]
        config = learner.engine.model.config.get_text_config()
        if config.vocab_size > wanted["max_vocabulary"]:
            raise InputError(
                f"runs: proxies.max_vocabulary = {wanted['max_vocabulary']}: the model has "
                f"{config.vocab_size} logits per position; expected at most as many (or proxies: "
                "null: the published proxies need none)"
            )
        chosen, rows = probes.first(wanted["examples"])
        self._trees = [probes.trees[i] for i in chosen]
        self._identity = probes.identity.iloc[rows][["example_id", "response_type", "n_tokens"]]
        self._before: list[Tensor] = []
        self._g_sq = float("nan")

    @torch.no_grad()
    def before(self, rows: Rows, numbers: list[int], other: dict[str, Tensor]) -> None:
        """Remember log π of the probed responses, and ‖G‖²_F of the rows that the update takes."""
        learner = self._learner
        self._before = [self._logp(tree) for tree in self._trees]
        batch = learner.engine.pack([rows.trees[i] for i in numbers])
        with learner.accelerator.autocast():
            logits = learner.engine(batch, "logits").logits
        reference = reference_values(learner.algorithm, rows, numbers, logits)
        found = batch_residual(learner.algorithm, batch, logits, reference, other, learner.spec)
        self._g_sq = float((found**2).sum())

    @torch.no_grad()
    def after(self, step: int, lr: float) -> None:
        """Compare with what :meth:`before` saw; ``step`` counts the updates done before this one
        and ``lr`` is this update's learning rate."""
        sizes = iter(self._identity["n_tokens"].tolist())
        parts = []
        for tree, before in zip(self._trees, self._before, strict=True):
            counts = [next(sizes) for _ in tree.responses]
            parts.append(_responses(tree, counts, before, self._logp(tree)))
        self._before = []
        measured = pd.DataFrame(np.concatenate(parts), columns=_MEASURED)
        table = self._identity.reset_index(drop=True).assign(
            step=step, lr=lr, g_sq=self._g_sq, **measured
        )
        table["lbk"] = table["delta_sq"] / (table["a_sq"] * table["g_sq"])
        self.tables.append(table[COLUMNS])

    def table(self) -> pd.DataFrame:
        """Everything measured: one row per update measured × probe example × response type."""
        return pd.concat(self.tables, ignore_index=True)

    def _logp(self, tree: Tree) -> Tensor:
        with self._learner.accelerator.autocast():
            return token_log_probs(self._learner.engine, tree)


_MEASURED = ["delta_sq", "a_sq", "sign_delta", "delta_logp"]


def token_log_probs(engine: Engine, tree: Tree) -> Tensor:
    """log π over the whole vocabulary at every response token of a tree, (N, V), float64."""
    return engine(engine.pack([tree]), "logits").logits.double().log_softmax(-1)


def _responses(tree: Tree, counts: list[int], before: Tensor, after: Tensor) -> np.ndarray:
    """:data:`_MEASURED` of each response of a tree, over its first ``counts`` tokens."""
    rows, done = [], 0
    for response, count in zip(tree.responses, counts, strict=True):
        here = slice(done, done + count)
        done += len(response)
        old, delta = before[here], after[here] - before[here]
        label = torch.tensor(response[:count], device=delta.device)[:, None]
        values = (
            (delta**2).sum(),
            a_norm_sq(old).sum(),
            delta.mean(),
            delta.gather(-1, label).sum(),
        )
        rows.append([float(value) for value in values])
    return np.array(rows)
