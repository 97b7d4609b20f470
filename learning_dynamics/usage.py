"""What a job used: time and memory, recorded by the job itself.

Snakemake's benchmark files cannot know it: under the warm start they see the process that passes
messages, and they know nothing of a GPU's memory.
"""

import os
import resource
import sys
import time
from pathlib import Path

MARK = "used: "  # before a record at the end of a job's log


def used() -> dict[str, float]:
    """What this process used since it was started or forked.

    Returns:
        ``seconds`` (wall), ``cpu_seconds`` (finished child processes included), ``peak_memory_mb``
        (resident) and, where it used CUDA, ``peak_gpu_memory_mb`` (largest over its devices, what
        torch held). MB are 10⁶ bytes.
    """
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = {
        "seconds": _age(),
        "cpu_seconds": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "peak_memory_mb": _peak(own.ru_maxrss) / 1e6,
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        found["peak_gpu_memory_mb"] = max(map(torch.cuda.max_memory_reserved, devices)) / 1e6
    return {name: round(value, 3) for name, value in found.items()}


def together(parts: list[dict[str, float]]) -> dict[str, float]:
    """What several processes of one job used: the longest time, the sum of CPU and host memory, the
    largest GPU memory."""
    summed = ("cpu_seconds", "peak_memory_mb")
    return {
        name: round((sum if name in summed else max)(part[name] for part in parts), 3)
        for name in parts[0]
    }


def _age() -> float:
    """Seconds since this process was started or forked."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.process_time()
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _peak(largest: int) -> float:
    """Peak resident memory in bytes; ``ru_maxrss`` would include the process that it was forked
    or started from."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(r for r in status.read_text().splitlines() if r.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return largest * (1 if sys.platform == "darwin" else 1024)
