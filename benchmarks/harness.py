"""What every benchmark needs: allocator settings, fair timing, peak memory, tables.

Contestants of one comparison run in one process and take turns (A B C A B C …), so that a noisy
machine hits all of them; what is reported is the median of the ratios *within* a round, with the
range over rounds. Memory is measured apart, each contestant in a process of its own.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from learning_dynamics.allocator import MEMORY

OUT = Path(__file__).resolve().parent / "out"
# Environment of a process. Large temporaries are returned to the system and faulted in again under
# glibc's defaults; the second setting keeps them, on huge pages. It helps everybody, the peers
# most, so a comparison under the first one alone would flatter a lean contestant.
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "tuned": MEMORY,
}


def child(script: str, task: str, arguments: Sequence[str], setting: str) -> dict:
    """Run ``script --task task`` in a process of its own under an allocator setting; what it
    printed last, read as JSON.

    Raises:
        SystemExit: when that process failed; its own message stands on standard error.
    """
    kept = {key: value for key, value in os.environ.items() if key not in SETTINGS["tuned"]}
    done = subprocess.run(
        [sys.executable, script, *arguments, "--task", task],
        env={**kept, **SETTINGS[setting]},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{Path(script).name}: task {task!r} failed ({setting} allocator)")
    return json.loads(done.stdout.splitlines()[-1])


def peak_gib(device: str = "cpu") -> float:
    """Peak memory: of this process so far, or of the tensors on a CUDA device, in GiB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():  # the kernel's ru_maxrss would include the parent's at the time of exec
        line = next(r for r in status.read_text().splitlines() if r.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """Wall time of one call, the device's queue emptied before and after."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def interleaved(
    contestants: dict[str, Callable[[int], Callable[[], object]]],
    rounds: int,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Seconds of every contestant in every round; a round 0 before them is not counted.

    A contestant maps the round's number to the call that is timed; what it does before returning
    that call is preparation, untimed. All contestants of a round get the same work.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        calls = {name: prepare(number) for name, prepare in contestants.items()}
        for name, call in calls.items():
            spent = seconds(call, device)
            if number:
                times[name].append(spent)
        done = ", ".join(f"{n} {t[-1]:.2f} s" for n, t in times.items() if t) or "warm-up"
        print(f"  round {number}/{rounds}: {done}", file=sys.stderr, flush=True)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """How many times faster the second is: median of the paired ratios, with their range."""
    pairs = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(pairs):.2f}x [{min(pairs):.2f}, {max(pairs):.2f}]"


def share(limit: Sequence[float], ours: Sequence[float]) -> str:
    """The limit's time in percent of a contestant's: median of the paired shares."""
    return f"{100 * statistics.median(a / b for a, b in zip(limit, ours, strict=True)):.0f}%"


def worst(values: dict, truth: dict) -> float:
    """Largest relative difference over all shared names: |value − truth| / |truth|."""
    errors = [
        (torch.as_tensor(values[key]).double() - torch.as_tensor(truth[key]).double()).abs()
        / torch.as_tensor(truth[key]).double().abs()
        for key in truth.keys() & values.keys()
    ]
    return max(float(error.max()) for error in errors)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under a header, first column to the left, the others to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def save(name: str, content: dict) -> Path:
    """Write ``benchmarks/out/<name>.json``: the raw numbers, with versions, machine and time."""
    import transformers

    OUT.mkdir(exist_ok=True)
    where = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "settings": SETTINGS,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = OUT / f"{name}.json"
    path.write_text(json.dumps({**where, **content}, indent=1), encoding="utf-8")
    return path
