"""Import a published run of the reference implementation, or one of anyone's training."""

import argparse
from pathlib import Path

from learning_dynamics import published
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table
from learning_dynamics.known import METRICS, TRAJECTORY
from learning_dynamics.own_runs import import_trajectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="holds prob_train_metrics.json, or "
                        "trajectory.parquet")  # fmt: skip
    parser.add_argument("--examples-per-evaluation", type=int, help="where the run is not known")
    parser.add_argument("--batch-size", type=int, help="where the run is not known")
    parser.add_argument("--out", required=True, help="output: trajectory.parquet")
    args = parser.parse_args()
    folder = Path(args.folder)
    if (folder / TRAJECTORY).is_file() and not (folder / METRICS).is_file():
        table = import_trajectory(folder)
    else:
        table = published.import_run(folder, args.examples_per_evaluation, args.batch_size)
    write_table(args.out, table, published.SCHEMA)


if __name__ == "__main__":
    run_script(main)
