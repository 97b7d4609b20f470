"""Hostile input: thousands of broken and malicious files, configs and names.

    python -m tests.reliability.fuzz --cases 2000 --seed 6

Every case must end well or in one line ``error: ...`` with an exit code other than 0: without a
traceback, a file outside the study's folder, anything executed or unpickled, or a secret told.
What was broken is printed with the case that did it; the exit code says whether there was any.
docs/reliability.md, section "Hostile input".
"""

import argparse
import importlib
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from learning_dynamics.warm import MODELS

# One thread: a fork has no others. No network: what is not here is not fetched. Before numpy.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
               "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg"}  # fmt: skip
sys.dont_write_bytecode = True
SLOW = 20  # seconds; such a case is shown
APART = 50  # every so many cases, one goes through processes of its own
SHOWN = 3  # cases shown of each way to fail
LIGHT = {"config", "names", "published"}  # kinds whose commands need no model
LEAST = 0.3  # share of cases that must get past the parser


class Reply(BaseHTTPRequestHandler):
    """Answers every request with the status and body that the file ``server.reply`` holds."""

    def do_POST(self) -> None:
        """Answer one request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        code, _, body = self.server.reply.read_bytes().partition(b"\n")
        self.send_response(int(code))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def endpoint(reply: Path) -> tuple[str, int]:
    """Address and process of an endpoint that answers with what the file ``reply`` holds."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
    server.reply = reply
    job = os.fork()
    if not job:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        server.serve_forever()
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}/v1", job


def load(kinds: list[str]) -> None:
    """Import what the commands need, so that a fork has it."""
    needed = ["learning_dynamics.study", "learning_dynamics.published", "snakemake.cli"]
    if set(kinds) - LIGHT:
        needed += ["transformers", "peft", "openai", "matplotlib.pyplot"]
        ours = ("inputs", "finetune", "judge", "figures.probe")
        needed += [f"learning_dynamics.{name}" for name in ours]
    for name in needed:
        importlib.import_module(name)
    for name in MODELS if set(kinds) - LIGHT else []:
        getattr(sys.modules["transformers"], name)


def fuzz(cases: int, number: int, kinds: list[str], folder: Path, limit: float) -> tuple[int, str]:
    """Run so many cases and print what came of them; how many broke something, and the table."""
    from tests.reliability.cage import Cage
    from tests.reliability.cases import KINDS, Case
    from tests.reliability.valid import make

    valid = folder / "valid"
    valid.mkdir()
    files = make(valid)
    cage = Cage(folder / "case")
    counts: dict[str, Counter] = defaultdict(Counter)
    found: dict[str, list[str]] = defaultdict(list)
    weighed = [kind for kind in kinds for _ in range(KINDS[kind][0])]
    started = time.monotonic()

    @seed(number)
    @settings(max_examples=cases, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def one(data: Any) -> None:
        total = sum(count["cases"] for count in counts.values())
        kind = data.draw(st.sampled_from(weighed))
        case: Case = data.draw(KINDS[kind][1](files))
        if total >= cases or time.monotonic() - started > limit:
            return
        cage.clean(case.files)
        count, broke = counts[kind], []
        tick = time.monotonic()
        for step in case.steps:
            outcome = cage.run(step, apart=total % APART == 0)
            count.update(commands=1, apart=total % APART == 0)
            broke += [(what, step, outcome) for what in dict.fromkeys(outcome.broke)]
            if outcome.code:
                break
        count.update(cases=1, parsed=case.parsed, well=outcome.code == 0)
        spent = time.monotonic() - tick
        count["seconds"] += spent
        if spent > SLOW:
            print(f"slow: {spent:.0f} s: {_told(kind, case, step, outcome)}")
        for what, step, outcome in broke:
            count[what.partition(":")[0]] += 1
            ours = re.findall(r"(?:learning_dynamics|workflow_scripts)/\S+, line \d+", outcome.said)
            found[f"[{kind}] {what[:120]} {ours[-1:]}"].append(_told(kind, case, step, outcome))

    one()
    broken, table = _report(counts, found, number, time.monotonic() - started)
    parsed = sum(count["parsed"] for count in counts.values())
    return broken + (parsed < LEAST * sum(count["cases"] for count in counts.values())), table


def _told(kind: str, case: Any, step: list[str], outcome: Any) -> str:
    lines = [f"--- {kind}: {' '.join(step)[:300]}"]
    lines += [f"  {name!r}: {content[:400]!r}" for name, content in case.files.items()
              if len(content) < 3000 and not name.endswith(".parquet")][:3]  # fmt: skip
    return "\n".join([*lines, f"  exit {outcome.code}", *outcome.said.splitlines()[-25:]])


KINDS_OF_HARM = ["traceback", "unclear", "killed", "outside", "executed", "pickle", "network",
                 "secret", "half-written"]  # fmt: skip


def _report(counts: dict, found: dict, number: int, seconds: float) -> tuple[int, str]:
    """Print what was broken and the table; how often something was, and the table in Markdown."""
    for what, cases in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"\n=== {len(cases)} × {what}")
        print("\n".join(cases[:SHOWN]))
    names = ["cases", "commands", "apart", "parsed", "well", *KINDS_OF_HARM, "seconds"]
    total: Counter = Counter()
    for count in counts.values():
        total.update(count)
    rows = [f"| kind | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for kind, count in [*counts.items(), ("all", total)]:
        rows.append(f"| {kind} | {' | '.join(f'{count[name]:.0f}' for name in names)} |")
    broken = sum(total[name] for name in KINDS_OF_HARM)
    cases = max(1, total["cases"])
    said = (f"{total['cases']} cases, seed {number}: {total['parsed'] / cases:.0%} got past the "
            f"parser, {total['well'] / cases:.0%} ended well; tracebacks {total['traceback']}, "
            f"files outside {total['outside']}, executed {total['executed'] + total['pickle']}, "
            f"all harm {broken}; {seconds:.0f} s")  # fmt: skip
    table = "\n".join(rows)
    print(f"\n{table}\n\n{said}")
    return broken, f"{said}.\n\n{table}\n"


def main() -> int:
    """Parse arguments and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--kinds", nargs="*", help="only these")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--write", type=Path, help="a Markdown file whose table to replace")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        address, server = endpoint(Path(folder, "case", "reply"))
        os.environ["FUZZ_ENDPOINT"] = address
        try:
            from tests.reliability.cases import KINDS

            kinds = args.kinds or list(KINDS)
            load(kinds)
            broken, table = fuzz(args.cases, args.seed, kinds, Path(folder), args.seconds)
        finally:
            os.kill(server, signal.SIGTERM)
    if args.write:
        from tests.reliability import page

        words = f" --kinds {' '.join(kinds)}" if args.kinds else ""
        typed = f"python -m tests.reliability.fuzz --cases {args.cases} --seed {args.seed}{words}"
        page.write(args.write, "fuzz", f"`{typed}`: {table}")
    return min(1, broken)


if __name__ == "__main__":
    sys.exit(main())
