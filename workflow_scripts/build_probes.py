"""Write a data set's probe set: every response type that needs no model."""

import argparse
import json

from learning_dynamics import probe
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_table, write_table
from learning_dynamics.pairs import PAIR_COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the data set, as JSON")
    parser.add_argument("--probe", type=json.loads, required=True, help="section probe, as JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--probing-file", help="rows in the published jsonl format")
    parser.add_argument("--out", required=True, help="output: probe.parquet")
    args = parser.parse_args()
    pairs = read_table(args.pairs, PAIR_COLUMNS)
    write_table(args.out, probe.build(pairs, args.spec, args.probe, args.probing_file))


if __name__ == "__main__":
    run_script(main)
