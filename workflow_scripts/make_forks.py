"""Write the tables behind figures/forks: each branch's changes, and their parts by cause."""

import argparse
import json

from learning_dynamics import forks, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: forks.csv")
    parser.add_argument("--parts", required=True, help="output: fork_parts.csv")
    args = parser.parse_args()
    runs = {}
    for entry in args.study["runs"]:
        found = inputs.trajectories(args.results, {**args.study, "runs": [entry["run"]]})
        for seed, trajectory in found[entry["run"]].items():
            runs[entry["algorithm"], entry["from"], entry["branch"], seed] = trajectory
    table = forks.table_of(runs)
    for path, content in ((args.out, table), (args.parts, forks.decomposition(table))):
        with atomic(path) as temporary:
            content.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
