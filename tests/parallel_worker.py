"""Finetunings in one or several processes: ``parallel_worker.py <folder> <job>``, by test_parallel.

A job has settings of the machine and several runs. A run with cuts is broken off before each of
those updates and taken up again, in a fresh learner, from the resume checkpoint; its tables and
model go to its folder."""

import json
import sys
from copy import deepcopy
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator

from learning_dynamics import finetune as loop
from learning_dynamics import models, parallel
from learning_dynamics.files import read_table
from learning_dynamics.reference import reference_logps
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import training_rows
from learning_dynamics.scoring import Engine
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import prepared
from learning_dynamics.trajectory import probe_trees

UPDATE = loop.update


class Cut(Exception):
    """The run is broken off here."""


def train(folder: Path, compute: dict, run: dict, accelerator: Accelerator) -> None:
    """One run, to its end."""
    spec = run["spec"]
    model, tokenizer = models.load(folder / "init")
    pairs, probes = (read_table(folder / f"{n}.parquet", ["prompt"]) for n in ("pairs", "probes"))
    codec = Codec(tokenizer, 256, 128)
    reference = reference_logps(Engine(deepcopy(model)), pairs, codec, compute)
    rows = training_rows(pairs, codec, spec, 0, reference, probes)
    out = folder / run["out"]
    cuts, done = list(run["cuts"]), []

    def update(*given: object) -> dict:
        done.append(1)
        if cuts and len(done) == cuts[0]:
            cuts.pop(0)
            raise Cut
        return UPDATE(*given)

    loop.update = update
    while True:
        done.clear()
        trained = prepared(folder / "init", tokenizer, spec["lora"], 0, deepcopy(model))
        learner = loop.Learner.of(trained, spec, compute, accelerator)
        checkpoints = Checkpoints(out / ".resume", "mark", accelerator.is_main_process)
        try:
            tables, counters = loop.finetune(
                learner, rows, probe_trees(probes, codec), 0, checkpoints, []
            )
        except Cut:
            accelerator.wait_for_everyone()
            continue
        break
    learner.save(out / "model")
    if accelerator.is_main_process:
        for name, table in tables.items():
            pd.DataFrame(table).to_parquet(out / f"{name}.parquet")
        (out / "counters.json").write_text(json.dumps(counters))


def main() -> None:
    folder, job = Path(sys.argv[1]), json.loads(sys.argv[2])
    accelerator = parallel.accelerator_of(job["compute"])
    for run in job["runs"]:
        train(folder, job["compute"], run, accelerator)
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
