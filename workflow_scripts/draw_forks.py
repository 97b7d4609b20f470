"""Draw figures/forks from its tables."""

import argparse
import json

import pandas as pd

from learning_dynamics.errors import run_script
from learning_dynamics.figures import forks, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--table", required=True, help="forks.csv")
    parser.add_argument("--parts", required=True, help="fork_parts.csv")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    tables = pd.read_csv(args.table), pd.read_csv(args.parts)
    style.save(forks.draw(args.study, *tables), args.out)


if __name__ == "__main__":
    run_script(main)
