"""Cost against size, behind ``python benchmarks/scoring.py --linear``.

Time and peak memory of ours in fp32, against prompts, and against response types per prompt.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import harness, inputs
from learning_dynamics.scoring import Tree

SIZES = {"prompts": [1, 2, 4, 8, 16], "types": [1, 2, 4, 8, 13]}
Prepare = Callable[[list[Tree]], Callable[[], object]]


def trees(size: str, args: argparse.Namespace) -> list[Tree]:
    """What ``4 prompts`` (all types each) or ``4 types`` (a fixed number of prompts) stands for."""
    count, kind = size.split()
    text = inputs.stored(args.tokens)
    if kind == "prompts":
        return text.probes(0, int(count))
    return text.probes(0, 2 * args.prompts, int(count))


def seconds(prepare: Prepare, args: argparse.Namespace) -> dict:
    """Seconds per size, interleaved over sizes, with the responses and the tokens packed."""
    sizes = [f"{count} {kind}" for kind, counts in SIZES.items() for count in counts]
    work = {size: trees(size, args) for size in sizes}
    calls = {size: (lambda _, those=those: prepare(those)) for size, those in work.items()}
    return {
        "seconds": harness.interleaved(calls, args.rounds),
        "tokens": {size: sum(map(len, those)) for size, those in work.items()},
        "responses": {size: sum(len(t.responses) for t in those) for size, those in work.items()},
    }


def memory(prepare: Prepare, size: str, args: argparse.Namespace) -> dict:
    """Peak memory of this process after one size was scored."""
    prepare(trees(size, args))()
    return {"peak_gib": harness.peak_gib()}


def report(found: dict) -> str:
    """The table."""
    rows = []
    for size, spent in found["seconds"].items():
        median, tokens = statistics.median(spent), found["tokens"][size]
        rows.append(
            [size, str(found["responses"][size]), str(tokens), f"{median:.2f}",
             f"{1000 * median / tokens:.3f}", f"{found['peak_gib'][size]:.2f}"]
        )  # fmt: skip
    return harness.table(["", "responses", "tokens", "s", "ms / token", "peak GiB"], rows)


def draw(found: dict, path: Path) -> None:
    """Time and peak memory against tokens, and against response types."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, (kind, counts) in zip(figure.subplots(1, 2), SIZES.items(), strict=True):
        sizes = [f"{count} {kind}" for count in counts]
        x = [found["tokens"][size] for size in sizes] if kind == "prompts" else counts
        axis.plot(x, [statistics.median(found["seconds"][s]) for s in sizes], "o-", color="C0")
        axis.set_xlabel("packed tokens" if kind == "prompts" else "response types per prompt")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("seconds (circles)", color="C0")
        other = axis.twinx()
        other.plot(x, [found["peak_gib"][size] for size in sizes], "s--", color="C1")
        other.set_ylim(bottom=0)
        other.set_ylabel("peak memory, GiB (squares)", color="C1")
    figure.savefig(path, dpi=150)


def main(script: str, passed: list[str], args: argparse.Namespace) -> None:
    """Table, plot and raw numbers, under the last of the allocator settings."""
    setting = args.settings[-1]
    found = harness.child(script, "sizes", passed, setting)
    found["peak_gib"] = {
        size: harness.child(script, f"size:{size}", passed, setting)["peak_gib"]
        for size in found["seconds"]
    }
    print(
        f"\nours fp32, {setting} allocator, median of {args.rounds} rounds; the rows of types are "
        f"of {2 * args.prompts} prompts\n{report(found)}"
    )
    harness.save("linear", {"arguments": passed, **found})
    draw(found, harness.OUT / "linear.png")
    print(f"\n{harness.OUT / 'linear.png'}")
