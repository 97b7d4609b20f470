"""Write the response types that a base model itself produces (chosen_initial, chosen_selfr)."""

import argparse
import json

from learning_dynamics import sampling
from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.probe import PROBE_COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--probe", type=json.loads, required=True, help="section probe, as JSON")
    parser.add_argument("--probes", required=True, help="probe.parquet")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="output: the model's own probes")
    args = parser.parse_args()
    model, codec = load_model(args)
    probes = read_texts(args.probes, PROBE_COLUMNS)
    size = args.compute["batch_tokens"]
    own = sampling.sample_probes(
        probes, model, codec, args.texts, args.probe, size, args.seed, args.model
    )
    write_table(args.out, own)


if __name__ == "__main__":
    run_script(main)
