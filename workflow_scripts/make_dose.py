"""Tabulate the squeezing statistics of DPO over learning rate × updates."""

import argparse
import json

from learning_dynamics import dose, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: table (csv)")
    args = parser.parse_args()
    rates = {}
    for run in args.study["runs"]:
        path = inputs.run_folder(args.results, args.study, run, args.study["seeds"][0]) / "run.json"
        rates[run] = json.loads(path.read_text(encoding="utf-8"))["spec"]["lr"]
    runs = inputs.trajectories(args.results, args.study)
    table = dose.dose_table(runs, rates, args.study["updates"])
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
