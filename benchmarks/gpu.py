"""Scoring and training on one GPU: a 410M shape in bf16, beside the naive way and TRL.

    python benchmarks/gpu.py [--data file] [--peak-tflops 989] [--batch-tokens 65536]

Prints probe responses per second, DPO pairs per second, peak device memory and, given the chip's
peak (dense bf16, from its data sheet), the share of it that the matrix products alone account for.
Without a CUDA device it says so and ends well.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import harness, inputs, scoring, training
from benchmarks.limit import Products
from learning_dynamics.scoring import Tree

PRECISION = "bf16"


def work(trees: list[Tree], model: torch.nn.Module) -> float:
    """Floating-point operations of the products that a packed forward pass cannot do without."""
    products = Products(model, torch.bfloat16)
    tokens = sum(map(len, trees))
    positions = sum(len(r) for tree in trees for r in tree.responses)
    return 2.0 * (tokens * products.layer_weights + positions * products.head_weights)


def peak(call: Callable[[], object], device: str) -> float:
    """Peak memory of the device during a call, in GiB, everything that is resident included."""
    if device == "cpu":
        call()
        return harness.peak_gib()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return harness.peak_gib(device)


def probing(model: torch.nn.Module, text: inputs.Text, args: argparse.Namespace) -> list[list[str]]:
    """A row per contestant: the same responses scored by each."""
    rows, batches = [], {}
    for name in ("naive bf16", "ours bf16"):
        batches[name] = scoring.contestant(name, model, args)
    calls = {
        name: lambda number, p=prepare: p(text.probes(number * args.prompts, args.prompts))
        for name, prepare in batches.items()
    }
    seconds = harness.interleaved(calls, args.rounds, args.device)
    sample = text.probes(0, args.prompts)
    responses = sum(len(tree.responses) for tree in sample)
    for name, spent in seconds.items():
        each = statistics.median(spent)
        memory = peak(batches[name](sample), args.device)
        rows.append(
            [f"probe responses, {name}", f"{responses / each:.0f} / s",
             harness.ratio(seconds["naive bf16"], spent), f"{memory:.2f}",
             _share(work(sample, model) / each, args)]
        )  # fmt: skip
    return rows


def steps(model: torch.nn.Module, text: inputs.Text, args: argparse.Namespace) -> list[list[str]]:
    """A row per contestant: DPO steps on the same pairs."""
    trees = text.pairs()[: 4 * (args.rounds + 1)]
    found = training.race("dpo", PRECISION, model, trees, args.rounds)
    seconds, rows = found["seconds"], []
    for name, spent in seconds.items():
        each = statistics.median(spent)
        share = _share(3 * work(trees[:4], model) / each, args)
        rate = f"{training.SPEC['batch_size'] / each:.1f} / s"
        rows.append(
            [
                f"DPO pairs, {name}",
                rate,
                harness.ratio(seconds[f"naive {PRECISION}"], spent),
                "",
                share,
            ]
        )
    for row, name in zip(rows, training.contestants("dpo", PRECISION), strict=False):
        step = training.stepper("dpo", name, model, trees, PRECISION)
        row[3] = f"{peak(lambda s=step: s([0, 1, 2, 3]), args.device):.2f}"
        del step
    return rows


def _share(rate: float, args: argparse.Namespace) -> str:
    return f"{100 * rate / (args.peak_tflops * 1e12):.1f}%" if args.peak_tflops else ""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=inputs.DATA, help="HH probing file")
    parser.add_argument("--shape", choices=inputs.SHAPES, default="410m")
    parser.add_argument("--prompts", type=int, default=32, help="prompts per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--naive-batch", type=int, default=4, help="sequences at a time")
    parser.add_argument("--peak-tflops", type=float, help="the chip's dense bf16 peak")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.device != "cpu" and not torch.cuda.is_available():
        print(f"no CUDA device is available to torch {torch.__version__}; nothing was measured")
        return
    text = inputs.tokenised(args.data)
    model = inputs.build(args.shape).to(args.device)
    if args.device != "cpu":
        print(torch.cuda.get_device_name(args.device))
    print(f"GPT-NeoX {args.shape} shape, bf16 autocast over fp32 weights; {text.describe()}")
    rows = probing(model, text, args) + steps(model, text, args)
    header = ["", "rate", "over naive", "peak GiB", "of the chip's peak"]
    print(f"\nmedian of {args.rounds} rounds [range]\n{harness.table(header, rows)}")
    harness.save("gpu", {"arguments": vars(args) | {"data": str(args.data)}, "rows": rows})


if __name__ == "__main__":
    main()
