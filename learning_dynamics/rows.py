"""Training rows: from pairs or probes to tokens, and the order in which a run consumes them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from learning_dynamics.algorithms import algorithm
from learning_dynamics.errors import InputError
from learning_dynamics.probe import draw_others
from learning_dynamics.scoring import Tree
from learning_dynamics.tokens import Codec

SIDES = ["chosen", "rejected"]
# What reference.parquet holds of each training pair (nats): log-probs per token of both responses,
# and the sum of another pair's response after this prompt.
REFERENCE_COLUMNS = ["example_id", *SIDES, "mismatched"]


@dataclass(frozen=True)
class Rows:
    """A training set.

    Attributes:
        trees: per row a prompt with its responses.
        reference: per row and response the reference's log-probs per token (nats), where the
            algorithm compares with a reference.
        mismatched: per row its prompt with a response of another row, where the algorithm asks.
        ref_mismatched: their log-probs under the reference (nats, summed).
    """

    trees: list[Tree]
    reference: list[list[np.ndarray]] | None = None
    mismatched: list[Tree] | None = None
    ref_mismatched: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.trees)


def training_rows(
    pairs: pd.DataFrame,
    codec: Codec,
    spec: dict,
    seed: int,
    reference: pd.DataFrame | None,
    probes: pd.DataFrame | None = None,
) -> Rows:
    """The training rows of a run.

    One-response algorithms: any response type of the probe set (``rows: probes``), or of the pairs
    y⁺, y⁻, or a row for y⁺ and one for y⁻ ("extend") or for another pair's y⁺ ("irrelevant", fixed
    by the seed). Pair algorithms: y⁺ and y⁻ of the pairs or of the probed training prompts, with
    labels as given or swapped by a fair coin per pair.

    Raises:
        InputError: when the reference table lacks a training pair, or the probe set the target.
    """
    used = algorithm(spec["algorithm"])
    on_probes = spec.get("rows") == "probes"
    if on_probes and len(used.responses) == 1:
        return Rows(_probe_trees(probes, codec, spec["target"]))
    train = _probe_pairs(probes) if on_probes else training_pairs(pairs)
    if len(used.responses) == 1 and spec["target"] == "irrelevant":
        return Rows(_with_irrelevant(train, codec, seed))
    whole = pair_trees(train, codec)
    known = _in_order(reference, train["example_id"]) if used.reference else None
    if len(used.responses) == 1:
        sides = [0, 1] if spec["target"] == "extend" else [SIDES.index(spec["target"])]
        trees = [Tree(tree.prompt, [tree.responses[i]]) for tree in whole for i in sides]
        values = known and [[row[i]] for row in known["tokens"] for i in sides]
        return Rows(trees, values)
    orders = [[0, 1]] * len(whole)
    if spec["labels"] == "coin":
        swapped = np.random.default_rng([seed, 10]).random(len(whole)) < 0.5
        orders = [[1, 0] if swap else [0, 1] for swap in swapped]
    trees = [
        Tree(tree.prompt, [tree.responses[i] for i in order])
        for tree, order in zip(whole, orders, strict=True)
    ]
    values = known and [
        [row[i] for i in order] for row, order in zip(known["tokens"], orders, strict=True)
    ]
    if not used.mismatched:
        return Rows(trees, values)
    return Rows(trees, values, mismatched_trees(whole), known and known["mismatched"])


def training_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of split train.

    Raises:
        InputError: when there is none.
    """
    train = pairs[pairs["split"] == "train"]
    if train.empty:
        raise InputError("pairs: no row of split train; expected at least one")
    return train


def pair_trees(pairs: pd.DataFrame, codec: Codec) -> list[Tree]:
    """Prompt, y⁺ and y⁻ of each pair as tokens."""
    texts = zip(pairs["prompt"], pairs["example_id"], *(pairs[side] for side in SIDES), strict=True)
    return [codec.row(prompt, both, f"pair {example!r}") for prompt, example, *both in texts]


def mismatched_trees(trees: list[Tree]) -> list[Tree]:
    """Each prompt with a response of the next pair, by turns its y⁺ and its y⁻: what KTO's
    reference point is estimated from (Ethayarajh et al. 2024, section 4.1)."""
    return [
        Tree(tree.prompt, [trees[(n + 1) % len(trees)].responses[n % 2]])
        for n, tree in enumerate(trees)
    ]


def _with_irrelevant(train: pd.DataFrame, codec: Codec, seed: int) -> list[Tree]:
    """Two rows per pair: y⁺, and y⁺ of another conversation, each used once while they last."""
    others = draw_others(np.random.default_rng([seed, 13]), train, train)
    columns = train["prompt"], train["example_id"], train["chosen"], others
    trees = [codec.row(p, [y, o], f"pair {e!r}") for p, e, y, o in zip(*columns, strict=True)]
    return [Tree(tree.prompt, [response]) for tree in trees for response in tree.responses]


def rows_of_update(
    update: int, rows: Rows, batch_size: int, seed: int, length_buckets: int = 1
) -> list[int]:
    """Row numbers of an update. Rows are drawn without replacement, pass after pass; a batch may
    span two passes, so that none is dropped. A function of ``update`` and ``seed`` alone.

    With ``length_buckets`` above 1 the rows of so many consecutive updates are sorted by length
    and dealt out again, shortest together, and these batches come in random order: less padding
    (where there is any), at the price of updates on texts of like length.
    """
    if length_buckets == 1:
        return _drawn(range(update * batch_size, (update + 1) * batch_size), len(rows), seed)
    bucket = update // length_buckets
    width = length_buckets * batch_size
    numbers = _drawn(range(bucket * width, (bucket + 1) * width), len(rows), seed)
    numbers.sort(key=lambda n: len(rows.trees[n]))
    order = np.random.default_rng([seed, 12, bucket]).permutation(length_buckets)
    start = int(order[update % length_buckets]) * batch_size
    return numbers[start : start + batch_size]


def _drawn(wanted: range, total: int, seed: int) -> list[int]:
    passes = {p: np.random.default_rng([seed, 11, p]).permutation(total) for p in
              {i // total for i in wanted}}  # fmt: skip
    return [int(passes[i // total][i % total]) for i in wanted]


def _probe_trees(probes: pd.DataFrame, codec: Codec, target: str) -> list[Tree]:
    table = probes[(probes["split"] == "train") & (probes["response_type"] == target)]
    if table.empty:
        raise InputError(
            f"runs: target = {target!r}: the probe set has no such response type; expected one of "
            f"{', '.join(probes['response_type'].unique())}"
        )
    columns = table["prompt"], table["response"], table["example_id"]
    return [codec.row(p, [r], f"probe {e!r}") for p, r, e in zip(*columns, strict=True)]


def _probe_pairs(probes: pd.DataFrame) -> pd.DataFrame:
    """The probed training prompts that have both y⁺ and y⁻, as pairs."""
    table = probes[(probes["split"] == "train") & probes["response_type"].isin(SIDES)]
    wide = table.pivot(index=["example_id", "prompt"], columns="response_type", values="response")
    wide = wide.reindex(columns=SIDES).dropna()
    if wide.empty:
        raise InputError(
            "runs: rows = 'probes': the probe set has no training prompt with both chosen and "
            "rejected; expected both among probe.types"
        )
    wide = wide.reset_index().set_index("example_id")
    return wide.loc[[e for e in table["example_id"].unique() if e in wide.index]].reset_index()


def _in_order(reference: pd.DataFrame | None, examples: pd.Series) -> dict | None:
    """The reference table's values of these pairs; None without a table (the run scores it)."""
    if reference is None:
        return None
    known = reference.set_index("example_id")
    missing = [example for example in examples if example not in known.index]
    if missing:
        raise InputError(f"reference log-probs: no row for pair {missing[0]!r}; rebuild them")
    table = known.loc[list(examples)]
    tokens = [[np.asarray(value) for value in row] for row in zip(*(table[s] for s in SIDES),
              strict=True)]  # fmt: skip
    return {"tokens": tokens, "mismatched": table["mismatched"].to_numpy()}
