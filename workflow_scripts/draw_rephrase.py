"""Draw figures/rephrase from its trajectories."""

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import rephrase, style
from learning_dynamics.figures.command import arguments


def main() -> None:
    args = arguments(__doc__)
    cells = inputs.chains(args.results, args.study)
    rows = {dataset: runs["sft"] for (dataset, _), runs in cells.items()}
    style.save(rephrase.draw(args.study, rows), args.out)


if __name__ == "__main__":
    run_script(main)
