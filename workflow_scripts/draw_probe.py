"""Draw figures/probe: the data card of a probing set."""

import argparse

from learning_dynamics import card
from learning_dynamics.errors import run_script
from learning_dynamics.figures import probe, style
from learning_dynamics.inputs import add_probe_set, probe_set, study_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_probe_set(parser)
    parser.add_argument("--model", help="model folder, whose tokenizer counts tokens")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    args = parser.parse_args()
    study, (probes, pairs) = study_of(args), probe_set(args)
    tokens = card.token_counter(args.model) if args.model else None
    style.save(probe.draw(study, probes, pairs, tokens), args.out)


if __name__ == "__main__":
    run_script(main)
