"""Draw figures/claims from the claims table."""

import argparse
import json

from learning_dynamics.claims.verdicts import COLUMNS
from learning_dynamics.errors import run_script
from learning_dynamics.figures import claims, style
from learning_dynamics.files import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the study, as JSON")
    parser.add_argument("--claims", required=True, help="claims.parquet")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    style.save(claims.draw(args.study, read_table(args.claims, COLUMNS)), args.out)


if __name__ == "__main__":
    run_script(main)
