"""Have every pair of answers judged that figures.winrate compares. Killed, it goes on: verdicts
that were paid for are kept."""

import argparse
import json

from learning_dynamics import inputs, providers, winrate
from learning_dynamics.errors import run_script
from learning_dynamics.files import write_table
from learning_dynamics.judge import judge_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--judge", type=json.loads, required=True, help="section judge, as JSON")
    parser.add_argument("--model", help="transformers: model folder")
    parser.add_argument("--model-spec", type=json.loads, help="transformers: the model, as JSON")
    parser.add_argument("--compute", type=json.loads, help="transformers: section compute, JSON")
    parser.add_argument("--seed", type=int, default=0, help="transformers: of the samples")
    parser.add_argument("--out", required=True, help="output: the verdicts")
    args = parser.parse_args()
    spec = args.judge
    judge = provider = None
    if spec["provider"] == "openai":
        provider = providers.OpenAI(spec, "judge")
    elif spec["provider"] == "transformers":
        from learning_dynamics import models

        model, tokenizer = models.load(args.model, models.device_of(args.compute))
        length = args.model_spec["max_length"]
        provider = providers.Transformers(
            model, tokenizer, spec, length, args.model, args.seed, "judge"
        )
    else:
        judge = judge_of(spec)
    study = args.study
    pairs = winrate.paired(study["comparisons"], study["epochs"], inputs.answers(study))
    write_table(args.out, winrate.judged(pairs, spec, judge, provider))


if __name__ == "__main__":
    run_script(main)
