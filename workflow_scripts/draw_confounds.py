"""Draw figures/confounds from its tables and trajectories."""

import argparse
import json

import pandas as pd

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import confounds, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--tables", required=True, nargs=4,
                        help="confounds, influence, fingerprint and its course (csv)")  # fmt: skip
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    corrected, published, _ = inputs.confound_runs(args.results, args.study)
    tables = [pd.read_csv(path) for path in args.tables]
    style.save(confounds.draw(args.study, *tables, corrected, published), args.out)


if __name__ == "__main__":
    run_script(main)
