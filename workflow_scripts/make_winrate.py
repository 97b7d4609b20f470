"""Write tables/winrate.csv: win rates with intervals, from the verdicts."""

import argparse
import json

from learning_dynamics import winrate
from learning_dynamics.errors import run_script
from learning_dynamics.files import atomic, read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verdicts", required=True, help="the judge's verdicts (parquet)")
    parser.add_argument("--judge", type=json.loads, required=True, help="section judge, as JSON")
    parser.add_argument("--out", required=True, help="output: winrate.csv")
    args = parser.parse_args()
    table = winrate.table(read_table(args.verdicts, winrate.JUDGED), args.judge)
    with atomic(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


if __name__ == "__main__":
    run_script(main)
