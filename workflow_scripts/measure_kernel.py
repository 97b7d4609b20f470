"""Compute the exact kernel of a tiny model on probed responses; take one plain gradient step."""

import argparse
import json

import pandas as pd

from learning_dynamics import kernels
from learning_dynamics.command import add_model, load_model
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.scoring import Tree
from learning_dynamics.trajectory import probe_trees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--probes", required=True, nargs="+", help="probe tables")
    parser.add_argument("--kernel", type=json.loads, required=True, help="its settings, as JSON")
    parser.add_argument("--updates", type=json.loads, required=True, help="update types, as JSON")
    parser.add_argument("--out", required=True, help="output: kernel-<dataset>.parquet")
    args = parser.parse_args()
    model, codec = load_model(args)
    kernels.check(model)
    model.set_attn_implementation("eager")  # the fused kernels have no batched gradients
    probes = pd.concat([read_texts(p, PROBE_COLUMNS) for p in args.probes], ignore_index=True)
    probed = probe_trees(probes[probes["split"] == "train"], codec)
    kinds = iter(probed.identity["response_type"])
    limit = args.kernel["tokens"]
    examples = [
        {next(kinds): Tree(tree.prompt, [r[:limit]]) for r in tree.responses}
        for tree in probed.trees
    ]
    missing = set(args.updates) - set(probed.identity["response_type"])
    updates = {u: ["chosen", "rejected"] if u in missing else [u] for u in args.updates}
    wanted = {kind for used in updates.values() for kind in used}
    whole = [example for example in examples if wanted <= set(example)]
    if len(whole) < args.kernel["examples"]:
        raise InputError(
            f"figures.entk_proxies.kernel.examples = {args.kernel['examples']}: {len(whole)} "
            "probed training prompts have every update type; expected at least as many"
        )
    chosen = whole[: args.kernel["examples"]]
    write_table(args.out, kernels.measure(model, chosen, updates, args.kernel["lr"]))


if __name__ == "__main__":
    run_script(main)
