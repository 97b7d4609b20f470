"""Write the four regimes of one softmax step: before, after, and Lemma 1's ratio, per class."""

import argparse

import numpy as np
import pandas as pd

from learning_dynamics import theory
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="output: table (csv)")
    args = parser.parse_args()
    tables = [
        pd.DataFrame(
            {
                "regime": regime.title,
                "class": np.arange(len(regime.logits)),
                "label": regime.label,
                "rate": regime.rate,
                "before": theory.softmax(regime.logits),
                "after": theory.softmax(theory.step(regime.logits, regime.label, regime.rate)),
                "predicted_ratio": theory.lemma1_ratio(regime.logits, regime.label, regime.rate),
            }
        )
        for regime in theory.regimes()
    ]
    with atomic(args.out) as temporary:
        pd.concat(tables).to_csv(temporary, index=False)


if __name__ == "__main__":
    run_script(main)
