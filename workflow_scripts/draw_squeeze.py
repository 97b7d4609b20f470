"""Draw figures/squeeze from trajectories, single-step tables and theory's table."""

import argparse
import json

import pandas as pd

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import squeeze, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    figure = squeeze.draw(
        args.study,
        inputs.trajectories(args.results, args.study),
        inputs.one_steps(args.results, args.study),
        pd.read_csv(f"{args.results}/theory/squeeze.csv"),
    )
    style.save(figure, args.out)


if __name__ == "__main__":
    run_script(main)
