"""Take the single steps of figures/squeeze and account for the mass that y⁻ loses."""

import argparse

from learning_dynamics import mass
from learning_dynamics.command import add_model
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table
from learning_dynamics.single_steps import add_steps, load_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    add_steps(parser)
    parser.add_argument("--out", required=True, help="output: mass.parquet")
    args = parser.parse_args()
    engine, rows, names = load_steps(args, "figures.mass.one_step")
    table = mass.measure(engine, rows, names, args.batches, args.batch_size, args.seed)
    write_table(args.out, table)


if __name__ == "__main__":
    run_script(main)
