"""Summarise imported published runs: where each quantity starts, peaks and ends."""

import argparse

from learning_dynamics import published
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import atomic, read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="+", required=True, help="name=trajectory.parquet ...")
    parser.add_argument("--out", required=True, help="output: table (csv)")
    args = parser.parse_args()
    tables = {}
    for run in args.runs:
        name, _, path = run.partition("=")
        if not name or not path or name in tables:
            raise InputError(f"--runs: {run!r}; expected name=trajectory.parquet, each name once")
        tables[name] = read_table(
            path, ["evaluation", "example_id", "response_type", "logp", "logp_argmax"]
        )
    with atomic(args.out) as temporary:
        published.summary(tables).to_csv(temporary, index=False, float_format="%.2f")


if __name__ == "__main__":
    run_script(main)
