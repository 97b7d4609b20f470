"""Runs a command of the project where everything it does is seen.

A command runs in a fork of this process (the libraries are loaded once), through the very script
that a user calls and ``errors.run_script``. An audit hook sees every file that Python opens for
writing, every process that is started, every connection and every pickled object; what libraries
write by themselves is found by looking into the folders around the study's own.
"""

import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.hostile import MARK

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {"OPENAI_API_KEY": "sk-canary-0123456789", "HF_TOKEN": "hf_canary0123456789",
           "AWS_SECRET_ACCESS_KEY": "aws-canary-0123456789"}  # fmt: skip
CPU_SECONDS, WALL_SECONDS, MEMORY = 40, 240, 4 << 30
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2,
           "os.link": 2, "os.chmod": 1, "os.truncate": 1, "shutil.rmtree": 1}  # fmt: skip
STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"}
# What run.json records: the commit and the processor.
KNOWN = [["git", "-C", str(ROOT)], ["uname", "-p"]]


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code; −n where signal n killed it.
        said: its stdout and stderr.
        broke: what must not happen and did; the first word is the kind.
    """

    code: int
    said: str
    broke: list[str] = field(default_factory=list)


class Cage:
    """A study's folder with guarded neighbours, made anew for every case.

    Args:
        folder: an empty folder, which is removed and made again by :meth:`clean`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = folder / "study"
        self.known: set[Path] = set()

    def clean(self, files: dict[str, bytes]) -> None:
        """Start anew with ``files`` (path below the study's folder → content; ``/`` at the end: an
        empty folder)."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("study", "outside", "home", "temporary", "cache"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "outside" / "x").write_text("not yours", encoding="utf-8")
        for name, content in files.items():
            path = self.study / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.known = {path for path in self.folder.rglob("*") if path.is_file()}

    def run(self, words: list[str], apart: bool = False) -> Outcome:
        """Run a command: a script of the project, or ``-m module``, with its arguments; ``apart``:
        in a process of its own, as from a shell, without the audit hook."""
        said, seen = self.folder / "said", self.folder / "seen"
        if apart:
            code = self._apart(words, said)
            seen.touch()
        else:
            sys.stdout.flush()
            job = os.fork()
            if not job:
                self._job(words, said, seen)
            code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        outcome = Outcome(code, said.read_text(encoding="utf-8", errors="replace"))
        outcome.broke = [*_told(outcome), *seen.read_text(errors="replace").splitlines()]
        outcome.broke += self._left(outcome)
        return outcome

    def _left(self, outcome: Outcome) -> list[str]:
        """What is wrong with the folders afterwards."""
        around = {p.name for p in self.folder.iterdir()}
        extra = around - {"study", "outside", "home", "temporary", "cache", "said", "seen", "reply"}
        outside = [p for p in (self.folder / "outside").rglob("*") if p.name != "x"]
        broke = [f"outside: {p}" for p in [*sorted(extra), *outside]]
        broke += [f"outside: {p}" for p in (self.folder / "home").rglob("*")]
        guarded = self.folder / "outside" / "x"
        if not guarded.is_file() or guarded.read_text(encoding="utf-8") != "not yours":
            broke.append("outside: the neighbour's file was changed")
        for path in self.folder.rglob("*"):
            if path.name == MARK:
                broke.append(f"executed: {path}")
            inside = path.is_relative_to(self.study)
            if outcome.code and inside and path.name.startswith(".") and ".tmp" in path.name:
                broke.append(f"half-written: {path}")
            if path.is_file() and path not in self.known and path.stat().st_size < 1 << 24:
                content = path.read_bytes()
                broke += [f"secret: in {path}" for s in SECRETS.values() if s.encode() in content]
        return broke

    def _apart(self, words: list[str], said: Path) -> int:
        """The exit code of the command in a new interpreter."""
        script = str(ROOT / "workflow_scripts" / f"{words[0]}.py")
        command = [sys.executable, *(words if words[0] == "-m" else [script, *words[1:]])]
        with said.open("wb") as out:
            return subprocess.run(
                command, cwd=self.study, env=os.environ | self._variables(), stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=WALL_SECONDS,
            ).returncode  # fmt: skip

    def _variables(self) -> dict[str, str]:
        """What the command finds in its environment."""
        return {
            **SECRETS, "HOME": str(self.folder / "home"), "MPLBACKEND": "agg",
            "TMPDIR": str(self.folder / "temporary"), "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "cache"), "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.folder / "cache"), "COLUMNS": "200",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def _job(self, words: list[str], said: Path, seen: Path) -> None:
        """The forked process: never returns."""
        code = 70
        try:
            os.setsid()
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            log = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
                os.dup2(file, number)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace")
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
            self._limits()
            os.environ |= self._variables()
            os.chdir(self.study)
            tempfile.tempdir = None  # what this process made of the old TMPDIR
            sys.addaudithook(_watcher(log, str(self.folder)))
            code = run_words(words)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _limits(self) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(WALL_SECONDS)


def run_words(words: list[str]) -> int:
    """The command ``python <words>`` in this process; its exit code."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            with warnings.catch_warnings(
                action="ignore"
            ):  # runpy warns of what is imported already
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            script = ROOT / "workflow_scripts" / f"{words[0]}.py"
            sys.argv = [str(script), *words[1:]]
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    return 0


def _told(outcome: Outcome) -> list[str]:
    """What is wrong with what was said."""
    said, broke = outcome.said, []
    if "Traceback (most recent call last)" in said:
        broke.append(f"traceback: {said.strip().splitlines()[-1][:200]}")
    if outcome.code < 0:
        broke.append(f"killed: by signal {-outcome.code}")
    elif outcome.code:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if len(errors) != 1 and not broke:
            broke.append(f"unclear: {len(errors)} lines of error: {said.strip()[-300:]!r}")
        if any(len(line) > 2000 for line in errors):
            broke.append(f"unclear: an error of {max(map(len, errors))} characters")
    return broke + [f"secret: {name} was said" for name, s in SECRETS.items() if s in said]


def _watcher(log: int, folder: str):
    """An audit hook that writes what must not happen to the file ``log``."""
    allowed = (folder + os.sep, "/dev/null", "/dev/shm/")

    def tell(kind: str, what: object) -> None:
        os.write(log, f"{kind}: {str(what)[:300]!r}\n".encode(errors="replace"))

    def changes(path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(path))
            if not place.startswith(allowed):
                tell("outside", place)

    def watch(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            writes = flags & WRITES if isinstance(flags, int) else 0
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                changes(path)
        elif event in CHANGES:
            for path in args[: CHANGES[event]]:
                changes(path)
        elif event in STARTS:
            words = args[1] if len(args) > 1 else args[0]
            if not (isinstance(words, list) and words[:3] in KNOWN):
                tell("executed", args[:2])
        elif event == "pickle.find_class":
            tell("pickle", args)
        elif event == "socket.connect":
            address = args[1]
            if args[0].family != socket.AF_UNIX and address[0] != "127.0.0.1":
                tell("network", address)

    return watch
