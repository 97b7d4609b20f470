"""Write a data set's preference pairs, the corpus for pretraining, and the given responses."""

import argparse
import json
from pathlib import Path

import pandas as pd

from learning_dynamics import pairs
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the data set, as JSON")
    parser.add_argument("--files", nargs="*", default=[], help="its local files")
    parser.add_argument("--tokenizer", type=Path, help="model folder, for the length filter")
    parser.add_argument("--pairs", required=True, help="output: pairs.parquet")
    parser.add_argument("--corpus", required=True, help="output: corpus.parquet")
    parser.add_argument("--given", required=True, help="output: given.parquet")
    args = parser.parse_args()
    if args.spec["source"] == "file" and not args.files:
        raise InputError("datasets: no file given; expected path, url or make DATA=...")
    data = pairs.build(args.spec, args.files, args.tokenizer)
    write_table(args.pairs, data.pairs)
    write_table(args.given, data.given.astype("str"))
    write_table(args.corpus, pd.DataFrame({"text": pd.Series(data.corpus, dtype="str")}))


if __name__ == "__main__":
    run_script(main)
