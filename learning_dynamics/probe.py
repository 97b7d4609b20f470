"""The probe set: prompts with their typed responses, one row per response.

Columns: ``split (train, test), example_id, prompt, response_type, response, made_by``. A response
comes from the pair itself, was given with the data, was written by a rephrase provider
(:mod:`learning_dynamics.rephrase`), is made here from other texts, or is sampled from the base
model (:mod:`learning_dynamics.sampling`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.own import load_function
from learning_dynamics.pairs import conversations, house_start, sample_rows, with_start

PROBE_COLUMNS = ["split", "example_id", "prompt", "response_type", "response", "made_by"]
RESPONSE_TYPES = [
    "chosen", "chosen_initial", "chosen_selfr", "chosen_gptsemantic", "chosen_gptformat",
    "rejected", "reject_gptsemantic", "reject_gptformat", "irr_train", "irr_test", "irr_hum",
    "random_permute", "random_nonhum",
]  # fmt: skip
SAMPLED_TYPES = ["chosen_initial", "chosen_selfr"]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """What the function of a response type sees.

    ``other_train`` and ``other_test`` are the chosen responses drawn for this example from the
    training rows and from the rows that irr_test comes from: neither belongs to its conversation.
    """

    split: str
    example_id: str
    prompt: str
    chosen: str
    rejected: str
    other_train: str
    other_test: str


def irr_train(example: Example, rng: np.random.Generator) -> str:
    """y⁺_{j≠u}: the chosen response of another training row (section 3.3)."""
    return example.other_train


def irr_test(example: Example, rng: np.random.Generator) -> str:
    """y⁺_test: the chosen response of a row that is not trained on (section 3.3)."""
    return example.other_test


def random_permute(example: Example, rng: np.random.Generator) -> str:
    """y⁺_urnd: the words of y⁺ in random order (section 3.3)."""
    return shuffle_words(rng, example.chosen)


def random_nonhum(example: Example, rng: np.random.Generator) -> str:
    """y_rnd: the words of the irr_test response in random order (section 3.3)."""
    return shuffle_words(rng, example.other_test)


MADE: dict[str, Callable[[Example, np.random.Generator], str]] = {
    function.__name__: function for function in (irr_train, irr_test, random_permute, random_nonhum)
}


def shuffle_words(rng: np.random.Generator, text: str) -> str:
    """The words of ``text`` in random order, joined by single spaces, without a leading one."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


# -- the set ---------------------------------------------------------------------------------


def probed_pairs(pairs: pd.DataFrame, given: pd.DataFrame, spec: dict, probe: dict) -> pd.DataFrame:
    """The probed rows: ``probe["train"]`` training and ``probe["test"]`` held-out pairs.

    A random draw, or as published the first ones. Where the data came with typed responses for some
    rows of a split, only those are candidates.

    Raises:
        InputError: when there are fewer pairs than probes.
    """
    parts = []
    for stream, split in enumerate(("train", "test")):
        table = pairs[pairs["split"] == split]
        with_given = table["example_id"].isin(given["example_id"])
        table = table[with_given] if with_given.any() else table
        if len(table) < probe[split]:
            which = " with given responses" if with_given.any() else ""
            raise InputError(
                f"probe.{split} = {probe[split]}: the data set has {len(table)} {split} pairs"
                f"{which}; expected no more probes than pairs"
            )
        parts.append(table.iloc[sample_rows(len(table), probe[split], spec, 10 + stream)])
    return pd.concat(parts, ignore_index=True)


def build(
    pairs: pd.DataFrame, given: pd.DataFrame, rephrased: pd.DataFrame, spec: dict, probe: dict
) -> pd.DataFrame:
    """The probe set of every type that needs no base model.

    Args:
        pairs, given: as :mod:`learning_dynamics.pairs` writes them.
        rephrased: the rephrase provider's answers; those with a status other than ``ok`` are left
            out, so that an example may lack a type.
        spec: the data set's configuration.
        probe: the ``probe`` section of the configuration.

    Raises:
        InputError: when there are fewer pairs than probes, no row is left for irr_test, or a user's
            function fails.
    """
    probed = probed_pairs(pairs, given, spec, probe)
    own = {k: v for k, v in (probe.get("own_types") or {}).items() if k in probe["types"]}
    made = MADE | {
        k: load_function(v["function"], "probe.own_types")
        for k, v in own.items()
        if v.get("function")
    }
    named = {(g.example_id, g.response_type): g.response for g in given.itertuples()}
    written = {
        (r.example_id, r.response_type): (r.response, r.made_by)
        for r in rephrased.itertuples()
        if r.status == "ok"
    }
    rows = []
    for number, example in enumerate(_examples(probed, pairs, spec, probe)):
        typed = {"chosen": (example.chosen, "data"), "rejected": (example.rejected, "data")}
        for stream, kind in enumerate([*RESPONSE_TYPES, *own]):
            key = (example.example_id, kind)
            if kind in typed or kind not in probe["types"]:
                continue
            if key in named:
                typed[kind] = (named[key], "given")
            elif key in written:
                typed[kind] = written[key]
            elif kind in made:
                rng = np.random.default_rng([4, number, stream])
                typed[kind] = (_call(made[kind], kind, example, rng), "made")
        rows += [
            (example.split, example.example_id, example.prompt, kind, *typed[kind])
            for kind in [*RESPONSE_TYPES, *own]
            if kind in typed and kind in probe["types"]
        ]
    table = pd.DataFrame(rows, columns=PROBE_COLUMNS)
    if spec["confounds"]["leading_space"] == "corrected":
        start = house_start(pairs["chosen"])
        table["response"] = [with_start(text, start) for text in table["response"]]
    return table


def _call(function: Callable, kind: str, example: Example, rng: np.random.Generator) -> str:
    if kind in MADE:
        return function(example, rng)
    try:
        text = function(example, rng)
    except Exception as error:  # the user's code again
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"probe.own_types.{kind}: fails on example {example.example_id!r} ({reason})"
        ) from None
    if not isinstance(text, str):
        raise InputError(f"probe.own_types.{kind}: returned {text!r}; expected text")
    return text


def _examples(probed: pd.DataFrame, pairs: pd.DataFrame, spec: dict, probe: dict) -> list[Example]:
    """The probed rows with what was drawn for them.

    irr_test comes from held-out rows outside both probe sets; as published it comes from the
    training split's rows behind the probed ones, many of which are trained on.
    """
    unprobed = pairs[~pairs["example_id"].isin(probed["example_id"])]
    train = pairs[pairs["split"] == "train"]
    published = spec["confounds"]["irr_test_origin"] == "as_published"
    pool = unprobed[unprobed["split"].isin(["train", "reserve"] if published else ["test"])]
    types = set(probe["types"])
    own = any("function" in v for k, v in (probe.get("own_types") or {}).items() if k in types)
    others = [[""] * len(probed)]
    if "irr_train" in types or own:
        others = [draw_others(np.random.default_rng([4, 0]), probed, train)]
    if {"irr_test", "random_nonhum"} & types or (own and len(pool) > 1):
        if len(pool) < 2:
            raise InputError(
                f"probe.test = {probe['test']}: leaves {len(pool)} held-out pairs for irr_test; "
                "expected at least 2 more (or probe.types without irr_test and random_nonhum)"
            )
        others.append(draw_others(np.random.default_rng([4, 1]), probed, pool))
    else:
        others.append([""] * len(probed))
    columns = (probed[c] for c in ("split", "example_id", "prompt", "chosen", "rejected"))
    return [Example(*row) for row in zip(*columns, *others, strict=True)]


def draw_others(rng: np.random.Generator, probed: pd.DataFrame, pool: pd.DataFrame) -> list[str]:
    """For each row of ``probed`` the chosen response of a random row of ``pool``: not of its own
    conversation, not its own text, and none twice while the pool lasts.

    Raises:
        InputError: when the pool holds nothing but the row's own conversation or text.
    """
    known = conversations([*pool["prompt"], *probed["prompt"]])
    names, owns = known[: len(pool)], known[len(pool) :]
    texts = list(pool["chosen"])
    queue: list[int] = []
    out = []
    for own, chosen in zip(owns, probed["chosen"], strict=True):
        for attempt in range(2):
            fits = (i for i, n in enumerate(queue) if names[n] != own and texts[n] != chosen)
            place = next(fits, None)
            if place is not None:
                out.append(texts[queue.pop(place)])
                break
            if attempt == 0:
                queue += rng.permutation(len(texts)).tolist()
        else:
            raise InputError(
                f"irrelevant responses: all {len(texts)} rows to draw from belong to one "
                "conversation; expected at least two"
            )
    return out
