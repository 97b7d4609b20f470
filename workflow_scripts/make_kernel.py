"""Write the tables behind figures/kernel: the kernel by type, its stability, and the proxies."""

import argparse
import json

from learning_dynamics import stability
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=json.loads, required=True, help="stage, seed, path; JSON")
    parser.add_argument("--kernel", required=True, help="output: kernel.csv")
    parser.add_argument("--stability", required=True, help="output: kernel_stability.csv")
    parser.add_argument("--proxies", required=True, help="output: kernel_proxies.csv")
    args = parser.parse_args()
    stages: dict[str, dict] = {}
    for entry in args.files:
        table = read_table(entry["path"], stability.NEEDS)
        stages.setdefault(entry["stage"], {})[entry["seed"]] = table
    for path, make in (
        (args.kernel, stability.by_types),
        (args.stability, stability.stability),
        (args.proxies, stability.proxies),
    ):
        with atomic(path) as temporary:
            make(stages).to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
