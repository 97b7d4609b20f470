"""Trees of tokens, and how they are packed: a prompt once, its responses behind it, no padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# Tokens of a tree, and on average of its prompt and responses, up to which it is attended whole.
SHORT_TREE, SHORT_SEGMENT = 512, 32


@dataclass(frozen=True)
class Tree:
    """A tokenised prompt and its tokenised responses."""

    prompt: list[int]
    responses: list[list[int]]

    def __len__(self) -> int:
        """Tokens that a model reads: the last token of a response predicts nothing."""
        return len(self.prompt) + sum(len(r) - 1 for r in self.responses)

    @property
    def longest(self) -> int:
        """Tokens of the longest context: the prompt and all but the last token of a response."""
        return len(self.prompt) + max((len(r) for r in self.responses), default=1) - 1


@dataclass(frozen=True)
class Span:
    """Where one tree lies in the packed sequence.

    Attributes:
        prompt: the prompt's positions; the responses stand behind it, one after the other.
        sizes: how many tokens of each response are read; those of which none is are left out.
        device: where the model is.
    """

    prompt: slice
    sizes: list[int]
    device: str | torch.device

    @property
    def inner(self) -> int:
        """Tokens behind the prompt."""
        return sum(self.sizes)

    @property
    def short(self) -> bool:
        """Whether one kernel call with a mask beats a call per prompt and response."""
        size = self.prompt.stop - self.prompt.start + self.inner
        return size <= SHORT_TREE and size <= SHORT_SEGMENT * (1 + len(self.sizes))

    @cached_property
    def mask(self) -> Tensor:
        """What is added to the scores of the whole tree: 0 where a token may look, else −inf."""
        lengths = [self.prompt.stop - self.prompt.start, *self.sizes]
        segment = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(segment))
        mine = (segment[:, None] == segment) | (segment == 0)
        sees = mine & (place <= place[:, None])
        return torch.from_numpy(np.where(sees, 0.0, -np.inf)).to(self.device, torch.float32)

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """The responses as padded rows: their tokens' places behind the prompt (responses, L), the
        flat index of the entries that are no padding (inner,), and what each position may see of
        [prompt; own response], bool (L, prompt + L)."""
        sizes = np.array(self.sizes)
        column = np.arange(sizes.max())
        filled = column < sizes[:, None]
        rows = np.where(filled, (np.cumsum(sizes) - sizes)[:, None] + column, 0)
        prompt = np.ones((len(column), self.prompt.stop - self.prompt.start), dtype=bool)
        sees = np.concatenate([prompt, column <= column[:, None]], 1)
        return tuple(
            torch.from_numpy(x).to(self.device) for x in (rows, np.flatnonzero(filled), sees)
        )


@dataclass(frozen=True)
class Layout:
    """Where all trees of a batch lie, and the tokens of the longest context."""

    spans: list[Span]
    longest: int

    @cached_property
    def segments(self) -> list[slice]:
        """The positions of every prompt and of every response, short trees apart."""
        out = []
        for span in self.spans:
            if span.short:
                continue
            out.append(span.prompt)
            at = span.prompt.stop
            for size in span.sizes:
                out.append(slice(at, at + size))
                at += size
        return out

    @cached_property
    def behind(self) -> list[tuple[slice, slice]]:
        """The positions of each tree's responses together, and of their prompt."""
        return [(slice(s.prompt.stop, s.prompt.stop + s.inner), s.prompt)
                for s in self.spans if s.inner and not s.short]  # fmt: skip

    @cached_property
    def whole(self) -> list[tuple[slice, Tensor]]:
        """The positions of each short tree, and its mask."""
        return [(slice(s.prompt.start, s.prompt.stop + s.inner), s.mask)
                for s in self.spans if s.short]  # fmt: skip


@dataclass
class Batch:
    """Trees, ready for a model.

    Packed, the trees stand one behind the other in one sequence of S tokens, without padding;
    position ids restart after each prompt. Plain, every response is a right-padded row of its own
    with its prompt.

    Attributes:
        input_ids, position_ids: shape (1, S), or (responses, L) where plain.
        source: flat index into them of the state that predicts each response token, (N,).
        target: the response tokens, (N,), in the order trees → responses → tokens.
        owner: number of the response that each token belongs to, (N,), counted over the batch.
        responses: how many responses the batch holds.
        layout: where the trees lie; None where plain.
        filled: bool (responses, L), True where a plain row holds a token; None where packed.
    """

    input_ids: Tensor
    position_ids: Tensor
    source: Tensor
    target: Tensor
    owner: Tensor
    responses: int
    layout: Layout | None = None
    filled: Tensor | None = None


def pack(trees: list[Tree], device: str | torch.device = "cpu") -> Batch:
    """Trees as one sequence. The last token of a response is left out of the input."""
    ids, positions, source, spans = [], [], [], []
    for tree in trees:
        start, n = len(ids), len(tree.prompt)
        ids += tree.prompt
        positions += range(n)
        for response in tree.responses:
            at, inner = len(ids), len(response) - 1
            ids += response[:-1]
            positions += range(n, n + inner)
            source += [start + n - 1, *range(at, at + inner)]
        sizes = [len(r) - 1 for r in tree.responses if len(r) > 1]
        spans.append(Span(slice(start, start + n), sizes, device))
    return Batch(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        source=torch.tensor(source, device=device),
        layout=Layout(spans, max(tree.longest for tree in trees)),
        **_labels(trees, device),
    )


def pack_plain(trees: list[Tree], device: str | torch.device = "cpu") -> Batch:
    """Every response as a right-padded sequence with its own prompt."""
    rows = [(tree.prompt, response) for tree in trees for response in tree.responses]
    width = max(len(prompt) + len(response) for prompt, response in rows) - 1
    ids = np.zeros((len(rows), width), dtype=np.int64)
    filled = np.zeros((len(rows), width), dtype=bool)
    source = []
    for row, (prompt, response) in enumerate(rows):
        size = len(prompt) + len(response) - 1
        ids[row, :size], filled[row, :size] = prompt + response[:-1], True
        source += range(row * width + len(prompt) - 1, row * width + size)
    return Batch(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.arange(width, device=device).expand(len(rows), width),
        source=torch.tensor(source, device=device),
        filled=torch.from_numpy(filled).to(device),
        **_labels(trees, device),
    )


def _labels(trees: list[Tree], device: str | torch.device) -> dict:
    responses = [response for tree in trees for response in tree.responses]
    sizes = [len(response) for response in responses]
    return {
        "target": torch.tensor([token for r in responses for token in r], device=device),
        "owner": torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device),
        "responses": len(sizes),
    }


def split(tree: Tree, budget: int) -> list[Tree]:
    """The tree, or where it has more than ``budget`` tokens several with the same prompt, which
    hold its responses in order, so that memory does not grow with the number of responses."""
    parts, size = [Tree(tree.prompt, [])], len(tree.prompt)
    for response in tree.responses:
        if parts[-1].responses and size + len(response) - 1 > budget:
            parts.append(Tree(tree.prompt, []))
            size = len(tree.prompt)
        parts[-1].responses.append(response)
        size += len(response) - 1
    return parts


def sum_by_response(values: Tensor, batch: Batch) -> Tensor:
    """Sums of per-token values over each response, shape (responses,)."""
    return values.new_zeros(batch.responses).index_add(0, batch.owner, values)


def batches_by_budget(trees: list[Tree], budget: int) -> Iterator[list[int]]:
    """Indices of trees in batches of at most ``budget`` tokens, similar lengths together; a
    tree that is larger alone is a batch of its own (:func:`split`)."""
    order = sorted(range(len(trees)), key=lambda i: len(trees[i]))
    batch: list[int] = []
    size = 0
    for index in order:
        if batch and size + len(trees[index]) > budget:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += len(trees[index])
    if batch:
        yield batch
