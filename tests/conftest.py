"""What the tests share: a tiny random model with a real tokenizer, toy pairs and real HH text."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from learning_dynamics import models, pairs
from learning_dynamics.toyworld import World

HH = Path(__file__).resolve().parents[2] / "shared/data/hh-helpful-base/probe_train.jsonl"

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("fast")


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer): a random GPT-NeoX that is far from uniform, and a tokenizer trained on
    toy-world documents. Shared by all tests: those that train it take a copy."""
    world, rng = World(1), np.random.default_rng(0)
    corpus = [world.document(rng) for _ in range(300)]
    tokenizer = models.train_tokenizer(corpus, vocab_size=500, max_length=512)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=512, initializer_range=0.15,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).float().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)
    return model, tokenizer


@pytest.fixture(scope="session")
def toy_pairs():
    """Pairs of the toy world: 12 training and 6 held-out rows."""
    spec = {"world_seed": 1, "train_rows": 12, "test_rows": 6, "documents": 0}
    return pairs.from_toyworld(spec)[0]


@pytest.fixture(scope="session")
def hh_rows():
    """Rows of the published HH probing file: a prompt and 13 typed responses each."""
    if not HH.is_file():
        pytest.skip(f"real HH text is not here: {HH}")
    return [json.loads(line) for line in HH.read_text(encoding="utf-8").splitlines()]
