"""Download a pinned revision of a hub model."""

import argparse
import json

from learning_dynamics import models
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the model, as JSON")
    parser.add_argument("--out", required=True, help="output: model folder")
    args = parser.parse_args()
    with atomic(args.out) as temporary:
        models.fetch(args.spec["hub"], args.spec["revision"], temporary)


if __name__ == "__main__":
    run_script(main)
