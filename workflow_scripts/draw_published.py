"""Draw imported runs, one row each, and the study's own beside them: figures/published-<panels>."""

import argparse
import json

from learning_dynamics import inputs
from learning_dynamics.errors import run_script
from learning_dynamics.figures import dpo_models, rephrase, sft_models, style
from learning_dynamics.files import read_table

PANELS = {"sft": sft_models, "dpo": dpo_models, "rephrase": rephrase}
TITLES = {"sft": "SFT in the imported runs", "dpo": "DPO in the imported runs",
          "rephrase": "Rephrases under SFT in the imported runs"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--panels", choices=PANELS, required=True, help="whose panels are drawn")
    parser.add_argument("--runs", nargs="+", required=True, help="name=trajectory.parquet")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    rows = {}
    for name, path in (run.split("=", 1) for run in args.runs):
        table = read_table(path, ["evaluation", *inputs.CURVE_NEEDS])
        rows[name] = [{0: inputs.curve_columns(table)}]
    title = TITLES[args.panels]
    for ours in inputs.chains(args.results, args.study).values():
        title += ", and ours"
        for role, chain in ours.items():
            rows[f"ours: {args.study['study']}, {role}"] = chain
    figure = PANELS[args.panels].draw(args.study, rows, title)
    style.save(figure, args.out)


if __name__ == "__main__":
    run_script(main)
