"""Train a network on digits; write its training, its predictions, and single steps from its end."""

import argparse
import json

import torch

from learning_dynamics.digits import NETWORKS
from learning_dynamics.digits.images import load
from learning_dynamics.digits.measure import learn
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="images.parquet")
    parser.add_argument("--network", required=True, choices=NETWORKS)
    parser.add_argument("--spec", type=json.loads, required=True, help="section digits, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--training", required=True, help="output: training.parquet")
    parser.add_argument("--predictions", required=True, help="output: predictions.parquet")
    parser.add_argument("--one-step", required=True, help="output: one-step.parquet")
    args = parser.parse_args()
    torch.set_num_threads(1)  # equal numbers on every machine's number of cores
    tables = learn(args.network, load(args.images), args.spec, args.seed)
    for path, table in zip((args.training, args.predictions, args.one_step), tables, strict=True):
        write_table(path, table)


if __name__ == "__main__":
    run_script(main)
