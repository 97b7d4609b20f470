"""What models write, from the base model through SFT to DPO: whose facts they state, and whether
they repeat and copy.

Every definition is in docs/statistics.md, section "Win rates and what the models write".
"""

import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import estimate
from learning_dynamics.errors import InputError
from learning_dynamics.frontier import seeds_interval
from learning_dynamics.toyworld import World

FACTS = ["true", "own_false", "leak_seen", "leak_unseen", "leak_excess", "other_fact", "no_fact",
         "other_category"]  # fmt: skip
COLUMNS = ["role", "run", "epoch", "split", "quantity", "seed", "value", "low", "high", "interval",
           "n"]  # fmt: skip
Answers = Mapping[tuple[str, float, int], pd.DataFrame]  # by run, epoch and seed


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and underscores, lower-cased."""
    return re.findall(r"\w+", text.lower())


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of ``n`` words, in order."""
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def rep_n(text: str, n: int) -> float:
    """1 − distinct n-grams / n-grams; NaN for fewer than ``n`` words."""
    grams = ngrams(words_of(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else np.nan


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams / n-grams of all texts together (no n-gram spans two of them); NaN without
    any."""
    grams = [gram for text in texts for gram in ngrams(words_of(text), n)]
    return len(set(grams)) / len(grams) if grams else np.nan


class Pool:
    """Texts that answers may have copied from, each of one prompt.

    Args:
        prompts: the prompts.
        texts: a text for each.
    """

    def __init__(self, prompts: Iterable[str], texts: Iterable[str]) -> None:
        self._texts = [
            (prompt, words_of(text)) for prompt, text in zip(prompts, texts, strict=True)
        ]
        self._owners: dict[int, dict[tuple[str, ...], str | None]] = {}

    def copied(self, prompt: str, text: str) -> float:
        """The longest run of words that ``text`` shares with a text of another prompt, as a share
        of its own words; NaN without words."""
        words = words_of(text)
        if not words:
            return np.nan
        longest = 0
        while longest < len(words):
            owners = self._of_length(longest + 1)
            # An n-gram's owner is the one prompt that has it; None: several do.
            if all(owners.get(g, prompt) == prompt for g in ngrams(words, longest + 1)):
                break
            longest += 1
        return longest / len(words)

    def _of_length(self, n: int) -> dict[tuple[str, ...], str | None]:
        if n not in self._owners:
            found: dict[tuple[str, ...], str | None] = {}
            for prompt, words in self._texts:
                for gram in ngrams(words, n):
                    found[gram] = prompt if found.get(gram, prompt) == prompt else None
            self._owners[n] = found
        return self._owners[n]


def pools(pairs: pd.DataFrame) -> dict[str, Pool]:
    """y⁺ of training prompts (``copied_seen``) and of held-out ones (``copied_unseen``): as many of
    either, those of the larger split drawn at random. Empty without held-out pairs."""
    splits = [pairs[pairs["split"] == split] for split in ("train", "test")]
    size = min(map(len, splits))
    if not size:
        return {}
    rng = np.random.default_rng(52)
    drawn = [rows.iloc[np.sort(rng.choice(len(rows), size, replace=False))] for rows in splits]
    names = ("copied_seen", "copied_unseen")
    return {name: Pool(t["prompt"], t["chosen"]) for name, t in zip(names, drawn, strict=True)}


class Facts:
    """Whose facts an answer states, in the toy world.

    Args:
        world: the world of the pairs.
        pairs: the pairs table.
    """

    def __init__(self, world: World, pairs: pd.DataFrame) -> None:
        self._world = world
        train = pairs[pairs["split"] == "train"]
        self._seen = {self._stated(text) for text in train["chosen"]} - {None}
        self._unseen = {(f.tool, *f.actions) for f in world.facts} - self._seen
        # A prompt may stand in several pairs, with an y⁻ each.
        self._false: dict[str, set] = {}
        for prompt, text in zip(pairs["prompt"], pairs["rejected"], strict=True):
            self._false.setdefault(prompt, set()).add(self._stated(text))

    def of(self, prompt: str, text: str) -> dict[str, float]:
        """The :data:`FACTS` of one answer: 1 or 0 each; ``leak_excess`` is weighted.

        Raises:
            InputError: for a prompt that asks nothing of this world.
        """
        fact = self._world.asked(prompt)
        if fact is None:
            raise InputError(
                f"prompt {prompt[-60:]!r}: asks nothing that toy world {self._world.seed} knows; "
                "expected a prompt of its data set"
            )
        own = (fact.tool, *fact.actions)
        stated = self._stated(text)
        flags = {
            "true": stated == own,
            "own_false": stated is not None and stated in self._false.get(prompt, ()),
            "leak_seen": stated in self._seen - {own},
            "leak_unseen": stated in self._unseen - {own},
        }
        seen, unseen = len(self._seen - {own}), len(self._unseen - {own})
        tools, actions = self._world.items(text)
        return {
            **{name: float(flag) for name, flag in flags.items()},
            "leak_excess": flags["leak_seen"] - flags["leak_unseen"] * seen / max(unseen, 1),
            "other_fact": float(stated is not None and not any(flags.values())),
            "no_fact": float(stated is None),
            "other_category": float(any(c != fact.category for _, c in (*tools, *actions))),
        }

    def _stated(self, text: str) -> tuple[str, str, str] | None:
        """The fact that a text states: its one tool and its two actions; None for anything else."""
        tools, actions = self._world.items(text)
        if len(tools) != 1 or len(actions) != 2:
            return None
        return tools[0][0], actions[0][0], actions[1][0]


def measures(
    answers: pd.DataFrame, facts: Facts | None, copies: Mapping[str, Pool]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Every quantity of one checkpoint's answers: per answer (NaN where it has none), and of all
    answers together.

    Args:
        answers: ``prompt, response, ended``.
        facts: None where they are not known.
        copies: as of :func:`pools`.
    """
    rows = []
    for prompt, text, ended in zip(
        answers["prompt"], answers["response"], answers["ended"], strict=True
    ):
        row = {f"rep_{n}": rep_n(text, n) for n in (2, 3, 4)}
        row |= {"unfinished": float(not ended), "words": float(len(words_of(text)))}
        row |= {name: pool.copied(prompt, text) for name, pool in copies.items()}
        rows.append((facts.of(prompt, text) if facts else {}) | row)
    return pd.DataFrame(rows), {f"distinct_{n}": distinct_n(answers["response"], n) for n in
                                (1, 2, 3)}  # fmt: skip


def table(
    roles: Mapping[str, str], answers: Answers, pairs: pd.DataFrame, world: World | None
) -> pd.DataFrame:
    """tables/hallucination.csv: :data:`COLUMNS`, a row per role × epoch × split × quantity × seed,
    and one of all seeds with its interval.

    Args:
        roles: role → run.
        answers: by run, epoch and seed.
        pairs: the pairs table.
        world: None where the facts are not known.
    """
    facts, copies = Facts(world, pairs) if world else None, pools(pairs)
    seeds = sorted({seed for *_, seed in answers})
    known: dict[tuple[int, str], tuple] = {}  # one model may be the start of several runs
    rows = []
    for role, run in roles.items():
        epochs = sorted({epoch for name, epoch, _ in answers if name == run})
        for epoch, split in itertools.product(epochs, ("test", "train")):
            found = []
            for seed in seeds:
                written = answers[run, epoch, seed]
                part = written[written["split"] == split]
                if (id(written), split) not in known:
                    known[id(written), split] = measures(part, facts, copies)
                found.append(known[id(written), split])
            if all(each.empty for each, _ in found):
                continue
            same = {"role": role, "run": run, "epoch": epoch, "split": split}
            rows += [{**same, **row} for row in _rows(found, seeds)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(found: list[tuple[pd.DataFrame, dict]], seeds: list[int]) -> Iterable[dict]:
    """One checkpoint's rows, from each seed's measures."""
    for quantity in [*found[0][0].columns, *found[0][1]]:
        each = [answers.get(quantity) for answers, _ in found]
        values = [
            whole[quantity] if column is None else column.mean()
            for column, (_, whole) in zip(each, found, strict=True)
        ]
        counts = [len(answers) if column is None else int(column.notna().sum())
                  for column, (answers, _) in zip(each, found, strict=True)]  # fmt: skip
        for seed, value, n in zip(seeds, values, counts, strict=True):
            yield {"quantity": quantity, "seed": str(seed), "value": value, "n": n}
        row = {"quantity": quantity, "seed": "all", "value": np.mean(values), "n": sum(counts)}
        if len(seeds) > 1:
            over = seeds_interval(values)
            row |= {"low": over.low, "high": over.high, "interval": "t over seeds"}
        elif each[0] is not None and counts[0]:
            over = estimate(each[0].to_numpy()[None])
            row |= {"low": over.low, "high": over.high, "interval": "bootstrap over prompts"}
        yield row
