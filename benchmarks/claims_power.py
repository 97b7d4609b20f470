"""Are the claims' verdicts right where the truth is known, and how often do they see it?

    python benchmarks/claims_power.py [--draws 1000] [--seeds 5] [--probes 50]
    python benchmarks/claims_power.py --measure results/toy     # the noise of a study's own runs

Studies are drawn in which a claim is, by construction, without effect, at the smallest effect worth
the name, at twice that, or undecidable (half the effect, noise twenty-fold and more);
docs/statistics.md, section "Claims", says what a right verdict is. The correction for many sees a
whole study: of the other claims two thirds are as large as published (four times the smallest
effect), a third have no effect. The curves come from the generator below, which knows nothing of
the statistics: it moves the log-probs of chosen runs and types by chosen amounts.

Noise is what ``--measure results/toy`` prints of the toy study's five seeds, in percent of the
start at the end of a run: between seeds with all probes alike, between probes with all seeds alike,
and of each probe in each seed. It walks there in independent steps, and is independent between
runs, columns and types, which is pessimistic for paired differences: real runs share their base
model. The probes' |log π| at the start spread by 60% (published: 50 to 95%). Win rates: 120
prompts, no ties.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from learning_dynamics import inputs
from learning_dynamics.claims import CLAIMS, Evidence, Recorded, weigh
from learning_dynamics.claims.inference import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    judge,
    significance,
)
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.study import Study, load_config

ROOT = Path(__file__).resolve().parent.parent
KINDS = list(RESPONSE_TYPES)
TIMES = np.linspace(0, 1, 5)
STATES = {"none": (0.0, 1.0), "smallest": (1.0, 1.0), "undecidable": (0.5, 20.0),
          "twice": (2.0, 1.0), "published": (4.0, 1.0)}  # fmt: skip
NOISE = {
    ("sft", "logp"): {"seeds": 2.3, "probes": 6.8, "both": 6.9},
    ("sft", "logp_argmax"): {"seeds": 3.9, "probes": 6.5, "both": 7.7},
    ("sft", "logp_top_other"): {"seeds": 3.2, "probes": 4.6, "both": 6.0},
    ("sft", "prob_norm"): {"seeds": 2.4, "probes": 5.2, "both": 5.1},
    ("dpo", "logp"): {"seeds": 4.2, "probes": 3.3, "both": 7.1},
    ("dpo", "logp_argmax"): {"seeds": 7.9, "probes": 2.6, "both": 9.1},
    ("dpo", "logp_top_other"): {"seeds": 4.5, "probes": 2.4, "both": 5.9},
    ("dpo", "prob_norm"): {"seeds": 5.8, "probes": 2.2, "both": 6.4},
}
DPO = ("dpo", "coinflip", "extend", "matched", "irrelevant", "dpo_long", "on_dpo")  # roles
# Single steps, by what they train: between seeds and between batches, points (dp) or nats.
STEPS = {
    "dp_top_other": {"dpo": (0.008, 0.303), "coinflip": (0.0, 0.315), "sft": (0.129, 0.201)},
    "dlogp_top_other": {"dpo": (0.005, 0.021), "coinflip": (0.003, 0.025), "sft": (0.004, 0.009)},
    "dlogp_rest": {"dpo": (0.0, 0.011), "coinflip": (0.001, 0.010), "sft": (0.002, 0.003)},
}
START = 0.6
# How much noise hides any effect: single steps differ so little that O2 takes more than the others.
HIDING = {"O2": 100.0}
BATCHES, PROMPTS = 40, 120
Moves = dict[tuple[str, str, str], float | list[float]]


class Drawn(Evidence):
    """Curves whose truth is ``moves``: the change of (role, column, type) in percent of its start,
    at the end (reached linearly) or at each of five times; nothing else moves. ``levels``: mean
    start, 100 unless given."""

    text = "hh"
    peers = ("peer",)

    def __init__(self, moves: Moves, draws: int, seeds: int, probes: int, noise: float, rng,  # noqa: ANN001
                 levels: dict[str, float] | None = None) -> None:  # fmt: skip
        self.moves, self.shape, self.noise, self.rng = moves, (draws, seeds, probes), noise, rng
        self.clusters, self.levels = np.arange(probes), levels or {}
        # A prompt's response and its rewrites are long or short together.
        self.length = np.exp(START * rng.normal(size=(draws, 1, 1, probes)))
        self.curves: dict = {}
        self.sizes: dict[str, np.ndarray] = {}

    def kinds(self, role: str) -> list[str]:
        return [] if role in ("irrelevant", "on_dpo") else KINDS

    def curve(self, role: str, column: str, kind: str):  # noqa: ANN201
        key = (role, column, kind)
        if key not in self.curves:
            draws, seeds, probes = self.shape
            normal = self.rng.normal
            given = self.moves.get(key, 0.0)
            path = (np.array(given) if isinstance(given, list) else TIMES * given)[:, None]
            walk = []
            each = {"seeds": (seeds, 1), "probes": (1, probes), "both": (seeds, probes)}
            for name, (s, e) in each.items():  # independent steps, that add up to the end's noise
                steps = normal(size=(draws, s, len(TIMES) - 1, e)) / (len(TIMES) - 1) ** 0.5
                steps = np.concatenate([np.zeros((draws, s, 1, e)), steps], -2)
                walk.append(noise_of(role, column)[name] * steps.cumsum(-2))
            moved = path + self.noise * sum(walk)
            size = self._size(kind)
            self.curves[key] = 240 * TIMES, -size + size * moved / 100
        return self.curves[key]

    def _size(self, kind: str) -> np.ndarray:
        """|log π| of a type's responses at the start: the same responses in every run."""
        if kind not in self.sizes:
            own = np.exp(0.25 * self.rng.normal(size=self.length.shape))
            self.sizes[kind] = self.levels.get(kind, 100.0) * self.length * own
        return self.sizes[kind]

    def examples(self, role: str) -> np.ndarray:
        return 960 * TIMES

    def valley(self, kind: str, column: str) -> np.ndarray:
        draws, seeds, _ = self.shape
        of_seeds, of_batches = STEPS[column][kind]
        noise = of_seeds * self.rng.normal(size=(draws, seeds, 1))
        noise = noise + of_batches * self.rng.normal(size=(draws, seeds, BATCHES))
        return self.moves.get((kind, column, "step"), 0.0) + self.noise * noise

    def win_rate(self, last: bool) -> np.ndarray:
        draws, seeds, _ = self.shape
        noise = 2.0 * self.rng.normal(size=(draws, seeds, 1))
        noise = noise + 50 / PROMPTS**0.5 * self.rng.normal(size=(draws, seeds, 1))
        return 50 + self.moves.get(("win", "rate", str(last)), 0.0) + self.noise * noise


def noise_of(role: str, column: str) -> dict[str, float]:
    """The noise of a role's runs in a column; the token that was greedy at the start has that of
    the greedy one."""
    algorithm = "dpo" if role.partition("@")[0] in DPO else "sft"
    return NOISE[algorithm, "logp_argmax" if column == "logp_greedy0" else column]


def logp(role: str, **by_kind) -> Moves:  # noqa: ANN003
    return {(role, "logp", kind): move for kind, move in by_kind.items()}


def over(role: str, kinds: list[str], move, column: str = "logp") -> Moves:  # noqa: ANN001
    return {(role, column, kind): move for kind in kinds}


REST = [kind for kind in KINDS if kind not in ("chosen", "rejected")]
GPT = ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat"]
RANDOM = ["random_permute", "random_nonhum"]


def correlated(r: float) -> tuple[list, list]:
    """Two moves per type, 15% large, whose correlation over types is ``r``."""
    basis = np.random.default_rng(7).normal(size=(len(KINDS), 2))
    basis = 15 * np.linalg.qr(basis - basis.mean(0))[0].T * len(KINDS) ** 0.5
    return list(basis[0]), [r * x + (1 - r * r) ** 0.5 * y for x, y in basis.T]


def _c5(r: float) -> Moves:
    one, two = correlated(r)
    moves: Moves = {}
    for role in ("sft", "dpo"):
        for k, kind in enumerate(KINDS):
            moves |= {(role, "logp", kind): one[k], (f"{role}@peer", "logp", kind): two[k]}
    return moves


def _c6(c: float) -> Moves:
    moves = over("on_chosen", RANDOM, -5 * c) | over("on_rejected", RANDOM, -5 * c)
    train = 5 * c - 10 * c / 11  # the other eleven are lowered on average by 10c / 11
    moves |= logp("on_chosen", irr_train=train, chosen=train + 5 * c)
    moves |= logp("on_rejected", rejected=5 * c)
    for role, own in (("on_gpts", GPT[0]), ("on_gpts_rejected", GPT[2]), ("on_hum", "irr_hum")):
        moves |= over(role, [*GPT, "irr_hum"], 5 * c) | over(role, RANDOM, -5 * c)
        moves |= {(role, "logp", own): 10 * c}
    return moves


def _c7(r: float) -> Moves:
    one, two = correlated(r)
    return {("sft", "logp", kind): [0, x / 2, x, x + y / 2, x + y]
            for kind, x, y in zip(KINDS, one, two, strict=True)}  # fmt: skip


def _c10(c: float) -> Moves:
    return (over("dpo", REST, -20 * c) | over("dpo", GPT[:2], -10 * c)
            | logp("dpo", rejected=-30 * c))  # fmt: skip


def _squeezing(c: float, role: str = "dpo") -> Moves:
    return {(role, "logp", "rejected"): -10 * c, (role, "logp_top_other", "rejected"): 10 * c,
            (role, "logp_argmax", "chosen"): 10 * c, (role, "logp", "chosen"): -10 * c,
            (role, "logp_greedy0", "chosen"): 10 * c}  # fmt: skip


FAR = logp("extend", rejected=-100) | logp("matched", rejected=-100)  # equal margins
# What moves when a claim is true at c times its smallest effect.
TRUTH: dict[str, Callable[[float], Moves]] = {
    "C1": lambda c: logp("sft", chosen=[0, 1.5 * c, 3 * c, 4 * c, 5 * c]),
    "C2": lambda c: over("sft", ["rejected", *GPT[:2]], [0, c, 2 * c, c, 0]),
    "C3": lambda c: over("sft", RANDOM, -2 * c),
    "C4": lambda c: logp("sft", chosen=10 * c, irr_train=5 * c),
    "C5": lambda c: _c5(min(1.0, c / 2)),
    "C6": _c6,
    "C7": lambda c: _c7(min(1.0, c / 2)),
    "C8": lambda c: {},  # by the levels, below
    "C9": lambda c: over("sft", KINDS, 5 * c, "prob_norm"),
    "C10": _c10,
    "C11": lambda c: over("dpo", REST, -10 * c) | {("dpo", "logp_argmax", "chosen"): 10 * c},
    "C11p": lambda c: over("dpo", REST, -10 * c)
    | {("dpo", "logp_argmax", "random_nonhum"): 10 * c},
    "C12": lambda c: logp("sft", chosen=20) | {("dpo", "logp_argmax", "chosen"): 20 + 5 * c},
    "C12p": lambda c: logp("sft", chosen=20)
    | {("dpo", "logp_argmax", "random_nonhum"): 20 + 5 * c},
    "C13": lambda c: over("dpo_long", REST, -10 * c)
    | {("dpo_long", "logp_argmax", "chosen"): 10 * c},
    "C14": lambda c: over("dpo", [*REST, "rejected"], -10 * c),
    "C15": lambda c: logp("sft_extend", rejected=10 * c, chosen=10 + 5 * c)
    | logp("sft_matched", chosen=20),
    "C16a": lambda c: FAR | over("extend", REST, -20) | over("matched", REST, -20 - 10 * c),
    "C16b": lambda c: FAR | {("extend", "logp_argmax", "chosen"): 20,
                             ("matched", "logp_argmax", "chosen"): 20 + 10 * c},
    "C17": lambda c: {("win", "rate", "False"): -5 * c, ("win", "rate", "True"): 5 * c},
    "S1": _squeezing,
    "S2": _squeezing,
    "S3": _squeezing,
    "O1": lambda c: {("dpo", "dp_top_other", "step"): 0.05 * c},
    "O2": lambda c: {("dpo", "dlogp_top_other", "step"): 0.1 * c,
                     ("dpo", "dlogp_rest", "step"): -0.1 * c},
}  # fmt: skip
# What no squeezing claim may take for squeezing: the controls, run through as if they were DPO.
CONTROL = {
    "coin-flip": _squeezing(2, "dpo") | _squeezing(2, "coinflip"),
    "SFT": {
        (role, column, kind): move
        for role in ("dpo", "continued")
        for (column, kind), move in {
            ("logp", "rejected"): 5,
            ("logp_top_other", "rejected"): 10,
            ("logp_argmax", "chosen"): 20,
            ("logp_greedy0", "chosen"): 20,
            ("logp", "chosen"): 20,
        }.items()
    },
}


def _levels(claim: str, c: float) -> dict[str, float]:
    return {GPT[1]: 90.0, GPT[0]: 90.0 - 5 * c} if claim == "C8" else {}


def weights(claim, moves: Moves, noise: float, size: tuple[int, int, int], rng, levels=None):  # noqa: ANN001, ANN201
    """p-values (draws, 2) and whether all estimates are large enough (draws,)."""
    parts, enough = [], []
    bounded = noise > 1 and claim.id in ("C5", "C7")
    for start in range(0, size[0], 250):  # bounds the memory
        draws = min(250, size[0] - start)
        # A correlation is bounded, so that noise cannot hide it: what decides nothing is one seed
        # of means alone.
        shape = (1, 1) if bounded else size[1:]
        evidence = Drawn(moves, draws, *shape, noise, rng, levels)
        found = weigh(claim.parts(evidence), evidence.clusters)
        parts.append(np.nan_to_num(found.p, nan=1.0))  # seeds without a common margin
        enough.append(found.enough)
    return np.concatenate(parts), np.concatenate(enough)


def verdicts(draws: int, seeds: int, probes: int, seed: int = 0) -> Iterator[tuple[str, str, dict]]:
    """Claim, state and how many of ``draws`` verdicts were what."""
    rng = np.random.default_rng(seed)
    size = (draws, seeds, probes)
    found = {
        (claim.id, state): weights(
            claim, TRUTH[claim.id](c), HIDING.get(claim.id, noise) if noise > 1 else noise, size,
            rng, _levels(claim.id, c),
        )
        for claim in CLAIMS for state, (c, noise) in STATES.items()
    }  # fmt: skip
    for claim in CLAIMS:
        states = {name: found[claim.id, name] for name in STATES}
        if claim.id in ("S1", "S2", "S3"):
            states |= {name: weights(claim, moves, 1.0, size, rng)
                       for name, moves in CONTROL.items()}  # fmt: skip
        # The rest of the study: two thirds as large as published, a third without effect.
        there = rng.random((draws, len(CLAIMS), 1)) < 2 / 3
        rest = [[found[each.id, state][0] for each in CLAIMS] for state in ("published", "none")]
        family = np.where(there, *(np.stack(each, axis=1) for each in rest))
        place = [each.id for each in CLAIMS].index(claim.id)
        for name, (p, enough) in states.items():
            family[:, place] = p
            words = list(judge(p, enough, significance(family)))
            yield claim.id, name, {word: words.count(word)
                                   for word in (SUPPORTED, CONTRADICTED, UNDECIDED)}  # fmt: skip


def false_discoveries(draws: int, seeds: int, probes: int, seed: int = 1) -> float:
    """The share of false verdicts among those given, when no claim is true and all are judged by
    the same runs, as in a real study: then ``supported`` is false, ``contradicted`` right."""
    rng = np.random.default_rng(seed)
    shares = []
    for start in range(0, draws, 100):
        evidence = Drawn({}, min(100, draws - start), seeds, probes, 1.0, rng)
        found = [weigh(claim.parts(evidence), evidence.clusters) for claim in CLAIMS]
        p = np.nan_to_num(np.stack([one.p for one in found], 1), nan=1.0)
        enough = np.stack([one.enough for one in found], 1)
        words = judge(p, enough, significance(p)[:, None])
        given = (words != UNDECIDED).sum(1)
        shares.append((words == SUPPORTED).sum(1) / np.maximum(given, 1))
    return float(np.concatenate(shares).mean())


def right(state: str, counts: dict[str, int]) -> int:
    """How many verdicts were right (docs/statistics.md, "Claims"); for ``twice``
    and ``published``: supported."""
    total = sum(counts.values())
    return {
        "none": total - counts[SUPPORTED],
        "smallest": total - counts[CONTRADICTED],
        "twice": counts[SUPPORTED],
        "published": counts[SUPPORTED],
        "undecidable": counts[UNDECIDED],
    }.get(state, total - counts[SUPPORTED])


def components(values: np.ndarray) -> dict[str, float]:
    """Standard deviations between seeds, between probes and of both, of ``values`` (S, E): the
    crossed random-effects analysis of variance, negative variances set to zero."""
    seeds, probes = values.shape
    by_seed, by_probe = values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_probe + values.mean()
    both = (rest**2).sum() / ((seeds - 1) * (probes - 1))
    found = {"seeds": by_seed.var(ddof=1) - both / probes,
             "probes": by_probe.var(ddof=1) - both / seeds, "both": both}  # fmt: skip
    return {name: float(np.sqrt(max(value, 0.0))) for name, value in found.items()}


def measure(results: Path) -> None:
    """Print the noise of a finished study's own runs, by algorithm: medians over runs and types."""
    files = [ROOT / "config.yaml", ROOT / "studies" / f"{results.name}.yaml"]
    study = Study(load_config([file for file in files if file.is_file()]))
    squeeze = study.config["figures"]["squeeze"]
    runs = {**squeeze["runs"], **study.config["claims"]["roles"]}
    place = {**squeeze, "seeds": study.seeds, "runs": runs}
    evidence = Recorded(
        inputs.trajectories(results, place), one_step=inputs.one_steps(results, place)
    )
    found: dict[tuple[str, str], list[dict]] = {}
    for role, run in runs.items():
        for column in ("logp", "logp_argmax", "logp_top_other", "prob_norm"):
            for kind in evidence.kinds(role):
                move = evidence.change(role, column, kind).percent
                key = (study.runs[run]["algorithm"], column)
                found.setdefault(key, []).append(components(move[:, ~np.isnan(move).any(0)]))
    print(f"{results}: percent of the start; median over runs and types of the standard deviation")
    for (algorithm, column), each in found.items():
        middle = {name: np.median([one[name] for one in each]) for name in each[0]}
        words = ", ".join(f"{name} {value:.1f}" for name, value in middle.items())
        print(f"{algorithm:5} {column:15} {words}   ({len(each)} curves)")
    for column in ("dp_top_other", "dlogp_top_other", "dlogp_rest"):
        steps = {kind: evidence.valley(kind, column) for kind in ("dpo", "coinflip", "sft")}
        for kind, values in steps.items():
            within = values.var(1, ddof=1).mean()
            between = max(0.0, values.mean(1).var(ddof=1) - within / values.shape[1]) ** 0.5
            words = f"seeds {between:.3f}, batches {within**0.5:.3f}"
            print(f"step  {column:15} {kind:8} {words}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--probes", type=int, default=50)
    parser.add_argument("--measure", type=Path, help="a study's results: print its noise instead")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    table: dict[str, dict[str, dict]] = {}
    for claim, state, counts in verdicts(args.draws, args.seeds, args.probes):
        table.setdefault(claim, {})[state] = counts
    print(f"{args.draws} draws, {args.seeds} seeds, {args.probes} probes; share of right verdicts")
    heads = ["claim", "none", "smallest", "undecid.", "power at twice", "4 times"]
    print(("{:6} {:>7} {:>9} {:>9} {:>15} {:>8}   controls as squeezing").format(*heads))
    share = {c: {s: right(s, n) / args.draws for s, n in by.items()} for c, by in table.items()}
    for claim in CLAIMS:
        row = share[claim.id]
        taken = [f"{name}: {table[claim.id][name][SUPPORTED]}" for name in CONTROL if name in row]
        print(f"{claim.id:6} {row['none']:7.3f} {row['smallest']:9.3f} {row['undecidable']:9.3f} "
              f"{row['twice']:15.3f} {row['published']:8.3f}   {', '.join(taken)}")  # fmt: skip
    wrong = [c for c, row in share.items() for s in ("none", "smallest", "undecidable")
             if row[s] < 0.93]  # fmt: skip
    weak = [claim for claim, row in share.items() if row["twice"] < 0.8]
    print(f"right in fewer than 930 of 1,000: {', '.join(wrong) or 'none'}")
    print(f"power below 80%: {', '.join(weak) or 'none'}")
    false = false_discoveries(args.draws, args.seeds, args.probes)
    print(f"no claim true, one set of runs for all: false share of the verdicts given {false:.4f}")


if __name__ == "__main__":
    main()
