"""Tabulate what every response type of every run changed by, from the trajectories alone."""

import argparse
import json

from learning_dynamics import dynamics, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: table (csv)")
    args = parser.parse_args()
    by_role = inputs.trajectories(args.results, args.study)
    table = dynamics.changes_table({args.study["runs"][role]: t for role, t in by_role.items()})
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
