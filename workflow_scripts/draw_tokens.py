"""Draw figures/tokens from the runs' tables of tokens."""

import argparse

from learning_dynamics import inputs, token_classes, token_trajectory
from learning_dynamics.errors import run_script
from learning_dynamics.figures import command, style, tokens


def main() -> None:
    args: argparse.Namespace = command.arguments(__doc__)
    moved = {}
    for role, run in args.study["runs"].items():
        folders = {
            s: inputs.run_folder(args.results, args.study, run, s) for s in args.study["seeds"]
        }
        moved[role] = {
            seed: token_classes.changes(token_trajectory.read(folder / "tokens.parquet"))
            for seed, folder in folders.items()
        }
    style.save(tokens.draw(args.study, moved), args.out)


if __name__ == "__main__":
    run_script(main)
