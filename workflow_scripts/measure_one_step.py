"""Take single DPO, coin-flip and SFT steps from one model and record where mass goes."""

import argparse

from learning_dynamics import one_step
from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.rows import training_rows
from learning_dynamics.scoring import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="output: one-step.parquet")
    args = parser.parse_args()
    model, codec = load_model(args)
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    train = pairs[pairs["split"] == "train"]
    if len(train) < args.batches * args.batch_size:
        raise InputError(
            f"figures.squeeze.one_step: {args.batches} batches of {args.batch_size} need "
            f"{args.batches * args.batch_size} pairs; the data set has {len(train)}"
        )
    spec = {"algorithm": "dpo", "labels": "given"}
    rows = training_rows(pairs, codec, spec, args.seed, None)
    names = list(train["example_id"])
    engine = Engine(model)
    table = one_step.measure(engine, rows, names, args.batches, args.batch_size, args.seed)
    write_table(args.out, table)


if __name__ == "__main__":
    run_script(main)
