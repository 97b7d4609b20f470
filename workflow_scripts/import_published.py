"""Import a published run of the reference implementation as a trajectory."""

import argparse

from learning_dynamics import published
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="holds prob_train_metrics.json")
    parser.add_argument("--examples-per-evaluation", type=int, help="where the run is not known")
    parser.add_argument("--batch-size", type=int, help="where the run is not known")
    parser.add_argument("--out", required=True, help="output: trajectory.parquet")
    args = parser.parse_args()
    table = published.import_run(args.folder, args.examples_per_evaluation, args.batch_size)
    write_table(args.out, table, published.SCHEMA)


if __name__ == "__main__":
    run_script(main)
