"""The preflight's checks: what each finds right and wrong, in one line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from learning_dynamics import preflight
from learning_dynamics.preflight import Wrong
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def handler():
    """The checks take SIGTERM; the tests' own handler comes back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_wrong_thing_is_one_line_and_the_others_are_looked_at():
    def fail():
        raise Wrong("two\nlines; expected one")

    found = preflight.run({"a": fail, "b": lambda: "fine"})
    assert found == [{"check": "a", "ok": False, "text": "two lines; expected one"},
                     {"check": "b", "ok": True, "text": "fine"}]  # fmt: skip


def test_libraries_are_those_that_are_pinned(monkeypatch):
    assert f"torch {torch.__version__.partition('+')[0]}" in preflight.versions()
    monkeypatch.setattr(preflight.metadata, "version", lambda name: "0.1")
    with pytest.raises(Wrong, match=r"torch 0\.1; expected 2\."):
        preflight.versions()


def test_cores_and_gpus_are_counted(monkeypatch):
    """On a build without CUDA, on a machine without GPUs, with too few, too small or failing."""
    assert preflight.cores(1)
    with pytest.raises(Wrong, match="expected 4096"):
        preflight.cores(4096)
    cuda = torch.cuda
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Wrong, match="has no CUDA; expected its CUDA build"):
        preflight.gpus(1, 0)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    with pytest.raises(Wrong, match="sees no GPU"):
        preflight.gpus(1, 0)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    with pytest.raises(Wrong, match="1 GPUs are visible; expected 2"):
        preflight.gpus(2, 0)
    monkeypatch.setattr(cuda, "get_device_name", lambda number: "Card")
    with pytest.raises(Wrong, match=r"Card: .*; expected a product on it"):

        def refuse(*_, **__):
            raise RuntimeError("no kernel image is available\nfor this device")

        with monkeypatch.context() as patch:
            patch.setattr(torch, "ones", refuse)
            preflight.gpus(1, 0)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    size = type("", (), {"total_memory": 80e9})
    monkeypatch.setattr(cuda, "get_device_properties", lambda number: size)
    assert preflight.gpus(1, 70_000) == "Card with 80000 MB"
    with pytest.raises(Wrong, match="has 80000 MB; expected 90000"):
        preflight.gpus(1, 90_000)


def test_downloads_and_folders(tmp_path):
    """What is there is readable; what is missing comes later; a folder that cannot be written, or
    has too little room, is named; nothing is left behind."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    found = preflight.readable([str(tmp_path / "model"), str(tmp_path / "absent")])
    assert found.startswith("1 of 2") and "1 not downloaded yet" in found
    assert "MB free" in preflight.writable(str(tmp_path), 1)
    with pytest.raises(Wrong, match="expected 1000000000000 MB"):
        preflight.writable(str(tmp_path), 1e12)
    with pytest.raises(Wrong, match="expected a folder to write"):
        preflight.writable(str(tmp_path / "model/config.json"), 1)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["config.json", "model"]


def test_the_signal_is_waited_for_and_told_to_the_second_attempt(tmp_path):
    """Without a scheduler there is none; with one it must come before the limit."""
    note = tmp_path / "note"
    term = preflight.Signal(note)
    assert "nothing to wait for" in term.check(60, scheduled=False)
    with pytest.raises(Wrong, match="no TERM within"):
        term.check(preflight.EARLY + 0.3, scheduled=True)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert "TERM came after" in term.check(60, scheduled=True)
    second = preflight.Signal(note)
    assert "was run again" in second.check(60, scheduled=True) and not note.exists()
    note.write_text("9")
    os.utime(note, (0, time.time() - 7200))
    with pytest.raises(Wrong, match="no TERM within"):  # an old note says nothing
        preflight.Signal(note).check(preflight.EARLY + 0.3, scheduled=True)


def test_the_report_prints_one_line_each_and_fails_where_one_is_wrong(tmp_path):
    checks = [{"check": "cores", "ok": True, "text": "2"}, {"check": "GPUs", "ok": False,
              "text": "none; expected 1"}]  # fmt: skip
    for number, part in enumerate((checks, checks[:1])):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({"kind": "gpu1", "host": "node7", "checks": part}))
    for names, code in ((["0.json", "1.json"], 1), (["1.json"], 0)):
        done = subprocess.run(
            [sys.executable, ROOT / "workflow_scripts/report_places.py", "--reports",
             *(tmp_path / n for n in names)],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == code
        assert ("WRONG gpu1 on node7: GPUs: none; expected 1\n" in done.stdout) == bool(code)
        assert "ok    gpu1 on node7: cores: 2\n" in done.stdout
