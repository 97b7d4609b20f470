"""Judge every claim of docs/statistics.md for every data set × model, from the trajectories."""

import argparse
import json
from pathlib import Path

from learning_dynamics import inputs
from learning_dynamics.claims import imported, recorded, report, tables
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_table, write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="its columns, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--published", nargs="*", default=[], help="name=trajectory.parquet ...")
    parser.add_argument("--facts", type=json.loads, default={}, help="what is known of those, JSON")
    parser.add_argument("--winrate", help="table of win rates (csv)")
    parser.add_argument("--out", required=True, help="output: claims (parquet)")
    parser.add_argument("--parts", required=True, help="output: their parts (csv)")
    parser.add_argument("--markdown", required=True, help="output: both for people")
    args = parser.parse_args()
    win_rates = recorded.win_rates(args.winrate) if args.winrate else None
    columns = [
        recorded.column(args.results, args.study, spec, win_rates) for spec in args.study["columns"]
    ]
    needs = ["evaluation", "step", "examples", "split", "example_id", "response_type", "logp",
             "conversation"]  # fmt: skip
    runs = dict(run.split("=", 1) for run in args.published)
    runs = {name: read_table(path, needs) for name, path in runs.items()}
    claims, parts = tables([*columns, *imported.columns(runs, args.facts)])
    write_table(args.out, claims)
    with atomic(args.parts) as temporary:
        parts.to_csv(temporary, index=False, float_format="%.6g")
    text = report.as_markdown(claims, parts)
    for spec in args.study["columns"]:
        if spec["one_step"]:
            place = {"seeds": args.study["seeds"], **spec}
            text += "\n" + report.mass_balance(inputs.one_steps(args.results, place))
            two = {role: spec["runs"][role] for role in ("sft", "dpo")}
            text += report.criteria(inputs.trajectories(args.results, {**place, "runs": two}))
    with atomic(args.markdown) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
