"""Write the update that each loss imposes on one softmax, and its coefficients by margin."""

import argparse

from learning_dynamics import updates
from learning_dynamics.algorithms import algorithm
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic

# Every loss of the paper's Figure 2, and what came after; of losses with equal residuals the figure
# draws one.
DEFAULT = ["sft", "dpo", "spin", "online_dpo", "ipo", "slic", "sppo", "kto", "simpo", "orpo",
           "gate_dpo"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="*", help="names, or file.py:function; default: "
                        + ", ".join(DEFAULT))  # fmt: skip
    parser.add_argument("--steps", required=True, help="output: residuals.csv")
    parser.add_argument("--coefficients", required=True, help="output: coefficients.csv")
    args = parser.parse_args()
    chosen = [algorithm(name) for name in args.algorithms or DEFAULT]
    tables = {
        args.steps: updates.steps_table(chosen),
        args.coefficients: updates.coefficients_table(chosen),
    }
    for path, table in tables.items():
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.8g")


if __name__ == "__main__":
    run_script(main)
