"""What tables and figures read: trajectories by role and seed, from a study's results folder."""

from pathlib import Path

import pandas as pd

from learning_dynamics.files import read_table

TRAJECTORY_NEEDS = ["step", "split", "example_id", "response_type", "logp", "logp_argmax",
                    "logp_greedy0", "logp_top_other", "greedy_match", "energy",
                    "prob_norm"]  # fmt: skip
ONE_STEP_NEEDS = ["kind", "batch", "p_label", "dlogp_top_other", "dlogp_rest", "dp_label",
                  "dp_top_other", "dp_rest"]  # fmt: skip


def run_folder(results: str, study: dict, run: str, seed: int) -> Path:
    """The folder of one run of a figure's data set and model."""
    return Path(results) / "runs" / study["dataset"] / study["model"] / run / f"seed{seed}"


def trajectories(results: str, study: dict) -> dict[str, dict[int, pd.DataFrame]]:
    """Trajectories by role (or by run, where the figure lists runs) and seed."""
    runs = study["runs"]
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
