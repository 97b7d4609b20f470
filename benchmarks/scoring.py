"""How fast, how large and how exact probe scoring is: ours, the naive way, the limit.

    python benchmarks/scoring.py [--data file] [--prompts 4] [--rounds 7]
    python benchmarks/scoring.py --linear

Without ``--linear``: seven rounds, each on other prompts of the HH probes (13 responses each), in
which every contestant scores the same responses; first under the system's default allocator, then
under tuned settings. Prints one table per setting and one of errors, and writes
``benchmarks/out/scoring.json``. With ``--linear``: time and peak memory against the number of
prompts and of response types; also ``benchmarks/out/linear.png``. How to read it: README.md.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import harness, inputs, linear
from benchmarks.limit import Products
from benchmarks.peers import Naive, naive_scores, rows_of
from learning_dynamics import models, scoring
from learning_dynamics.scoring import Engine, Scorer, Tree
from learning_dynamics.scoring.head import COLUMNS

CONTESTANTS = ["naive fp32", "naive bf16", "ours fp32", "ours bf16", "limit fp32", "limit bf16"]
MEASURED = ["model alone", *CONTESTANTS[:4]]  # peak memory of these
Prepare = Callable[[list[Tree]], Callable[[], dict | None]]


def contestant(name: str, model: torch.nn.Module, args: argparse.Namespace) -> Prepare:
    """What maps trees to a call that scores them; a limit's call returns nothing."""
    who, precision = name.split()
    compute = {"device": model.device.type, "precision": precision}
    if who == "limit":
        products = Products(model, torch.bfloat16 if precision == "bf16" else torch.float32)

        def limit(trees: list[Tree]) -> Callable[[], None]:
            work = []
            for group in scoring.batches_by_budget(trees, args.batch_tokens):
                batch = [trees[i] for i in group]
                positions = sum(len(r) for tree in batch for r in tree.responses)
                work.append((sum(map(len, batch)), positions))
            columns = COLUMNS[model.device.type]
            return lambda: [products.forward(*sizes, columns) for sizes in work] and None

        return limit
    if who == "naive":

        def naive(trees: list[Tree]) -> Callable[[], dict]:
            def call() -> dict:
                with models.autocast(compute):
                    return naive_scores(model, rows_of(trees), args.naive_batch)

            return call

        return naive
    engine = Engine(model)

    def ours(trees: list[Tree]) -> Callable[[], dict]:
        scorer = Scorer(trees, args.batch_tokens)

        def call() -> dict:
            with models.autocast(compute):
                return scorer(engine)

        call()  # as along a run: every evaluation but the first follows the first's greedy tokens
        return call

    return ours


def time_all(args: argparse.Namespace) -> dict:
    """Seconds per contestant and round; first finds out which batch the naive way prefers."""
    text, model = inputs.stored(args.tokens), inputs.build(args.shape)
    trial = rows_of(text.probes(0, 1))
    tried = {
        size: min(harness.seconds(lambda s=size: naive_scores(model, trial, s)) for _ in range(2))
        for size in (1, 4)
    }
    args.naive_batch = min(tried, key=tried.get)

    def on_round(prepare: Prepare) -> Callable[[int], Callable[[], object]]:
        return lambda number: prepare(text.probes(number * args.prompts, args.prompts))

    own = deepcopy(model)  # ours; the others keep transformers' own attention
    models_of = {name: own if name.startswith("ours") else model for name in CONTESTANTS}
    all_of_them = {n: on_round(contestant(n, models_of[n], args)) for n in CONTESTANTS}
    times = harness.interleaved(all_of_them, args.rounds)
    return {"seconds": times, "naive_batch": args.naive_batch, "naive_trial": tried}


def memory_of(args: argparse.Namespace, name: str) -> dict:
    """Peak memory of this process after one call. Ours scores whole batches of its budget; the
    naive way the one batch that is longest among the same prompts, which sets its peak."""
    text, model = inputs.stored(args.tokens), inputs.build(args.shape)
    model_gib = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
    trees = text.probes(0, 16)
    if name.startswith("naive"):
        rows, size = rows_of(trees), args.naive_batch
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        longest = max(batches, key=lambda batch: max(len(p) + len(r) for p, r in batch))
        trees = [Tree(prompt, [response]) for prompt, response in longest]
    if name != "model alone":
        contestant(name, model, args)(trees)()
    return {"peak_gib": harness.peak_gib(), "model_gib": model_gib}


def errors(args: argparse.Namespace) -> dict:
    """Differences of results: everybody's from the naive way in fp64; bf16 from fp32 in log-probs,
    and in their change over a few updates (nats per response)."""
    text, model = inputs.stored(args.tokens), inputs.build(args.shape)
    trees = text.probes(0, args.prompts)
    names = CONTESTANTS[:4]

    def scores(net: torch.nn.Module) -> dict[str, dict]:
        return {name: contestant(name, net, args)(trees)() for name in names}

    before = scores(model)
    trained = deepcopy(model)
    spec = {"lr": 1e-6, "clip": 10.0, "device": "cpu", "precision": "fp32"}
    trainer = Naive(trained, None, spec)
    for tree in trees[:4] * 2:
        trainer.step([Tree(tree.prompt, tree.responses[:1])])
    after = scores(trained)
    truth, out = naive_scores(deepcopy(model).double(), rows_of(trees), 1), {}
    out["relative"] = {
        name: {key: harness.worst({key: before[name][key]}, truth) for key in truth}
        for name in names
    }

    def spread(value: object, true: object) -> dict[str, float]:
        gap = np.abs(np.asarray(value, dtype=float) - np.asarray(true, dtype=float))
        return {"mean": float(gap.mean()), "max": float(gap.max())}

    def change(name: str) -> np.ndarray:
        return np.asarray(after[name]["logp"], float) - np.asarray(before[name]["logp"], float)

    for name in names:
        exact = name.replace("bf16", "fp32")
        out[name] = {
            "logp": spread(before[name]["logp"], before[exact]["logp"]),
            "change": spread(change(name), change(exact)),
            "size of a change": spread(change(exact), 0),
        }
    return out


def _memory(memory: dict, who: str) -> list[str]:
    """Peak memory, and what of it is beyond a process that only holds model and text."""
    peak, alone = memory[who]["peak_gib"], memory["model alone"]["peak_gib"]
    return [f"{peak:.2f}", f"{peak - alone:.2f}"]


def report(name: str, timed: dict, memory: dict, args: argparse.Namespace) -> str:
    """The table of one allocator setting."""
    seconds, responses = timed["seconds"], args.prompts * 13
    rows = []
    for who in CONTESTANTS:
        spent, precision = seconds[who], who.split()[1]
        rows.append(
            [who, f"{statistics.median(spent):.2f}",
             f"{responses / statistics.median(spent):.1f}",
             harness.ratio(seconds["naive fp32"], spent),
             harness.share(seconds[f"limit {precision}"], spent),
             *(_memory(memory, who) if who in memory else ["", ""])]
        )  # fmt: skip
    header = [
        "",
        "s / round",
        "responses / s",
        "over naive fp32",
        "of the limit",
        "peak GiB",
        "above the model",
    ]
    alone = memory["model alone"]
    return (
        f"\n{name} allocator; naive batch {timed['naive_batch']}; median of {args.rounds} rounds "
        f"of {responses} responses [range]\n{harness.table(header, rows)}\n"
        f"model alone: {alone['model_gib']:.2f} GiB of weights, process {alone['peak_gib']:.2f} GiB"
    )


def report_errors(found: dict) -> str:
    """The table of errors."""
    rows = []
    for who in CONTESTANTS[:4]:
        of = found[who]
        both = [f"{of[k]['mean']:.3g} ({of[k]['max']:.3g})" for k in ("logp", "change")]
        relative = found["relative"][who]
        worst = max(relative, key=relative.get)
        rows.append(
            [who, f"{relative['logp']:.1e}", f"{relative[worst]:.1e} ({worst})",
             *(["", ""] if who.endswith("fp32") else both)]
        )  # fmt: skip
    header = ["", "sums of log-probs", "worst of all metrics", "log-prob, bf16 − fp32",
              "its change, bf16 − fp32"]  # fmt: skip
    size = found["ours fp32"]["size of a change"]
    return (
        "\nerrors: largest relative difference from naive fp64; nats per response, mean (max)\n"
        f"{harness.table(header, rows)}\n"
        f"the change itself (8 SFT updates): mean {size['mean']:.3g} nats, max {size['max']:.3g}"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=inputs.DATA, help="HH probing file")
    parser.add_argument("--prompts", type=int, default=4, help="prompts per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=inputs.SHAPES, default="70m")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="ours: tokens per batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--settings", nargs="+", choices=harness.SETTINGS,
                        default=list(harness.SETTINGS))  # fmt: skip
    parser.add_argument("--linear", action="store_true", help="cost against size instead")
    for hidden in ("--task", "--tokens", "--naive-batch"):
        kind = {"--tokens": Path, "--naive-batch": int}.get(hidden, str)
        parser.add_argument(hidden, type=kind, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    if args.task:
        task, _, rest = args.task.partition(":")
        prepare = None
        if task in ("sizes", "size"):
            prepare = contestant("ours fp32", inputs.build(args.shape), args)
        result = {
            "time": lambda: time_all(args),
            "errors": lambda: errors(args),
            "memory": lambda: memory_of(args, rest),
            "sizes": lambda: linear.seconds(prepare, args),
            "size": lambda: linear.memory(prepare, rest, args),
        }[task]()
        print(json.dumps(result))
        return
    text = inputs.tokenised(args.data)
    print(f"GPT-NeoX {args.shape} shape, {args.threads} threads; {text.describe()}", flush=True)
    harness.OUT.mkdir(exist_ok=True)
    tokens = harness.OUT / "tokens.json"
    inputs.store(text, tokens)
    passed = ["--prompts", str(args.prompts), "--rounds", str(args.rounds), "--shape", args.shape,
              "--batch-tokens", str(args.batch_tokens), "--threads", str(args.threads),
              "--tokens", str(tokens)]  # fmt: skip
    if args.linear:
        linear.main(__file__, passed, args)
        return
    found: dict = {"arguments": passed, "text": text.describe()}
    for setting in args.settings:
        timed = harness.child(__file__, "time", passed, setting)
        batch = ["--naive-batch", str(timed["naive_batch"])]
        memory = {
            name: harness.child(__file__, f"memory:{name}", [*passed, *batch], setting)
            for name in MEASURED
        }
        found[setting] = {**timed, "memory": memory}
        print(report(setting, timed, memory, args), flush=True)
    found["errors"] = harness.child(__file__, "errors", [*passed, *batch], args.settings[-1])
    print(report_errors(found["errors"]))
    print(f"\n{harness.save('scoring', found)}")


if __name__ == "__main__":
    main()
