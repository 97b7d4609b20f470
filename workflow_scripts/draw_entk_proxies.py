"""Draw figures/entk_proxies from its tables."""

import argparse
import json

import pandas as pd

from learning_dynamics.errors import run_script
from learning_dynamics.figures import entk_proxies, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--curves", required=True, help="entk_proxies.csv")
    parser.add_argument("--accumulated", required=True, help="entk_accumulated.csv")
    parser.add_argument("--agreement", help="kernel_agreement.csv, where there is one")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    curves, accumulated = pd.read_csv(args.curves), pd.read_csv(args.accumulated)
    agreement = pd.read_csv(args.agreement) if args.agreement else None
    style.save(entk_proxies.draw(args.study, curves, accumulated, agreement), args.out)


if __name__ == "__main__":
    run_script(main)
