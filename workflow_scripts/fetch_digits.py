"""Draw the images of digits: from scikit-learn, or from a data set of the hub."""

import argparse
import json

from learning_dynamics.digits.images import draw
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="section digits, as JSON")
    parser.add_argument("--out", required=True, help="output: images.parquet")
    args = parser.parse_args()
    write_table(args.out, draw(args.spec))


if __name__ == "__main__":
    run_script(main)
