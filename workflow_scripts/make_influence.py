"""Write the tables behind figures/influence: how much of each run first-order influence predicts,
and through which response one step moves every type."""

import argparse
import json

from learning_dynamics import along, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: influence_along.csv")
    parser.add_argument("--parts", required=True, help="output: influence_parts.csv")
    args = parser.parse_args()
    runs = inputs.followed(args.results, args.study)
    for path, table in ((args.out, along.scores(runs)), (args.parts, along.parts(runs))):
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
