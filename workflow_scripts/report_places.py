"""Print every finding of a preflight in one line; exit code 1 when something is wrong."""

import argparse
import json
from pathlib import Path

from learning_dynamics.errors import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", nargs="+", type=Path, required=True)
    args = parser.parse_args()
    wrong = 0
    for path in args.reports:
        report = json.loads(path.read_text(encoding="utf-8"))
        for check in report["checks"]:
            wrong += not check["ok"]
            word = "ok   " if check["ok"] else "WRONG"
            place = f"{report['kind']} on {report['host']}"
            print(f"{word} {place}: {check['check']}: {check['text']}")
    print(f"{wrong} things are wrong" if wrong else "nothing is wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    run_script(main)
