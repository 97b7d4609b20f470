"""What it costs to know one update's influence on every probe response beforehand.

    python benchmarks/influence.py [--shape tiny] [--prompts 4] [--rounds 5]

Each round scores other prompts of the HH probes (13 responses each) once, plainly, and derives
their log-probs along one gradient step by central difference and by forward mode. Prints times in
plain passes (medians of paired ratios, range over rounds) and the errors of fp32, relative to
forward mode in float64, per token and per response; and the central difference's error by reach.
"""

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import harness, inputs
from learning_dynamics import influence
from learning_dynamics.scoring import Engine, Tree

REACHES = (3e-5, 1e-4, influence.REACH, 1e-3, 3e-3)


def step_of(engine: Engine, trees: list[Tree], lr: float) -> influence.Step:
    """A plain gradient step on the first responses of some trees (SFT)."""
    batch = engine.pack([Tree(tree.prompt, tree.responses[:1]) for tree in trees])
    loss = -engine(batch).logp.sum() / len(trees)
    weights = list(engine.parameters())
    return [-lr * grad for grad in torch.autograd.grad(loss, weights)]


def errors(found: np.ndarray, exact: np.ndarray, trees: list[Tree]) -> list[str]:
    """Median relative error per token and per response."""
    sizes = [len(response) for tree in trees for response in tree.responses]
    starts = np.cumsum([0, *sizes[:-1]])
    pairs = (found, exact), tuple(np.add.reduceat(x, starts) for x in (found, exact))
    return [f"{np.median(np.abs(one - truth) / np.abs(truth)):.1e}" for one, truth in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(inputs.SHAPES), default="tiny")
    parser.add_argument("--prompts", type=int, default=4, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=inputs.DATA)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    args = parser.parse_args()
    compute = {"device": "cpu", "precision": "fp32", "batch_tokens": args.batch_tokens}
    text = inputs.tokenised(args.data)
    engine = Engine(inputs.build(args.shape))
    step = step_of(engine, text.pairs()[:4], 1e-5)
    ways = {
        "plain pass": lambda trees: influence.log_probs(engine, trees, compute),
        "central difference": lambda trees: influence.central_difference(
            engine, trees, step, compute
        ),
        "forward mode": lambda trees: influence.forward_mode(engine, trees, step, compute),
    }

    def on_round(way: str) -> Callable[[int], Callable[[], object]]:
        return lambda number: lambda: ways[way](text.probes(number * args.prompts, args.prompts))

    times = harness.interleaved({way: on_round(way) for way in ways}, args.rounds)
    trees = text.probes(0, args.prompts)
    double = Engine(deepcopy(engine.model).double())
    exact = influence.forward_mode(double, trees, [d.double() for d in step], compute)
    rows = [
        [way, harness.ratio(times[way], times["plain pass"]),
         *(errors(ways[way](trees), exact, trees) if way != "plain pass" else ["", ""])]
        for way in ways
    ]  # fmt: skip
    print(text.describe())
    print(harness.table(["way", "plain passes", "error, token", "error, response"], rows))
    rows = [
        [f"{reach:g}", *errors(
            influence.central_difference(engine, trees, step, compute, reach), exact, trees)]
        for reach in REACHES
    ]  # fmt: skip
    print(harness.table(["reach", "error, token", "error, response"], rows))
    harness.save("influence", {"seconds": times, "arguments": {**vars(args), "data": None}})


if __name__ == "__main__":
    main()
