"""What tables and figures read: trajectories by role and seed, from a study's results folder; and
probe sets."""

import argparse
import json
from pathlib import Path

import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table, read_texts
from learning_dynamics.influence_table import COLUMNS
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.sources import read_rows

TRAJECTORY_NEEDS = ["step", "split", "example_id", "response_type", "logp", "logp_argmax",
                    "logp_greedy0", "logp_top_other", "greedy_match", "energy",
                    "prob_norm", "n_tokens", "logp_first",
                    "logp_end"]  # fmt: skip
CURVE_NEEDS = ["step", "examples", "epoch", "split", "example_id", "response_type", "n_tokens",
               "logp", "logp_argmax", "logp_top_other", "greedy_match", "energy"]  # fmt: skip
ANSWER_COLUMNS = ["split", "example_id", "prompt", "response", "ended"]
ONE_STEP_NEEDS = ["kind", "batch", "p_label", "dlogp_top_other", "dlogp_rest", "dp_label",
                  "dp_top_other", "dp_rest"]  # fmt: skip

MOST_TYPES = 200  # of a probing file: each is a line of a figure


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


def chains(results: str, study: dict) -> dict[tuple[str, str], dict[str, list[dict]]]:
    """What the trajectory figures read: by data set and model, and by role, the runs that follow
    each other, each with its trajectories by seed. A run that a later one picks up before its end
    is cut there."""
    found: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for dataset in study["datasets"]:
        for model in study["models"]:
            place = {**study, "dataset": dataset, "model": model}
            found[dataset, model] = {
                role: [_stage(results, place, run, epoch) for run, epoch in chain]
                for role, chain in study["chains"].items()
            }
    return found


def _stage(results: str, study: dict, run: str, epoch: str | None) -> dict[int, pd.DataFrame]:
    out = {}
    for seed in study["seeds"]:
        path = run_folder(results, study, run, seed) / "trajectory.parquet"
        table = curve_columns(read_table(path, CURVE_NEEDS))
        out[seed] = table[table["epoch"] <= float(epoch) + 1e-9] if epoch else table
    return out


def curve_columns(trajectory: pd.DataFrame) -> pd.DataFrame:
    """With what the curves also draw: ``p_label`` (mean probability of the response's tokens) and
    ``logp_token`` (log-prob per token, nats). Where the updates are not known, as in some imported
    runs, evaluations are counted instead."""
    added = {
        "p_label": 1 - trajectory["energy"],
        "logp_token": trajectory["logp"] / trajectory["n_tokens"].astype("float64"),
    }
    if trajectory["step"].isna().any():
        added["step"] = trajectory["evaluation"]
    return trajectory.assign(**added)


def followed(results: str, study: dict) -> dict[str, dict[int, pd.DataFrame]]:
    """What runs with ``influence`` left behind, by role and seed."""
    return {
        role: {
            seed: read_table(run_folder(results, study, run, seed) / "influence.parquet", COLUMNS)
            for seed in study["seeds"]
        }
        for role, run in study["runs"].items()
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
    """Add the arguments that :func:`probe_set` and :func:`study_of` read."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probes", nargs="+", help="probe tables (parquet)")
    source.add_argument("--file", help="a file of rows with typed responses (jsonl, csv, parquet)")
    parser.add_argument("--pairs", help="pairs.parquet; without it no leak can be seen")
    parser.add_argument("--study", type=json.loads, help="the figure, as JSON; may lack for a file")


def study_of(args: argparse.Namespace) -> dict:
    """What the card says of its study; of a file that belongs to none, the file's name."""
    alone = {"study": "-", "dataset": Path(args.file or "-").name, "model": "-", "seeds": []}
    return args.study or alone


def probe_set(args: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Probe table and pairs table (None where there is none). The rows of a ``--file`` are taken
    for training pairs, and are the only ones known."""
    if args.file:
        rows = [row | {"split": "train"} for row in read_rows(args.file)]
        kinds = dict.fromkeys(k for row in rows for k in row if k not in PROBE_COLUMNS[:3])
        if len(kinds) > MOST_TYPES:
            raise InputError(
                f"{args.file}: {len(kinds)} columns of responses; expected at most {MOST_TYPES}"
            )
        typed = [
            (*(row[key] for key in PROBE_COLUMNS[:3]), kind, row[kind], "file")
            for kind in kinds
            for row in rows
            if kind in row
        ]
        return pd.DataFrame(typed, columns=PROBE_COLUMNS), pd.DataFrame(rows)[PAIR_COLUMNS]
    tables = [read_texts(path, PROBE_COLUMNS) for path in args.probes]
    probes = pd.concat(tables, ignore_index=True)
    if probes.empty:
        raise InputError(f"{args.probes[0]}: no rows; expected at least one probe response")
    return probes, read_texts(args.pairs, PAIR_COLUMNS) if args.pairs else None


PROXY_NEEDS = ["step", "response_type", "lbk", "sign_delta"]


def update_runs(
    results: str, study: dict
) -> tuple[
    dict[str, dict[int, pd.DataFrame]],
    dict[str, dict[int, pd.DataFrame]],
    dict[int, int],
]:
    """The runs of figures/entk_proxies: trajectories by update type and seed, what was measured
    across their single updates (where it was), and the number of logits by seed."""
    measured = {
        update: {
            seed: read_table(run_folder(results, study, run, seed) / "proxies.parquet", PROXY_NEEDS)
            for seed in study["seeds"]
        }
        for update, run in study["updates"].items()
        if run in study["measured"]
    }
    return _read(results, study, study["updates"]), measured, logits(results, study)


def logits(results: str, study: dict) -> dict[int, int]:
    """V by seed: the number of logits of the figure's base models.

    Raises:
        InputError: when a model's config.json does not say.
    """
    out = {}
    for seed in study["seeds"]:
        path = Path(results) / "models" / study["homes"][str(seed)] / "model" / "config.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected a model folder")
        try:
            config = json.loads(path.read_bytes())
            size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
        except (ValueError, AttributeError, RecursionError):
            raise InputError(f"{path}: not a JSON object; expected a model's config") from None
        if not isinstance(size, int):
            raise InputError(f"{path}: vocab_size is {size!r}; expected the number of logits")
        out[seed] = size
    return out


def kernels(results: str, study: dict) -> dict[int, pd.DataFrame]:
    """The exact kernels of figures/entk_proxies' tiny models, by seed."""
    columns = ["update", "observed", "total", "per_position", "lbk", "sign_delta"]
    return {
        seed: read_table(
            Path(results) / "models" / study["homes"][str(seed)]
            / f"kernel-{study['dataset']}.parquet",
            columns,
        )
        for seed in study["seeds"]
    }  # fmt: skip


def imported(named: list[str], columns: list[str]) -> dict[str, pd.DataFrame]:
    """Imported published runs from ``name=path`` words, by name."""
    pairs = (word.partition("=") for word in named)
    return {name: read_table(path, columns) for name, _, path in pairs}
