"""Planning at scale: a study of about 1,000 runs, dry-run, planned and found finished.

    python benchmarks/planning.py [--seeds 4] [--check]

The study is the embedded one with all its figures, on five models and two data sets with fifteen
runs each. Nothing is trained: its outputs are empty files that Snakemake is told are up to date
(``--touch``). Prints wall and CPU seconds and peak memory of Snakemake's process; ``--check`` fails
above 10 s or 1 GiB for the dry run, and above 20 s where there is nothing to be done.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
ALGORITHMS = ["dpo", "ipo", "slic", "sppo", "kto", "simpo", "dpop"]
LIMITS = {"dry run": (10, 1.0), "nothing to be done": (20, 1.0)}  # seconds, GiB


def overlay(seeds: int) -> dict:
    """The study: models × data sets × algorithms × learning rates × seeds."""
    models = {
        f"hub-{number}": {"source": "hub", "hub": f"org/hub-{number}", "parameters": 1.0e9,
                          "revision": "0" * 40}
        for number in range(4)
    }  # fmt: skip
    runs = {
        f"{name}-lr{lr:g}": {"algorithm": name, "init": "sft", "epochs": 2, "lr": lr}
        for name in ALGORITHMS
        for lr in (1.0e-4, 2.0e-4)
    }
    second = {"source": "toyworld", "world_seed": 2, "train_rows": 320, "test_rows": 120,
              "documents": 16000}  # fmt: skip
    return {
        "study": "thousand",
        "seeds": list(range(seeds)),
        "active": {"datasets": ["toyworld", "second"], "models": ["toy-neox", *models],
                   "runs": ["sft", *runs]},
        "datasets": {"second": second},
        "models": models,
        "runs": runs,
        "figures": {"algorithms": {"seeds": 4}},
    }  # fmt: skip


def call(folder: Path, *words: str) -> tuple[float, float, float, str]:
    """Run Snakemake on the study in ``folder``; its wall and CPU seconds, peak memory (GiB) and
    output.

    Raises:
        SystemExit: when it fails.
    """
    typed = [sys.executable, "-m", "snakemake", *words, "-s", str(ROOT / "Snakefile"),
             "-d", str(folder), "--configfile", str(folder / "thousand.yaml")]  # fmt: skip
    started = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(typed, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        out.seek(0)
        text = out.read().decode()
    if process.returncode:
        raise SystemExit(f"snakemake {' '.join(words)}:\n{text[-2000:]}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20, text


def fake(folder: Path, summary: str, targets: Sequence[str] = ()) -> int:
    """Make every output that a summary (of some targets) names, empty, and let Snakemake take them
    for finished; how many runs are among them."""
    rows = [line.split("\t") for line in summary.splitlines()]
    paths = [folder / row[0] for row in rows if len(row) == 6 and row[0] != "output_file"]
    for path in paths:
        if path.name in ("model", "checkpoints"):  # the outputs that are folders
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    call(folder, *targets, "--touch", "--cores", "1", "--quiet", "all")
    return sum(path.name == "trajectory.parquet" for path in paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4, help="fewer: a smaller study")
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "thousand.yaml").write_text(yaml.safe_dump(overlay(args.seeds)))
        measured = {"dry run": call(folder, "--dry-run", "--quiet", "rules")}
        measured["summary"] = call(folder, "--summary")
        runs = fake(folder, measured["summary"][-1])
        measured["nothing to be done"] = call(folder, "--cores", "1")
    if "Nothing to be done" not in measured["nothing to be done"][-1]:
        raise SystemExit(measured["nothing to be done"][-1][-2000:])
    print(f"{runs} runs")
    over = []
    for name, (seconds, cpu, memory, _) in measured.items():
        print(f"{name}: {seconds:.1f} s ({cpu:.1f} s of CPU), {memory:.2f} GiB")
        most = LIMITS.get(name)
        if most and (seconds > most[0] or memory > most[1]):
            over.append(f"{name}: expected at most {most[0]} s and {most[1]} GiB")
    if args.check and over:
        raise SystemExit("\n".join(over))


if __name__ == "__main__":
    main()
