"""What is measured at every position, and how it becomes one value per response."""

import numpy as np
import torch
from torch import Tensor

METRICS = [
    "logp", "logp_argmax", "logp_greedy0", "logp_top_other", "greedy_match", "logp_complement",
    "logp_vocab_mean", "prob_norm", "prob_norm_sq", "logp_median", "residual_norm", "energy",
    "entropy", "logp_first", "logp_end",
]  # fmt: skip
SUMS = ["logp", "logp_argmax", "logp_greedy0", "logp_top_other", "logp_complement"]


def label_logp(logits: Tensor, target: Tensor) -> Tensor:
    """log π(label) per position in nats, shape (N,)."""
    return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1)


def residual_norms(logits: Tensor, target: Tensor) -> Tensor:
    """‖π − e_label‖₂ per position, shape (N,)."""
    others = logits.softmax(-1).scatter(-1, target[:, None], 0.0)
    return ((others * others).sum(-1) + others.sum(-1) ** 2).sqrt()


def token_metrics(
    logits: Tensor, target: Tensor, greedy0: Tensor | None = None
) -> dict[str, Tensor]:
    """Every per-position quantity of the trajectory, each of shape (N,), from logits (N, V).

    ``greedy0`` holds the token that was greedy at the run's step 0; None means that this is it.
    Also returns ``greedy`` (N,), the token that is greedy now.
    """
    top_values, top_tokens = logits.topk(2, dim=-1)
    highest = top_values[:, :1]
    shifted = logits - highest
    weights = shifted.exp()
    total = weights.sum(-1)
    log_total = total.log()
    norm = log_total + highest[:, 0]
    greedy = top_tokens[:, 0]
    greedy0 = greedy if greedy0 is None else greedy0

    def logp_of(token: Tensor) -> Tensor:
        return logits.gather(-1, token[:, None])[:, 0] - norm

    logp = logp_of(target)
    is_label = greedy == target
    # The mass outside the greedy token, summed apart: 1 − p would lose it where p is near 1.
    others = weights.scatter(-1, greedy[:, None], 0.0)
    rest = others.sum(-1)
    lost = rest < 1e-30
    log_rest = rest.clamp_min(1e-38).log()
    if lost.any():
        outside = logits[lost].scatter(-1, greedy[lost, None], -torch.inf)
        log_rest[lost] = outside.logsumexp(-1) - highest[lost, 0]
    others_sq = (others * others).sum(-1) / (total * total)
    prob_sq = others_sq + 1 / (total * total)  # the greedy token's weight is 1
    energy = torch.where(is_label, rest / total, -torch.expm1(logp))
    # ‖π − e‖² = (1 − p)² + Σ_{v≠label} π_v², in a form that does not cancel
    without_label = torch.where(is_label, others_sq, prob_sq - (2 * logp).exp())
    residual_sq = energy * energy + without_label.clamp_min(0)
    return {
        "logp": logp,
        "logp_argmax": top_values[:, 0] - norm,
        "logp_greedy0": logp_of(greedy0),
        "logp_top_other": torch.where(is_label, top_values[:, 1], top_values[:, 0]) - norm,
        "greedy_match": is_label.to(logits.dtype),
        # where the greedy token is no more than likely, log(1 − p) itself does not cancel
        "logp_complement": torch.where(rest > 1, (-1 / total).log1p(), log_rest - log_total),
        "logp_vocab_mean": logits.mean(-1) - norm,
        "prob_norm": prob_sq.sqrt(),
        "prob_norm_sq": prob_sq,
        "residual_norm": residual_sq.sqrt(),
        "energy": energy,
        "entropy": log_total - (weights * shifted).sum(-1) / total,
        "greedy": greedy,
    }


def aggregate(
    tokens: dict[str, np.ndarray],
    lengths: list[int],
    closed: np.ndarray | None = None,
    count_end: bool = True,
) -> dict[str, np.ndarray]:
    """Per-token metrics to one value per response: sums, means and the median log-prob.

    ``closed`` says which responses end with an end-of-text token; its log-prob is ``logp_end`` (NaN
    where there is none). With ``count_end`` false that token enters no other value, unless it is
    the whole response.
    """
    size = np.asarray(lengths)
    closed = np.zeros(len(size), dtype=bool) if closed is None else closed
    last = np.cumsum(size) - 1
    out = {
        "logp_first": tokens["logp"][last - size + 1],
        "logp_end": np.where(closed, tokens["logp"][last], np.nan),
    }
    if not count_end:
        left_out = closed & (size > 1)
        tokens = {name: np.delete(values, last[left_out]) for name, values in tokens.items()}
        size = size - left_out
    starts = np.cumsum(size) - size
    for name in METRICS:
        if name == "logp_median":
            pieces = np.split(tokens["logp"], starts[1:])
            out[name] = np.array([np.median(piece) for piece in pieces])
        elif name not in out:
            total = np.add.reduceat(tokens[name], starts)
            out[name] = total if name in SUMS else total / size
    return out
