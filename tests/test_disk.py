"""Full and read-only disks: one clear line, nothing finished lost, and on when there is space."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from learning_dynamics import models, warm
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, write_json, write_table
from tests.conftest import COMPUTE, ROOT, STUDY, run_spec
from tests.test_wrong_inputs import assert_one_line

SPEC = run_spec("sft", epochs=4, checkpoint_every=2, probe_every=4)  # twelve updates


@pytest.fixture(scope="module")
def finetune(tiny, toy_pairs, tmp_path_factory):
    """Function that finetunes the tiny model into a folder, by the workflow's script."""
    inputs = tmp_path_factory.mktemp("inputs")
    models.save(*tiny, inputs / "init")
    toy_pairs.to_parquet(inputs / "pairs.parquet")
    probed = toy_pairs.iloc[[0, 1, 12]]
    probes = [
        probed.assign(response_type=kind, response=probed[kind], made_by="data")
        for kind in ("chosen", "rejected")
    ]
    pd.concat(probes).to_parquet(inputs / "probes.parquet")
    given = {
        "--spec": SPEC, "--model-spec": {"max_length": 256, "max_prompt_length": 128},
        "--compute": COMPUTE, "--texts": STUDY.texts("toyworld"), "--seed": 0,
        "--init": inputs / "init", "--pairs": inputs / "pairs.parquet",
        "--probes": inputs / "probes.parquet",
    }  # fmt: skip
    words = [json.dumps(w) if isinstance(w, dict) else str(w) for i in given.items() for w in i]
    with warm.listening() as variables:
        path = f"{warm.CLIENT}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        known = {**os.environ, **variables, "PATH": path, "PYTHONPATH": str(ROOT)}

        def start(out, log, **more):
            call = ["python", str(ROOT / "workflow_scripts/finetune.py"), *words]
            call += ["--out", str(out), "--log", str(log)]
            more["env"] = {**known, **more.get("env", {})}
            return subprocess.run(call, capture_output=True, text=True, **more)

        yield start


@pytest.fixture(scope="module")
def undisturbed(finetune, tmp_path_factory):
    """The trajectory of the run when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = finetune(folder, folder / "log")
    assert done.returncode == 0, done.stderr
    return (folder / "trajectory.parquet").read_bytes()


@pytest.fixture
def disk(tmp_path):
    """A small disk, and a function that changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options, *words):
        return subprocess.run(
            ["mount", *words, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip

    done = mount("size=32k")
    if done.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {done.stderr.strip()}")
    yield folder, lambda options: mount(f"remount,{options}").check_returncode()
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_at_many_places(finetune, undisturbed, disk):
    """Run again whenever there is a little more space: every attempt but the last ends in one line
    that names a place, wherever the space ran out, and none begins anew."""
    (folder, remount), attempts, reached = disk, 0, []
    while True:
        attempts += 1
        remount(f"size={32 + 96 * attempts}k")
        done = finetune(folder / "run", folder / "log")
        if done.returncode == 0:
            break
        assert done.returncode == 2
        assert_one_line(done, str(folder / "run"), "No space left on device", "expected free space")
        assert not list((folder / "run").rglob(".*.tmp*"))
        kept = sorted((folder / "run/.resume").glob("update-*"))
        reached.append(kept[-1].name if kept else "")
    assert attempts > 6 and reached == sorted(reached) and len(set(reached)) > 2
    assert (folder / "run/trajectory.parquet").read_bytes() == undisturbed
    assert not list((folder / "run").glob(".*"))


def test_a_disk_that_becomes_read_only(finetune, undisturbed, disk):
    """A line; when it can be written again, the run goes on and ends the same."""
    folder, remount = disk
    remount("size=900k")
    assert finetune(folder / "run", folder / "log").returncode == 2
    assert list((folder / "run/.resume").glob("update-*"))
    remount("ro,size=4m")
    for log in (folder / "log", folder.parent / "log"):
        assert_one_line(finetune(folder / "run", log), str(folder), "Read-only file system")
    remount("rw,size=4m")
    done = finetune(folder / "run", folder / "log")
    assert done.returncode == 0, done.stderr
    assert "resuming after update" in (folder / "log").read_text()
    assert (folder / "run/trajectory.parquet").read_bytes() == undisturbed


def test_a_limit_on_files(finetune, tmp_path):
    """The same where no disk can be mounted: no file may grow beyond 100 kB."""
    done = finetune(
        tmp_path / "run", tmp_path / "log", env={warm.SOCKET: ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert_one_line(done, str(tmp_path / "run/.resume/update-"), "File too large")
    assert not list((tmp_path / "run").rglob("update-*"))


def test_a_log_on_a_full_disk_is_no_traceback(finetune, tmp_path):
    """What cannot be logged is lost; the run is not."""
    done = finetune(tmp_path / "run", "/dev/full")
    assert done.returncode == 0 and done.stderr == ""


WRITERS = {
    "table": lambda path: write_table(path, pd.DataFrame({"a": np.random.rand(4000)})),
    "json": lambda path: write_json(path, ["a"] * 10_000),
    "tensors": lambda path: save(path),
}


def save(path):
    """Tensors, by a library that puts the error's number into its message."""
    with atomic(path) as temporary:
        save_file({"a": torch.zeros(20_000)}, temporary)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_s_full_disk_is_the_same_error(disk, writer):
    """It names the file that was to be written, and leaves the old one."""
    path = disk[0] / "file.x"
    path.write_text("old")
    (disk[0] / "ballast").write_bytes(bytes(24_000))
    with pytest.raises(OSError, match="No space left on device") as caught:
        WRITERS[writer](path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_text() == "old" and len(list(disk[0].iterdir())) == 2


def test_other_errors_of_a_writer_are_its_own(tmp_path):
    with pytest.raises(ConnectionError), atomic(tmp_path / "file"):
        raise ConnectionError(errno.ECONNREFUSED, "refused")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(tmp_path, monkeypatch, number, code):
    """It ends a script as an exception does, without a traceback."""
    monkeypatch.setattr(sys, "argv", ["script", "--log", str(tmp_path / "log")])

    def main():
        with atomic(tmp_path / "file") as temporary:
            temporary.write_text("half")
            signal.raise_signal(number)

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    # What a shell starts in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as caught:
            run_script(main)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
