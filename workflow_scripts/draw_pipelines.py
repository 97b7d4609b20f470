"""Draw figures/pipelines from the study's own graph of runs."""

from learning_dynamics.errors import run_script
from learning_dynamics.figures import pipelines, style
from learning_dynamics.figures.command import arguments


def main() -> None:
    args = arguments(__doc__)
    style.save(pipelines.draw(args.study), args.out)


if __name__ == "__main__":
    run_script(main)
