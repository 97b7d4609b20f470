"""Write tables/hallucination.csv: what answers state, repeat and copy, from base model to DPO."""

import argparse
import json

from learning_dynamics import hallucination, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_texts
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.toyworld import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--out", required=True, help="output: hallucination.csv")
    args = parser.parse_args()
    seed = args.study["world_seed"]
    world = None if seed is None else World(seed)
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    table = hallucination.table(args.study["runs"], inputs.answers(args.study), pairs, world)
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
