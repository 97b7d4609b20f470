"""Train a network on digits for long and write its kernel, per pair of classes, along the way."""

import argparse
import json
import logging

import torch

from learning_dynamics.digits import NETWORKS
from learning_dynamics.digits.images import load
from learning_dynamics.digits.measure import track
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="images.parquet")
    parser.add_argument("--network", required=True, choices=NETWORKS)
    parser.add_argument("--spec", type=json.loads, required=True, help="section digits, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--entk", required=True, help="output: entk.parquet")
    parser.add_argument("--training", required=True, help="output: entk-training.parquet")
    args = parser.parse_args()
    torch.set_num_threads(1)  # equal numbers on every machine's number of cores
    kernel, training = track(
        args.network, load(args.images), args.spec, args.seed, logging.getLogger("entk").info
    )
    write_table(args.entk, kernel)
    write_table(args.training, training)


if __name__ == "__main__":
    run_script(main)
