"""One kind of job's preflight: what is right and wrong where it runs, as JSON."""

import argparse
import os
import platform
from functools import partial
from pathlib import Path

from learning_dynamics import preflight
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True, help="its name")
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--gpu-mb", type=float, required=True, help="memory of the largest run")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="the job's time limit")
    parser.add_argument("--scratch", required=True, help="folder of temporary files")
    parser.add_argument("--disk-mb", type=float, required=True, help="what the study leaves behind")
    parser.add_argument("--fetched", nargs="*", default=[], help="downloaded models and files")
    parser.add_argument("--out", type=Path, required=True, help="output: JSON")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    term = preflight.Signal(args.out.with_name(f".{args.kind}.signal"))
    checks = {
        "libraries": preflight.versions,
        "cores": partial(preflight.cores, args.threads),
        "downloads": partial(preflight.readable, args.fetched),
        "scratch": partial(preflight.writable, args.scratch, 100),
        "results": partial(preflight.writable, str(args.out.parent), args.disk_mb),
    }
    if args.gpus:
        checks["GPUs"] = partial(preflight.gpus, args.gpus, args.gpu_mb)
    scheduled = "SLURM_JOB_ID" in os.environ
    checks["signal"] = partial(term.check, 60 * args.minutes, scheduled)
    found = preflight.run(checks)
    write_json(args.out, {"kind": args.kind, "host": platform.node(), "checks": found})


if __name__ == "__main__":
    run_script(main)
