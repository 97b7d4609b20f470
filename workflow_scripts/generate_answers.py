"""Write a model's answers to held-out and training prompts."""

import argparse
import json

from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.sampling import sample_answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--answers", type=json.loads, required=True, help="section answers, JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="output: the answers")
    args = parser.parse_args()
    model, codec = load_model(args)
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    size, turn = args.compute["batch_tokens"], args.texts["next_turn"]
    answers = sample_answers(pairs, model, codec, args.answers, turn, size, args.seed)
    write_table(args.out, answers)


if __name__ == "__main__":
    run_script(main)
