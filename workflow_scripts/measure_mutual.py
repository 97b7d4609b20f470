"""Measure what a plain SFT step on each probed response does to every other, for a saved model."""

import argparse

import pandas as pd

from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.influence import mutual
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.scoring import Engine
from learning_dynamics.trajectory import probe_trees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--probes", required=True, nargs="+", help="probe tables")
    parser.add_argument("--examples", type=int, required=True, help="probed training prompts")
    parser.add_argument("--gradients-mb", type=int, required=True, help="of them in memory")
    parser.add_argument("--out", required=True, help="output: mutual.parquet")
    args = parser.parse_args()
    model, codec = load_model(args)
    probes = pd.concat([read_texts(p, PROBE_COLUMNS) for p in args.probes], ignore_index=True)
    probed = probe_trees(probes, codec)
    numbers, rows = probed.first(args.examples)
    if len(numbers) < args.examples:
        raise InputError(
            f"figures.kernel.examples = {args.examples}: the probe set has {len(numbers)} training "
            "prompts; expected at least as many"
        )
    trees, identity = [probed.trees[i] for i in numbers], probed.identity.iloc[rows]
    budget = args.compute["batch_tokens"], args.gradients_mb * 1_000_000
    write_table(args.out, mutual.measure(Engine(model), trees, identity, *budget))


if __name__ == "__main__":
    run_script(main)
