"""The model of a run while it is trained, and how it is written: whole, as a plain model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.modeling_layers import GradientCheckpointingLayer

from learning_dynamics import models
from learning_dynamics.errors import InputError
from learning_dynamics.files import atomic
from learning_dynamics.resume import model_state


@dataclass
class Trained:
    """A model in training.

    Attributes:
        model: the causal LM, with adapters in it where the run asks for them.
        tokenizer: its tokenizer.
        source: the folder that it was loaded from.
        lora: the run's adapter settings, or None.
        adapted: the PEFT model around ``model``, or None.
    """

    model: torch.nn.Module
    tokenizer: Any
    source: Path
    lora: dict | None = None
    adapted: Any = None

    def save(self, together: torch.nn.Module, folder: Path, accelerator: Accelerator) -> None:
        """Write model and tokenizer to ``folder``, adapters merged, shards put together. Every
        process calls it; one writes."""
        weights = model_state(together)
        if accelerator.is_main_process:
            model = self.model
            if self.lora or weights is not None:
                fresh = prepared(self.source, self.tokenizer, self.lora, 0)
                fresh.model.load_state_dict(weights or self.model.state_dict(), strict=False)
                model = fresh.adapted.merge_and_unload() if self.lora else fresh.model
            with atomic(folder) as temporary:
                models.save(model, self.tokenizer, temporary)
        accelerator.wait_for_everyone()


def prepared(
    source: Path,
    tokenizer: object,
    lora: dict | None,
    seed: int,
    model: torch.nn.Module | None = None,
    checkpointing: bool = False,
) -> Trained:
    """The model in ``source`` (or ``model``, already loaded from it), ready to be trained.

    Args:
        lora: ``rank, alpha, targets``: train low-rank adapters alone (Hu et al. 2021), through
            ``peft``; None trains every weight.
        seed: of the adapters' first values.
        checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        InputError: when the model has no modules called ``targets``.
    """
    model = models.load(source)[0] if model is None else model
    trained = Trained(model, tokenizer, source, lora)
    if lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"],
            task_type="CAUSAL_LM",
        )  # fmt: skip
        try:
            trained.adapted = get_peft_model(model, config)
        except ValueError as error:
            raise InputError(
                f"runs: lora.targets = {lora['targets']!r}: {str(error).splitlines()[0]}"
            ) from None
        trained.model = trained.adapted.get_base_model().eval()
    if checkpointing:
        trained.model.activation_checkpointing_enable({"use_reentrant": False})
        for module in trained.model.modules():
            # A layer recomputes in training mode alone; its children stay in evaluation mode, so
            # that dropout stays off.
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True
    return trained
