"""Draw figures/entk_mnist from the digits' kernel tables."""

import argparse
import json

from learning_dynamics.digits import summary
from learning_dynamics.errors import run_script
from learning_dynamics.figures import entk_mnist, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="study, networks, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    seeds = args.study["seeds"]
    tables = {
        network: tuple(
            summary.read(args.results, network, seeds, name) for name in ("entk", "entk-training")
        )
        for network in args.study["networks"]
    }
    style.save(entk_mnist.draw(args.study, tables), args.out)


if __name__ == "__main__":
    run_script(main)
