"""Write a data set's preference pairs and the corpus of texts for pretraining."""

import argparse
import json

import pandas as pd

from learning_dynamics import pairs
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the data set, as JSON")
    parser.add_argument("--probing-file", help="rows in the published jsonl format")
    parser.add_argument("--pairs", required=True, help="output: pairs.parquet")
    parser.add_argument("--corpus", required=True, help="output: corpus.parquet")
    args = parser.parse_args()
    if args.spec["source"] == "toyworld":
        table, corpus = pairs.from_toyworld(args.spec)
    elif args.spec["source"] == "hub":
        table, corpus = pairs.from_hub(args.spec)
    elif args.probing_file:
        table, corpus = pairs.from_probing_file(args.spec, args.probing_file)
    else:
        raise InputError("datasets: no probing file given; expected probes.path or make DATA=...")
    write_table(args.pairs, table)
    write_table(args.corpus, pd.DataFrame({"text": pd.Series(corpus, dtype="str")}))


if __name__ == "__main__":
    run_script(main)
