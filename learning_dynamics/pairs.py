"""Preference pairs (prompt, chosen, rejected) from every source, and the corpus for pretraining.

Pairs table: ``split (train, test), example_id, prompt, chosen, rejected``. Rows are numbered in its
order everywhere.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.toyworld import Fact, World

PAIR_COLUMNS = ["split", "example_id", "prompt", "chosen", "rejected"]
# The types of a probing file that are natural text and so may teach a base model to write.
NATURAL_FIELDS = ["chosen", "rejected", "chosen_initial", "chosen_gptsemantic", "chosen_gptformat",
                  "reject_gptsemantic", "reject_gptformat", "irr_hum"]  # fmt: skip
LOG = logging.getLogger(__name__)


def from_toyworld(spec: dict) -> tuple[pd.DataFrame, list[str]]:
    """Pairs of the embedded world (chosen true, rejected false, one style) and its corpus."""
    world = World(spec["world_seed"])
    rows = spec["train_rows"] + spec["test_rows"]
    if rows > len(world.facts):
        raise InputError(
            f"train_rows + test_rows = {rows}: the toy world has {len(world.facts)} facts; "
            "expected no more rows than facts"
        )
    rng = np.random.default_rng([world.seed, 1])
    table, said = [], set()

    def answer(fact: Fact) -> str:
        while (text := world.answer(rng, fact)) in said:  # no string is two pairs' answer
            pass
        said.add(text)
        return text

    for number, index in enumerate(rng.permutation(len(world.facts))[:rows]):
        fact = world.facts[index]
        split = "train" if number < spec["train_rows"] else "test"
        table.append(
            {
                "split": split,
                "example_id": f"fact-{index:04d}",
                "prompt": world.prompt(rng, fact),
                "chosen": answer(fact),
                "rejected": answer(world.false_fact(rng, fact)),
            }
        )
    rng = np.random.default_rng([world.seed, 2])
    corpus = [world.document(rng) for _ in range(spec["documents"])]
    return pd.DataFrame(table, columns=PAIR_COLUMNS), corpus


def from_probing_file(spec: dict, path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """Pairs from one share of a probing file's conversations, the corpus from the other share.

    Consecutive turns of one conversation are rows of their own in the published file, so the
    shares are drawn by conversation (its first human turn): nothing that is probed was read in
    pretraining.
    """
    rows = read_probing_file(path)
    conversations = [row["prompt"].strip().split("\n\n")[0] for row in rows]
    names = sorted(set(conversations))
    order = np.random.default_rng(0).permutation(len(names))
    wanted = spec["pretrain_share"] * len(rows)
    corpus_names: set[str] = set()
    taken = 0
    for index in order:
        if taken >= wanted:
            break
        corpus_names.add(names[index])
        taken += conversations.count(names[index])
    kept = [r for r, name in zip(rows, conversations, strict=True) if name not in corpus_names]
    corpus = [
        row["prompt"] + row[field] if field != "irr_hum" else row[field].strip()
        for row, name in zip(rows, conversations, strict=True)
        if name in corpus_names
        for field in NATURAL_FIELDS
        if row.get(field, "").strip()
    ]
    tests = round(spec["test_share"] * len(kept))
    table = pd.DataFrame(kept)
    table["split"] = ["train"] * (len(kept) - tests) + ["test"] * tests
    if (table["split"] == "train").sum() < 2:
        raise InputError(f"{path}: {len(rows)} rows leave fewer than 2 training pairs")
    return table[PAIR_COLUMNS], corpus


def from_hub(spec: dict) -> tuple[pd.DataFrame, list[str]]:
    """The first rows of a data set of the hub, as the published study takes them.

    HH: the prompt is everything up to and including the last ``\\n\\nAssistant:`` of the chosen
    text. UltraFeedback: a "Human:" line with the prompt, then "Assistant:"; the response is the
    second message. Paper section 3.1 of our notes; no length filter is applied.

    Raises:
        InputError: when the data set cannot be loaded, is too short, or has another format.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    cut = {"hh": _split_hh, "ultrafeedback": _split_ultrafeedback}[spec["format"]]
    table = []
    for split in ("train", "test"):
        wanted = spec[f"{split}_rows"]
        if not wanted:
            continue
        name = spec[f"{split}_split"]
        try:
            data = load_dataset(
                spec["hub"], data_dir=spec["data_dir"], revision=spec["revision"], split=name
            )
        except (OSError, ValueError, DatasetsError) as error:
            raise InputError(
                f"data set {spec['hub']} at revision {spec['revision']}: split {name} cannot be "
                f"loaded ({str(error).splitlines()[0]}); expected a reachable hub or a filled cache"
            ) from None
        if len(data) < wanted:
            raise InputError(f"{spec['hub']}: {split} has {len(data)} rows; expected {wanted}")
        for number, row in enumerate(data.select(range(wanted))):
            try:
                prompt, chosen, rejected = cut(row)
            except (KeyError, IndexError, TypeError, ValueError):
                raise InputError(
                    f"{spec['hub']}: {split} row {number} is {str(row)[:80]!r}...; expected the "
                    f"format {spec['format']!r}"
                ) from None
            table.append((split, f"{split}-{number:05d}", prompt, chosen, rejected))
    return pd.DataFrame(table, columns=PAIR_COLUMNS), []


def read_probing_file(path: str | Path) -> list[dict[str, str]]:
    """Rows of a probing file in the published format: one JSON object per line with ``prompt``,
    ``chosen``, ``rejected`` and any of the typed responses, all text.

    Raises:
        InputError: naming file, line and field for a missing or empty file, text that is not UTF-8
            or not JSON (a truncated line), a missing or non-text field, a duplicate id or row.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a probing file (JSON lines)")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; expected UTF-8 text") from None
    rows: list[dict[str, str]] = []
    seen: dict[str | tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at column {error.colno}"
            raise InputError(f"{place}: not JSON ({reason}); is the file truncated?") from None
        if not isinstance(row, dict):
            raise InputError(f"{place}: {str(row)[:40]!r}; expected a JSON object")
        row.setdefault("example_id", f"row-{len(rows):05d}")
        for name in ("prompt", "chosen", "rejected"):
            if name not in row:
                raise InputError(f"{place}: field {name!r} is missing; found {', '.join(row)}")
        for name, value in row.items():
            if not isinstance(value, str):
                raise InputError(f"{place}: field {name!r} is {value!r}; expected text")
            if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise InputError(f"{place}: field {name!r} has a lone surrogate; expected text")
        if not row["prompt"].strip():
            raise InputError(f"{place}: field 'prompt' is empty; expected text to respond to")
        texts = (row["prompt"], row["chosen"], row["rejected"])
        for what, key in ((f"example_id {row['example_id']!r}", row["example_id"]),
                          ("prompt, chosen and rejected", texts)):  # fmt: skip
            if key in seen:
                raise InputError(
                    f"{place}: {what} repeats line {seen[key]}; expected distinct rows"
                )
            seen[key] = number
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: empty; expected at least one row")
    empty = sum(not row[name].strip() for row in rows for name in ("chosen", "rejected"))
    if empty:
        LOG.warning("%s: %d empty chosen or rejected responses: end-of-text alone", path, empty)
    return rows


def _split_hh(row: dict) -> tuple[str, str, str]:
    mark = "\n\nAssistant:"
    end = row["chosen"].rindex(mark) + len(mark)
    return row["chosen"][:end], row["chosen"][end:], row["rejected"][end:]


def _split_ultrafeedback(row: dict) -> tuple[str, str, str]:
    prompt = f"Human: {row['prompt']}\nAssistant:"
    return prompt, row["chosen"][1]["content"], row["rejected"][1]["content"]
