"""Win rates: whose answer to the same prompt is better, by a judge (the paper's Table 1).

Every definition is in docs/statistics.md, section "Win rates and what the models write".
"""

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from learning_dynamics.answers import REQUEST_COLUMNS, Provider, answer
from learning_dynamics.dynamics import interval, resampled_means
from learning_dynamics.errors import InputError
from learning_dynamics.frontier import seeds_interval
from learning_dynamics.judge import Judge
from learning_dynamics.rephrase import filled, parse

PAIRED = ["comparison", "a", "b", "epoch", "seed", "example_id", "prompt", "response_a",
          "response_b"]  # fmt: skip
JUDGED = ["comparison", "a", "b", "epoch", "seed", "example_id", "first", "second", "verdict"]
COLUMNS = ["comparison", "a", "b", "epoch", "judge", "protocol", "seed", "wins", "losses", "ties",
           "n", "rate", "low", "high", "interval"]  # fmt: skip
TOO_LONG = 2000  # characters; as published, a pair with a longer answer is left out
Z = 1.959963984540054  # the normal distribution's 97.5% quantile
PLACES = ["prompt", "a", "b", "options"]
# The paper's numbers, as it gives them: judge → rate of extend against baseline by DPO epoch.
PUBLISHED = {
    "ChatGPT": {0: 0.4729, 2: 0.6518, 4: 0.6928, 6: 0.6667},
    "Claude": {0: 0.4679, 2: 0.5151, 4: 0.6045, 6: 0.5432},
}


def paired(
    comparisons: Mapping[str, tuple[str, str]],
    epochs: Sequence[float],
    answers: Mapping[tuple[str, float, int], pd.DataFrame],
) -> pd.DataFrame:
    """Both runs' answers to the same held-out prompts: one row per prompt, with :data:`PAIRED`.

    Args:
        comparisons: name → the two runs.
        epochs: at which they are compared, where both have answers.
        answers: by run, epoch and seed.

    Raises:
        InputError: when two runs answered different prompts, or no held-out ones.
    """
    tables = []
    seeds = sorted({seed for *_, seed in answers})
    for (name, (a, b)), epoch, seed in itertools.product(comparisons.items(), epochs, seeds):
        if (a, epoch, seed) not in answers or (b, epoch, seed) not in answers:
            continue
        ours, theirs = (answers[run, epoch, seed].query("split == 'test'") for run in (a, b))
        both = ours.merge(
            theirs, on=["example_id", "prompt"], suffixes=("_a", "_b"), validate="1:1"
        )
        if both.empty or len({len(ours), len(theirs), len(both)}) != 1:
            raise InputError(
                f"figures.winrate: {a!r} and {b!r} at epoch {epoch:g}, seed {seed}: {len(ours)} "
                f"and {len(theirs)} answers to held-out prompts, {len(both)} of them in common; "
                "expected the same prompts, one at least"
            )
        both = both.assign(comparison=name, a=a, b=b, epoch=epoch, seed=seed)
        tables.append(both[PAIRED])
    if not tables:
        raise InputError("figures.winrate.epochs: none that both runs of a comparison reach")
    return pd.concat(tables, ignore_index=True)


def judged(
    pairs: pd.DataFrame,
    spec: dict,
    judge: Judge | None = None,
    provider: Provider | None = None,
) -> pd.DataFrame:
    """A verdict on every pair of answers, with :data:`JUDGED`.

    ``first`` and ``second`` are those of the two orders (a shown first; b shown first): +1 where a
    is better, −1 where b is, 0 for a tie, NaN where none was had; ``verdict`` is what they come to.

    Args:
        pairs: as of :func:`paired`.
        spec: section ``judge`` of the configuration.
        judge: a function of prompt and two answers; None: ``provider`` is asked.
        provider: who answers requests.

    Raises:
        InputError: when the template cannot be filled, or requests stay unanswered.
    """
    published = spec["protocol"] == "as_published"
    lengths = pairs[["response_a", "response_b"]].apply(lambda texts: texts.str.len())
    asked = pairs[(lengths <= TOO_LONG).all(axis=1)] if published else pairs
    orders = ["first"] if published else ["first", "second"]
    if judge is not None:
        signs = pd.DataFrame(
            {
                order: [np.sign(judge(*_shown(row, order))) for _, row in asked.iterrows()]
                for order in orders
            },
            index=asked.index,
            dtype=float,
        )
    else:
        signs = _asked(asked, spec, provider, orders)
    table = pairs.join(signs.reindex(pairs.index))
    if published:
        table["second"] = np.nan
        table["verdict"] = table["first"].replace(0.0, np.nan)
    else:
        table["second"] = -table["second"]  # it was asked from b's side
        table["verdict"] = np.sign(table["first"] + table["second"])
    return table[JUDGED]


def _shown(row: pd.Series, order: str) -> tuple[str, str, str]:
    """Prompt and answers in the order in which the judge sees them."""
    sides = ("response_a", "response_b") if order == "first" else ("response_b", "response_a")
    return row["prompt"], row[sides[0]], row[sides[1]]


def _asked(
    pairs: pd.DataFrame, spec: dict, provider: Provider | None, orders: list[str]
) -> pd.DataFrame:
    """The provider's verdicts by pair (index) and order (columns): +1 where the answer shown first
    is better."""
    pieces = parse("judge.template", spec["template"], PLACES)
    published = spec["protocol"] == "as_published"
    options = "A or B" if published else "A, B or tie"
    rows = []
    for index, row in pairs.iterrows():
        for order in orders:
            prompt, a, b = (text.strip() for text in _shown(row, order))
            request = filled(pieces, {"prompt": prompt, "a": a, "b": b, "options": options})
            # One word: what is asked for is never nothing.
            rows.append(("test", str(index), order, "", 1, request))
    requests = pd.DataFrame(rows, columns=REQUEST_COLUMNS)
    replies = answer(requests, spec, provider, readable)
    read = [verdict_of(text, published) for text in replies["response"]]
    replies = replies.assign(sign=read, index=replies["example_id"].astype(int))
    signs = replies.pivot(index="index", columns="response_type", values="sign")
    return signs.reindex(columns=orders).astype(float)


def verdict_of(text: str, published: bool = False) -> float | None:
    """What a judge's reply decides: +1 for A, −1 for B, 0 for a tie, None where it cannot be read.

    The last line that speaks of "more helpful" decides, whatever stands around the letter; without
    one, a last line that is the letter alone. As published, what follows the last ": " must be
    exactly A or B.
    """
    if published:
        return {"A": 1.0, "B": -1.0}.get(text.rpartition(": ")[2])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"\W*more helpful\b", line, re.IGNORECASE)]
    if named:
        said = re.sub(r"^\W*more helpful\W*", "", named[-1], flags=re.IGNORECASE)
    else:
        said = lines[-1] if lines else ""
    word = re.fullmatch(r"\W*(?:(?:answer|response) )?(A|B|tie)\W*", said, re.IGNORECASE)
    return {"a": 1.0, "b": -1.0, "tie": 0.0}[word[1].lower()] if word else None


def readable(text: str, source: str, words: int, spec: dict) -> str:
    """``ok`` for a reply that holds a verdict, ``no verdict`` for any other."""
    known = verdict_of(text.strip(), spec["protocol"] == "as_published")
    return "no verdict" if known is None else "ok"


def wilson(rate: float, n: int) -> tuple[float, float]:
    """95% interval of a share ``rate`` of ``n`` (Wilson 1927); NaN for n = 0."""
    if not n:
        return np.nan, np.nan
    middle = (rate + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(verdicts: pd.DataFrame, spec: dict) -> pd.DataFrame:
    """tables/winrate.csv: :data:`COLUMNS`, per comparison × epoch the seeds' rows and those of all
    seeds.

    Args:
        verdicts: as of :func:`judged`.
        spec: section ``judge`` of the configuration.
    """
    judge = spec["model"] if spec["provider"] in ("openai", "transformers") else spec["provider"]
    rows = []
    keys = ["comparison", "a", "b", "epoch"]
    for names, part in verdicts.groupby(keys, sort=False):
        same = {**dict(zip(keys, names, strict=True)), "judge": judge,
                "protocol": spec["protocol"]}  # fmt: skip
        by_seed = part.pivot(index="seed", columns="example_id", values="verdict")
        counts = [_counts(values) for values in by_seed.to_numpy()]
        for seed, count in zip(by_seed.index, counts, strict=True):
            low, high = wilson(count["rate"], count["n"])
            bounds = {"low": low, "high": high, "interval": "wilson"}
            rows.append({**same, "seed": str(seed), **count, **bounds})
        whole = {**same, "seed": "all", **_counts(by_seed.to_numpy())}
        low, high = _bootstrap(by_seed.to_numpy())
        rows.append({**whole, "low": low, "high": high, "interval": "paired bootstrap"})
        if len(by_seed) > 1:
            over = seeds_interval([count["rate"] for count in counts])
            bounds = {"low": over.low, "high": over.high, "interval": "t over seeds"}
            rows.append({**whole, **bounds})
    return pd.DataFrame(rows, columns=COLUMNS)


def _counts(values: np.ndarray) -> dict[str, float]:
    wins, losses, ties = (int((values == sign).sum()) for sign in (1, -1, 0))
    n = wins + losses + ties
    rate = (wins + ties / 2) / n if n else np.nan
    return {"wins": wins, "losses": losses, "ties": ties, "n": n, "rate": rate}


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the rate, seeds and prompts (rows and columns) resampled."""
    known = ~np.isnan(values)
    if not known.any():
        return np.nan, np.nan
    score = np.where(known, (np.nan_to_num(values) + 1) / 2, 0.0)
    draws = resampled_means([score, known.astype(float)])
    drawn = draws[:, 1] > 0  # few prompts, few verdicts: a draw may hold none
    return interval(draws[drawn, 0] / draws[drawn, 1])
