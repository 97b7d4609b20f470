"""The log-prob engine: one module for probing, reference log-probs and training.

Where the model allows it, a prompt is encoded once for all its responses (a packed tree), and the
output layer is applied only where a response token is predicted. Whether it does is found out by
scoring a small tree both ways; if not, every response is a plain sequence of its own, with the
model's own attention and logits.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learning_dynamics.errors import InputError
from learning_dynamics.scoring import attention, head
from learning_dynamics.scoring.metrics import label_logp, residual_norms, token_metrics
from learning_dynamics.scoring.trees import Batch, Tree, pack, pack_plain

LOG = logging.getLogger(__name__)
# Logits that are in memory at once where they cannot be had in blocks of the vocabulary.
LOGITS = {"cpu": 50_000_000, "cuda": 500_000_000}
# What configurations call the number of tokens that a position of some layer can see.
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
CHECKED = 28  # tokens of the longest context of the tree that is scored both ways
BROKEN = (ValueError, TypeError, AttributeError, RuntimeError, KeyError, IndexError)


class Scored(NamedTuple):
    """What a pass over a batch of N response tokens gives; what was not asked for is None.

    Attributes:
        logp: log π(label) in nats, (N,), with gradient where that is enabled.
        residual_norm: ‖π − e_label‖₂, (N,), without gradient.
        logits: (N, V), fp32, with gradient where that is enabled.
        metrics: the quantities of :func:`token_metrics`, each (N,), without gradient.
    """

    logp: Tensor | None = None
    residual_norm: Tensor | None = None
    logits: Tensor | None = None
    metrics: dict[str, Tensor] | None = None


class Engine(nn.Module):
    """Scores trees with a model. Wrap the engine, not the model, in DDP or FSDP.

    A model that can be packed keeps the attention implementation :data:`attention.NAME` from then
    on; outside the engine that is sdpa.

    Attributes:
        model: the model (a PEFT model also); its parameters are the engine's.
        shares_prompts: whether trees are packed.
        reason: why they are not, or None.
        window: batches with a longer context than this many tokens are scored plainly all the
            same, because the attention of some layer is local; or None.
    """

    def __init__(self, model: PreTrainedModel, log: Callable[[str], None] = LOG.warning) -> None:
        """Check once how the model can be scored, and tell ``log`` in one line if not packed.

        Raises:
            InputError: when it cannot be scored even plainly: its forward pass fails, or what it
                says of a token depends on the tokens behind it.
        """
        super().__init__()
        self.model = model
        self._workspace = head.Workspace()
        config = self._causal.config.get_text_config()
        self._vocabulary = config.vocab_size
        windows = [getattr(config, name, None) for name in WINDOWS]
        self.window = min((w for w in windows if isinstance(w, int)), default=None)
        before = self._causal.config._attn_implementation
        self.reason = self._why_not_packed()
        self.shares_prompts = self.reason is None
        if self.reason:
            self._causal.set_attn_implementation(before)
            log(f"{self.name}: {self.reason}; every response is scored with its own prompt")

    @property
    def _causal(self) -> PreTrainedModel:
        """The model without what PEFT puts around it."""
        model = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def name(self) -> str:
        """What messages call the model."""
        return f"model {self._causal.config.name_or_path or type(self._causal).__name__}"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def pack(self, trees: list[Tree]) -> Batch:
        """The trees on the model's device, as :meth:`forward` takes them."""
        near = self.window is None or max(tree.longest for tree in trees) <= self.window
        return (pack if self.shares_prompts and near else pack_plain)(trees, self.device)

    def forward(self, batch: Batch, want: str = "logp", greedy0: Tensor | None = None) -> Scored:
        """Score a batch: ``want`` is ``logp`` (and residual norms), ``logits`` or ``metrics``.

        ``greedy0``, (N,), goes to the metrics: the tokens that were greedy at the run's step 0.
        """
        if want == "metrics":
            with torch.no_grad():
                return self._score(batch, want, greedy0)
        return self._score(batch, want, None)

    def _score(self, batch: Batch, want: str, greedy0: Tensor | None) -> Scored:
        if batch.layout is None:
            return _from_logits(self._plain_logits(batch), batch.target, want, greedy0)
        states = self._causal.base_model(
            input_ids=batch.input_ids,
            attention_mask=attention.mask_of(batch),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state[0, batch.source]
        output = self._causal.get_output_embeddings()
        device = states.device.type
        plain = isinstance(output, nn.Linear) and output.weight.is_floating_point()
        if want == "logits" or not plain:
            return _from_logits(_module_logits(output, states, want), batch.target, want, greedy0)
        reduced = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        if want == "metrics":
            layer = head.Head(output.weight, output.bias, reduced)
            return Scored(metrics=head.probe(layer, states, batch.target, greedy0))
        logp, norms = head.LabelLogp.apply(
            states, output.weight, output.bias, batch.target, reduced, self._workspace
        )
        return Scored(logp=logp, residual_norm=norms)

    def _plain_logits(self, batch: Batch) -> Iterator[Tensor]:
        """The model's own logits at the response tokens, some sequences at a time."""
        count, width = batch.input_ids.shape
        size = max(1, LOGITS[self.device.type] // (width * self._vocabulary))
        of_row = torch.bincount(batch.source // width, minlength=count).tolist()
        done = 0
        for start in range(0, count, size):
            rows = slice(start, start + size)
            tokens = slice(done, done := done + sum(of_row[rows]))
            logits = self.model(
                input_ids=batch.input_ids[rows],
                attention_mask=batch.filled[rows].long(),
                use_cache=False,
            ).logits
            yield _wide(logits.flatten(0, 1)[batch.source[tokens] - start * width])

    @torch.no_grad()
    def _why_not_packed(self) -> str | None:
        """Score one small tree packed and plainly; why that cannot be or differs, or None."""
        size = min(CHECKED, self.window or CHECKED)
        ids = (np.arange(2 * size) * 7919 % self._vocabulary).tolist()
        half, more = size // 2, size // 2 + size % 2
        weight = next(p for p in self.model.parameters() if p.is_floating_point())
        tree = Tree(ids[:more], [ids[more : size + 1], ids[size : size + half], ids[:1]])
        alone = [pack_plain([Tree(tree.prompt, [r])], self.device) for r in tree.responses]
        try:
            truth = torch.cat([self._logp(batch) for batch in alone])
            together = pack_plain([tree], self.device)
            # Padding that may be seen: nothing that stands behind a token changes its log-prob.
            padded = self._logp(replace(together, filled=torch.ones_like(together.filled)))
        except BROKEN as error:
            raise InputError(f"{self.name}: cannot be scored ({_line(error)})") from None
        noise = float((padded - truth).abs().max())
        # What rounding does to log-probs, by the weights' type; a wrong "no" costs time only.
        rounding = min(100 * torch.finfo(weight.dtype).eps, 0.01) * float(truth.abs().max())
        if not noise < 1e-2 + rounding:
            raise InputError(
                f"{self.name}: log-probs change by {noise:.2g} nats with what stands behind the "
                "text; expected a causal model"
            )
        try:
            self._causal.set_attn_implementation(attention.NAME)
            packed = self._logp(pack([tree], self.device))
        except BROKEN as error:
            return f"cannot be packed ({_line(error)})"
        error = float((packed - truth).abs().max())
        exact = error <= 10 * noise + rounding
        return None if exact else f"packed log-probs are off by {error:.2g} nats"

    def _logp(self, batch: Batch) -> Tensor:
        return label_logp(self._score(batch, "logits", None).logits, batch.target)


def _from_logits(
    blocks: Iterator[Tensor], target: Tensor, want: str, greedy0: Tensor | None
) -> Scored:
    """What is wanted, from blocks of rows of the logits; one block's logits at a time."""
    parts, done = [], 0
    for logits in blocks:
        rows = slice(done, done := done + len(logits))
        if want == "logits":
            parts.append(Scored(logits=logits))
        elif want == "metrics":
            known = None if greedy0 is None else greedy0[rows]
            parts.append(Scored(metrics=token_metrics(logits, target[rows], known)))
        else:
            norms = residual_norms(logits.detach(), target[rows])
            parts.append(Scored(label_logp(logits, target[rows]), norms))
    if want == "metrics":
        names = parts[0].metrics
        return Scored(metrics={n: torch.cat([part.metrics[n] for part in parts]) for n in names})
    columns = zip(*(part[:3] for part in parts), strict=True)
    return Scored(*(None if column[0] is None else torch.cat(column) for column in columns))


def _module_logits(output: nn.Module, states: Tensor, want: str) -> Iterator[Tensor]:
    """Logits of an output layer that is no plain matrix (LoRA, say), or wanted as a whole."""
    weight = next(output.parameters())
    size = len(states)
    if want == "metrics":
        size = max(1, LOGITS[states.device.type] // output.out_features)
    with torch.autocast(states.device.type, enabled=False):  # it would round the logits
        for start in range(0, len(states), size):
            yield _wide(output(states[start : start + size].to(weight.dtype)))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
