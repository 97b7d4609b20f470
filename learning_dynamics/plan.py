"""What a study will cost before it is paid for, and what is done already.

    python -m learning_dynamics.plan figures/squeeze.pdf --profile slurm

Takes Snakemake's words; which jobs there are, and which are done, is Snakemake's own answer
(``--summary``). What a job takes is :mod:`learning_dynamics.costs`'s estimate, times the median of
measured over estimated among the finished jobs of the same kind and model, where there are some.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from learning_dynamics.costs import Cost, Costs
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.study import Study
from learning_dynamics.usage import MARK

ASKS = "LEARNING_DYNAMICS_PLAN"  # environment variable: where the Snakefile writes its config
KINDS = ["fetch_model", "pretrain_model", "sample_probes", "rephrase_probes_with_a_model",
         "score_reference", "finetune", "measure_one_step", "measure_mass", "measure_kernel",
         "measure_mutual", "generate_answers", "judge_answers", "learn_digits",
         "track_entk"]  # fmt: skip
SEVERAL = ["finetune", "pretrain_model", "learn_digits", "track_entk"]  # outputs of one job
PLACES = [
    r"runs/(?P<dataset>[^/]+)/(?P<model>[^/]+)/(?P<run>[^/]+)/seed(?P<seed>\d+)/(?P<file>[^/]+)",
    r"models/(?P<model>[^/]+)(/seed(?P<seed>\d+))?/(?P<file>[a-z]+(-(?P<dataset>.+)\.parquet)?.*)",
    r"data/(?P<dataset>[^/]+)/(?P<file>.+)",
    r"digits/(?P<network>[^/]+)/seed(?P<seed>\d+)/(?P<file>[^/]+)",
    r"(?P<file>.+)",
]


@dataclass
class Job:
    """A job of the study: its kind (a method of Costs; None: a local rule that draws, tabulates or
    downloads), its names, whether it is done, its estimate and what it used, if that is known."""

    kind: str | None
    names: dict[str, str]
    folder: Path
    log: str
    done: bool = True
    cost: Cost | None = None
    used: dict[str, float] | None = None
    factors: dict[str, float] = field(default_factory=dict)

    def estimate(self, what: str) -> float:
        """``core_seconds`` (seconds of CPU cores, or of GPUs) or ``memory_mb``, as costs has it."""
        if what == "memory_mb":
            return self.cost.memory_mb
        return self.cost.seconds * (self.cost.gpus or self.cost.threads)

    def measured(self, what: str) -> float | None:
        """The same, as the job itself recorded it."""
        if self.used is None:
            return None
        if what == "memory_mb":
            return self.used["peak_memory_mb"]
        gpus = self.cost.gpus
        return self.used["seconds"] * gpus if gpus else self.used["cpu_seconds"]

    def expected(self, what: str) -> float:
        """The estimate, corrected by what finished jobs took."""
        return self.estimate(what) * self.factors[what]

    def disk_mb(self) -> float:
        """What lies there, or will."""
        if not self.done or self.kind != "finetune":
            return self.cost.disk_mb
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()) / 1e6


def tell(config: dict, cards: int | None) -> None:
    """Called by the Snakefile: write the study's configuration, and the cap on GPUs in flight,
    where a plan that started this Snakemake asks for them."""
    if ASKS in os.environ:
        text = json.dumps({"config": config, "cards": cards})
        Path(os.environ[ASKS]).write_text(text, encoding="utf-8")


def jobs_of(summary: str, folder: Path, study: str) -> list[Job]:
    """The jobs behind the lines of ``snakemake --summary``, run in ``folder``."""
    found: dict[tuple, Job] = {}
    for line in summary.splitlines():
        cells = line.split("\t")
        if len(cells) != 6 or cells[0] == "output_file":
            continue
        path, _, rule, log, _, plan = cells
        kind = "finetune" if rule.startswith("finetune_") else rule.removesuffix("_of_base")
        kind = kind if kind in KINDS else None
        inside = path.removeprefix(f"results/{study}/")
        match = next(m for m in (re.fullmatch(place, inside) for place in PLACES) if m)
        names = {name: value for name, value in match.groupdict().items() if value}
        names["file"] = "" if kind in SEVERAL else names["file"]
        if kind is None and rule.startswith("publish"):
            names["file"] = Path(path).stem  # a figure in two formats
        key = rule, *names.items()
        job = found.setdefault(key, Job(kind, names, (folder / path).parent, log))
        job.done &= plan == "no update"
        if log != "-":
            job.log = log
    return list(found.values())


def read_use(job: Job, folder: Path) -> dict[str, float] | None:
    """What a finished job says that it used; None where it says nothing, or was interrupted (its
    record is then the last attempt's alone)."""
    if job.kind == "finetune":
        file = job.folder / "run.json"
        facts = json.loads(file.read_text(encoding="utf-8") or "{}") if file.is_file() else {}
        return facts.get("used_in_last_attempt") if facts.get("attempts") == 1 else None
    log = folder / job.log.split(",")[0]
    if job.log == "-" or not log.is_file():
        return None
    last = log.read_text(encoding="utf-8").rpartition(MARK)
    return json.loads(last[2]) if last[1] else None


def calibrate(jobs: list[Job]) -> None:
    """Set every job's factors: measured over estimated, the median of the others of its kind and
    model; without such of its kind; else 1."""
    for what in ("core_seconds", "memory_mb"):
        ratios: dict[tuple, list[tuple[int, float]]] = defaultdict(list)
        for number, job in enumerate(jobs):
            value = job.measured(what)
            if value:
                ratio = value / job.estimate(what)
                for key in ((job.kind, job.names.get("model")), (job.kind, None)):
                    ratios[key].append((number, ratio))
        for number, job in enumerate(jobs):
            job.factors[what] = 1.0
            for key in ((job.kind, job.names.get("model")), (job.kind, None)):
                others = [ratio for owner, ratio in ratios[key] if owner != number]
                if others:
                    job.factors[what] = statistics.median(others)
                    break


def data_facts(folder: Path) -> dict[str, tuple[float, float, int]]:
    """Of the data sets that are built: mean characters of a prompt and of a response, and training
    rows."""
    found = {}
    for path in sorted(folder.glob("data/*/pairs.parquet")):
        if path.stat().st_size:
            import pandas as pd

            table = pd.read_parquet(path)
            train = table[table["split"] == "train"]
            means = [train[c].str.len().mean() for c in ("prompt", "chosen", "rejected")]
            found[path.parent.name] = means[0], (means[1] + means[2]) / 2, len(train)
    return found


def table(rows: Iterable[list[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) if n == 0 else cell.rjust(w)
                  for n, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip


def hours(seconds: float) -> str:
    """Hours, with as many digits as are of use."""
    return f"{seconds / 3600:.3g}" if seconds < 360_000 else f"{seconds / 3600:.0f}"


def rows_of(jobs: list[Job], key: Callable[[Job], str]) -> list[list[str]]:
    """A row per group of jobs: how many, how many done, hours of those that are not, largest
    memory, disk of all."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[key(job)].append(job)
    rows = []
    for name, members in groups.items():
        left = [job for job in members if not job.done]
        rows.append([
            name, len(members), len(members) - len(left),
            hours(statistics.fmean(job.expected("core_seconds") for job in members)),
            hours(sum(job.expected("core_seconds") for job in left)),
            f"{max(job.expected('memory_mb') for job in members):.0f}",
            f"{max(job.cost.gpu_memory_mb for job in members):.0f}",
            f"{sum(job.disk_mb() for job in members):.0f}",
        ])  # fmt: skip
    return rows


def ratios(jobs: list[Job]) -> list[list[str]]:
    """Estimate over measured, by kind: the estimate of costs, and the corrected one (from the other
    jobs); the median and the range."""
    rows = []
    for kind in KINDS:
        known = [job for job in jobs if job.kind == kind and job.used]
        if not known:
            continue
        row = [kind, len(known)]
        for what in ("core_seconds", "memory_mb"):
            for call in (Job.estimate, Job.expected):
                values = [call(job, what) / job.measured(what) for job in known]
                row.append(
                    f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
                )
        rows.append(row)
    return rows


def report(jobs: list[Job], study: Study, cap: int | None) -> str:
    """The plan, as text."""
    costly = [job for job in jobs if job.kind]
    left = [job for job in costly if not job.done]
    local = [job for job in jobs if not job.kind]
    unit = "GPU-h" if study.config["compute"]["device"] == "cuda" else "CPU-h"
    head = ["jobs", "done", f"{unit} each", f"{unit} to do", "memory MB", "GPU MB", "disk MB"]
    runs = [job for job in costly if job.kind == "finetune"]
    total = {
        name: sum(job.expected("core_seconds") for job in left if bool(job.cost.gpus) == gpu)
        for name, gpu in (("GPU-hours", True), ("CPU-hours", False))
    }
    lines = [
        f"study {study.name}: {len(runs)} runs, {sum(job.done for job in runs)} of them done",
        "",
        table([["kind of job", *head],
               *rows_of(sorted(costly, key=lambda job: KINDS.index(job.kind)), lambda j: j.kind)]),
        f"figures, tables, data: {len(local)} local jobs, {sum(j.done for j in local)} done",
        "",
        table([["run (over its seeds)", *head],
               *rows_of(runs, lambda j: "/".join(map(j.names.get, ("dataset", "model", "run"))))]),
        "",
    ]  # fmt: skip
    known = ratios(jobs)
    if known:
        titles = ["estimate / measured", "jobs", "time, by default", "time, from the others",
                  "memory, by default", "memory, from the others"]  # fmt: skip
        lines += [table([titles, *known]), ""]
    amounts = ", ".join(f"{hours(seconds)} {name}" for name, seconds in total.items() if seconds)
    lines.append(f"to do: {len(left)} jobs, {amounts or 'nothing'}; "
                 f"{sum(job.disk_mb() for job in costly) / 1e3:.3g} GB of disk in all")  # fmt: skip
    if cap and total["GPU-hours"]:
        lines.append(f"with {cap} GPUs at a time: {hours(total['GPU-hours'] / cap)} h or more")
    return "\n".join(lines)


def plan(words: list[str], folder: Path) -> str:
    """The plan of what Snakemake would do with ``words`` in ``folder``.

    Raises:
        InputError: with Snakemake's own last line, when it cannot plan.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "config.json"
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--summary", "--nolock", *words],
            cwd=folder, capture_output=True, text=True, env={**os.environ, ASKS: str(file)},
        )  # fmt: skip
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise InputError((said or ["snakemake failed"])[-1].removeprefix("error: "))
        asked = json.loads(file.read_text(encoding="utf-8"))
    study = Study(asked["config"])
    results = folder / "results" / study.name
    costs = Costs(study, data_facts(results))
    jobs = jobs_of(done.stdout, folder, study.name)
    for job in jobs:
        if job.kind:
            job.cost = costs.of(job.kind, job.names)
            job.used = read_use(job, folder) if job.done else None
    calibrate([job for job in jobs if job.kind])
    return report(jobs, study, asked["cards"])


def main() -> None:
    """Print the plan; the words are Snakemake's."""
    words = sys.argv[1:]
    at = next((i for i, word in enumerate(words) if word in ("-d", "--directory")), None)
    print(plan(words, Path(words[at + 1]) if at is not None else Path.cwd()))


if __name__ == "__main__":
    run_script(main)
