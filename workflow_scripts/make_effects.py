"""Decide the effects of docs/statistics.md from the trajectories; also writes them as Markdown."""

import argparse
import json
from pathlib import Path

from learning_dynamics import effects, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: table (csv)")
    parser.add_argument("--markdown", required=True, help="output: the same for people")
    args = parser.parse_args()
    runs = inputs.trajectories(args.results, args.study)
    one_step = inputs.one_steps(args.results, args.study)
    table = effects.effects_table(effects.effects(runs, one_step))
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with atomic(args.markdown) as temporary:
        text = (
            effects.as_markdown(table)
            + "\n"
            + effects.mass_balance(one_step)
            + effects.criteria(runs)
        )
        if len(args.study["seeds"]) == 1:
            text += "One seed: the intervals are over examples and say nothing of training noise.\n"
        Path(temporary).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
