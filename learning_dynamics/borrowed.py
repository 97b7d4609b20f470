"""A model that someone else trains, scored without a trace."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from learning_dynamics.errors import InputError


def whole(model: nn.Module) -> nn.Module:
    """The model without what distributes or compiles it.

    Raises:
        InputError: when this process does not hold its weights, or when scoring would not see all
            that is trained (learnt prompts).
    """
    divided = any(isinstance(m, FullyShardedDataParallel) for m in model.modules()) or any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters()
    )
    if divided:
        raise InputError(
            "probing: the weights are divided among processes (FSDP, ZeRO-3, tensor parallelism); "
            "expected whole ones, or saved checkpoints and python -m learning_dynamics score"
        )
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise InputError(
            f"probing: {adapter.peft_type}: learnt prompts are not seen by the scoring; expected "
            "adapters inside the model, such as LoRA"
        )
    return extract_model_from_parallel(model, keep_torch_compile=False)


def causal_of(model: nn.Module) -> nn.Module:
    """The causal model itself, without what PEFT puts around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode within, and the model's own forward pass without the autocast that accelerate
    puts around it; afterwards everything as it was: every module's mode, forward, the attention's
    implementation and all generators of random numbers. Yields the causal model itself, without
    what PEFT puts around it. Gradients are not touched: scoring computes none."""
    causal = causal_of(model)
    own, forward = (vars(model).get(name) for name in ("_original_forward", "forward"))
    before = causal.config._attn_implementation
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    forked = {"devices": [device], "device_type": device.type}
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(**(forked if device.type != "cpu" else {"devices": []})):
        model.eval()
        if own is not None:
            model.forward = own
        try:
            yield causal
        finally:
            if own is not None:
                model.forward = forward
            for module, mode in modes:
                module.training = mode
            if causal.config._attn_implementation != before:
                causal.set_attn_implementation(before)
            random.setstate(python)
            np.random.set_state(numpy)
