"""Write the data card of a probing set: its table, its findings, and both for people."""

import argparse
import logging

from learning_dynamics import card
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic
from learning_dynamics.inputs import add_probe_set, probe_set, study_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_probe_set(parser)
    parser.add_argument("--model", help="model folder, whose tokenizer counts tokens")
    parser.add_argument("--table", required=True, help="output: table (csv)")
    parser.add_argument("--findings", required=True, help="output: findings (csv)")
    parser.add_argument("--markdown", required=True, help="output: both for people")
    args = parser.parse_args()
    study, (probes, pairs) = study_of(args), probe_set(args)
    tokens = card.token_counter(args.model) if args.model else None
    table, found = card.card(probes, pairs, tokens), card.findings(probes, pairs, tokens)
    for path, content in ((args.table, table), (args.findings, found)):
        with atomic(path) as temporary:
            content.to_csv(temporary, index=False, float_format="%.6g")
    with atomic(args.markdown) as temporary:
        title = f"{study['dataset']} (study {study['study']})"
        temporary.write_text(card.as_markdown(table, found, title), encoding="utf-8")
    logging.info("%d findings: %s", len(found), args.markdown)


if __name__ == "__main__":
    run_script(main)
