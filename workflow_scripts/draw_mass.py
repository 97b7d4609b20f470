"""Draw figures/mass from its table."""

import argparse
import json

import pandas as pd

from learning_dynamics.errors import run_script
from learning_dynamics.figures import mass, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--table", required=True, help="mass.csv")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    style.save(mass.draw(args.study, pd.read_csv(args.table)), args.out)


if __name__ == "__main__":
    run_script(main)
