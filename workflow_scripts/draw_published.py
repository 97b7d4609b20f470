"""Draw figures/published: imported runs of the reference implementation beside ours."""

import argparse
import json

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import published, style
from learning_dynamics.files import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--runs", nargs="+", required=True, help="name=trajectory.parquet")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    imported = dict(run.split("=", 1) for run in args.runs)
    needs = ["step", "epoch", "split", "example_id", "response_type", "logp", "logp_argmax"]
    tables = {name: read_table(path, needs) for name, path in imported.items()}
    ours = {name: args.study["runs"][name] for name in ("sft", "dpo")}
    trajectories = inputs.trajectories(args.results, {**args.study, "runs": ours})
    style.save(published.draw(args.study, tables, trajectories), args.out)


if __name__ == "__main__":
    run_script(main)
