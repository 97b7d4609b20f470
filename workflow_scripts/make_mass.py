"""Add up where the mass of y⁻ lands, and what Lemma 1 explains of it, over positions and seeds."""

import argparse
import json

from learning_dynamics import inputs, landing
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: table (csv)")
    args = parser.parse_args()
    run = args.study["runs"]["sft"]
    folders = {s: inputs.run_folder(args.results, args.study, run, s) for s in args.study["seeds"]}
    tables = {s: read_table(f / "mass.parquet", landing.COLUMNS) for s, f in folders.items()}
    with atomic(args.out) as temporary:
        landing.summary(tables).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
