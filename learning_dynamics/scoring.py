"""The log-prob engine: one function for probing, reference log-probs and training.

A prompt and all its responses are packed into one sequence as a tree: each response sees the prompt
and itself, and its position ids restart after the prompt. So the prompt is encoded once, and the
output layer is applied only where a response token is predicted. Exact for causal models whose
positions enter through ``position_ids`` and whose attention is global.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learning_dynamics.errors import InputError

METRICS = [
    "logp", "logp_argmax", "logp_greedy0", "logp_top_other", "greedy_match", "logp_complement",
    "logp_vocab_mean", "prob_norm", "prob_norm_sq", "logp_median", "residual_norm", "energy",
    "entropy", "logp_first", "logp_end",
]  # fmt: skip
SUMS = ["logp", "logp_argmax", "logp_greedy0", "logp_top_other", "logp_complement"]
# Logits per metrics block: near a cache on a CPU, a gigabyte of fp32 on a GPU.
BLOCK_ELEMENTS = {"cpu": 4_000_000, "cuda": 250_000_000}


@dataclass(frozen=True)
class Tree:
    """A tokenised prompt and its tokenised responses."""

    prompt: list[int]
    responses: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(r) - 1 for r in self.responses)


@dataclass
class Batch:
    """Packed trees, ready for a model.

    Attributes:
        input_ids, position_ids: shape (trees, S).
        mask: boolean (trees, 1, S, S), True where attention is allowed.
        source: flat index into (trees · S) of the state that predicts each response token, (N,).
        target: the response tokens, (N,).
        owner: number of the response that each token belongs to, (N,), counted over the batch.
        responses: how many responses the batch holds.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    source: Tensor
    target: Tensor
    owner: Tensor
    responses: int


def pack(trees: list[Tree], device: str | torch.device = "cpu") -> Batch:
    """Pack trees into one padded batch. The last token of a response predicts nothing and is left
    out of the input."""
    width = max(len(tree) for tree in trees)
    ids = np.zeros((len(trees), width), dtype=np.int64)
    positions = np.zeros((len(trees), width), dtype=np.int64)
    # Segment 0 is the prompt; padding gets segments of its own, so that it attends to itself alone
    # and no row of the mask is empty (an empty row would turn into NaN).
    segments = np.tile(np.arange(width) + 10_000_000, (len(trees), 1))
    source, target, owner = [], [], []
    count = 0
    for row, tree in enumerate(trees):
        n = len(tree.prompt)
        ids[row, :n], positions[row, :n], segments[row, :n] = tree.prompt, np.arange(n), 0
        at = n
        for number, response in enumerate(tree.responses, 1):
            inner = len(response) - 1
            ids[row, at : at + inner] = response[:-1]
            positions[row, at : at + inner] = np.arange(n, n + inner)
            segments[row, at : at + inner] = number
            source += [row * width + n - 1, *range(row * width + at, row * width + at + inner)]
            target += response
            owner += [count] * len(response)
            count += 1
            at += inner
    segment = torch.from_numpy(segments).to(device)
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    same = segment[:, :, None] == segment[:, None, :]
    return Batch(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        mask=(causal & (same | (segment[:, None, :] == 0)))[:, None],
        source=torch.tensor(source, device=device),
        target=torch.tensor(target, device=device),
        owner=torch.tensor(owner, device=device),
        responses=count,
    )


def response_states(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Hidden states that predict the response tokens, shape (N, hidden)."""
    states = model.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return states.flatten(0, 1)[batch.source]


def response_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Logits at every response position, shape (N, V), fp32, with gradient where enabled."""
    return model.get_output_embeddings()(response_states(model, batch)).float()


def sum_by_response(values: Tensor, batch: Batch) -> Tensor:
    """Sums of per-token values over each response, shape (responses,)."""
    return values.new_zeros(batch.responses).index_add(0, batch.owner, values)


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
        others = logits[lost].scatter(-1, greedy[lost, None], -torch.inf)
        log_rest[lost] = others.logsumexp(-1) - highest[lost, 0]
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
        "greedy_match": is_label.float(),
        "logp_complement": log_rest - log_total,
        "logp_vocab_mean": logits.mean(-1) - norm,
        "prob_norm": prob_sq.sqrt(),
        "prob_norm_sq": prob_sq,
        "residual_norm": residual_sq.sqrt(),
        "energy": energy,
        "entropy": log_total - (weights * shifted).sum(-1) / total,
        "greedy": greedy,
    }


@torch.no_grad()
def check_exact(model: torch.nn.Module) -> None:
    """Score one small tree packed and as plain sequences.

    Raises:
        InputError: when they differ: the model's attention is local or ignores the mask, or its
            output is more than its output layer; packed scores of it would be wrong.
    """
    ids = (np.arange(20) * 7919 % model.config.vocab_size).tolist()
    tree = Tree(ids[:8], [ids[8:14], ids[14:]])
    batch = pack([tree], model.device)
    try:
        packed = label_logp(response_logits(model, batch), batch.target)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{_name(model)}: cannot be scored packed ({reason})") from None
    plain = []
    for response in tree.responses:
        row = torch.tensor([tree.prompt + response], device=model.device)
        logits = model(input_ids=row, use_cache=False).logits[0, len(tree.prompt) - 1 : -1].float()
        plain.append(label_logp(logits, row[0, len(tree.prompt) :]))
    error = float((packed - torch.cat(plain)).abs().max())
    if not error < 1e-3:
        raise InputError(
            f"{_name(model)}: packed and plain log-probs differ by {error:.2g} nats; expected a "
            "model with global sdpa attention and a plain output layer"
        )


def _name(model: torch.nn.Module) -> str:
    return f"model {model.config.name_or_path or type(model).__name__}"


@torch.no_grad()
def score_batch(
    model: torch.nn.Module, batch: Batch, greedy0: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Per-token metrics of one batch, float64 arrays of shape (N,), in blocks over positions."""
    states = response_states(model, batch)
    head = model.get_output_embeddings()
    size = max(1, BLOCK_ELEMENTS[states.device.type] // head.weight.shape[0])
    parts = []
    for start in range(0, len(states), size):
        stop = start + size
        known = None
        if greedy0 is not None:
            known = torch.as_tensor(greedy0[start:stop], device=states.device)
        logits = head(states[start:stop]).float()
        parts.append(token_metrics(logits, batch.target[start:stop], known))
    return {
        name: torch.cat([part[name] for part in parts]).cpu().numpy().astype(
            np.int64 if name == "greedy" else np.float64
        )
        for name in parts[0]
    }  # fmt: skip


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


def batches_by_budget(trees: list[Tree], budget: int) -> Iterator[list[int]]:
    """Indices of trees in batches of at most ``budget`` padded tokens, similar lengths together."""
    order = sorted(range(len(trees)), key=lambda i: len(trees[i]))
    batch: list[int] = []
    for index in order:
        if batch and len(trees[index]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class Scorer:
    """Scores a fixed set of trees again and again along a run.

    ``end_of_text`` is the token that closes a response; with ``count_end`` false its log-prob is
    reported apart (:func:`aggregate`). The greedy tokens of the first call are remembered: they are
    what ``logp_greedy0`` follows.
    """

    def __init__(
        self,
        trees: list[Tree],
        batch_tokens: int,
        device: str = "cpu",
        end_of_text: int | None = None,
        count_end: bool = True,
    ) -> None:
        self._groups = list(batches_by_budget(trees, batch_tokens))
        self._trees, self._device = trees, device
        self._end_of_text, self._count_end = end_of_text, count_end
        self.greedy0: np.ndarray | None = None

    def _in_order(self) -> Iterable[tuple[list[Tree], slice]]:
        at = 0
        for group in self._groups:
            trees = [self._trees[i] for i in group]
            size = sum(len(r) for tree in trees for r in tree.responses)
            yield trees, slice(at, at + size)
            at += size

    def __call__(self, model: torch.nn.Module) -> dict[str, np.ndarray]:
        """Metrics per response, in the order of the trees and their responses."""
        parts, greedy = [], []
        for trees, tokens in self._in_order():
            known = None if self.greedy0 is None else self.greedy0[tokens]
            scored = score_batch(model, pack(trees, self._device), known)
            greedy.append(scored["greedy"])
            responses = [r for tree in trees for r in tree.responses]
            closed = np.array([r[-1] == self._end_of_text for r in responses])
            parts.append(aggregate(scored, [len(r) for r in responses], closed, self._count_end))
        if self.greedy0 is None:
            self.greedy0 = np.concatenate(greedy)
        place, count = {}, 0
        for group in self._groups:
            for index in group:
                place[index] = range(count, count + len(self._trees[index].responses))
                count += len(self._trees[index].responses)
        order = [i for index in range(len(self._trees)) for i in place[index]]
        return {name: np.concatenate([p[name] for p in parts])[order] for name in METRICS}
