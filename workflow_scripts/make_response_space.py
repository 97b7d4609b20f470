"""Write the placement of the response types by their measured mutual influence."""

import argparse
import json

from learning_dynamics import inputs, response_space
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: response_space.csv")
    args = parser.parse_args()
    updates, _, _ = inputs.update_runs(args.results, args.study)
    table = response_space.response_space(response_space.profiles(updates))
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
