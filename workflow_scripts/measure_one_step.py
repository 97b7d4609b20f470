"""Take single DPO, coin-flip and SFT steps from one model and record where mass goes."""

import argparse
import json

from learning_dynamics import finetune, models, one_step
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import read_table, write_table
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.tokens import Codec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--model-spec", type=json.loads, required=True, help="the model, as JSON")
    parser.add_argument("--compute", type=json.loads, required=True, help="section compute, JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="output: one-step.parquet")
    args = parser.parse_args()
    device = models.device_of(args.compute)
    model, tokenizer = models.load(args.model, device)
    codec = Codec(tokenizer, args.model_spec["max_length"], args.model_spec["max_prompt_length"])
    pairs = read_table(args.pairs, PAIR_COLUMNS)
    train = pairs[pairs["split"] == "train"]
    if len(train) < args.batches * args.batch_size:
        raise InputError(
            f"figures.squeeze.one_step: {args.batches} batches of {args.batch_size} need "
            f"{args.batches * args.batch_size} pairs; the data set has {len(train)}"
        )
    spec = {"algorithm": "dpo", "labels": "given"}
    rows = finetune.training_rows(pairs, codec, spec, args.seed, None)
    names = list(train["example_id"])
    table = one_step.measure(model, rows, names, args.batches, args.batch_size, args.seed)
    write_table(args.out, table)


if __name__ == "__main__":
    run_script(main)
