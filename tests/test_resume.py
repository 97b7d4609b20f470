"""Resume checkpoints: bit-exact, whole or absent, never of another run."""

import os
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from learning_dynamics import resume
from learning_dynamics.resume import Checkpoints, fingerprint

IDS = torch.arange(12).view(2, 6)
TABLES = {
    "trajectory": pd.DataFrame({"step": [0, 0], "logp": [-1 / 3, np.nan], "split": ["a", "b"]}),
    "training": pd.DataFrame({"step": [1], "loss": [0.1]}),
}
GREEDY0 = torch.tensor([3, 1, 2])


def train(model, optimizer, updates):
    """A few updates on fixed tokens."""
    for _ in range(updates):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def started(model, updates=0, name="RMSprop"):
    """A copy of ``model`` in training, with its optimiser."""
    model = deepcopy(model)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3)
    train(model, optimizer, updates)
    return model, optimizer


def tied():
    """A model whose input and output embeddings are one tensor."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)).eval()


def save(folder, run, update, mark="mark"):
    """Write a checkpoint."""
    Checkpoints(folder, mark).save(*run, {"update": update}, TABLES, {"greedy0.0": GREEDY0})


@pytest.mark.parametrize("optimizer", ["RMSprop", "AdamW", "SGD"])
@pytest.mark.parametrize("make", ["tiny", "tied"])
def test_round_trip_is_bit_exact(tiny, tmp_path, make, optimizer):
    """The uninterrupted run: same weights and optimiser state now and after two more updates."""
    base = tiny[0] if make == "tiny" else tied()
    run = started(base, 2, optimizer)
    save(tmp_path, run, 2)
    again = started(base, 0, optimizer)
    state, tables, extra = Checkpoints(tmp_path, "mark").load(*again)
    assert state == {"update": 2} and extra["greedy0.0"].tolist() == [3, 1, 2]
    for name, table in TABLES.items():
        pd.testing.assert_frame_equal(tables[name], table, check_exact=True)
    for _ in range(2):
        for mine, theirs in zip(again[0].parameters(), run[0].parameters(), strict=True):
            assert torch.equal(mine, theirs)
        states = [r[1].state_dict()["state"] for r in (run, again)]
        assert states[0].keys() == states[1].keys()
        for index, slots in states[0].items():
            assert slots.keys() == states[1][index].keys()
            assert all(torch.equal(value, states[1][index][key]) for key, value in slots.items())
        train(*run, 2)
        train(*again, 2)
    if make == "tied":
        weights = again[0].get_output_embeddings().weight
        assert weights is again[0].get_input_embeddings().weight


def test_the_newest_checkpoint_is_the_only_one(tmp_path):
    """One folder is left, and it is the one that is loaded."""
    run = started(tied(), 1)
    for update in (9, 10):
        save(tmp_path, run, update)
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000010"]
    assert Checkpoints(tmp_path, "mark").load(*run)[0] == {"update": 10}


def test_another_fingerprint_is_discarded(tmp_path):
    """Other settings, inputs or code: nothing is loaded, the weights stay, the folder goes."""
    save(tmp_path, started(tied(), 1), 4)
    model, optimizer = started(tied())
    before = deepcopy(model.state_dict())
    assert Checkpoints(tmp_path, "other").load(model, optimizer) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not list(tmp_path.glob("update-*"))
    assert Checkpoints(tmp_path / "absent", "mark").load(model, optimizer) is None


@pytest.mark.parametrize("broken", ["save_file", "write_table"])
def test_the_previous_one_is_kept_until_the_new_one_is_whole(tmp_path, monkeypatch, broken):
    """A write that fails half-way: the old checkpoint still loads and nothing else is left."""
    run = started(tied(), 1)
    save(tmp_path, run, 4)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, broken, fail)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, run, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000004"]
    assert Checkpoints(tmp_path, "mark").load(*run)[0] == {"update": 4}


def test_remove_deletes_the_folder(tmp_path):
    """A complete run leaves no checkpoint; removing twice is no error."""
    save(tmp_path / "resume", started(tied()), 4)
    for _ in range(2):
        Checkpoints(tmp_path / "resume", "mark").remove()
    assert not (tmp_path / "resume").exists()


def test_fingerprint_follows_content_and_settings(tmp_path):
    """Content, of files in folders too, and settings change it; mtime and key order do not."""
    inner = tmp_path / "model" / "inner"
    inner.mkdir(parents=True)
    file, weights = tmp_path / "pairs", inner / "weights"
    file.write_text("a")
    weights.write_text("b")
    inputs, settings = [file, tmp_path / "model"], {"lr": 1e-4, "seed": 0}
    first = fingerprint(settings, inputs)
    os.utime(file, (0, 0))
    os.utime(weights, (0, 0))
    assert fingerprint({"seed": 0, "lr": 1e-4}, map(str, inputs)) == first
    marks = {first, fingerprint({**settings, "lr": 2e-4}, inputs)}
    weights.write_text("c")
    marks.add(fingerprint(settings, inputs))
    file.write_text("d")
    marks.add(fingerprint(settings, inputs))
    (inner / "more").write_text("")
    marks.add(fingerprint(settings, inputs))
    assert len(marks) == 5
