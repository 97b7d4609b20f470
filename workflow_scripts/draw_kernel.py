"""Draw figures/kernel from its tables."""

import argparse
import json

import pandas as pd

from learning_dynamics.errors import run_script
from learning_dynamics.figures import kernel, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--kernel", required=True, help="kernel.csv")
    parser.add_argument("--stability", required=True, help="kernel_stability.csv")
    parser.add_argument("--proxies", required=True, help="kernel_proxies.csv")
    parser.add_argument("--agreement", help="kernel_agreement.csv, of a tiny model")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    paths = (args.kernel, args.stability, args.proxies, args.agreement)
    tables = [pd.read_csv(path) if path else None for path in paths]
    style.save(kernel.draw(args.study, *tables), args.out)


if __name__ == "__main__":
    run_script(main)
