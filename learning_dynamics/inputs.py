"""What tables and figures read: trajectories by role and seed, from a study's results folder; and
probe sets."""

import argparse
from pathlib import Path

import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.sources import read_rows

TRAJECTORY_NEEDS = ["step", "split", "example_id", "response_type", "logp", "logp_argmax",
                    "logp_greedy0", "logp_top_other", "greedy_match", "energy",
                    "prob_norm", "n_tokens", "logp_first",
                    "logp_end"]  # fmt: skip
ANSWER_COLUMNS = ["split", "example_id", "prompt", "response", "ended"]
ONE_STEP_NEEDS = ["kind", "batch", "p_label", "dlogp_top_other", "dlogp_rest", "dp_label",
                  "dp_top_other", "dp_rest"]  # fmt: skip


def run_folder(results: str, study: dict, run: str, seed: int) -> Path:
    """The folder of one run of a figure's data set and model."""
    return Path(results) / "runs" / study["dataset"] / study["model"] / run / f"seed{seed}"


def trajectories(results: str, study: dict) -> dict[str, dict[int, pd.DataFrame]]:
    """Trajectories by role (or by run, where the figure lists runs) and seed."""
    return _read(results, study, study["runs"])


def confound_runs(results: str, study: dict) -> tuple[dict, dict, dict]:
    """What figures/confounds reads: trajectories by role, corrected; by switch and role, as
    published; and by leading space and update type."""
    base = study["dataset"]
    published = {
        switch: _read(results, {**study, "dataset": f"{base}+{switch}"}, study["runs"])
        for switch in study["switches"]
    }
    trained = {
        space: _read(results, {**study, "dataset": dataset}, study["trained_on"])
        for space, dataset in (("as_published", f"{base}+leading_space"), ("corrected", base))
    }
    return trajectories(results, study), published, trained


def _read(results: str, study: dict, runs: dict | list) -> dict[str, dict[int, pd.DataFrame]]:
    named = runs if isinstance(runs, dict) else {run: run for run in runs}
    return {
        role: {
            seed: read_table(
                run_folder(results, study, run, seed) / "trajectory.parquet", TRAJECTORY_NEEDS
            )
            for seed in study["seeds"]
        }
        for role, run in named.items()
    }


def one_steps(results: str, study: dict) -> dict[int, pd.DataFrame]:
    """Single-step tables of the SFT model, by seed."""
    return {
        seed: read_table(
            run_folder(results, study, study["runs"]["sft"], seed) / "one-step.parquet",
            ONE_STEP_NEEDS,
        )
        for seed in study["seeds"]
    }


def answers(study: dict) -> dict[tuple[str, float, int], pd.DataFrame]:
    """What models wrote, by run, epoch and seed; ``study["answers"]`` lists the files."""
    known: dict[str, pd.DataFrame] = {}  # one model may be the start of several runs
    for entry in study["answers"]:
        path = entry["path"]
        known[path] = known[path] if path in known else read_table(path, ANSWER_COLUMNS)
    return {(e["run"], e["epoch"], e["seed"]): known[e["path"]] for e in study["answers"]}


def add_probe_set(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`probe_set` reads."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probes", nargs="+", help="probe tables (parquet)")
    source.add_argument("--file", help="a file of rows with typed responses (jsonl, csv, parquet)")
    parser.add_argument("--pairs", help="pairs.parquet; without it no leak can be seen")


def probe_set(args: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Probe table and pairs table (None where there is none). The rows of a ``--file`` are taken
    for training pairs, and are the only ones known."""
    if args.file:
        pairs = pd.DataFrame(read_rows(args.file)).assign(split="train")
        keys = ["split", "example_id", "prompt"]
        probes = pairs.melt(keys, var_name="response_type", value_name="response").dropna()
        return probes.assign(made_by="file")[PROBE_COLUMNS], pairs[PAIR_COLUMNS]
    tables = [read_table(path, PROBE_COLUMNS) for path in args.probes]
    probes = pd.concat(tables, ignore_index=True)
    if probes.empty:
        raise InputError(f"{args.probes[0]}: no rows; expected at least one probe response")
    return probes, read_table(args.pairs, PAIR_COLUMNS) if args.pairs else None
