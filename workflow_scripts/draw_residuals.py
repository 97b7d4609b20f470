"""Draw figures/residuals from its tables."""

import argparse

import pandas as pd

from learning_dynamics.errors import run_script
from learning_dynamics.figures import residuals, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", required=True, help="residuals.csv")
    parser.add_argument("--coefficients", required=True, help="coefficients.csv")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    figure = residuals.draw(pd.read_csv(args.steps), pd.read_csv(args.coefficients))
    style.save(figure, args.out)


if __name__ == "__main__":
    run_script(main)
