"""The CI study in a folder of its own, built through the project's SLURM profile, and what is seen
of its training while it runs."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from tests.slurm.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).resolve().parent / "site"
TICK = 0.1  # seconds between looks


@dataclass
class Attempt:
    """One start of a training: the update that it resumed after (0: from the beginning) and the
    last that it logged."""

    resumed: int
    reached: int


class Study:
    """A study folder on a cluster.

    Args:
        overlay: what the study has beyond studies/ci.yaml.
        base: a folder to start from, as a copy.
        run: the run whose training is watched.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, overlay: dict, base: Path | None = None,
        run: str = "dpo",
    ) -> None:  # fmt: skip
        self.cluster, self.folder = cluster, folder
        shutil.copytree(base, folder, symlinks=True) if base else folder.mkdir(parents=True)
        self._overlay = folder / "overlay.yaml"
        self._overlay.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        place = f"toyworld/toy-neox/{run}/seed0"
        self.run = folder / "results/ci/runs" / place
        self.target = str(self.run.relative_to(folder) / "trajectory.parquet")
        self.log = folder / "results/ci/logs/finetune" / f"{place}.log"
        self.log.unlink(missing_ok=True)  # of the base's own run, which is not watched
        self.attempts: list[Attempt] = []

    def start(self, *words: str) -> subprocess.Popen:
        """Snakemake on this study, as a user types it, with ``words``; its output is in a file."""
        typed = [sys.executable, "-m", "snakemake", *words, "--profile", "slurm", "--profile", SITE,
                 "--directory", self.folder, "--configfile", ROOT / "studies/ci.yaml",
                 self._overlay]  # fmt: skip
        words = list(map(str, typed))
        return self.cluster.start(words, self.folder / "snakemake.out", cwd=ROOT)

    def output(self) -> str:
        """What Snakemake said last, without the ends of long lines."""
        lines = (self.folder / "snakemake.out").read_text(encoding="utf-8").splitlines()
        return "\n".join(line[:200] for line in lines[-60:])

    def trainings(self) -> list[int]:
        """The pids of the processes that train in this folder now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                here = (process / "cwd").readlink() == self.folder
            except OSError:
                continue  # it has ended
            if here and len(words) > 1 and words[1].endswith(b"workflow_scripts/finetune.py"):
                found.append(int(process.name))
        return found

    def look(self) -> None:
        """Note how far the training is."""
        try:
            text = self.log.read_text(encoding="utf-8")
        except FileNotFoundError:  # the next job has removed it
            return
        done = re.findall(r"update (\d+)/", text)
        if not done:
            return
        resumed = re.search(r"resuming after update (\d+)", text)
        # An attempt's first logged update tells it from others: none starts where another did,
        # unless that one had saved nothing.
        now = Attempt(int(resumed[1]) if resumed else 0, int(done[-1]))
        last = self.attempts[-1] if self.attempts else None
        if last and last.resumed == now.resumed and last.reached <= now.reached:
            last.reached = now.reached
        else:
            self.attempts.append(now)

    def wait(
        self, what: str, until: Callable[[], bool], process: subprocess.Popen, seconds: float
    ) -> None:
        """Look until something is so; AssertionError after ``seconds``, or when Snakemake ended."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"no {what} in {seconds} s\n{self.output()}"
            assert process.poll() is None, f"ended before {what}\n{self.output()}"
            self.look()
            time.sleep(TICK)

    def finish(self, process: subprocess.Popen, seconds: float = 1800) -> None:
        """Look until Snakemake has ended well."""
        deadline = time.monotonic() + seconds
        while process.poll() is None:
            assert time.monotonic() < deadline, f"not done in {seconds} s\n{self.output()}"
            self.look()
            time.sleep(TICK)
        assert process.returncode == 0, self.output()
        self.look()

    def reached(self) -> int:
        """The last update that the present attempt has logged."""
        return self.attempts[-1].reached if self.attempts else 0

    def repeated(self) -> list[int]:
        """Logged updates that each further attempt did again; negative where it went on from an
        update after the last logged one."""
        return [last.reached - now.resumed
                for last, now in zip(self.attempts, self.attempts[1:], strict=False)]  # fmt: skip

    def equals(self, other: "Study") -> bool:
        """Whether the watched run's numbers are those of another study, bit for bit (all but the
        clock's column of the training table), and nothing is left to resume."""
        whole = [(study.folder / study.target).read_bytes() for study in (self, other)]
        tables = [pd.read_parquet(study.run / "training.parquet").drop(columns="rows_per_s")
                  for study in (self, other)]  # fmt: skip
        left = (self.run / ".resume").exists()
        return whole[0] == whole[1] and tables[0].equals(tables[1]) and not left

    def facts(self) -> dict:
        """The watched run's run.json."""
        return json.loads((self.run / "run.json").read_text(encoding="utf-8"))
