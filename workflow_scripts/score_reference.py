"""Score every training pair under the model that a preference run starts from."""

import argparse

from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.reference import reference_logps
from learning_dynamics.scoring import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--out", required=True, help="output: reference.parquet")
    args = parser.parse_args()
    model, codec = load_model(args)
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    write_table(args.out, reference_logps(Engine(model), pairs, codec, args.compute))


if __name__ == "__main__":
    run_script(main)
