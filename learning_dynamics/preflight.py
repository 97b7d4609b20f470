"""Is this place fit for the study? Checks that a job makes where the study's jobs will run, each of
which ends in one line (docs/cluster.md)."""

import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from learning_dynamics.provenance import ROOT

EARLY = 30  # seconds before the limit by which a signal must have come
PINNED = ["torch", "transformers", "safetensors", "accelerate", "numpy"]  # what jobs compute with


class Wrong(Exception):
    """What is wrong, and what was expected."""


def run(checks: dict[str, Callable[[], str]]) -> list[dict]:
    """``{"check", "ok", "text"}`` of every check: what it returned, or what is wrong."""
    found = []
    for name, check in checks.items():
        try:
            found.append({"check": name, "ok": True, "text": check()})
        except Wrong as error:
            found.append({"check": name, "ok": False, "text": " ".join(str(error).split())})
    return found


def versions() -> str:
    """The libraries are those of pyproject.toml."""
    pins = re.findall(r'"([A-Za-z0-9_-]+)==([^"]+)"', (ROOT / "pyproject.toml").read_text())
    pinned = {name: pin for name, pin in pins if name in PINNED}
    for name, pin in pinned.items():
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise Wrong(f"{name} is not installed; expected {pin}") from None
        if here.partition("+")[0] != pin:
            raise Wrong(f"{name} {here}; expected {pin} (pyproject.toml)")
    return ", ".join(f"{name} {pin}" for name, pin in pinned.items())


def cores(wanted: int) -> str:
    """As many cores as were asked for."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if here < wanted:
        raise Wrong(f"{here} cores; expected {wanted}")
    return f"{here} cores, {wanted} asked for"


def gpus(wanted: int, needed_mb: float) -> str:
    """As many GPUs as were asked for, which this build of torch can use and which are large enough
    for the largest run."""
    import torch

    if torch.version.cuda is None:
        raise Wrong(f"torch {torch.__version__} has no CUDA; expected its CUDA build "
                    "(make TORCH=cuda, in a fresh .venv)")  # fmt: skip
    if not torch.cuda.is_available():
        raise Wrong(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU; expected "
                    f"{wanted}, and a driver for that CUDA")  # fmt: skip
    if torch.cuda.device_count() != wanted:
        raise Wrong(f"{torch.cuda.device_count()} GPUs are visible; expected {wanted}")
    names = []
    for number in range(wanted):
        name = torch.cuda.get_device_name(number)
        try:
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            exact = bool(((ones @ ones) == 64).all())
        except RuntimeError as error:
            raise Wrong(f"{name}: {str(error).splitlines()[0]}; expected a product on it") from None
        if not exact:
            raise Wrong(f"{name}: a product of ones is wrong")
        size = torch.cuda.get_device_properties(number).total_memory / 1e6
        if size < needed_mb:
            raise Wrong(f"{name} has {size:.0f} MB; expected {needed_mb:.0f} for the largest run"
                        " (accumulate, checkpointing, lora, sharding make it smaller)")  # fmt: skip
        names.append(f"{name} with {size:.0f} MB")
    return "; ".join(names)


def readable(paths: list[str]) -> str:
    """Every file of what was downloaded can be read here."""
    here = [path for path in map(Path, paths) if path.exists()]
    files = [f for path in here for f in ([path] if path.is_file() else path.rglob("*"))]
    for file in files:
        try:
            if file.is_file():
                with file.open("rb") as stream:
                    stream.read(1)
        except OSError as error:
            raise Wrong(f"{file}: {error.strerror}; expected a readable file") from None
    missing = len(paths) - len(here)
    later = f"; {missing} not downloaded yet (local rules do that first)" if missing else ""
    return f"{len(here)} of {len(paths)} models and files{later}"


def writable(folder: str, needed_mb: float) -> str:
    """A folder can be written and read back, and has room."""
    probe = Path(folder) / f".preflight-{uuid.uuid4().hex}"
    content = os.urandom(1 << 20)
    try:
        probe.write_bytes(content)
        whole = probe.read_bytes() == content
        free = shutil.disk_usage(folder).free / 1e6
    except OSError as error:
        raise Wrong(f"{folder}: {error.strerror}; expected a folder to write") from None
    finally:
        if probe.exists():
            probe.unlink()
    if not whole:
        raise Wrong(f"{folder}: what was written is read back changed")
    if free < needed_mb:
        raise Wrong(f"{folder}: {free:.0f} MB free; expected {needed_mb:.0f} MB")
    return f"{folder}: {free:.0f} MB free"


class Signal:
    """Whether the signal comes that lets a run save itself before its wall-time limit.

    Made at the start of the job, so that no signal is missed. Under SLURM the job's own Snakemake
    takes the signal for a failure, so the job is run again where the profile has retries; ``note``
    is a file that tells the second attempt, which must be of the same hour, of the first.
    """

    def __init__(self, note: Path) -> None:
        self._started, self._came, self._note = time.monotonic(), None, note
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, *_: object) -> None:
        self._came = self._came or time.monotonic() - self._started
        self._note.write_text(f"{self._came:.0f}")

    def check(self, limit: float, scheduled: bool) -> str:
        """Wait for it until the limit (seconds) is near, where a scheduler set one."""
        if not scheduled:
            return "no SLURM job, no time limit: nothing to wait for"
        if self._note.is_file() and self._came is None:
            age = time.time() - self._note.stat().st_mtime
            came = self._note.read_text()
            self._note.unlink()
            if age < 3600:
                return f"TERM came after {came} s of {limit:.0f}, and the job was run again"
        while self._came is None and time.monotonic() - self._started < limit - EARLY:
            time.sleep(0.2)
        if self._came is None:
            raise Wrong(f"no TERM within {limit - EARLY:.0f} s of a limit of {limit:.0f} s; "
                        "expected --signal=TERM@120 to be honoured")  # fmt: skip
        return f"TERM came after {self._came:.0f} s of {limit:.0f}"
