"""Draw figures/dpo_models from its trajectories."""

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import dpo_models, style
from learning_dynamics.figures.command import arguments


def main() -> None:
    args = arguments(__doc__)
    cells = inputs.chains(args.results, args.study)
    rows = {model: runs["dpo"] for (_, model), runs in cells.items()}
    style.save(dpo_models.draw(args.study, rows), args.out)


if __name__ == "__main__":
    run_script(main)
