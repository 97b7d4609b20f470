"""Write the eNTK proxies along the runs, accumulated, and the heat map."""

import argparse
import json

import pandas as pd

from learning_dynamics import inputs, proxies
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--published", nargs="*", default=[], help="name=imported run (parquet)")
    parser.add_argument("--curves", required=True, help="output: entk_proxies.csv")
    parser.add_argument("--accumulated", required=True, help="output: entk_accumulated.csv")
    parser.add_argument("--heatmap", required=True, help="output: heatmap.csv")
    args = parser.parse_args()
    updates, measured, logits = inputs.update_runs(args.results, args.study)
    curves = proxies.curves(updates, measured, logits)
    imported = inputs.imported(args.published, ["evaluation", "step", "logp", "residual_norm"])
    theirs = proxies.curves(
        {f"published: {name}": {0: table} for name, table in imported.items()}, {}, {}
    )
    every = pd.concat([table for table in (curves, theirs) if len(table)], ignore_index=True)
    tables = {
        args.curves: every,
        args.accumulated: proxies.accumulated(every),
        args.heatmap: proxies.heatmap(updates, curves),
    }
    for path, table in tables.items():
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
