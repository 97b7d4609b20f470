"""Draw figures/confidence from trajectories."""

import argparse
import json

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import confidence, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--published", nargs="*", default=[], help="name=imported run (parquet)")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    runs = inputs.trajectories(args.results, args.study)
    logits = inputs.logits(args.results, args.study)
    published = inputs.imported(args.published, ["evaluation", "step", "logp_argmax"])
    style.save(confidence.draw(args.study, runs, logits, published), args.out)


if __name__ == "__main__":
    run_script(main)
