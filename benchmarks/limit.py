"""The limit: the matrix products alone that a computation cannot do without.

Per token every linear layer of the backbone, per response position the output layer; nothing of
attention, norms, softmax, metrics, optimiser. Inputs, weights and outputs lie ready in the right
type. No contestant that computes the same quantities can take less, unless its products are faster
than torch's.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Products:
    """Runs the products of one pass for given numbers of tokens and response positions."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        layers = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
        self._layers = [layer.weight.detach().to(dtype) for layer in layers]
        self._head = model.get_output_embeddings().weight.detach().to(dtype)
        self._room: dict[tuple[str, int], Tensor] = {}

    @property
    def layer_weights(self) -> int:
        """Weights that meet every token."""
        return sum(weight.numel() for weight in self._layers)

    @property
    def head_weights(self) -> int:
        """Weights that meet every response position."""
        return self._head.numel()

    def _buffer(self, use: str, rows: int, width: int) -> Tensor:
        """The first ``rows`` of a buffer kept between calls: no allocation is timed after the
        first."""
        known = self._room.get((use, width))
        if known is None or len(known) < rows:
            like = self._head
            known = torch.randn(rows, width, dtype=torch.float32).to(like) * 0.02
            self._room[use, width] = known
        return known[:rows]

    def forward(self, tokens: int, positions: int, columns: int) -> None:
        """Products of a forward pass; the output layer in blocks of ``columns`` (as the engine's),
        over all positions at once."""
        for weight in self._layers:
            wide, narrow = weight.shape
            out = self._buffer("out", tokens, wide)
            torch.mm(self._buffer("in", tokens, narrow), weight.T, out=out)
        states = self._buffer("in", positions, self._head.shape[1])
        for block in self._head.split(columns):
            torch.mm(states, block.T, out=self._buffer("out", positions, len(block)))

    def train(self, tokens: int, positions: int) -> None:
        """Products of a forward and a backward pass: output, gradient of input and of weight."""
        work = [(weight, tokens) for weight in self._layers] + [(self._head, positions)]
        for weight, rows in work:
            wide, narrow = weight.shape
            inputs, out = self._buffer("in", rows, narrow), self._buffer("out", rows, wide)
            torch.mm(inputs, weight.T, out=out)
            torch.mm(out, weight, out=self._buffer("gradient", rows, narrow))
            torch.mm(out.T, inputs, out=self._buffer("weight", wide, narrow))
            out.zero_()  # or values would grow from call to call
