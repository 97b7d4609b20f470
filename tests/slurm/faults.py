"""Faults that strike a training on a cluster, each a real job of a real SLURM, and how it ends.

    python -m tests.slurm.faults [NAME ...] [--write docs/reliability.md]    all, or some

A fault has passed when Snakemake ends well and trajectory and training table equal those of an
undisturbed run, bit for bit (without the clock's column). Beside them, the preflight: its job must
end well, and tell of the signal before the time limit.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import page
from tests.slurm.cluster import Cluster, cluster, missing
from tests.slurm.study import Study

LOSSES = Path(__file__).with_name("losses.py")
EVERY = 25  # updates between resume checkpoints
STRIKE = 40  # the update after which a fault strikes
RUN = {"epochs": 20, "probe_every": 1, "checkpoint_every": EVERY}  # 120 updates, each one logged
OWN = {"init": "sft", "lr": 1.0e-4, **RUN}
OVERLAYS = {
    "dpo": {"seeds": [0], "runs": {"dpo": {**RUN, "influence": {"every": 100}}}},
    # Where a fault needs minutes of training: 600 updates.
    "slow": {"seeds": [0], "runs": {"slow": {
        **OWN, "algorithm": f"{LOSSES}:slow_dpo", "epochs": 100, "probe_every": 5}}},
    "leaky": {"seeds": [0], "runs": {"leaky": {**OWN, "algorithm": f"{LOSSES}:leaky_dpo"}}},
}  # fmt: skip
RULES = {
    "dpo": "finetune_dpo_by_token_along",
    "slow": "finetune_slow_dpo",
    "leaky": "finetune_leaky_dpo",
}


@dataclass
class Outcome:
    """How a study under a fault ended.

    Attributes:
        updates: of the run.
        attempts: starts of its training that did updates.
        repeated: updates that each attempt but the first did again.
        jobs: of SLURM; a requeued job counts once.
    """

    updates: int
    attempts: int
    repeated: list[int]
    jobs: int

    def expected(self, fault: "Fault") -> bool:
        """Whether the fault has struck as it should, and cost no more than one interval a time."""
        run = OVERLAYS[fault.overlay]["runs"][fault.run]
        # The log names the updates at which the run is probed; one saved later is ahead of it.
        cheap = all(-run["probe_every"] < updates <= run["checkpoint_every"]
                    for updates in self.repeated)  # fmt: skip
        return (
            cheap and len(self.repeated) == self.attempts - 1 and (self.attempts > 1) == fault.again
        )


def training_rule(study: Study) -> list[str]:
    """Snakemake's words for the watched run alone: the rest is there, made by other settings."""
    return [study.target, "--allowed-rules", RULES[study.run.parent.name]]


def requeue(study: Study, process: subprocess.Popen) -> None:
    """`scontrol requeue` of the running job."""
    study.cluster.run("scontrol", "requeue", study.cluster.running(study.folder)[0])


def cancel(study: Study, process: subprocess.Popen) -> None:
    """`scancel` of the running job."""
    study.cluster.run("scancel", study.cluster.running(study.folder)[0])


def node_down(study: Study, process: subprocess.Popen) -> None:
    """The job's node is set down (`scontrol update State=DOWN`) until the run has ended."""
    node = study.cluster.running(study.folder)[1]
    study.cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")


def kill_training(study: Study, process: subprocess.Popen) -> None:
    """`kill -9` of the training process."""
    (pid,) = study.trainings()
    os.kill(pid, signal.SIGKILL)


def kill_snakemake(study: Study, process: subprocess.Popen) -> subprocess.Popen:
    """`kill -9` of Snakemake; the same command again at once, while the job still runs."""
    process.kill()
    process.wait()
    again = study.start(*training_rule(study))
    study.wait("second job", lambda: len(study.cluster.jobs(study.folder)) == 2, again, 300)
    assert study.trainings(), "the training ended before the restart: its run is too short"
    return again


@dataclass
class Fault:
    """What strikes a training.

    Attributes:
        does: what is done, in words.
        overlay: its run, one of OVERLAYS.
        strike: called after update STRIKE; may return the process of a Snakemake started anew.
        words: options of Snakemake that bring it about.
        again: whether the training must start again.
    """

    does: str
    overlay: str = "dpo"
    strike: Callable[[Study, subprocess.Popen], subprocess.Popen | None] | None = None
    words: tuple[str, ...] = ()
    again: bool = True

    @property
    def run(self) -> str:
        """The name of its run."""
        return next(iter(OVERLAYS[self.overlay]["runs"]))


FAULTS = {
    "scancel": Fault(cancel.__doc__, strike=cancel),
    "requeue": Fault(requeue.__doc__, strike=requeue),
    "node-down": Fault(node_down.__doc__, strike=node_down),
    "kill-training": Fault(kill_training.__doc__, strike=kill_training),
    "kill-snakemake": Fault(
        kill_snakemake.__doc__, overlay="slow", strike=kill_snakemake, again=False
    ),
    "memory": Fault(
        "The job exceeds its memory (a loss that leaks 4 MiB per update): SLURM kills it at "
        "1000 MB; the next attempt may have 2000.",
        overlay="leaky",
        words=("--set-resources", "finetune_leaky_dpo:mem_mb=1000 * attempt"),
    ),
    "time-limit": Fault(
        "A wall-time limit of three minutes, with SIGTERM one minute before.",
        overlay="slow",
        words=(
            "--set-resources",
            "finetune_slow_dpo:runtime=3",
            "finetune_slow_dpo:slurm_extra=--signal=TERM@60",
            "--retries",
            "8",
        ),
    ),
}

NAMES = [*FAULTS, "preflight"]


def suffer(fault: Fault, study: Study) -> Outcome:
    """Run a study under a fault to its end.

    Raises:
        AssertionError: when it does not end well; with Snakemake's output.
    """
    process = study.start(*training_rule(study), *fault.words)
    if fault.strike:
        study.wait("training", lambda: study.reached() >= STRIKE, process, 900)
        process = fault.strike(study, process) or process
    try:
        study.finish(process)
    finally:
        for node in ("node1", "node2"):
            state = study.cluster.run("sinfo", "-h", "-n", node, "-o", "%T")
            if state.startswith("down"):
                study.cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    facts, jobs = study.facts(), study.cluster.jobs(study.folder)
    return Outcome(facts["updates"], facts["attempts"], study.repeated(), len(jobs))


def prepared(it: Cluster, folder: Path) -> Path:
    """The folder of a study that holds all that the watched runs start from."""
    study = Study(it, folder, {"seeds": [0]})
    study.finish(study.start("results/ci/runs/toyworld/toy-neox/sft/seed0/reference.parquet"))
    return folder


def preflight(study: Study) -> str:
    """Run the preflight; its words on the signal.

    Raises:
        AssertionError: when it does not end well, or had no signal; with Snakemake's output.
    """
    study.finish(study.start("preflight"))
    said = re.search(r"cpu on .*: signal: (TERM came after .*, and the job was run again)",
                     study.output())  # fmt: skip
    assert said and "nothing is wrong" in study.output(), f"no signal\n{study.output()}"
    return said[1]


class Faults:
    """Faults on a cluster, each in a copy of one study, in ``root``."""

    def __init__(self, it: Cluster, root: Path) -> None:
        self.cluster, self.root = it, root
        self.base = prepared(it, root / "base")
        self.undisturbed: dict[str, Study] = {}

    def study(self, fault: Fault, name: str) -> Study:
        """A copy of the study in a folder ``name``, with the run of a fault."""
        return Study(self.cluster, self.root / name, OVERLAYS[fault.overlay], self.base, fault.run)

    def row(self, name: str) -> tuple[bool, str]:
        """Whether a fault, or the preflight, ended as it should, and its row of the table."""
        started = time.monotonic()
        try:
            if name == "preflight":
                study = Study(self.cluster, self.root / name, {"seeds": [0]}, self.base)
                good, said = True, preflight(study)
                jobs = len(self.cluster.jobs(study.folder))
                cells = ["`snakemake preflight --profile slurm`", jobs, "", "", said]
            else:
                fault = FAULTS[name]
                if fault.overlay not in self.undisturbed:
                    whole = self.study(fault, f"whole-{fault.overlay}")
                    whole.finish(whole.start(*training_rule(whole)))
                    self.undisturbed[fault.overlay] = whole
                    started = time.monotonic()
                study = self.study(fault, name)
                out = suffer(fault, study)
                good = study.equals(self.undisturbed[fault.overlay]) and out.expected(fault)
                repeated = ", ".join(str(max(0, updates)) for updates in out.repeated) or "none"
                cells = [fault.does, out.jobs, out.attempts, f"{repeated} of {out.updates}",
                         "the same numbers" if good else "**not as it should**"]  # fmt: skip
        except AssertionError as error:
            print(error, file=sys.stderr)
            good, cells = False, ["", "", "", "", f"**{str(error).splitlines()[0]}**"]
        seconds = f"{time.monotonic() - started:.0f}"
        return good, f"| {' | '.join(map(str, [name, *cells, seconds]))} |\n"


HEAD = """\
| fault | what was done | jobs | attempts | updates repeated | outcome | seconds |
|---|---|---|---|---|---|---|
"""


def write(file: Path, name: str, row: str, version: str) -> None:
    """Put a row into the table of a Markdown file; the other rows stay."""
    lines = page.read(file, "slurm").splitlines(keepends=True)
    rows = {line.split(" ", 2)[1]: line for line in lines if line.startswith("| ")} | {name: row}
    table = "".join(rows[name] for name in NAMES if name in rows)
    page.write(file, "slurm", f"`python -m tests.slurm.faults`, {version}:\n\n{HEAD}{table}")


def main() -> int:
    """Print the table; 0 when everything has passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--write", type=Path, help="a Markdown file whose rows to replace")
    args = parser.parse_args()
    names = " ".join(args.names).split() or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"{unknown[0]}: no such fault; expected {', '.join(NAMES)}")
    if reason := missing():
        parser.error(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the cluster goes down
    passed = True
    print(HEAD, end="", flush=True)
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as place:
        root = Path(place).resolve()
        root.chmod(0o755)
        with cluster(root / "cluster") as it:
            faults, version = Faults(it, root), it.run("sinfo", "--version")
            for name in names:
                good, row = faults.row(name)
                print(row, end="", flush=True)
                passed &= good
                if args.write:
                    write(args.write, name, row, version)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
