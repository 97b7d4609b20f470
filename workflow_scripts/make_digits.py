"""Write the numbers behind figures/mnist and figures/entk_mnist as one table."""

import argparse

import pandas as pd

from learning_dynamics.digits import summary
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--learnt", nargs="*", default=[], help="networks of figures/mnist")
    parser.add_argument("--tracked", nargs="*", default=[], help="networks of figures/entk_mnist")
    parser.add_argument("--dense", type=int, required=True, help="last epoch of the early phase")
    parser.add_argument("--out", required=True, help="output: table (csv)")
    args = parser.parse_args()

    def read(network: str, *names: str) -> list:
        return [summary.read(args.results, network, args.seeds, name) for name in names]

    parts = [
        *(summary.learnt(n, *read(n, "training", "predictions", "one-step")) for n in args.learnt),
        *(summary.tracked(n, *read(n, "entk", "entk-training"), args.dense) for n in args.tracked),
    ]
    with atomic(args.out) as temporary:
        pd.concat(parts).to_csv(temporary, index=False)


if __name__ == "__main__":
    run_script(main)
