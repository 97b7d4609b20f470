"""Score every training pair under the model that a preference run starts from."""

import argparse
import json

from learning_dynamics import finetune, models
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_table, write_table
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.tokens import Codec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--model-spec", type=json.loads, required=True, help="the model, as JSON")
    parser.add_argument("--compute", type=json.loads, required=True, help="section compute, JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--out", required=True, help="output: reference.parquet")
    args = parser.parse_args()
    device = models.device_of(args.compute)
    model, tokenizer = models.load(args.model, device)
    codec = Codec(tokenizer, args.model_spec["max_length"], args.model_spec["max_prompt_length"])
    pairs = read_table(args.pairs, PAIR_COLUMNS)
    write_table(args.out, finetune.reference_logps(model, pairs, codec, args.compute))


if __name__ == "__main__":
    run_script(main)
