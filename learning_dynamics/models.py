"""Models: load one from a folder, fetch one from the hub, or train a small one from scratch."""

import json
import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from learning_dynamics.architecture import MLP_WIDTH
from learning_dynamics.errors import InputError

END_OF_TEXT = "<|endoftext|>"
MOST_LAYERS = 1000
# Keys of config.json that name code to run the model with.
SPECIAL = {"attn_implementation", "_attn_implementation", "experts_implementation",
           "_experts_implementation", "quantization_config"}  # fmt: skip
LOG = logging.getLogger(__name__)
disable_progress_bar()


def device_of(compute: dict) -> torch.device:
    """The configured device, with the configured number of threads set.

    Raises:
        InputError: when CUDA is asked for and absent. Nothing falls back to the CPU in silence.
    """
    torch.set_num_threads(compute["threads"])
    if compute["device"] == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "compute.device = 'cuda': no CUDA device is visible to torch "
            f"{torch.__version__}; expected a GPU job and a CUDA build of torch"
        )
    return torch.device(compute["device"])


def autocast(compute: dict) -> AbstractContextManager:
    """The mixed-precision context of a study: bf16 or fp16 activations over fp32 weights, or
    nothing."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(compute["precision"])
    return torch.autocast(compute["device"], kind) if kind else nullcontext()


def load(folder: str | Path, device: str | torch.device = "cpu") -> tuple:
    """``(model, tokenizer)`` from a local folder: safetensors, fp32 weights, evaluation mode
    (dropout off, as in the paper), no remote code.

    Raises:
        InputError: when the folder is not a whole model.
    """
    folder = Path(folder)
    _check_config(folder)
    local = {"local_files_only": True, "trust_remote_code": False}  # unset, it asks on the console
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        ids = max(tokenizer.get_vocab().values(), default=-1)
        rows = len(model.get_input_embeddings().weight)
    except Exception as error:  # whatever the libraries meet in a broken folder
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"{folder}: not a loadable model ({type(error).__name__}: {reason}); expected "
            "safetensors, config.json and a tokenizer"
        ) from None
    if ids >= rows:
        raise InputError(
            f"{folder}: the tokenizer has token {ids}, the model {rows} embeddings; expected one "
            "for every token"
        )
    if report["missing_keys"]:
        raise InputError(
            f"{folder}: the weights {min(report['missing_keys'])!r} and perhaps others are missing;"
            " expected every weight of the model (transformers would invent them)"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-text token; expected one")
    return model.to(device).eval(), tokenizer


def _check_config(folder: Path) -> None:
    """Fail where the folder asks for more than a plain model: transformers would follow an adapter
    to another folder, or fetch and run a kernel; or where it stands for more layers than there are
    weights, which takes for ever to find out."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json; expected a model folder (from_pretrained)")
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{folder}: adapter_config.json; expected a whole model, adapters merged")
    try:
        facts = json.loads(path.read_bytes())
        layers = facts.get("num_hidden_layers", 0)
        too_deep = isinstance(layers, int) and layers > MOST_LAYERS
    except (ValueError, AttributeError, RecursionError):
        raise InputError(f"{path}: not a JSON object; expected a model's configuration") from None
    for key in SPECIAL & set(facts):
        raise InputError(f"{path}: {key}; expected a model without")
    if too_deep:
        raise InputError(f"{path}: num_hidden_layers = {layers}; expected at most {MOST_LAYERS}")


def save(model: torch.nn.Module, tokenizer: object, folder: Path) -> None:
    """Write model and tokenizer to ``folder``, loadable by ``from_pretrained``."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def fetch(hub: str, revision: str, folder: Path) -> None:
    """Download one pinned revision of a hub model: weights as safetensors, no pickles, no code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(
            hub,
            revision=revision,
            local_dir=folder,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"model {hub} at revision {revision}: cannot be downloaded "
            f"({type(error).__name__}); expected a reachable hub, or a filled local cache"
        ) from None
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"model {hub} at revision {revision}: holds no safetensors file")


def train_tokenizer(corpus: list[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``corpus``; its one special token closes a text and pads."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
    )


def build(spec: dict, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained model of ``spec["architecture"]`` in the sizes of a pretraining entry."""
    kind = spec["architecture"]
    # GPT-NeoX has no grouped heads; Qwen2 would take 32 of them unasked.
    grouped = {} if kind == "gpt_neox" else {"num_key_value_heads": spec["heads"]}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=spec["hidden_size"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        intermediate_size=round(MLP_WIDTH[kind] * spec["hidden_size"]),
        max_position_embeddings=spec["max_length"],
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
        **grouped,
    )
    return AutoModelForCausalLM.from_config(config)


def pretrain(corpus: list[str], spec: dict, seed: int) -> tuple:
    """Train a small model and its tokenizer from scratch; ``(model, tokenizer, report)``.

    AdamW with a one-cycle schedule on sequences of ``spec["sequence_length"]`` tokens cut from the
    shuffled corpus, each text closed by end-of-text. The report holds the loss in nats per token
    of the first and the last 20 updates.

    Raises:
        InputError: when the corpus is too small for one batch, or hidden size and heads disagree.
    """
    if spec["hidden_size"] % spec["heads"]:
        raise InputError(
            f"models: hidden_size = {spec['hidden_size']} with heads = {spec['heads']}: expected a "
            "multiple of heads"
        )
    tokenizer = train_tokenizer(corpus, spec["vocab_size"], spec["max_length"])
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoded = tokenizer(corpus, add_special_tokens=False, verbose=False)["input_ids"]
    stream = np.concatenate(
        [[*encoded[i], tokenizer.eos_token_id] for i in rng.permutation(len(encoded))]
    )
    length, size = spec["sequence_length"], spec["batch_size"]
    sequences = stream[: len(stream) // length * length].reshape(-1, length)
    if len(sequences) < size:
        raise InputError(
            f"corpus: {len(stream)} tokens; expected at least batch_size × sequence_length = "
            f"{size * length}"
        )
    model = build(spec, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["lr"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=spec["lr"], total_steps=spec["updates"] + 1, pct_start=0.1
    )
    losses, started = [], time.monotonic()
    for update in range(spec["updates"]):
        rows = _rows_of_update(update, len(sequences), size, seed)
        batch = torch.from_numpy(sequences[rows])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (update + 1) % 50 == 0 or update + 1 == spec["updates"]:
            spent = time.monotonic() - started
            left = spent / (update + 1) * (spec["updates"] - update - 1)
            LOG.info("pretrain %d/%d loss %.3f ETA %.0f s", update + 1, spec["updates"],
                     np.mean(losses[-50:]), left)  # fmt: skip
    if not math.isfinite(losses[-1]):
        raise InputError(f"models: lr = {spec['lr']}: pretraining diverged; expected a smaller lr")
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "corpus_tokens": len(stream),
        "passes": spec["updates"] * size / len(sequences),
        "loss_first": float(np.mean(losses[:20])),
        "loss_last": float(np.mean(losses[-20:])),
        "seconds": time.monotonic() - started,
    }
    LOG.info("pretrained: %s", json.dumps(report))
    return model.eval(), tokenizer, report


def _rows_of_update(update: int, total: int, size: int, seed: int) -> np.ndarray:
    """Sequences of an update: passes over the corpus in fresh random orders."""
    per_pass = total // size
    order = np.random.default_rng([seed, update // per_pass]).permutation(total)
    start = update % per_pass * size
    return order[start : start + size]
