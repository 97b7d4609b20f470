"""Faults that strike a training on a cluster, each a real job of a real SLURM, and how it ends.

    python -m tests.slurm.faults [NAME ...]    all, or some; prints docs/reliability.md's table

A fault has passed when Snakemake ends well and trajectory and training table equal those of an
undisturbed run, bit for bit (without the clock's column).
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.cluster import Cluster, cluster, missing
from tests.slurm.study import Study

LEAKY = Path(__file__).with_name("leaky.py")
EVERY = 25  # updates between resume checkpoints
STRIKE = 40  # the update after which a fault strikes
RUN = {"epochs": 20, "probe_every": 1, "checkpoint_every": EVERY}  # 120 updates, each one logged
# Where a fault needs minutes of training: six times the rows in an update.
LONG = {"epochs": 1200, "batch_size": 24, "probe_every": 5, "checkpoint_every": 100}
OVERLAYS = {
    "dpo": {"seeds": [0], "runs": {"dpo": {**RUN, "influence": {"every": 100}}}},
    "long": {"seeds": [0], "runs": {"dpo": {**LONG, "influence": {"every": 1000}}}},
    "leaky": {"seeds": [0], "runs": {"leaky": {
        "algorithm": f"{LEAKY}:leaky_dpo", "init": "sft", "lr": 1.0e-4, **RUN}}},
}  # fmt: skip


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
        every = OVERLAYS[fault.overlay]["runs"][fault.run]["checkpoint_every"]
        cheap = all(0 <= updates <= every for updates in self.repeated)
        return (
            cheap and len(self.repeated) == self.attempts - 1 and (self.attempts > 1) == fault.again
        )


def training_rule(study: Study) -> list[str]:
    """Snakemake's words for the watched run alone: the rest is there, made by other settings."""
    leaky = study.run.parent.name == "leaky"
    rule = "finetune_leaky_dpo" if leaky else "finetune_dpo_by_token_along"
    return [study.target, "--allowed-rules", rule]


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
        kill_snakemake.__doc__, overlay="long", strike=kill_snakemake, again=False
    ),
    "memory": Fault(
        "The job exceeds its memory (a loss that leaks 4 MiB per update): SLURM kills it at "
        "1000 MB; the next attempt may have 2000.",
        overlay="leaky",
        words=("--set-resources", "finetune_leaky_dpo:mem_mb=1000 * attempt"),
    ),
    "time-limit": Fault(
        "A wall-time limit of three minutes, with SIGTERM one minute before.",
        overlay="long",
        words=(
            "--set-resources",
            "finetune_dpo_by_token_along:runtime=3",
            "finetune_dpo_by_token_along:slurm_extra=--signal=TERM@60",
            "--retries",
            "8",
        ),
    ),
}


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


def main(names: list[str]) -> int:
    """Print the table; 0 when every fault has passed."""
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        print(f"error: {unknown[0]}: no such fault; expected {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the cluster goes down
    passed = True
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as place:
        root = Path(place).resolve()
        root.chmod(0o755)
        with cluster(root / "cluster") as it:
            base = prepared(it, root / "base")
            undisturbed: dict[str, Study] = {}
            print(
                "| fault | what was done | jobs | attempts | updates repeated | outcome | seconds |"
            )
            print("|---|---|---|---|---|---|---|", flush=True)
            for name in names or FAULTS:
                fault = FAULTS[name]
                given = (OVERLAYS[fault.overlay], base, fault.run)
                if fault.overlay not in undisturbed:
                    whole = Study(it, root / f"whole-{fault.overlay}", *given)
                    whole.finish(whole.start(*training_rule(whole)))
                    undisturbed[fault.overlay] = whole
                started = time.monotonic()
                study = Study(it, root / name, *given)
                try:
                    out = suffer(fault, study)
                except AssertionError as error:
                    print(f"| {name} | {fault.does} | | | | **{error}** | |", flush=True)
                    passed = False
                    continue
                good = study.equals(undisturbed[fault.overlay]) and out.expected(fault)
                passed &= good
                print(f"| {name} | {fault.does} | {out.jobs} | {out.attempts} "
                      f"| {', '.join(map(str, out.repeated)) or 'none'} of {out.updates} "
                      f"| {'the same numbers' if good else '**not as it should**'} "
                      f"| {time.monotonic() - started:.0f} |", flush=True)  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]).split()))
