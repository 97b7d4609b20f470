"""Write the tables behind figures/confounds: what each switch changes, and the fingerprint."""

import argparse
import json

from learning_dynamics import confounds, inputs
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    parser.add_argument("--switches", required=True, help="output: confounds.csv")
    parser.add_argument("--influence", required=True, help="output: influence.csv")
    parser.add_argument("--fingerprint", required=True, help="output: fingerprint.csv")
    parser.add_argument("--course", required=True, help="output: fingerprint-course.csv")
    parser.add_argument("--markdown", required=True, help="output: both for people")
    args = parser.parse_args()
    corrected, published, trained = inputs.confound_runs(args.results, args.study)
    counts_end = args.study["counts_end"]
    tables = {
        args.switches: confounds.switch_table(corrected, published),
        args.influence: confounds.influence_table(trained, counts_end),
        args.fingerprint: confounds.fingerprint_table(trained, counts_end),
        args.course: confounds.course_table(trained, counts_end),
    }
    for path, table in tables.items():
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    with atomic(args.markdown) as temporary:
        text = confounds.as_markdown(tables[args.switches], tables[args.fingerprint])
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
