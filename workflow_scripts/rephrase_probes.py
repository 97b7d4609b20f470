"""Have the response types written that ask for a strong model: rewordings and human-like text."""

import argparse
import json

from learning_dynamics import answers, probe, providers, rephrase
from learning_dynamics.errors import run_script
from learning_dynamics.files import read_texts, write_table
from learning_dynamics.pairs import GIVEN_COLUMNS, PAIR_COLUMNS


def provider_of(args: argparse.Namespace) -> answers.Provider | None:
    """The provider that the data set names."""
    spec = args.spec["rephrase"]
    if spec["provider"] == "openai":
        return providers.OpenAI(spec)
    if spec["provider"] == "toyworld":
        return providers.Toyworld(args.spec)
    if spec["provider"] == "transformers":
        from learning_dynamics import models

        model, tokenizer = models.load(args.model, models.device_of(args.compute))
        length = args.model_spec["max_length"]
        return providers.Transformers(model, tokenizer, spec, length, args.model, args.seed)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the data set, as JSON")
    parser.add_argument("--probe", type=json.loads, required=True, help="section probe, as JSON")
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--given", required=True, help="given.parquet")
    parser.add_argument("--model", help="transformers: model folder")
    parser.add_argument("--model-spec", type=json.loads, help="transformers: the model, as JSON")
    parser.add_argument("--compute", type=json.loads, help="transformers: section compute, JSON")
    parser.add_argument("--seed", type=int, default=0, help="transformers: of the samples")
    parser.add_argument("--out", required=True, help="output: the answers")
    args = parser.parse_args()
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    given = read_texts(args.given, GIVEN_COLUMNS)
    probed = probe.probed_pairs(pairs, given, args.spec, args.probe)
    asked = rephrase.needed(probed, given, args.spec["rephrase"], args.probe)
    table = answers.answer(asked, args.spec["rephrase"], provider_of(args))
    write_table(args.out, table, answers.SCHEMA)


if __name__ == "__main__":
    run_script(main)
