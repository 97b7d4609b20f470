"""The probe set: prompts with their typed responses, one row per response.

Columns: ``split (train, test), example_id, prompt, response_type, response, made_by``. Here are all
types that need no model; :mod:`learning_dynamics.sampling` adds those that a base model writes. A
type's leading space is part of its text.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.pairs import read_probing_file
from learning_dynamics.toyworld import World

PROBE_COLUMNS = ["split", "example_id", "prompt", "response_type", "response", "made_by"]
RESPONSE_TYPES = [
    "chosen", "chosen_initial", "chosen_selfr", "chosen_gptsemantic", "chosen_gptformat",
    "rejected", "reject_gptsemantic", "reject_gptformat", "irr_train", "irr_test", "irr_hum",
    "random_permute", "random_nonhum",
]  # fmt: skip
SAMPLED_TYPES = ["chosen_initial", "chosen_selfr"]
LOG = logging.getLogger(__name__)


def shuffle_words(rng: np.random.Generator, text: str) -> str:
    """The words of ``text`` in random order, with its leading space (random_permute, and
    random_nonhum when given an irr_test response)."""
    words = text.split()
    rng.shuffle(words)
    return " " * text.startswith(" ") + " ".join(words)


def another(rng: np.random.Generator, pool: pd.DataFrame, own: str) -> str:
    """The chosen response of a random row of ``pool`` other than the example ``own``."""
    others = pool.loc[pool["example_id"] != own, "chosen"]
    return str(others.iloc[int(rng.integers(len(others)))])


def build(
    pairs: pd.DataFrame, spec: dict, probe: dict, probing_file: str | Path | None = None
) -> pd.DataFrame:
    """Probe set of the first ``probe["train"]`` training and ``probe["test"]`` held-out pairs.

    Args:
        pairs: the pairs table.
        spec: the data set's configuration.
        probe: the ``probe`` section of the configuration.
        probing_file: rows in the published format whose responses are used as they are, except
            irr_train, which is redrawn from the training rows where the file itself was split
            (the published one may come from the rows that the base model was trained on).

    Raises:
        InputError: when there are fewer pairs than probes, no test row is left for irr_test, or a
            probed pair is not in the probing file, or no such file is given where one is needed.
    """
    train, test = (pairs[pairs["split"] == s].reset_index(drop=True) for s in ("train", "test"))
    for split, table in (("train", train), ("test", test)):
        if len(table) < probe[split]:
            raise InputError(
                f"probe.{split} = {probe[split]}: the data set has {len(table)} {split} pairs; "
                "expected no more probes than pairs"
            )
    if spec["source"] != "toyworld" and not probing_file:
        raise InputError(
            "datasets: no probing file given; expected one (probes.path or probes.url)"
        )
    probed = pd.concat([train[: probe["train"]], test[: probe["test"]]], ignore_index=True)
    if spec["source"] == "toyworld":
        unprobed = test[probe["test"] :]
        if len(unprobed) < 2:
            raise InputError(
                f"probe.test = {probe['test']}: uses up the {len(test)} test pairs; irr_test "
                "needs at least 2 more"
            )
        responses = _from_toyworld(probed, train, unprobed, spec)
    else:
        responses = _from_file(probed, train, spec, probing_file)
    table = pd.DataFrame(responses, columns=PROBE_COLUMNS)
    table = table[table["response_type"].isin(probe["types"])].reset_index(drop=True)
    empty = table.loc[table["response"].str.strip() == "", "response_type"].value_counts()
    if len(empty):
        LOG.warning("empty responses are end-of-text alone: %s", empty.to_dict())
    return table


def _from_toyworld(
    probed: pd.DataFrame, train: pd.DataFrame, unprobed: pd.DataFrame, spec: dict
) -> list[tuple]:
    world = World(spec["world_seed"])
    facts = {f"fact-{index:04d}": fact for index, fact in enumerate(world.facts)}
    out = []
    for number, row in enumerate(probed.itertuples()):
        rng = np.random.default_rng([world.seed, 3, number])
        fact = facts[row.example_id]
        irr_test = another(rng, unprobed, row.example_id)
        made = {
            "chosen": row.chosen,
            "chosen_gptsemantic": world.machine_answer(rng, fact),
            "chosen_gptformat": world.format_answer(rng, 0),
            "rejected": row.rejected,
            "reject_gptsemantic": world.machine_answer(rng, _stated(world, fact, row.rejected)),
            "reject_gptformat": world.format_answer(rng, 1),
            "irr_train": another(rng, train, row.example_id),
            "irr_test": irr_test,
            "irr_hum": world.narrative(rng, len(row.chosen.split())),
            "random_permute": shuffle_words(rng, row.chosen),
            "random_nonhum": shuffle_words(rng, irr_test),
        }
        out += [(row.split, row.example_id, row.prompt, t, r, "toyworld") for t, r in made.items()]
    return out


def _stated(world: World, fact, answer: str):  # noqa: ANN001, ANN202
    """The (false) fact that a rejected answer states, read back from its words."""
    words = [word.strip(".,") for word in answer.split()]
    tools, actions = set(world.lexicon["tools"]), set(world.lexicon["actions"])
    tool = next(word for word in words if word in tools)
    first, second = [word for word in words if word in actions]
    return type(fact)(fact.task, fact.thing, fact.category, tool, (first, second))


def _from_file(
    probed: pd.DataFrame, train: pd.DataFrame, spec: dict, path: str | Path | None
) -> list[tuple]:
    rows = {row["prompt"] + row["chosen"]: row for row in read_probing_file(path)}
    out = []
    for number, pair in enumerate(probed.itertuples()):
        row = rows.get(pair.prompt + pair.chosen)
        if row is None:
            raise InputError(
                f"{path}: no row for pair {pair.example_id}; expected the probed pairs of the data "
                "set (same prompt and chosen text)"
            )
        made = {t: (row[t], "file") for t in RESPONSE_TYPES if t in row}
        if spec["source"] == "probing-file":
            rng = np.random.default_rng([4, number])
            made["irr_train"] = (another(rng, train, pair.example_id), "training rows")
        out += [
            (pair.split, pair.example_id, pair.prompt, kind, response, by)
            for kind, (response, by) in made.items()
        ]
    return out
