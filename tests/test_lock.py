"""The lock: one holder, whatever happens to the others, and nothing that a person must repair."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from learning_dynamics import lock
from learning_dynamics.errors import InputError
from learning_dynamics.lock import Holder, Lock, others, register
from tests.conftest import ROOT

# Holds the lock of a folder until it is told to stop; says so.
HOLD = """
import sys
from learning_dynamics.lock import Lock
with Lock(sys.argv[1]):
    print("holding", flush=True)
    sys.stdin.read()
"""
# Adds 1 to a number in the folder, again and again, as one who reads and writes would.
ADD = """
import sys, time
from pathlib import Path
from learning_dynamics import lock
lock.LOOK = 0.002
number = Path(sys.argv[1]) / "number"
for _ in range(int(sys.argv[2])):
    with lock.Lock(sys.argv[1]) as mine:
        value = int(number.read_text())
        time.sleep(0.001)
        mine.check()
        number.write_text(str(value + 1))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds become hundredths."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    monkeypatch.setattr(lock, "LIMIT", 0.4)
    monkeypatch.setattr(lock, "LOOK", 0.01)


def start(code, *words):
    """A process that runs ``code`` beside this one."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def holding(tmp_path):
    """A process that holds the lock."""
    process = start(HOLD, tmp_path)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()


def elsewhere(folder, **changes):
    """The lock's file as a process on another machine has left it."""
    holder = replace(Holder.me(), host="node7", place="another", **changes)
    (folder / ".lock").write_text(json.dumps(asdict(holder)))
    return folder / ".lock"


def test_the_file_is_there_while_it_is_held(tmp_path):
    with Lock(tmp_path / "new") as mine:
        assert json.loads(mine.path.read_text())["pid"] == os.getpid()
        mine.check()
    assert not list((tmp_path / "new").iterdir())


def test_a_living_holder_is_waited_for(tmp_path, holding, caplog):
    """However old its file is; with one line in the log."""
    os.utime(tmp_path / ".lock", (0, 0))
    with pytest.raises(InputError, match=rf"\.lock: held by process {holding.pid} on .*expected"):
        Lock(tmp_path, patience=1.0).__enter__()
    assert caplog.text.count("waiting until it ends") == 1
    holding.stdin.close()
    with Lock(tmp_path):
        holding.wait(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_holder_is_followed_at_once(tmp_path, holding, number, caplog, monkeypatch):
    monkeypatch.setattr(lock, "LIMIT", 3600)
    holding.send_signal(number)
    holding.wait(timeout=10)
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path, patience=0):
        pass
    assert f"taken over from process {holding.pid} on" in caplog.text and "gone" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_stopped_holder_lives(tmp_path, holding):
    """A process of this machine that does not beat, SIGSTOP, still holds what it holds."""
    holding.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match="held by"):
        Lock(tmp_path, patience=1.0).__enter__()


def test_another_process_with_the_number_of_a_dead_one_is_not_the_holder(tmp_path):
    holder = replace(Holder.me(), born="1")
    (tmp_path / ".lock").write_text(json.dumps(asdict(holder)))
    with Lock(tmp_path, patience=0):
        pass


@pytest.mark.parametrize("skew", [-86400, 0, 86400])
@pytest.mark.parametrize("text", [None, "", "{", '{"pid": 1}'])
def test_a_silent_process_elsewhere_is_followed_after_the_limit(tmp_path, skew, text, caplog):
    """Whatever its clock wrote, in the past or to come; so is one that has not said its name."""
    path = elsewhere(tmp_path)
    if text is not None:
        path.write_text(text)
    os.utime(path, (time.time() + skew,) * 2)
    began = time.monotonic()
    with Lock(tmp_path):
        assert time.monotonic() - began >= 0.4
    assert "without a sign of life" in caplog.text


@pytest.mark.parametrize("skew", [-86400, 86400])
def test_a_beating_process_elsewhere_is_waited_for(tmp_path, skew, monkeypatch):
    """Every change of the time is a sign of life, even one backwards."""
    monkeypatch.setattr(lock, "LIMIT", 2)
    path = elsewhere(tmp_path)
    beat = start(
        "import os, sys, time\n"
        "for i in range(600):\n"
        f"    os.utime(sys.argv[1], (time.time() + {skew} - i,) * 2)\n"
        "    print(i, flush=True)\n"
        "    time.sleep(0.1)\n", path,
    )  # fmt: skip
    beat.stdout.readline()
    with pytest.raises(InputError, match=r"held by process .* on node7"):
        Lock(tmp_path, patience=3).__enter__()
    beat.kill()
    beat.communicate()


def test_the_heart_beats(tmp_path):
    with Lock(tmp_path) as mine:
        before, deadline = mine.path.stat().st_mtime_ns, time.monotonic() + 30
        while mine.path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_who_was_thought_dead_finds_out(tmp_path):
    """Its lock is another's: it may not write, and does not remove or refresh what is not its."""
    mine = Lock(tmp_path).__enter__()
    path = elsewhere(tmp_path)
    os.utime(path, (5, 5))
    with pytest.raises(InputError, match=r"\.lock: taken over by process .* on node7"):
        mine.check()
    time.sleep(0.1)
    mine.__exit__()
    assert path.stat().st_mtime == 5
    path.unlink()
    with pytest.raises(InputError, match=r"\.lock: removed"):
        mine.check()


def test_a_living_lock_that_was_moved_by_mistake_goes_back(tmp_path):
    """Two have seen a dead holder; the slower one moves the faster one's lock away, and notices."""
    dead = replace(Holder.me(), pid=1, token="dead")
    slower = Lock(tmp_path)
    slower._holder = Holder.me()
    with Lock(tmp_path) as faster:
        slower._bury(dead)
        faster.check()
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_many_processes_and_a_dead_one_exclude_each_other(tmp_path):
    """Six processes, one of them killed, add to a number: none is lost."""
    (tmp_path / "number").write_text("0")
    victim = start(HOLD, tmp_path)
    victim.stdout.readline()
    adding = [start(ADD, tmp_path, 30) for _ in range(5)]
    time.sleep(0.3)
    victim.kill()
    for process in [victim, *adding]:
        process.communicate(timeout=60)
    assert [process.returncode for process in adding] == [0] * 5
    assert int((tmp_path / "number").read_text()) == 150
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_full_disk_leaves_no_empty_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "write", fail)
    with pytest.raises(OSError, match="No space"):
        Lock(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


def test_registered_processes_know_of_each_other(tmp_path):
    """A living one, a dead one, a silent one elsewhere, one elsewhere that beats."""
    mine = register(tmp_path)
    assert not others(mine)
    code = ("import sys; from learning_dynamics.lock import register; register(sys.argv[1]);"
            "print(1, flush=True); sys.stdin.read()")  # fmt: skip
    one = start(code, tmp_path)
    one.stdout.readline()
    assert others(mine)
    one.kill()
    one.communicate()
    assert len(list(tmp_path.iterdir())) == 2 and not others(mine)
    assert list(tmp_path.iterdir()) == [mine]
    two = start(code, tmp_path)
    two.stdout.readline()
    two.communicate("")
    assert list(tmp_path.iterdir()) == [mine]  # it ended by itself
    (tmp_path / "silent").write_text(json.dumps(asdict(replace(Holder.me(), place="another"))))
    assert not others(mine) and list(tmp_path.iterdir()) == [mine]
