"""Attention over packed trees, as an attention implementation of transformers.

Every *segment* (a prompt, a response) attends causally to itself; a response attends to the whole
of its prompt besides. Neither part needs a mask, so the fused kernel is called on both, and their
results are joined by their log-normalisers. Short trees, where calls cost more than products, are
attended whole, with a mask.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from learning_dynamics.scoring.trees import Batch, Layout, Span

NAME = "packed_trees"
# Arguments of attention that do not change its result here.
HARMLESS = {"position_ids", "use_cache", "is_causal", "cache_position", "output_attentions"}
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Unpackable(ValueError):
    """The model wants of attention what packed trees do not offer."""


def mask_of(batch: Batch) -> Tensor:
    """What a packed batch gives the model as its attention mask: a token that carries the layout.

    It has four dimensions, so transformers hands it to every layer as it is; and it travels with a
    layer's arguments, so it is there again when gradient checkpointing recomputes the layer.
    """
    mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=batch.input_ids.device)
    mask.trees = batch.layout
    return mask


def forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of packed trees where the mask says so (:func:`mask_of`), else sdpa.

    Shapes: query (1, heads, S, d), key and value (1, key-value heads, S, d); returns (1, S, heads,
    d).

    Raises:
        Unpackable: on arguments that mean more than causal softmax attention.
    """
    layout = getattr(attention_mask, "trees", None)
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask,
                                      scaling=scaling, dropout=dropout, **kwargs)  # fmt: skip
    window = kwargs.pop("sliding_window", None)
    unknown = [
        k for k, v in kwargs.items() if k not in HARMLESS and v is not None and v is not False
    ]
    if dropout or unknown:
        raise Unpackable(f"attention with {', '.join(unknown) or 'dropout'}")
    if window is not None and layout.longest > window:
        raise Unpackable(f"a sliding window of {window} tokens")
    # Rotary embeddings may have widened them; sdpa's autocast would narrow them again.
    query, key = query.to(value.dtype), key.to(value.dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The mathematical kernel is chosen where second or forward-mode derivatives are wanted.
    fused = query.device.type == "cpu" and torch.backends.cuda.flash_sdp_enabled()
    if fused and query.shape[-1] == value.shape[-1]:
        return FusedTrees.apply(query, key, value, layout, scale).transpose(1, 2), None
    parts = [_tree(query[0], key[0], value[0], span, scale) for span in layout.spans]
    return torch.cat(parts, 1).transpose(0, 1)[None], None


class FusedTrees(torch.autograd.Function):
    """Attention of packed trees, (1, heads, S, d) each, through the CPU's fused kernel."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        scale: float,
    ) -> Tensor:
        _, heads, size, width = query.shape
        out = query.new_empty(1, size, heads, width).transpose(1, 2)
        wide = torch.promote_types(query.dtype, torch.float32)
        lse = query.new_empty(1, heads, size, dtype=wide)
        for part in layout.segments:
            q, k, v = (x[:, :, part] for x in (query, key, value))
            out[:, :, part], lse[:, :, part] = FUSED(q, k, v, 0.0, True, scale=scale)
        for part, mask in layout.whole:
            q, k, v = (x[:, :, part] for x in (query, key, value))
            out[:, :, part], lse[:, :, part] = FUSED(
                q, k, v, 0.0, False, attn_mask=mask.to(q.dtype), scale=scale
            )
        for own, prompt in layout.behind:
            q, k, v = query[:, :, own], key[:, :, prompt], value[:, :, prompt]
            some, prompt_lse = FUSED(q, k, v, 0.0, False, scale=scale)
            both = torch.logaddexp(lse[:, :, own], prompt_lse)
            part = out[:, :, own]
            share = (prompt_lse - both).exp_()[..., None]
            part.lerp_(some, share.to(part.dtype))
            lse[:, :, own] = both
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple:
        # The kernel computes softmax weights from the log-normaliser that it is given: with the
        # joined one each part's gradient is its share of the whole.
        *tensors, lse = ctx.saved_tensors
        kind, layout, scale = grad.dtype, ctx.layout, ctx.scale
        # On CPUs the kernel's backward pass is several times slower in 16 bits than in 32.
        query, key, value, out, grad = (x.to(lse.dtype) for x in (*tensors, grad))
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))

        def part_of(own: slice, seen: slice, causal: bool, mask: Tensor | None = None) -> tuple:
            return FUSED_BACKWARD(
                grad[:, :, own], query[:, :, own], key[:, :, seen], value[:, :, seen],
                out[:, :, own], lse[:, :, own], 0.0, causal, attn_mask=mask, scale=scale,
            )  # fmt: skip

        apart = [(part, True, None) for part in layout.segments]
        whole = [(part, False, mask.to(lse.dtype)) for part, mask in layout.whole]
        for part, causal, mask in apart + whole:
            some = part_of(part, part, causal, mask)
            for total, value_ in zip((of_query, of_key, of_value), some, strict=True):
                total[:, :, part] = value_
        for own, prompt in layout.behind:
            q, k, v = part_of(own, prompt, False)
            of_query[:, :, own] += q
            of_key[:, :, prompt] += k
            of_value[:, :, prompt] += v
        return of_query.to(kind), of_key.to(kind), of_value.to(kind), None, None


def _tree(query: Tensor, key: Tensor, value: Tensor, span: Span, scale: float) -> Tensor:
    """Attention of one tree, shape (heads, tokens of the tree, d), through sdpa and a mask."""
    first, last = span.prompt.stop, span.prompt.stop + span.inner
    q, k, v = (x[None, :, span.prompt] for x in (query, key, value))
    prompt = sdpa(q, k, v, is_causal=True, scale=scale)
    if not span.inner:
        return prompt[0]
    rows, keep, mask = span.padded
    count, width = rows.shape

    def own(x: Tensor) -> Tensor:
        picked = x[:, first:last].index_select(1, rows.flatten())
        return picked.view(x.shape[0], count, width, -1).transpose(0, 1)

    keys = torch.cat([k.expand(count, -1, -1, -1), own(key)], 2)
    values = torch.cat([v.expand(count, -1, -1, -1), own(value)], 2)
    out = sdpa(own(query), keys, values, attn_mask=mask, scale=scale)
    out = out.transpose(0, 1).reshape(query.shape[0], count * width, -1)
    return torch.cat([prompt[0], out.index_select(1, keep)], 1)


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
