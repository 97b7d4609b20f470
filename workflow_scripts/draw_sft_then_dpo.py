"""Draw figures/sft_then_dpo from its trajectories."""

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import sft_then_dpo, style
from learning_dynamics.figures.command import arguments


def main() -> None:
    args = arguments(__doc__)
    (runs,) = inputs.chains(args.results, args.study).values()
    last = {run: chain[-1] for run, chain in runs.items()}
    style.save(sft_then_dpo.draw(args.study, last), args.out)


if __name__ == "__main__":
    run_script(main)
