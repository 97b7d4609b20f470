"""Draw figures/influence from its tables and from what its runs left behind."""

import argparse
import json

import pandas as pd

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import influence, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--table", required=True, help="influence_along.csv")
    parser.add_argument("--parts", required=True, help="influence_parts.csv")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    tables = pd.read_csv(args.table), pd.read_csv(args.parts)
    runs = inputs.followed(args.results, args.study)
    style.save(influence.draw(args.study, runs, *tables), args.out)


if __name__ == "__main__":
    run_script(main)
