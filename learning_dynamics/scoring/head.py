"""The output layer in blocks of the vocabulary: no matrix of positions × V is passed over twice.

Every block of logits is used while it is in the cache. Within a block all weights are relative to
the row's largest logit there; :func:`_joined` brings the blocks together (online softmax).
The label's logit is taken out of its block first, so sums run over the *other* tokens: 1 − p(label)
is a sum and never a difference.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from learning_dynamics.scoring.metrics import token_metrics

# Columns and positions of a block: near a core's cache on a CPU, enough work for a GPU.
COLUMNS = {"cpu": 2048, "cuda": 8192}
POSITIONS = {"cpu": 1024, "cuda": 16384}
ABSENT = -1e30  # a logit whose weight is 0, and finite: 0 · ABSENT is 0, where 0 · −inf is not
SEARCH = 64  # columns among which an argmax is looked for; a maximum alone is ten times as fast


@dataclass
class Head:
    """A plain output layer, z = W h + b.

    Attributes:
        weight: (V, hidden).
        bias: (V,), or None.
        reduced: the type that products are multiplied in (autocast), accumulated in fp32; or None.
    """

    weight: Tensor
    bias: Tensor | None
    reduced: torch.dtype | None

    def blocks(self) -> list[slice]:
        """The vocabulary's blocks."""
        size, width = len(self.weight), COLUMNS[self.weight.device.type]
        return [slice(start, min(start + width, size)) for start in range(0, size, width)]

    def logits(self, states: Tensor, block: slice, out: Tensor) -> Tensor:
        """Logits (n, columns) of a block, written to ``out``."""
        product(states, self.weight[block].t(), self.reduced, out)
        return out if self.bias is None else out.add_(self.bias[block])


def product(
    a: Tensor, b: Tensor, reduced: torch.dtype | None, out: Tensor, add: bool = False
) -> None:
    """a @ b into ``out``, or added to it; factors in type ``reduced`` where there is one."""
    if reduced is None or a.device.type == "cpu":
        torch.addmm(out, a, b.to(a.dtype), beta=int(add), out=out)
        return
    value = torch.mm(a.to(reduced), b.to(reduced), out_dtype=torch.float32)
    _ = out.add_(value) if add else out.copy_(value)


@contextmanager
def arithmetic(device: torch.device, reduced: torch.dtype | None) -> Iterator[None]:
    """Autocast off, for what is written here says itself what is rounded. On a CPU with bf16 units
    fp32 products are multiplied in bf16 and accumulated in fp32."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    with torch.autocast(device.type, enabled=False):
        try:
            if device.type == "cpu" and reduced == torch.bfloat16:
                setting.fp32_precision = "bf16"
            yield
        finally:
            setting.fp32_precision = before


class Places:
    """Which rows have their token in which block: rows sorted by token once, then slices."""

    def __init__(self, tokens: Tensor, blocks: list[slice]) -> None:
        values, self._rows = tokens.sort()
        edges = torch.tensor([b.start for b in blocks] + [blocks[-1].stop], device=tokens.device)
        self._edges = torch.searchsorted(values, edges).tolist()
        self._columns = values

    def of(self, number: int, block: slice) -> tuple[Tensor, Tensor]:
        """Rows and their columns within the block."""
        part = slice(self._edges[number], self._edges[number + 1])
        return self._rows[part], self._columns[part] - block.start


@torch.no_grad()
def probe(head: Head, states: Tensor, target: Tensor, greedy0: Tensor | None) -> dict[str, Tensor]:
    """Every quantity of :func:`token_metrics`, each (N,), in one pass over the vocabulary."""
    mean = head.weight.mean(0, dtype=states.dtype)
    offset = 0 if head.bias is None else head.bias.mean(dtype=states.dtype)
    size = POSITIONS[states.device.type]
    parts = []
    with arithmetic(states.device, head.reduced):
        for start in range(0, len(states), size):
            rows = slice(start, start + size)
            known = None if greedy0 is None else greedy0[rows]
            part = _probe(head, states[rows], target[rows], known)
            part["logp_vocab_mean"] += states[rows] @ mean + offset
            parts.append(part)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _probe(head: Head, states: Tensor, target: Tensor, greedy0: Tensor | None) -> dict[str, Tensor]:
    blocks = head.blocks()
    labels = Places(target, blocks)
    followed = None if greedy0 is None else Places(greedy0, blocks)
    size, width = len(states), blocks[0].stop
    buffers = states.new_empty(2, size * width)
    label = states.new_empty(size)  # logits of the label, and of greedy0
    first = states.new_empty(size)
    top = torch.full_like(label, -torch.inf)  # the best token besides the label, and its logit
    best = torch.zeros_like(target)
    winner = torch.zeros_like(target)  # the block of the best token
    # Per block and row, with d relative to the block's maximum: that maximum, Σ e^d, √Σ e^2d,
    # Σ d e^d, without the maximum's own 1 where it was the best so far; and whether it was.
    stats = states.new_empty(5, len(blocks), size)
    for number, block in enumerate(blocks):
        columns = block.stop - block.start
        z, e = (buffer[: size * columns].view(size, columns) for buffer in buffers)
        head.logits(states, block, z)
        if followed is not None:
            row, column = followed.of(number, block)
            first[row] = z[row, column]
        row, column = labels.of(number, block)
        label[row] = z[row, column]
        z[row, column] = ABSENT
        step = SEARCH if columns % SEARCH == 0 else columns
        folded = z.view(size, -1, step)
        coarse = folded.amax(2)
        maximum, total, square, product_, apart = stats[:, number]
        torch.amax(coarse, 1, out=maximum)
        rows = (maximum > top).nonzero()[:, 0]
        fold = coarse[rows].argmax(1)
        column = fold * step + folded[rows, fold].argmax(1)
        top[rows], best[rows], winner[rows] = maximum[rows], column + block.start, number
        torch.exp(z.sub_(maximum[:, None]), out=e)
        e[rows, column] = 0
        apart.zero_()
        apart[rows] = 1
        torch.sum(e, 1, out=total)
        torch.linalg.vector_norm(e, dim=1, out=square)
        torch.sum(z.mul_(e), 1, out=product_)
    maximum, total, square, product_, apart = stats
    apart[winner, torch.arange(size, device=winner.device)] = 0
    total += apart
    gap = maximum - top
    scale = gap.exp()
    rest = (scale * total).sum(0)
    rest_square = (scale * scale * (square * square + apart)).sum(0)
    rest_product = (scale * (product_ + gap.clamp_min(-1e4) * total)).sum(0)
    out = _joined(label, top, rest, rest_square, rest_product)
    out["greedy"] = torch.where(label >= top, target, best)
    out["logp_greedy0"] = out["logp_argmax"] if greedy0 is None else first + out["logp_vocab_mean"]
    lost = (label < top) & ((label - top).exp() + rest < 1e-30)
    if (
        lost.any()
    ):  # the mass outside the greedy token underflows: those rows once more, all at once
        whole = states.new_empty(int(lost.sum()), len(head.weight))
        head.logits(states[lost], slice(0, len(head.weight)), whole)
        out["logp_complement"][lost] = token_metrics(whole, target[lost])["logp_complement"]
    return out


def _joined(
    label: Tensor, top: Tensor, rest: Tensor, rest_square: Tensor, rest_product: Tensor
) -> dict[str, Tensor]:
    """The metrics from three parts of the vocabulary: the label, the best other token (logits), and
    all remaining tokens (Σ e^d, Σ e^2d, Σ d e^d with d relative to the best other token).

    ``logp_vocab_mean`` still lacks the mean logit: it is minus the log-normaliser.
    """
    highest = torch.maximum(label, top)
    is_label = label >= top
    below, above = label - highest, top - highest
    p, q = below.exp(), above.exp()  # unnormalised; the larger is 1
    outside = torch.where(is_label, q * (1 + rest), p + rest)  # all but the greedy token
    log_total = outside.log1p()
    total = 1 + outside
    others_square = q * q * (1 + rest_square) / (total * total)
    prob_square = p * p / (total * total) + others_square
    energy = q * (1 + rest) / total
    log_outside = torch.where(is_label, above + rest.log1p(), (p + rest).clamp_min(1e-38).log())
    weighted = p * below + q * (above.clamp_min(-1e4) * (1 + rest) + rest_product)
    return {
        "logp": below - log_total,
        "logp_argmax": -log_total,
        "logp_greedy0": -log_total,
        "logp_top_other": above - log_total,
        "greedy_match": is_label.to(label.dtype),
        "logp_complement": torch.where(outside > 1, (-1 / total).log1p(), log_outside - log_total),
        "logp_vocab_mean": -highest - log_total,
        "prob_norm": prob_square.sqrt(),
        "prob_norm_sq": prob_square,
        "residual_norm": (energy * energy + others_square).sqrt(),
        "energy": energy,
        "entropy": log_total - weighted / total,
    }


class Workspace:
    """One large buffer that is lent to a forward pass until its backward pass has used it."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def take(self, size: int, like: Tensor) -> Tensor:
        """An uninitialised vector of ``size`` elements."""
        buffer, self._buffer = self._buffer, None
        if buffer is None or len(buffer) < size or buffer.dtype != like.dtype:
            buffer = like.new_empty(size)
        return buffer

    def give(self, buffer: Tensor) -> None:
        """Return what :meth:`take` lent."""
        self._buffer = buffer


class LabelLogp(torch.autograd.Function):
    """log π(label) with gradient and ‖π − e_label‖₂ without, both (N,), from states and weights.

    The forward pass leaves e^d of every logit in the workspace; the backward pass turns it in place
    into the residuals g (e − π) and multiplies twice.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        reduced: torch.dtype | None,
        workspace: Workspace,
    ) -> tuple[Tensor, Tensor]:
        head = Head(weight, bias, reduced)
        keep = any(ctx.needs_input_grad[:3])
        blocks = head.blocks()
        labels = Places(target, blocks)
        size = len(states)
        buffer = workspace.take(size * (len(weight) if keep else blocks[0].stop), states)
        label = states.new_empty(size)
        stats = states.new_empty(3, len(blocks), size)
        with arithmetic(states.device, reduced):
            for number, block in enumerate(blocks):
                z = _view(buffer, block, size, keep)
                head.logits(states, block, z)
                row, column = labels.of(number, block)
                label[row] = z[row, column]
                z[row, column] = ABSENT
                maximum, total, square = stats[:, number]
                torch.amax(z, 1, out=maximum)
                z.sub_(maximum[:, None]).exp_()
                torch.sum(z, 1, out=total)
                torch.linalg.vector_norm(z, dim=1, out=square)
        maximum, total, square = stats
        highest = torch.maximum(label, maximum.amax(0))
        scale = (maximum - highest).exp()
        rest = (scale * total).sum(0)
        own = (label - highest).exp()
        sum_ = own + rest
        energy = rest / sum_
        others = (scale * square).square().sum(0).sqrt() / sum_
        log_sum = torch.where(label == highest, rest.log1p(), sum_.log())
        ctx.mark_non_differentiable(norm := torch.hypot(energy, others))
        if keep:
            ctx.save_for_backward(states, weight, scale / sum_, energy)
            ctx.buffer, ctx.labels, ctx.reduced, ctx.workspace = buffer, labels, reduced, workspace
            ctx.bias = bias is not None
        else:
            workspace.give(buffer)
        return label - highest - log_sum, norm

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor) -> tuple:
        if ctx.buffer is None:
            raise RuntimeError("the backward pass of a score ran twice; score the batch again")
        states, weight, scale, energy = ctx.saved_tensors
        head = Head(weight, None, ctx.reduced)
        want_states, want_weight, want_bias = ctx.needs_input_grad[:3]
        of_states = torch.zeros_like(states) if want_states else None
        of_weight = states.new_empty(weight.shape) if want_weight else None
        of_bias = states.new_empty(len(weight)) if ctx.bias and want_bias else None
        with arithmetic(states.device, ctx.reduced):
            for number, block in enumerate(head.blocks()):
                z = _view(ctx.buffer, block, len(states), True)
                z.mul_((-grad * scale[number])[:, None])
                row, column = ctx.labels.of(number, block)
                z[row, column] = (grad * energy)[row]
                if want_states:
                    product(z, weight[block], ctx.reduced, of_states, add=True)
                if want_weight:
                    product(z.t(), states, ctx.reduced, of_weight[block])
                if of_bias is not None:
                    torch.sum(z, 0, out=of_bias[block])
        ctx.workspace.give(ctx.buffer)
        ctx.buffer = None
        of_weight, of_bias = (x if x is None else x.to(weight.dtype) for x in (of_weight, of_bias))
        return of_states, of_weight, of_bias, None, None, None


def _view(buffer: Tensor, block: slice, size: int, keep: bool) -> Tensor:
    """The block's logits (size, columns): a part of its own where they are kept."""
    columns = block.stop - block.start
    start = size * block.start if keep else 0
    return buffer[start : start + size * columns].view(size, columns)
