"""Write the tables behind figures/forget: every run's curves, and likely against unlikely."""

import argparse
import json

import pandas as pd

from learning_dynamics import forgetting, frontier, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: forget.csv")
    parser.add_argument("--comparison", required=True, help="output: forgetting.csv")
    parser.add_argument("--markdown", required=True, help="output: the comparison for people")
    args = parser.parse_args()
    curves = []
    for entry in args.study["runs"]:
        names = {key: entry[key] for key in ("run", "algorithm", "lr", "target")}
        names["setting"] = frontier.setting_name(entry["settings"])
        runs = inputs.trajectories(args.results, {**args.study, "runs": [entry["run"]]})
        for seed, trajectory in runs[entry["run"]].items():
            curve = forgetting.fall_curve(trajectory, entry["target"])
            curves.append(curve.assign(**names, seed=seed))
    table = pd.concat(curves, ignore_index=True)
    comparison = forgetting.comparison(table)
    for path, content in ((args.out, table), (args.comparison, comparison)):
        with atomic(path) as temporary:
            content.to_csv(temporary, index=False, float_format="%.6g")
    with atomic(args.markdown) as temporary:
        temporary.write_text(forgetting.as_markdown(comparison), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
