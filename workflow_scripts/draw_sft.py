"""Draw figures/sft from its trajectories and, where there is one, the table of influence."""

import pandas as pd

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import sft, style
from learning_dynamics.figures.command import arguments


def main() -> None:
    args = arguments(__doc__, heatmap=True)
    (runs,) = inputs.chains(args.results, args.study).values()
    heatmap = pd.read_csv(args.heatmap) if args.heatmap else None
    style.save(sft.draw(args.study, runs, heatmap), args.out)


if __name__ == "__main__":
    run_script(main)
