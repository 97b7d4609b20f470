"""Write the tables behind figures/algorithms: every run's curves, and the verdicts."""

import argparse
import json

import pandas as pd

from learning_dynamics import frontier, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--out", required=True, help="output: algorithms.csv")
    parser.add_argument("--verdicts", required=True, help="output: verdicts.csv")
    parser.add_argument("--markdown", required=True, help="output: the verdicts for people")
    args = parser.parse_args()
    curves = []
    for entry in args.study["runs"]:
        names = {key: entry.get(key) for key in ("run", "algorithm", "lr", "labels")}
        names["setting"] = frontier.setting_name(entry["settings"])
        runs = inputs.trajectories(args.results, {**args.study, "runs": [entry["run"]]})
        for seed, trajectory in runs[entry["run"]].items():
            curves.append(frontier.margin_curve(trajectory).assign(**names, seed=seed))
    table = pd.concat(curves, ignore_index=True)
    verdicts = frontier.verdicts(table)
    for path, content in ((args.out, table), (args.verdicts, verdicts)):
        with atomic(path) as temporary:
            content.to_csv(temporary, index=False, float_format="%.6g")
    with atomic(args.markdown) as temporary:
        temporary.write_text(frontier.as_markdown(verdicts), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
