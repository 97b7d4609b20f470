"""Write the response types that a base model itself produces (chosen_initial, chosen_selfr)."""

import argparse
import json

from learning_dynamics import models, sampling
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_table, write_table
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.tokens import Codec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--model-spec", type=json.loads, required=True, help="the model, as JSON")
    parser.add_argument("--probe", type=json.loads, required=True, help="section probe, as JSON")
    parser.add_argument("--compute", type=json.loads, required=True, help="section compute, JSON")
    parser.add_argument("--probes", required=True, help="probe.parquet")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="output: the model's own probes")
    args = parser.parse_args()
    device = models.device_of(args.compute)
    model, tokenizer = models.load(args.model, device)
    codec = Codec(tokenizer, args.model_spec["max_length"], args.model_spec["max_prompt_length"])
    probes = read_table(args.probes, PROBE_COLUMNS)
    own = sampling.sample_probes(probes, model, codec, args.probe, args.seed, args.model)
    write_table(args.out, own)


if __name__ == "__main__":
    run_script(main)
