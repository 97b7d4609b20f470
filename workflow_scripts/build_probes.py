"""Write a data set's probe set: every response type that needs no base model.

What the data card finds wrong with it is a warning.
"""

import argparse
import json
import logging

from learning_dynamics import answers, card, probe
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.pairs import GIVEN_COLUMNS, PAIR_COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the data set, as JSON")
    parser.add_argument("--probe", type=json.loads, required=True, help="section probe, as JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--given", required=True, help="given.parquet")
    parser.add_argument("--rephrases", required=True, help="rephrases.parquet")
    parser.add_argument("--out", required=True, help="output: probe.parquet")
    args = parser.parse_args()
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    rephrases = read_texts(args.rephrases, answers.TEXT_COLUMNS)
    given = read_texts(args.given, GIVEN_COLUMNS)
    table = probe.build(pairs, given, rephrases, args.spec, args.probe)
    for finding in card.findings(table, pairs).itertuples():
        logging.warning("%s: %s", finding.check, finding.message)
    write_table(args.out, table)


if __name__ == "__main__":
    run_script(main)
