"""How long a training step takes: ours, the naive way, TRL, the limit.

    python benchmarks/training.py [--data file] [--rounds 7] [--kinds dpo sft]

A DPO step on 4 pairs and an SFT step on 4 rows of HH text (at most 512 tokens each), fp32 and bf16,
under the system's default allocator and under tuned settings. All contestants of a table start from
the same weights and take the same rows in the same order with the same optimiser (RMSprop), so
their losses can be compared. Prints a table for each and writes ``benchmarks/out/training.json``.
How to read it: README.md.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import harness, inputs
from benchmarks.limit import Products
from benchmarks.peers import TRL, Naive
from learning_dynamics import parallel
from learning_dynamics.finetune import Learner, update
from learning_dynamics.reference import token_logps
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Tree
from learning_dynamics.trained import Trained

SPEC = {"optimizer": "rmsprop", "direction": "loss", "lr": 1e-6, "beta": 0.1, "clip": 10.0,
        "batch_size": 4, "accumulate": 1}  # fmt: skip
PEERS = {"dpo": ["TRL", "TRL, reference precomputed"], "sft": ["TRL, packing"]}
BASE = "naive fp32"  # in bf16 races, too
FLOORS = ["limit", "optimiser alone"]
Step = Callable[[list[int]], tuple[float, float]]  # row numbers to loss and gradient norm


def contestants(kind: str, precision: str) -> list[str]:
    """Who races: the naive way in fp32 and in the race's precision, TRL, ours."""
    naive = [BASE] if precision == "fp32" else [BASE, f"naive {precision}"]
    return [*naive, *PEERS[kind], "ours"]


def stepper(
    kind: str, name: str, model: torch.nn.Module, trees: list[Tree], precision: str
) -> Step:
    """One contestant, ready to train its own copy of ``model`` on ``trees``."""
    precision = "fp32" if name == BASE else precision
    compute = {"device": model.device.type, "precision": precision, "sharding": "none",
               "threads": torch.get_num_threads(), "batch_tokens": 4096}  # fmt: skip
    spec = {**SPEC, **compute, "algorithm": kind}
    policy, dpo = deepcopy(model), kind == "dpo"
    if name.startswith("naive"):
        naive = Naive(policy, deepcopy(model) if dpo else None, spec)
        return lambda numbers: naive.step([trees[i] for i in numbers])
    if name.startswith("TRL"):
        threads = torch.get_num_threads()
        precompute = name.endswith("precomputed")
        reference = deepcopy(model) if dpo and not precompute else None
        trainer = TRL(policy, reference, spec, trees, precompute)
        torch.set_num_threads(threads)  # accelerate sets its own
        return trainer.step
    if name == "limit":
        products = Products(policy, torch.bfloat16 if precision == "bf16" else torch.float32)

        def limit(numbers: list[int]) -> tuple[float, float]:
            batch = [trees[i] for i in numbers]
            products.train(sum(map(len, batch)), sum(len(r) for t in batch for r in t.responses))
            return 0.0, 0.0

        return limit
    if name == "optimiser alone":
        weights = list(policy.parameters())
        optimizer = torch.optim.RMSprop(weights, lr=SPEC["lr"])
        for weight in weights:
            weight.grad = torch.full_like(weight, 1e-3)

        def alone(_: list[int]) -> tuple[float, float]:
            torch.nn.utils.clip_grad_norm_(weights, SPEC["clip"])
            optimizer.step()
            return 0.0, 0.0

        return alone
    learner = Learner.of(Trained(policy, None, Path()), spec, compute,
                         parallel.accelerator_of(compute))  # fmt: skip
    # As in a run: reference log-probs are an artifact of (model, data), made once before training.
    reference = token_logps(learner.engine, trees, compute) if dpo else None
    rows = Rows(trees, reference)

    def ours(numbers: list[int]) -> tuple[float, float]:
        record = update(learner, rows, numbers)
        return record["loss"], record["grad_norm"]

    return ours


def rows_for(kind: str, args: argparse.Namespace) -> list[Tree]:
    """The training rows: as many as the rounds and the warm-up take."""
    trees = inputs.stored(args.tokens).pairs()[: 4 * (args.rounds + 1)]
    return trees if kind == "dpo" else [Tree(t.prompt, t.responses[:1]) for t in trees]


def race(kind: str, precision: str, model: torch.nn.Module, trees: list[Tree], rounds: int) -> dict:
    """Seconds of all contestants, floors included, and their losses and gradient norms."""
    names = contestants(kind, precision)
    steps = {n: stepper(kind, n, model, trees, precision) for n in names + FLOORS}
    seen: dict[str, list] = {name: [] for name in names}
    size = SPEC["batch_size"]

    def on_round(name: str, step: Step) -> Callable[[int], Callable[[], None]]:
        def prepare(number: int) -> Callable[[], None]:
            numbers = [i % len(trees) for i in range(number * size, (number + 1) * size)]

            def call() -> None:
                values = step(numbers)
                if name in seen:
                    seen[name].append(values)

            return call

        return prepare

    calls = {name: on_round(name, step) for name, step in steps.items()}
    seconds = harness.interleaved(calls, rounds, model.device.type)
    truth = torch.tensor(seen[BASE], dtype=torch.float64)
    gaps = {n: ((torch.tensor(v).double() - truth) / truth).abs() for n, v in seen.items()}
    return {
        "seconds": seconds,
        "losses": {name: [loss for loss, _ in values] for name, values in seen.items()},
        "loss_error": {name: gap[:, 0].max().item() for name, gap in gaps.items()},
        "norm_error": {name: gap[:, 1].max().item() for name, gap in gaps.items()},
    }


def time_all(args: argparse.Namespace, rest: str) -> dict:
    """The race of one kind and precision."""
    kind, precision = rest.split(":")
    return race(kind, precision, inputs.build(args.shape), rows_for(kind, args), args.rounds)


def memory_of(args: argparse.Namespace, rest: str) -> dict:
    """Peak memory of this process after two steps of one contestant."""
    kind, precision, name = rest.split(":")
    trees = rows_for(kind, args)
    step = stepper(kind, name, inputs.build(args.shape), trees, precision)
    for number in (0, 1):
        step(list(range(4 * number, 4 * number + 4)))
    return {"peak_gib": harness.peak_gib()}


def report(title: str, timed: dict, memory: dict[str, float], peer: str) -> str:
    """The table of one kind, precision and setting."""
    rows = []
    for name, spent in timed["seconds"].items():
        compared = name in timed["loss_error"]
        rows.append(
            [name, f"{statistics.median(spent):.2f}",
             harness.ratio(timed["seconds"][BASE], spent),
             harness.ratio(timed["seconds"][peer], spent),
             harness.share(timed["seconds"]["limit"], spent) if name != FLOORS[1] else "",
             f"{memory[name]:.2f}" if name in memory else "",
             f"{timed['loss_error'][name]:.1e}" if compared else "",
             f"{timed['norm_error'][name]:.1e}" if compared else ""]
        )  # fmt: skip
    header = ["", "s / step", f"over {BASE}", f"over {peer}", "of the limit", "peak GiB",
              "loss error", "norm error"]  # fmt: skip
    return f"\n{title}\n{harness.table(header, rows)}"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=inputs.DATA, help="HH probing file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=inputs.SHAPES, default="70m")
    parser.add_argument("--kinds", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"],
                        default=["fp32", "bf16"])  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--settings", nargs="+", choices=harness.SETTINGS,
                        default=list(harness.SETTINGS))  # fmt: skip
    for hidden, kind in (("--task", str), ("--tokens", Path)):
        parser.add_argument(hidden, type=kind, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    if args.task:
        task, _, rest = args.task.partition(":")
        print(json.dumps({"time": time_all, "memory": memory_of}[task](args, rest)))
        return
    text = inputs.tokenised(args.data)
    print(f"GPT-NeoX {args.shape} shape, {args.threads} threads; {text.describe()}", flush=True)
    harness.OUT.mkdir(exist_ok=True)
    tokens = harness.OUT / "tokens.json"
    inputs.store(text, tokens)
    passed = ["--rounds", str(args.rounds), "--shape", args.shape, "--threads", str(args.threads),
              "--tokens", str(tokens)]  # fmt: skip
    found: dict = {"arguments": passed, "spec": SPEC, "text": text.describe()}
    for kind in args.kinds:
        for precision in args.precisions:
            memory = {
                name: harness.child(__file__, f"memory:{kind}:{precision}:{name}", passed,
                                    args.settings[0])["peak_gib"]
                for name in contestants(kind, precision)
            }  # fmt: skip
            for setting in args.settings:
                timed = harness.child(__file__, f"time:{kind}:{precision}", passed, setting)
                found[f"{kind} {precision} {setting}"] = {**timed, "peak_gib": memory}
                title = (
                    f"{kind.upper()} step of 4 rows, {precision}, {setting} allocator; median of "
                    f"{args.rounds} rounds [range]"
                )
                print(report(title, timed, memory, PEERS[kind][-1]), flush=True)
    print(f"\n{harness.save('training', found)}")


if __name__ == "__main__":
    main()
