"""Finetune one run and score the probe set along it. Killed, it goes on where it stopped."""

import argparse
import copy
import json
import logging
import platform
import shutil
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from learning_dynamics import influence_table, parallel, token_trajectory, trajectory, usage
from learning_dynamics.algorithms import algorithm
from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import run_script
from learning_dynamics.files import (
    atomic,
    read_table,
    read_texts,
    sweep,
    write_json,
    write_table,
)
from learning_dynamics.finetune import Learner, finetune
from learning_dynamics.judge import judge_of
from learning_dynamics.lock import Lock
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.policy_rows import PolicyRows
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.provenance import commit, digest_of
from learning_dynamics.resume import Checkpoints, fingerprint
from learning_dynamics.rows import REFERENCE_COLUMNS, training_rows
from learning_dynamics.runs import EXTRA
from learning_dynamics.scoring import Engine
from learning_dynamics.trained import prepared

LOG = logging.getLogger(__name__)
PATIENCE = 480.0  # seconds; torch.distributed's limit is ten minutes, and a lock's is five
OUTPUTS = ["trajectory.parquet", "training.parquet", "model", "checkpoints"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the run, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    add_model(parser, "--init")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--probes", required=True, nargs="+", help="probe tables")
    parser.add_argument("--reference", help="reference.parquet, for preference losses")
    parser.add_argument("--writing", type=json.loads, default={}, help="how the policy writes and "
                        "is judged, as JSON, for runs that train on its own responses")  # fmt: skip
    parser.add_argument("--keep-epochs", action="append", default=[], metavar="EPOCH",
                        help="an epoch to keep the model of; may be given again")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="output: the run's folder")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    spec, compute = args.spec, args.compute
    model, codec = load_model(args)
    accelerator = parallel.accelerator_of(compute, args.out)
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    reference = read_table(args.reference, REFERENCE_COLUMNS) if args.reference else None
    probes = pd.concat([read_texts(p, PROBE_COLUMNS) for p in args.probes], ignore_index=True)
    rows = training_rows(pairs, codec, spec, args.seed, reference, probes)
    written = None
    if spec.get("rows") in ("self-play", "on-policy"):
        frozen = judge = None
        if spec["rows"] == "on-policy":
            frozen, judge = Engine(copy.deepcopy(model)), judge_of(args.writing["judge"])
        train = pairs[pairs["split"] == "train"]
        written = PolicyRows(train, rows, codec, spec, args.seed, args.writing, judge, frozen)
    own = algorithm(spec["algorithm"]).file
    judge_place = args.writing.get("judge", {}).get("function")
    judge_file = judge_place and judge_place.rpartition(":")[0]
    settings = {"spec": spec, "seed": args.seed, "compute": compute, "texts": args.texts,
                "model": args.model_spec, "writing": args.writing, "epochs": args.keep_epochs,
                "code": digest_of("workflow_scripts/finetune.py")}  # fmt: skip
    given = filter(None, [args.reference, own, judge_file])
    inputs = [args.model, args.pairs, *args.probes, *given]
    mark = fingerprint(settings, inputs)
    first = accelerator.is_main_process
    # The other processes wait for the first one, but not forever: their meeting has a time limit.
    patience = None if accelerator.num_processes == 1 else PATIENCE
    with Lock(args.out, patience) if first else nullcontext() as lock:
        if parallel.anyone(first and complete(args.out, mark, spec), accelerator):
            LOG.info("%s is complete: another process has trained it meanwhile", args.out)
            return
        if first:
            sweep(args.out)
        check = lock.check if lock else lambda: None
        checkpoints = Checkpoints(args.out / ".resume", mark, first, check)
        if compute["tracker"]:
            accelerator.init_trackers(args.out.name, config={"seed": args.seed})
        trained = prepared(args.model, codec.tokenizer, spec["lora"], args.seed, model,
                           spec["checkpointing"])  # fmt: skip
        learner = Learner.of(trained, spec, compute, accelerator)
        tables, counters = finetune(
            learner, rows, trajectory.probe_trees(probes, codec), args.seed, checkpoints,
            args.keep_epochs, written,
        )  # fmt: skip
        check()
        learner.save(args.out / "model")
        use = usage.together(parallel.by_process(usage.used(), accelerator))
        accelerator.end_training()
        if not first:
            return
        (args.out / "checkpoints").mkdir(exist_ok=True)
        for epoch in args.keep_epochs:
            with atomic(args.out / "checkpoints" / f"epoch{epoch}") as temporary:
                shutil.copytree(checkpoints.folder / f"epoch{epoch}", temporary)
        write_table(args.out / "training.parquet", tables["training"])
        if written is not None:
            write_table(args.out / "written.parquet", tables["written"])
        if "proxies" in tables:
            write_table(args.out / "proxies.parquet", tables["proxies"])
        if "tokens" in tables:
            token_trajectory.write(args.out / "tokens.parquet", tables["tokens"])
        if "influence" in tables:
            write_table(args.out / "influence.parquet", tables["influence"], influence_table.SCHEMA)
        write_json(
            args.out / "run.json",
            {
                **settings,
                "fingerprint": mark,
                **counters,
                "cut_prompts": codec.cut_prompts,
                "cut_responses": codec.cut_responses,
                "commit": commit(),
                "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
                "hardware": torch.cuda.get_device_name(model.device)
                if model.device.type == "cuda"
                else platform.processor() or platform.machine(),
                "used_in_last_attempt": use,
            },
        )
        write_table(args.out / "trajectory.parquet", tables["trajectory"], trajectory.SCHEMA)
        if complete(args.out, mark, spec):  # else a job that waits has removed outputs, and goes on
            checkpoints.remove()


def complete(folder: Path, mark: str, spec: dict) -> bool:
    """Whether a run's folder has all that a run of this fingerprint writes."""
    extra = [f"{name}.parquet" for name in EXTRA if spec.get(name)]
    names = [*OUTPUTS, *extra]
    try:
        facts = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return facts.get("fingerprint") == mark and all((folder / name).exists() for name in names)


if __name__ == "__main__":
    run_script(main)
