"""Write the rank correlation of every proxy with the exact kernel."""

import argparse
import json

from learning_dynamics import inputs, proxies
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: kernel_agreement.csv")
    args = parser.parse_args()
    updates, measured, logits = inputs.update_runs(args.results, args.study)
    curves = proxies.curves(updates, measured, logits)
    table = proxies.agreement(inputs.kernels(args.results, args.study), curves)
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
