"""Train a small base model and its tokenizer from scratch on a data set's corpus."""

import argparse
import json

import torch

from learning_dynamics import models
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_texts, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the model, as JSON")
    parser.add_argument("--corpus", required=True, help="corpus.parquet")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, help="output: model folder")
    parser.add_argument("--report", required=True, help="output: model.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpus = list(read_texts(args.corpus, ["text"])["text"])
    model, tokenizer, report = models.pretrain(corpus, args.spec, args.seed)
    with atomic(args.out) as temporary:
        models.save(model, tokenizer, temporary)
    write_json(args.report, {"spec": args.spec, "seed": args.seed, **report})


if __name__ == "__main__":
    run_script(main)
