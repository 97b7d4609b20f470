"""Draw figures/dpo from its trajectories."""

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import dpo, style
from learning_dynamics.figures.command import arguments


def main() -> None:
    args = arguments(__doc__)
    (runs,) = inputs.chains(args.results, args.study).values()
    style.save(dpo.draw(args.study, runs), args.out)


if __name__ == "__main__":
    run_script(main)
