"""What the tests share: a tiny random model with a real tokenizer, toy pairs and real HH text."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from learning_dynamics import answers, models, pairs, probe, providers, rephrase
from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.study import Study, load_config
from learning_dynamics.toyworld import World
from tests.endpoint import server  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
HH = ROOT.parent / "shared/data/hh-helpful-base/probe_train.jsonl"
# The default study, complete: what the scripts are given of it.
STUDY = Study(load_config([ROOT / "config.yaml"]))
TOYWORLD = STUDY.datasets["toyworld"]

COMPUTE = {"device": "cpu", "precision": "fp32", "threads": 1, "batch_tokens": 600,
           "sharding": "none", "processes": 1, "tracker": None}  # fmt: skip

# Files that take a minute or more, the longest first: no worker is left alone with one at the end.
LONG = ["test_slurm.py", "test_pipeline.py", "test_parallel.py", "test_kills.py",
        "test_hostile.py"]  # fmt: skip


def pytest_collection_modifyitems(items):
    """Long files first; the others as they were."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("fast")


def run_spec(algorithm="dpo", **changes):
    """A run's resolved settings: six updates on the toy pairs."""
    known = ALGORITHMS.get(algorithm)
    defaults = {name: setting.default for name, setting in known.settings.items()} if known else {}
    return {
        "algorithm": algorithm, "epochs": 2, "lr": 1e-3, "batch_size": 4, "optimizer": "rmsprop",
        "warmup": 2, "clip": 10.0, "target": "chosen", "labels": "given", "probe_every": 2,
        "checkpoint_every": 2, "rows": known.rows if known else "pairs", "accumulate": 1,
        "lora": None, "length_buckets": 1, "direction": "loss", "regenerate_every": None,
        "checkpointing": False, **defaults, **changes,
    }  # fmt: skip


def dataset(**entry):
    """The complete configuration of a data set, from what a user would write of it."""
    config = load_config([ROOT / "config.yaml"])
    config["datasets"]["it"] = entry
    return Study(config).datasets["it"]


def rephrased(data, spec, section):
    """What the data set's toy world writes for its probes, as the pipeline asks for it; ``section``
    is section probe."""
    probed = probe.probed_pairs(data.pairs, data.given, spec, section)
    asked = rephrase.needed(probed, data.given, spec["rephrase"], section)
    return answers.answer(asked, spec["rephrase"], providers.Toyworld(spec))


def probes_of(data, spec, section):
    """The probe set of a toy world's data set, with what the world writes."""
    written = rephrased(data, spec, section)
    return probe.build(data.pairs, data.given, written, spec, section)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """An empty folder ``data/{train,test}`` for files of a data set that the hub's real client is
    to load, offline and without a trace outside ``tmp_path``."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
    return tmp_path / "data"


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
    return pairs.build({**TOYWORLD, "train_rows": 12, "test_rows": 6, "documents": 0}).pairs


@pytest.fixture(scope="session")
def hh_rows():
    """Rows of the published HH probing file: a prompt and 13 typed responses each."""
    if not HH.is_file():
        pytest.skip(f"real HH text is not here: {HH}")
    return [json.loads(line) for line in HH.read_text(encoding="utf-8").splitlines()]
