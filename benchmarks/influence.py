"""What the influence of one update on every probe costs, by method, and how exact each is.

    python benchmarks/influence.py [--prompts 66] [--rounds 7] [--shape toy]
    python benchmarks/influence.py --shape 70m --data file --prompts 8

By default the toy study's size: 66 probed prompts with 13 responses each of the toy world's text,
and a model of its base model's shape, with random weights. Every round takes another update: a DPO
step on 4 pairs, clipped, by an RMSprop that has some updates behind it. All methods of a round
predict that update. Costs are ratios to one plain probe pass (a trajectory's evaluation, with all
its metrics) of the same round; errors are those of a response's influence, relative, beside forward
mode in float64. Prints a table per allocator setting and writes ``benchmarks/out/influence.json``.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import harness, inputs
from learning_dynamics import answers, influence, models, pairs, probe, providers, rephrase
from learning_dynamics.finetune import Learner, update
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.reference import token_logps
from learning_dynamics.rows import Rows, rows_of_update
from learning_dynamics.scoring import Engine, Scorer
from learning_dynamics.study import Study, load_config
from learning_dynamics.tokens import Codec
from learning_dynamics.toyworld import World
from learning_dynamics.trained import Trained

SPEC = {"algorithm": "dpo", "optimizer": "rmsprop", "lr": 2e-5, "beta": 0.1, "clip": 10.0,
        "accumulate": 1, "direction": "loss"}  # fmt: skip
TOY_VOCABULARY, TOY_LENGTH, TOY_PROMPT = 1600, 192, 112  # those of models.toy-neox
SIZE, WARM = 4, 5  # rows of an update; updates before the first that is measured
PASS = "probe pass"
DEFAULT, FORWARD, DOTS = "finite difference", "forward mode", "gradient dot products"
METHODS = [DEFAULT, "finite difference, step known", FORWARD, DOTS, "measured change"]
CONTESTANTS = [PASS, "log-probs alone", *METHODS, "the step and its split"]


def toy_text() -> inputs.Text:
    """The toy study's probe set as tokens. The two types that its base model would sample are
    written by the world here: only their length counts."""
    study = Study(load_config([inputs.ROOT / "config.yaml"]))
    spec = {**study.datasets["toyworld"], "documents": 4000}
    section = dict(study.config["probe"])
    section["types"] = [t for t in section["types"] if t not in ("chosen_initial", "chosen_selfr")]
    data = pairs.build(spec)
    probed = probe.probed_pairs(data.pairs, data.given, spec, section)
    asked = rephrase.needed(probed, data.given, spec["rephrase"], section)
    written = answers.answer(asked, spec["rephrase"], providers.Toyworld(spec))
    table = probe.build(data.pairs, data.given, written, spec, section)
    tokenizer = models.train_tokenizer(data.corpus, TOY_VOCABULARY, TOY_LENGTH)
    codec = Codec(tokenizer, TOY_LENGTH, TOY_PROMPT)
    world, rng = World(spec["world_seed"]), np.random.default_rng(0)
    prompts, responses = [], []
    for example, group in table.groupby("example_id", sort=False):
        prompt = group["prompt"].iloc[0]
        said = dict(zip(group["response_type"], group["response"], strict=True))
        texts = [said.get(t) or world.answer(rng, world.asked(prompt)) for t in RESPONSE_TYPES]
        tree = codec.row(prompt, texts, f"probe {example!r}")
        prompts.append(tree.prompt)
        responses.append(tree.responses)
    return inputs.Text(prompts, responses, list(RESPONSE_TYPES))


class Race:
    """One model, its probes and its updates; all methods on them."""

    def __init__(self, args: argparse.Namespace) -> None:
        text = inputs.stored(args.tokens)
        model = inputs.build(args.shape, vocabulary=args.vocabulary)
        compute = {"device": "cpu", "precision": "fp32", "sharding": "none", "processes": 1,
                   "threads": args.threads, "batch_tokens": args.batch_tokens}  # fmt: skip
        accelerator = accelerator_of(compute)
        self.learner = Learner.of(Trained(model, None, Path()), SPEC, compute, accelerator)
        self.engine, trees = self.learner.engine, text.pairs()
        self.rows = Rows(trees, token_logps(self.engine, trees, compute))
        for number in range(WARM):
            update(self.learner, self.rows, self.numbers(number))
        self.trees = text.probes(0, args.prompts)
        self.budget = args.batch_tokens
        self.probes = influence.Probes(self.engine, self.trees, self.budget)
        self.scorer = Scorer(self.trees, self.budget)
        self.scorer(self.engine)  # as along a run: the first evaluation is another one
        self.found: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
        self.step = lru_cache(1)(self._step)
        self.length = lru_cache(1)(self._length)

    def numbers(self, number: int) -> list[int]:
        """The rows of an update."""
        return rows_of_update(number, self.rows, SIZE, 0)

    def _step(self, number: int) -> influence.Direction:
        rows = self.numbers(WARM + number)
        return influence.optimizer_step(self.learner, self.rows, rows).total

    def _length(self, number: int) -> float:
        return influence.step_size(self.engine, self.step(number), self.probes)

    def predict(self, name: str, number: int) -> Callable[[], None]:
        """The call of one method on a round's update; it keeps what it found, per response."""
        engine, probes, direction = self.engine, self.probes, self.step(number)
        known = self.length(number) if name.endswith("known") else None
        call = {
            FORWARD: influence.forward_mode,
            DOTS: influence.gradient_dots,
            "measured change": influence.measured,
        }.get(name, lambda *given: influence.finite_difference(*given, known))

        def keep() -> None:
            values = call(engine, direction, probes)
            self.found[name].append(values if name == DOTS else probes.sums(values))

        return keep

    def contestants(self, methods: list[str]) -> dict[str, Callable]:
        """What takes turns, by name."""
        engine, learner = self.engine, self.learner
        others = {
            PASS: lambda _: lambda: self.scorer(engine),
            "log-probs alone": lambda _: lambda: influence.log_probs(engine, self.probes),
            "the step and its split": lambda number: (
                lambda: influence.optimizer_step(learner, self.rows, self.numbers(WARM + number))
            ),
        }
        every = {name: (lambda number, n=name: self.predict(n, number)) for name in METHODS}
        kept = [name for name in CONTESTANTS if name not in METHODS or name in methods]
        return {name: {**others, **every}[name] for name in kept}

    def truth(self, number: int) -> np.ndarray:
        """A round's influence per response by forward mode in float64."""
        exact = Engine(deepcopy(self.engine.model).double())
        probes = influence.Probes(exact, self.trees, self.budget)
        wide = {name: change.double() for name, change in self.step(number).items()}
        return probes.sums(influence.forward_mode(exact, wide, probes))


def time_all(args: argparse.Namespace) -> dict:
    """Seconds per contestant and round; and for the last round's update median and largest relative
    error of a response's influence, from float64, and the median size of an influence (nats)."""
    race = Race(args)
    times = harness.interleaved(race.contestants(args.methods), args.rounds)
    truth = race.truth(args.rounds)
    errors = {}
    for name in args.methods:
        error = np.abs(race.found[name][-1] - truth) / np.abs(truth)
        errors[name] = {"median": float(np.median(error)), "p90": float(np.quantile(error, 0.9))}
    return {
        "seconds": times,
        "errors": errors,
        "influence": float(np.median(np.abs(truth))),
        "responses": len(truth),
        "tokens": sum(map(len, race.trees)),
        "parameters": sum(p.numel() for p in race.engine.parameters()),
    }


def report(setting: str, found: dict) -> str:
    """The table of one allocator setting."""
    seconds, rows = found["seconds"], []
    for name, spent in seconds.items():
        error = found["errors"].get(name)
        rows.append(
            [name, f"{statistics.median(spent):.3f}", harness.ratio(spent, seconds[PASS]),
             harness.ratio(spent, seconds["log-probs alone"]),
             *([f"{error['median']:.1e}", f"{error['p90']:.1e}"] if error else ["", ""])]
        )  # fmt: skip
    header = ["", "s / round", "in probe passes", "in passes of log-probs alone", "median error",
              "90% below"]  # fmt: skip
    return (
        f"\n{setting} allocator; {found['parameters']} parameters; {found['responses']} responses, "
        f"{found['tokens']} packed tokens; median [range] of {len(seconds[PASS])} rounds; median "
        f"|influence| {found['influence']:.2g} nats\n{harness.table(header, rows)}"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=None,
                        help="HH probing file instead of the toy world")  # fmt: skip
    parser.add_argument("--prompts", type=int, default=66, help="probed prompts")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=inputs.SHAPES, default="toy")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens per batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--settings", nargs="+", choices=harness.SETTINGS,
                        default=list(harness.SETTINGS))  # fmt: skip
    for hidden, kind in (("--task", str), ("--tokens", Path), ("--vocabulary", int)):
        parser.add_argument(hidden, type=kind, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    if args.task:
        print(json.dumps(time_all(args)))
        return
    text = inputs.tokenised(args.data) if args.data else toy_text()
    vocabulary = inputs.VOCABULARY if args.data else TOY_VOCABULARY
    described = text.describe() if args.data else text.describe().partition(" (")[0]
    print(f"GPT-NeoX {args.shape} shape, {args.threads} threads; {described}", flush=True)
    harness.OUT.mkdir(exist_ok=True)
    tokens = harness.OUT / "influence-tokens.json"
    inputs.store(text, tokens)
    passed = ["--prompts", str(args.prompts), "--rounds", str(args.rounds), "--shape", args.shape,
              "--batch-tokens", str(args.batch_tokens), "--threads", str(args.threads),
              "--tokens", str(tokens), "--vocabulary", str(vocabulary),
              "--methods", *args.methods]  # fmt: skip
    found: dict = {"arguments": passed, "text": described}
    for setting in args.settings:
        found[setting] = harness.child(__file__, "time", passed, setting)
        print(report(setting, found[setting]), flush=True)
    print(f"\n{harness.save('influence', found)}")


if __name__ == "__main__":
    main()
