"""Kill a study again and again, restart it each time, and compare it with an undisturbed one.

    python -m tests.reliability.kills --kills 50 --seed 0 --write docs/reliability.md

Two runs of a study, sft and then dpo, are built by real Snakemake as make calls it. The first time
nothing happens to them. Then they are deleted and built anew, and every start meets one fault,
until no fault is left; nothing is repaired between a fault and the next start. What is checked:
docs/reliability.md.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from learning_dynamics.study import Study, load_config
from tests.reliability import page
from tests.reliability.processes import processes_of

ROOT = Path(__file__).resolve().parents[2]
RUNS = ("sft", "dpo")
# The CI study's runs are over in a second; these last long enough to be hit.
LONGER = {"run_defaults": {"checkpoint_every": 20, "probe_every": 30},
          "runs": {"sft": {"epochs": 12, "probe_every": 30, "influence": {"every": 40}},
                   "dpo": {"epochs": 20, "influence": {"every": 40}}}}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is done: a signal, to whom (training, snakemake, or all: the whole session), and when
    (while it trains, while it writes a checkpoint, or at any moment of the command)."""

    number: signal.Signals
    whom: str
    when: str

    def __str__(self) -> str:
        whom = {"training": "the training", "snakemake": "Snakemake", "all": "everything at once"}
        when = {
            "training": "in training",
            "writing": "in a checkpoint write",
            "any": "at any moment",
        }
        return f"{self.number.name} to {whom[self.whom]} {when[self.when]}"


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
# Faults with the share of each in a hundred.
SHARES = {
    Fault(KILL, "training", "training"): 24,
    Fault(KILL, "training", "writing"): 26,
    Fault(KILL, "snakemake", "training"): 14,
    Fault(KILL, "all", "training"): 14,
    Fault(TERM, "training", "training"): 10,
    Fault(INT, "all", "training"): 4,
    Fault(KILL, "all", "any"): 8,
}


@dataclass
class Outcome:
    """What a fault led to; ``inside`` says where it hit, found out afterwards; ``repeated`` are the
    updates that were done twice, None where the training had not begun."""

    fault: Fault
    inside: str = "elsewhere"
    repeated: int | None = None


@dataclass
class Run:
    """One run: its folder, its log, and the length of its checkpoint interval in updates."""

    folder: Path
    log: Path
    interval: int
    pending: list[Outcome] = field(default_factory=list)
    known: dict = field(default_factory=dict)
    begun: bool = False
    whole: bool = False
    again: int = 0

    def delete(self) -> None:
        """Let it be built anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.known, self.begun, self.whole = {}, False, False

    def progress(self) -> dict:
        """What progress.json says; empty without one."""
        try:
            return json.loads((self.folder / ".resume/progress.json").read_bytes())
        except (OSError, ValueError):
            return {}

    def process(self) -> int | None:
        """The process that holds the run's lock."""
        try:
            return json.loads((self.folder / ".lock").read_bytes())["pid"]
        except (OSError, ValueError):
            return None

    def writing(self) -> bool:
        """Whether a checkpoint is being written, or was when its process died."""
        return any((self.folder / ".resume").glob(".update-*.tmp"))

    def look(self) -> dict:
        """Progress, once this attempt has begun; else nothing. What the last fault cost is read
        off then, and compared with what the log says. A run that was whole and begins once more is
        counted: Snakemake was killed before it had noted the end of the job."""
        now = self.progress()
        if not now:
            self.whole = self.begun
        elif self.whole:
            self.again, self.whole = self.again + 1, False
        self.begun = self.begun or bool(now)
        if not now or now["attempts"] == self.known.get("attempts", 0):
            return {}
        for last in self.pending:
            last.repeated = now["repeated"] - self.known["repeated"]
            assert last.repeated <= self.interval, (last, self.interval)
            at = self.known["update"] - last.repeated
            said = re.findall(r"resuming after update (\d+) ", self.log.read_text())
            assert said == [str(at)], f"{self.log}: {said}; expected {at}"
        self.pending.clear()
        return now


class Kills:
    """A study in ``folder`` that is killed."""

    def __init__(self, folder: Path, study: str, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        config = [] if study == "toy" else [str(ROOT / f"studies/{study}.yaml")]
        if study == "ci":
            (folder / "longer.yaml").write_text(yaml.safe_dump(LONGER))
            config.append(str(folder / "longer.yaml"))
        settings = Study(load_config([ROOT / "config.yaml", *config])).runs
        results = folder / "results" / study
        where = Path("toyworld/toy-neox")
        self.runs = [
            Run(results / "runs" / where / name / "seed0",
                results / "logs/finetune" / where / name / "seed0.log",
                settings[name]["checkpoint_every"])
            for name in RUNS
        ]  # fmt: skip
        targets = [
            str((run.folder / "trajectory.parquet").relative_to(folder)) for run in self.runs
        ]
        self.command = [
            sys.executable, "-m", "learning_dynamics.warm", "snakemake", "-s",
            str(ROOT / "Snakefile"), "-d", str(folder), *(["--configfile"] if config else []),
            *config, "--cores", "2", "--scheduler", "greedy", "--rerun-incomplete", "--", *targets,
        ]  # fmt: skip
        self.outcomes: list[Outcome] = []

    def start(self) -> subprocess.Popen:
        """The command, in a session of its own."""
        beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                self.command, cwd=ROOT, env={**os.environ, "PATH": beside}, stdout=output,
                stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def watch(self, command: subprocess.Popen) -> Iterator[tuple[Run, dict]]:
        """The run that is training, with its progress, every few milliseconds until the command
        ends."""
        while command.poll() is None:
            for run in self.runs:
                if now := run.look():
                    yield run, now
            time.sleep(0.002)

    def undisturbed(self) -> float:
        """Build everything; seconds from the start of the first run's training to the end."""
        command, began = self.start(), None
        for _ in self.watch(command):
            began = began or time.monotonic()
        self.finish(command)
        self.expected = self.content()
        return time.monotonic() - began

    def finish(self, command: subprocess.Popen) -> None:
        """See the command end well, and nothing be left of it."""
        for _ in self.watch(command):
            pass
        output = (self.folder / "output.txt").read_text()
        assert command.wait() == 0, output
        self.no_process(command)

    def no_process(self, command: subprocess.Popen) -> None:
        """No process of the command's session is left."""
        deadline = time.monotonic() + 30
        while left := processes_of(command.pid):
            assert time.monotonic() < deadline, f"orphans: {left}"
            time.sleep(0.05)

    def content(self) -> dict[str, bytes]:
        """What of the runs must be equal: trajectory, weights, and the training table without its
        clock. Nothing else may lie there."""
        found = {}
        for run in self.runs:
            left = [*run.folder.glob(".*"), *run.folder.rglob(".*.tmp*")]
            assert not left, left
            training = pd.read_parquet(run.folder / "training.parquet")
            found |= {
                f"{run.folder} trajectory": (run.folder / "trajectory.parquet").read_bytes(),
                f"{run.folder} model": (run.folder / "model/model.safetensors").read_bytes(),
                f"{run.folder} training": training.drop(columns="rows_per_s").to_json().encode(),
            }
        locks = list(self.folder.glob(".snakemake/locks/*"))
        assert not locks, locks
        return found

    def wait_for(self, fault: Fault, command: subprocess.Popen, seconds: float) -> Run | None:
        """The run to be hit, at the moment to hit it; None when the command ends before."""
        ahead, began = None, {}
        moment = time.monotonic() + self.rng.uniform(0, seconds)
        if fault.when == "any":
            while time.monotonic() < moment and command.poll() is None:
                for run in self.runs:
                    run.look()
                time.sleep(0.002)
            return self.runs[0]
        for run, now in self.watch(command):
            if fault.when == "writing":
                if run.writing():
                    time.sleep(self.rng.uniform(0, 0.004))
                    return run
                continue
            ahead = ahead or self.rng.randint(1, round(1.2 * run.interval))
            if now["update"] >= began.setdefault(run.folder, now["update"]) + ahead:
                time.sleep(self.rng.uniform(0, 0.05))
                return run
        return None

    def hit(self, fault: Fault, seconds: float) -> bool:
        """Start, do it, see everything end; False when the runs were whole before."""
        for run in self.runs:
            run.known = run.progress()
        command = self.start()
        run = self.wait_for(fault, command, seconds)
        process = run and run.process()
        if command.poll() is not None or (fault.whom == "training" and process is None):
            self.finish(command)
            return False
        with suppress(ProcessLookupError):  # it has just ended
            if fault.whom == "all":
                os.killpg(command.pid, fault.number)
            else:
                os.kill(process if fault.whom == "training" else command.pid, fault.number)
        code = command.wait(timeout=300)
        self.no_process(command)
        if code == 0:  # it came too late to be felt
            return False
        outcome = Outcome(fault)
        self.outcomes.append(outcome)
        for run in self.runs:
            if run.look() and not (run.folder / "trajectory.parquet").exists():
                outcome.inside = "writing" if run.writing() else "training"
                run.pending.append(outcome)
        return True

    def run(self, faults: list[Fault], say: Callable[[str], None] = print) -> None:
        """Do these faults, in random order."""
        seconds = self.undisturbed()
        say(f"undisturbed: {seconds:.0f} s")
        self.rng.shuffle(faults)
        while faults:
            for run in self.runs:
                run.delete()
            whole = False
            while faults and not whole:
                fault = faults.pop(0)
                whole = not self.hit(fault, seconds)
                if whole:
                    faults.insert(self.rng.randint(0, len(faults)), fault)
                else:
                    say(f"{len(self.outcomes)}: {fault}: in {self.outcomes[-1].inside}")
            if not whole:
                for run in self.runs:
                    run.known = run.progress()
                self.finish(self.start())
            found = self.content()
            different = [name for name, value in self.expected.items() if found[name] != value]
            assert not different, f"differ from the undisturbed: {different}"
            assert not any(run.pending for run in self.runs)
            say("whole again, and equal")

    def table(self) -> str:
        """The outcomes, in Markdown: a row per fault and place where it hit."""
        lines = ["| fault | hit | kills | outcome | updates repeated: median, max |",
                 "|---|---|---|---|---|"]  # fmt: skip
        places = {"training": "training", "writing": "a checkpoint write", "elsewhere": "elsewhere"}
        for fault in SHARES:
            for inside, place in places.items():
                these = [o for o in self.outcomes if (o.fault, o.inside) == (fault, inside)]
                costs = [o.repeated for o in these if o.repeated is not None]
                cost = f"{statistics.median(costs):g}, {max(costs)}" if costs else "none had begun"
                if these:
                    lines.append(f"| {fault} | {place} | {len(these)} | resumed, equal | {cost} |")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--study", choices=["toy", "ci"], default="toy")
    parser.add_argument("--seed", type=int, default=0, help="of moments and order")
    parser.add_argument("--write", type=Path, help="a Markdown file whose section Kills to replace")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        kills = Kills(Path(folder), args.study, args.seed)
        total = sum(SHARES.values())
        faults = [f for f, n in SHARES.items() for _ in range(math.ceil(args.kills * n / total))]
        kills.run(faults, lambda line: print(line, flush=True))
    inside = [outcome.inside for outcome in kills.outcomes]
    intervals = ", ".join(f"{n} {run.interval}" for n, run in zip(RUNS, kills.runs, strict=True))
    text = (
        f"`python -m tests.reliability.kills --study {args.study} --kills {args.kills} --seed "
        f"{args.seed}`, {(time.monotonic() - began) / 60:.0f} min: {len(inside)} kills, "
        f"{inside.count('training')} in training, {inside.count('writing')} in a checkpoint write. "
        f"Checkpoint interval in updates: {intervals}. No orphan, nothing to repair by hand, every "
        "resumed update logged. Runs done again from nothing, because Snakemake was killed between "
        f"their end and its note of it: {sum(run.again for run in kills.runs)}.\n\n"
        f"{kills.table()}\n"
    )
    print(text)
    if args.write:
        page.write(args.write, "kills", text)


if __name__ == "__main__":
    main()
