"""Finetune one run and score the probe set along it. Killed, it goes on where it stopped."""

import argparse
import json
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from learning_dynamics import models, trajectory
from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_table, write_json, write_table
from learning_dynamics.finetune import finetune, training_rows
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.provenance import commit, digest_of
from learning_dynamics.resume import Checkpoints, fingerprint


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the run, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    add_model(parser, "--init")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--probes", required=True, nargs="+", help="probe tables")
    parser.add_argument("--reference", help="reference.parquet, for preference losses")
    parser.add_argument("--keep-epochs", nargs="*", default=[], help="epochs to keep a model of")
    parser.add_argument("--out", required=True, type=Path, help="output: the run's folder")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    started = time.time()
    model, codec = load_model(args)
    pairs = read_table(args.pairs, PAIR_COLUMNS)
    reference = None
    if args.reference:
        reference = read_table(args.reference, ["example_id", "chosen", "rejected"])
    probes = pd.concat([read_table(p, PROBE_COLUMNS) for p in args.probes], ignore_index=True)
    rows = training_rows(pairs, codec, args.spec, args.seed, reference, probes)
    settings = {"spec": args.spec, "seed": args.seed, "compute": args.compute,
                "texts": args.texts, "model": args.model_spec, "epochs": args.keep_epochs,
                "code": digest_of("workflow_scripts/finetune.py")}  # fmt: skip
    inputs = [args.model, args.pairs, *args.probes, *filter(None, [args.reference])]
    checkpoints = Checkpoints(args.out / ".resume", fingerprint(settings, inputs))
    tables, counters = finetune(
        model, codec.tokenizer, rows, trajectory.probe_trees(probes, codec), args.spec, args.seed,
        args.compute, checkpoints, args.keep_epochs,
    )  # fmt: skip
    with atomic(args.out / "model") as temporary:
        models.save(model, codec.tokenizer, temporary)
    for epoch in args.keep_epochs:
        with atomic(args.out / "checkpoints" / f"epoch{epoch}") as temporary:
            shutil.copytree(checkpoints.folder / f"epoch{epoch}", temporary)
    write_table(args.out / "training.parquet", tables["training"])
    write_json(
        args.out / "run.json",
        {
            **settings,
            **counters,
            "cut_prompts": codec.cut_prompts,
            "cut_responses": codec.cut_responses,
            "commit": commit(),
            "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
            "hardware": torch.cuda.get_device_name(model.device)
            if model.device.type == "cuda"
            else platform.processor() or platform.machine(),
            "wall_seconds_of_last_attempt": time.time() - started,
        },
    )
    write_table(args.out / "trajectory.parquet", tables["trajectory"], trajectory.SCHEMA)
    checkpoints.remove()


if __name__ == "__main__":
    run_script(main)
