"""Warm start: a job that was forked is like one that was started."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from learning_dynamics import warm
from tests.reliability.processes import processes_of

SCRIPT = """
import json, os, sys
from neighbour import WORD
state = {"words": sys.argv, "folder": os.getcwd(), "mine": os.environ.get("MINE"),
         "word": WORD, "name": __name__, "main": sys.modules["__main__"].__name__,
         "path": os.environ.get("PYTHONPATH")}
print(json.dumps(state))
print("to stderr", file=sys.stderr)
print(sys.stdin.read(), end="")
"""


@pytest.fixture(scope="module")
def listening():
    with warm.listening() as variables:
        yield variables


def run(listening, script: Path, *words: str, **more) -> subprocess.CompletedProcess:
    beside = f"{listening['PATH']}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    more["env"] = {**os.environ, **listening, "PATH": beside, **more.get("env", {})}
    return subprocess.run(["python", str(script), *words], capture_output=True, text=True, **more)


def test_a_job_has_its_own_arguments_environment_folder_and_files(listening, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    (tmp_path / "neighbour.py").write_text("WORD = 'beside the script'\n")
    found = {}
    for variables in (listening, {"PATH": os.environ["PATH"]}):
        env = {"MINE": "a b", "PYTHONPATH": "x"}
        done = run(variables, script, "one", "--two", cwd=tmp_path, env=env, input="typed")
        assert done.returncode == 0, done.stderr
        first, rest = done.stdout.split("\n", 1)
        assert rest == "typed" and "to stderr" in done.stderr
        found[len(variables)] = json.loads(first)
    assert found[1] == found[2]
    assert found[1]["word"] == "beside the script"


@pytest.mark.parametrize(
    ("body", "code"),
    [("raise SystemExit(7)", 7), ("raise SystemExit", 0), ("raise SystemExit('sorry')", 1),
     ("1 / 0", 1), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9)],
)  # fmt: skip
def test_its_exit_code_is_passed_on(listening, tmp_path, body, code):
    script = tmp_path / "job.py"
    script.write_text(body)
    done = run(listening, script)
    assert done.returncode == code
    assert ("sorry" in done.stderr) == ("sorry" in body)
    assert ("ZeroDivisionError" in done.stderr) == ("/" in body)


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_client_takes_its_job_with_it(listening, tmp_path, kill):
    """SIGTERM reaches the job, which may save itself; SIGKILL ends it."""
    script, mark = tmp_path / "job.py", tmp_path / "mark"
    script.write_text(
        "import os, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(mark)!r}, 'a').write('saved'),"
        " sys.exit(143)))\n"
        f"open({str(mark)!r}, 'w').write(f'{{os.getpid()}} ')\n"
        "time.sleep(60)\n"
    )
    beside = f"{listening['PATH']}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    client = subprocess.Popen(["python", script], env={**os.environ, **listening, "PATH": beside})
    deadline = time.monotonic() + 30
    while not (mark.is_file() and mark.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job = int(mark.read_text().split()[0])
    client.send_signal(kill)
    assert client.wait(timeout=10) == (143 if kill == signal.SIGTERM else -9)
    while Path(f"/proc/{job}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{job}").exists()
    assert ("saved" in mark.read_text()) == (kill == signal.SIGTERM)


def test_without_the_process_everything_runs_as_usual(listening, tmp_path):
    """No socket, a stale one, no script: the interpreter itself."""
    script = tmp_path / "job.py"
    script.write_text("import sys; print(sys.argv[1])")
    for socket in ("", str(tmp_path / "gone")):
        done = run({**listening, warm.SOCKET: socket}, script, "x")
        assert (done.returncode, done.stdout) == (0, "x\n")
    done = run(listening, "-c", "print(1 + 1)")
    assert done.stdout == "2\n"


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_command(tmp_path, kill):
    """The command is killed, while a job runs or while libraries are imported: its exit code is its
    own; the process that forks, its job and its folder go without a word."""
    script = tmp_path / "job.py"
    script.write_text("import time\nprint('running', flush=True)\ntime.sleep(600)\n")
    call = f"echo $LEARNING_DYNAMICS_WARM; python {script} & exec sleep 600"
    command = subprocess.Popen(
        [sys.executable, "-m", "learning_dynamics.warm", "sh", "-c", call],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=warm.CLIENT.parent,
    )  # fmt: skip
    folder = Path(command.stdout.readline().strip()).parent
    assert folder.is_dir()
    if kill == signal.SIGKILL:
        assert command.stdout.readline() == "running\n"
    command.send_signal(kill)
    assert command.wait(timeout=10) == -kill
    deadline = time.monotonic() + 30
    while (left := processes_of(command.pid)) or folder.exists():
        assert time.monotonic() < deadline, (left, folder.exists())
        time.sleep(0.05)
    assert command.stderr.read() == ""


def test_the_command_ends_with_its_own_code():
    words = [sys.executable, "-m", "learning_dynamics.warm"]
    done = subprocess.run([*words, sys.executable, "-c", "raise SystemExit(5)"])
    assert done.returncode == 5
