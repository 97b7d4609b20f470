"""Preference pairs (prompt, chosen, rejected) from every source, and what comes along with them.

Pairs table: ``split, example_id, prompt, chosen, rejected``; split is ``train``, ``test``, or
``reserve``: rows of the training split that are not trained on, kept only where the published way
of drawing irr_test needs them. Rows are numbered in its order everywhere. With the pairs come the
corpus (texts that a base model may be pretrained on) and the given responses: typed responses that
a file brings along, ``example_id, response_type, response``.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.sources import TEXTS, HubRows, read_rows
from learning_dynamics.toyworld import Fact, World

PAIR_COLUMNS = ["split", "example_id", "prompt", "chosen", "rejected"]
GIVEN_COLUMNS = ["example_id", "response_type", "response"]
# The types of a probing file that are natural text and so may teach a base model to write.
NATURAL_FIELDS = ["chosen", "rejected", "chosen_initial", "chosen_gptsemantic", "chosen_gptformat",
                  "reject_gptsemantic", "reject_gptformat", "irr_hum"]  # fmt: skip
# As in "<|im_start|>user\n" or "<|start_header_id|>user<|end_header_id|>\n\n".
MARK = r"(?:<\|[^|<>]+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<<?/?SYS>>?)"
SYSTEM_TURN = re.compile(rf"{MARK}\s*system\b.*?(?={MARK}\s*user\b)", re.DOTALL)
ROLE_MARKS = re.compile(rf"{MARK}\s*(?:(?:user|system|assistant|model)\s*(?:{MARK})?\s)?")
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """A data set: its pairs, the corpus, and the typed responses that came with it."""

    pairs: pd.DataFrame
    corpus: list[str]
    given: pd.DataFrame


def build(spec: dict, files: Sequence[str | Path] = (), tokenizer: Path | None = None) -> Data:
    """The data set that ``spec`` describes.

    Args:
        spec: its configuration.
        files: the local file of pairs, or probing files that go with a data set of the hub.
        tokenizer: folder with the ``tokenizer.json`` of ``spec["filter"]``.

    Raises:
        InputError: naming what is missing, malformed, too short or too few.
    """
    if spec["source"] == "toyworld":
        data = _from_toyworld(spec)
    elif spec["source"] == "hub":
        data = _from_hub(spec, files)
    else:
        data = _from_file(spec, files[0])
    pairs = data.pairs.reset_index(drop=True)
    if spec["confounds"]["leading_space"] == "corrected":
        start = house_start(pairs["chosen"])
        for side in ("chosen", "rejected"):
            pairs[side] = [with_start(text, start) for text in pairs[side]]
    if spec.get("filter", {}).get("max_tokens"):
        pairs = drop_long(pairs, tokenizer, spec["filter"]["max_tokens"])
    if (pairs["split"] == "train").sum() < 2:
        place = files[0] if files else f"data set {spec['source']}"
        raise InputError(f"{place}: {len(pairs)} rows leave fewer than 2 training pairs")
    given = data.given[data.given["example_id"].isin(pairs["example_id"])]
    return Data(pairs[PAIR_COLUMNS], data.corpus, given.reset_index(drop=True))


def house_start(texts: pd.Series) -> str:
    """How a response starts after the prompt in this data set: a space, or nothing."""
    return " " if texts.str.startswith(" ").mean() >= 0.5 else ""


def with_start(text: str, start: str) -> str:
    """``text`` with exactly that start; blank text stays as it is."""
    return start + text.lstrip() if text.strip() else text


def conversations(prompts: Sequence[str]) -> list[str]:
    """What names the conversation of each prompt: its first turn, without the system message, marks
    and roles of a chat template."""
    texts = [ROLE_MARKS.sub("\n\n", SYSTEM_TURN.sub("", prompt)).strip() for prompt in prompts]
    return [text.split("\n\n")[0] for text in texts]


def sample_rows(count: int, wanted: int, spec: dict, stream: int) -> np.ndarray:
    """Numbers of the ``wanted`` rows of ``count``: the first ones, as published, or a random draw
    that is fixed for the data set (in random order)."""
    if spec["confounds"]["row_sampling"] == "as_published":
        return np.arange(wanted)
    return np.random.default_rng([5, stream]).permutation(count)[:wanted]


def drop_long(pairs: pd.DataFrame, tokenizer: Path, limit: int) -> pd.DataFrame:
    """The pairs whose prompt and longer response have at most ``limit`` tokens."""
    from tokenizers import Tokenizer

    try:
        encoder = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{tokenizer}/tokenizer.json: cannot be read ({error})") from None
    lengths = {}
    for name in TEXTS:
        texts, counts = list(pairs[name]), []
        for start in range(0, len(texts), 1024):  # bounds the memory that encodings take
            part = encoder.encode_batch_fast(texts[start : start + 1024], add_special_tokens=False)
            counts += [len(encoding) for encoding in part]
        lengths[name] = np.array(counts)
    total = lengths["prompt"] + np.maximum(lengths["chosen"], lengths["rejected"]) + 1
    LOG.info("filter: %d of %d pairs have more than %d tokens and are left out",
             (total > limit).sum(), len(pairs), limit)  # fmt: skip
    return pairs[total <= limit].reset_index(drop=True)


# -- sources ---------------------------------------------------------------------------------


def _from_toyworld(spec: dict) -> Data:
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

    order = rng.permutation(len(world.facts))
    for number, index in enumerate(order if _keeps_reserve(spec) else order[:rows]):
        fact = world.facts[index]
        split = "train" if number < spec["train_rows"] else "test" if number < rows else "reserve"
        prompt, chosen = world.prompt(rng, fact), answer(fact)
        rejected = answer(world.false_fact(rng, fact))
        table.append((split, f"fact-{index:04d}", prompt, chosen, rejected))
    rng = np.random.default_rng([world.seed, 2])
    corpus = [world.document(rng) for _ in range(spec["documents"])]
    return Data(pd.DataFrame(table, columns=PAIR_COLUMNS), corpus, _no_given())


def _from_file(spec: dict, path: str | Path) -> Data:
    """Pairs of a local file.

    Consecutive turns of one conversation may be rows of their own (in the published files they
    are), so the corpus for pretraining, the test rows and the training rows are drawn by
    conversation: nothing that is probed was read in pretraining, no test row is the continuation of
    a training row. A ``split`` column decides instead where the file has one.
    """
    rows = read_rows(path, spec, spec["given"])
    names = conversations([row["prompt"] for row in rows])
    share = spec["pretrain_share"]
    known = {name for row, name in zip(rows, names, strict=True) if row.get("split") == "test"}
    corpus_names = _draw_conversations(names, share * len(rows), 0, barred=known)
    corpus = [
        row["prompt"] + row[field] if field != "irr_hum" else row[field].strip()
        for row, name in zip(rows, names, strict=True)
        if name in corpus_names
        for field in NATURAL_FIELDS
        if row.get(field, "").strip()
    ]
    kept = [(r, name) for r, name in zip(rows, names, strict=True) if name not in corpus_names]
    if any("split" in row for row in rows):
        without = next((row["example_id"] for row in rows if "split" not in row), None)
        if without is not None:
            raise InputError(f"{path}: {without}: no split; expected train or test in every row")
        splits = [row["split"] for row, _ in kept]
    else:
        wanted = round(spec["test_share"] * len(kept))
        tests = _draw_conversations([name for _, name in kept], wanted, 1)
        splits = ["test" if name in tests else "train" for _, name in kept]
    table = pd.DataFrame([row for row, _ in kept], columns=["example_id", *TEXTS]).assign(
        split=splits
    )
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    limit = spec["train_rows"] or len(train)
    if limit > len(train):
        raise InputError(f"{path}: train_rows = {limit}: there are {len(train)} training rows")
    chosen = train.iloc[sample_rows(len(train), limit, spec, 0)]
    parts = [chosen, test]
    if _keeps_reserve(spec):
        parts.append(train.drop(chosen.index).assign(split="reserve"))
    given = [
        (row["example_id"], kind, row[kind]) for row, _ in kept for kind in spec["given"]
        if kind in row
    ]  # fmt: skip
    return Data(pd.concat(parts), corpus, pd.DataFrame(given, columns=GIVEN_COLUMNS))


def _from_hub(spec: dict, files: Sequence[str | Path]) -> Data:
    """Pairs of a data set of the hub; probing files add typed responses to the rows they hold."""
    table = []
    for stream, split in enumerate(("train", "test")):
        wanted = spec[f"{split}_rows"]
        if not wanted:
            continue
        rows = HubRows(spec, split)
        if len(rows) < wanted:
            raise InputError(f"{spec['hub']}: {split} has {len(rows)} rows; expected {wanted}")
        numbers = sample_rows(len(rows), wanted, spec, stream)
        parts = [(split, numbers)]
        if split == "train" and _keeps_reserve(spec):
            parts.append(("reserve", np.setdiff1d(np.arange(len(rows)), numbers)))
        for name, part in parts:
            for number in part:
                row = rows[number]
                table.append((name, f"{split}-{number:05d}", *(row[text] for text in TEXTS)))
    pairs = pd.DataFrame(table, columns=PAIR_COLUMNS)
    known: dict[str, str] = {}
    for example, prompt, chosen in pairs[["example_id", "prompt", "chosen"]].itertuples(False):
        known.setdefault(prompt + chosen, example)  # of equal rows the first: it may be trained on
    given, found = [], 0
    for path in files:
        for row in read_rows(path, None, spec["given"]):
            example = known.get(row["prompt"] + row["chosen"])
            found += example is not None
            given += [(example, k, row[k]) for k in spec["given"] if example and k in row]
    if files and not found:
        raise InputError(
            f"{files[0]}: no row is a pair of the data set; expected the same prompt and chosen "
            "text (and confounds.row_sampling: as_published, if the file is of the first rows)"
        )
    return Data(pairs, [], pd.DataFrame(given, columns=GIVEN_COLUMNS))


def _keeps_reserve(spec: dict) -> bool:
    return spec["confounds"]["irr_test_origin"] == "as_published"


def _no_given() -> pd.DataFrame:
    return pd.DataFrame(columns=GIVEN_COLUMNS, dtype="str")


def _draw_conversations(
    names: list[str], wanted: float, stream: int, barred: set[str] | frozenset = frozenset()
) -> set[str]:
    """Random conversations, whole, until they hold ``wanted`` rows."""
    distinct = sorted(set(names) - barred)
    counts = pd.Series(names, dtype="str").value_counts()
    taken, total = set(), 0
    for index in np.random.default_rng(stream).permutation(len(distinct)):
        if total >= wanted:
            break
        taken.add(distinct[index])
        total += counts[distinct[index]]
    return taken
