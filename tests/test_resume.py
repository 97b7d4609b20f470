"""Resume checkpoints: bit-exact, whole or absent, never of another run."""

import io
import logging
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from learning_dynamics import resume
from learning_dynamics.errors import InputError
from learning_dynamics.resume import SUMS, Checkpoints, fingerprint

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


def test_the_two_newest_checkpoints_are_kept(tmp_path):
    """The newest is loaded; while a third is written the one before it is there."""
    run = started(tied(), 1)
    for update in (8, 9, 10):
        save(tmp_path, run, update)
    names = ["update-00000009", "update-00000010"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert Checkpoints(tmp_path, "mark").load(*run)[0] == {"update": 10}


FILES = ["state.safetensors", "state.json", "trajectory.parquet", "training.parquet", SUMS]


def damage(path, how, share):
    """Damage a file at a share of its length."""
    content = bytearray(path.read_bytes())
    at = int(share * (len(content) - 1))
    if how == "flipped":
        content[at] ^= 1 << (at % 8)
    elif how == "truncated":
        del content[at:]
    elif how == "zeroed":  # a machine that lost power: the length is there, the content is not
        content[at:] = bytes(len(content) - at)
    elif how == "emptied":
        content.clear()
    path.unlink()
    if how != "gone":
        path.write_bytes(content)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with two checkpoints, and their weights."""
    folder, weights = tmp_path_factory.mktemp("two"), {}
    run = started(tied(), 1)
    for update in (4, 8):
        save(folder, run, update)
        weights[update] = deepcopy(run[0].state_dict())
        train(*run, 1)
    return folder, weights


@contextmanager
def logged():
    """What is logged in the block (hypothesis and caplog do not go together)."""
    handler = logging.StreamHandler(io.StringIO())
    resume.LOG.addHandler(handler)
    yield handler.stream
    resume.LOG.removeHandler(handler)


@given(
    file=st.sampled_from(FILES),
    how=st.sampled_from(["flipped", "truncated", "zeroed", "emptied", "gone"]),
    share=st.floats(0, 1),
    both=st.booleans(),
)
def test_a_damaged_checkpoint_is_passed_over(two, file, how, share, both):
    """Whatever is wrong with whichever file: the run goes on from the checkpoint before, with its
    weights and a line in the log; without another one it starts anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "resume"
        shutil.copytree(two[0], folder)
        for update in (4, 8) if both else (8,):
            path = folder / f"update-{update:08d}"
            before = {p.name: p.read_bytes() for p in path.iterdir()}
            damage(path / file, how, share)
            if before == {p.name: p.read_bytes() for p in path.iterdir()}:
                return  # zeros became zeros
        model, optimizer = started(tied())
        fresh = deepcopy(model.state_dict())
        with logged() as log:
            loaded = Checkpoints(folder, "mark").load(model, optimizer)
        lines = log.getvalue().splitlines()
        assert len(lines) == 1 + both and lines[0].startswith(
            f"discarding {folder}/update-00000008: "
        )
        assert (loaded is None) if both else (loaded[0] == {"update": 4})
        expected = fresh if both else two[1][4]
        assert all(torch.equal(expected[n], value) for n, value in model.state_dict().items())
        assert [p.name for p in folder.iterdir()] == ([] if both else ["update-00000004"])


def test_sums_are_those_of_sha256sum(two):
    """A person can check a checkpoint with the usual tool."""
    folder = two[0] / "update-00000008"
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("OK") == len(FILES) - 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    """A checkpoint that was being written when its process was killed."""
    save(tmp_path, started(tied(), 1), 4)
    (tmp_path / ".update-00000008.123.tmp").mkdir()
    Checkpoints(tmp_path, "mark", writes=False).load(*started(tied()))
    assert len(list(tmp_path.iterdir())) == 2
    assert Checkpoints(tmp_path, "mark").load(*started(tied()))[0] == {"update": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000004"]


def test_who_may_not_write_does_not(tmp_path):
    """The lock has been lost: nothing is written, nothing is removed."""
    run = started(tied(), 1)
    for update in (4, 8):
        save(tmp_path, run, update)

    def refuse():
        raise InputError("taken over")

    with pytest.raises(InputError):
        Checkpoints(tmp_path, "mark", check=refuse).save(*run, {"update": 9}, TABLES, {})
    names = ["update-00000004", "update-00000008"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_attempts_and_repeated_updates_are_counted(tmp_path):
    """Over any number of kills, checkpoint or not; a run of another fingerprint, or a torn file,
    starts from nothing."""

    def attempt(after, reached, mark="mark"):
        """An attempt that goes on after an update and is killed; its counts."""
        checkpoints = Checkpoints(tmp_path, mark)
        counts = checkpoints.begin(after)
        for update in range(after + 1, reached + 1):
            checkpoints.reached(update)
        return counts["attempts"], counts["repeated"]

    assert attempt(0, 7) == (1, 0)
    assert attempt(0, 12) == (2, 7)
    assert attempt(10, 11) == (3, 9)
    assert attempt(10, 1000) == (4, 10)
    assert attempt(1000, 1001, "other") == (1, 0)
    for text in ("", '{"fingerprint": "other"}', "[]", "null"):
        (tmp_path / "progress.json").write_text(text)
        assert attempt(0, 1, "other") == (1, 0)


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
