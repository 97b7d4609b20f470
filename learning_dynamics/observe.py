"""Models that were trained elsewhere, scored as the pipeline scores its own: what the callback for
other trainers (:mod:`learning_dynamics.trl`) and ``python -m learning_dynamics score`` share."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from learning_dynamics import models, trajectory
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_texts
from learning_dynamics.pairs import conversations
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.scoring import Engine
from learning_dynamics.tokens import Codec

COLUMNS = PROBE_COLUMNS[:5]  # split, example_id, prompt, response_type, response
SPLITS = ["train", "test"]
BATCH_TOKENS = 8192
LOG = logging.getLogger(__name__)


def read_probes(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """A probing set (:data:`COLUMNS`, all text), from a Parquet file or a table.

    Raises:
        InputError: when a column is missing or holds something else than text, a split is neither
            train nor test, or one example has two prompts.
    """
    if isinstance(source, pd.DataFrame):
        name, table = "probes", source
        for column in COLUMNS:
            if column not in table:
                raise InputError(
                    f"{name}: column {column!r} is missing; expected {', '.join(COLUMNS)}"
                )
            wrong = [value for value in table[column] if not isinstance(value, str)]
            if wrong:
                raise InputError(f"{name}: column {column!r} holds {wrong[0]!r}; expected text")
    else:
        name, table = str(source), read_texts(source, COLUMNS)
    for split in set(table["split"]) - set(SPLITS):
        raise InputError(f"{name}: split is {split!r}; expected one of {', '.join(SPLITS)}")
    prompts = table.groupby(["split", "example_id"])["prompt"].nunique()
    if (prompts > 1).any():
        example = prompts.idxmax()[1]
        raise InputError(f"{name}: example_id {example!r} has two prompts; expected one")
    return table[COLUMNS].reset_index(drop=True)


def codec_of(
    tokenizer: Any,
    config: Any,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    special_tokens: bool = False,
    end_of_turn: str | None = None,
) -> Codec:
    """How probes become tokens: prompt and response apart, no BOS, one end-of-text behind the
    response, which is scored in a column of its own (:mod:`learning_dynamics.tokens`).

    Args:
        tokenizer: the model's tokenizer.
        config: the model's configuration.
        max_length: most tokens of prompt and response; default: all that the model has positions
            for.
        max_prompt_length: longer prompts keep their end; default: no limit.
        special_tokens: whether prompts hold special tokens as text, as those that a chat template
            wrote do (a BOS is put in front of a prompt in this way).
        end_of_turn: the token that closes a response where it is not the tokenizer's end-of-text.

    Raises:
        InputError: when the tokenizer has no such token, or no length is known.
    """
    if max_length is None:
        max_length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(max_length, int) or max_length < 2:
        raise InputError(f"max_length = {max_length!r}: expected the most tokens of a text")
    codec = Codec(
        tokenizer, max_length, max_prompt_length, count_end=False, special_tokens=special_tokens,
        end_of_turn=end_of_turn,
    )  # fmt: skip
    if codec.end_of_text is None:
        raise InputError("tokenizer: no end-of-text token; expected one, or end_of_turn")
    return codec


def facts(
    probes: pd.DataFrame,
    role: str | None,
    model: str,
    data: str,
    lr: float | None,
    seed: int,
) -> dict:
    """What claims and figures must know of a trajectory, as it stands in ``dynamics.json``
    (:func:`known.facts_of`).

    ``role`` is the part that the run plays in the claims (``sft``, ``dpo``, ...; None: it is not
    judged), ``data`` and ``model`` name its column there, ``lr`` and ``seed`` are the run's.
    ``conversations`` gives the examples that continue another one's conversation, which are no
    independent observations (docs/statistics.md).
    """
    prompts = probes.drop_duplicates(["split", "example_id"])
    first: dict[str, str] = {}
    shared = {}
    for example, name in zip(
        prompts["example_id"], conversations(list(prompts["prompt"])), strict=True
    ):
        if first.setdefault(name, example) != example:
            shared[example] = first[name]
    return {"role": role, "model": model, "data": data, "lr": lr, "seed": seed,
            "conversations": shared}  # fmt: skip


def digest(probes: pd.DataFrame, codec: Codec) -> str:
    """SHA-256 of a probing set and of how it becomes tokens."""
    how = [codec.max_length, codec.max_prompt_length, codec.special_tokens, codec.end_of_turn]
    text = json.dumps([how, probes[COLUMNS].to_numpy().tolist()])
    return hashlib.sha256(text.encode()).hexdigest()


def score_models(
    folders: Sequence[Path],
    steps: Sequence[int],
    probes: pd.DataFrame,
    compute: dict,
    texts: dict,
    batch_size: int | None = None,
    rows: int | None = None,
) -> pd.DataFrame:
    """The trajectory of saved models: those of one run, in its order.

    Args:
        folders: models, as ``save_pretrained`` writes them, each with its tokenizer.
        steps: updates done (of each), rising.
        probes: the probing set (:func:`read_probes`).
        compute: ``device, precision, threads, batch_tokens``.
        texts: the options of :func:`codec_of`.
        batch_size: rows per update; without it ``examples`` and ``epoch`` are null.
        rows: rows of the training set; without it ``epoch`` is null.

    Returns:
        The columns of ``trajectory.SCHEMA``; ``logp_greedy0`` is of the first model's greedy token.

    Raises:
        InputError: for a folder that is no model, steps that do not rise, or a model that reads the
            probes as other tokens than the first one does.
    """
    if list(steps) != sorted(set(steps)) or len(steps) != len(folders) or min(steps) < 0:
        raise InputError(
            f"steps {' '.join(map(str, steps))} for {len(folders)} models; expected one for each, "
            "rising"
        )
    device = models.device_of(compute)
    found, known, scorer = [], None, None
    for folder, step in zip(folders, steps, strict=True):
        model, tokenizer = models.load(folder, device)
        trees = trajectory.probe_trees(probes, codec_of(tokenizer, model.config, **texts))
        if scorer is None:
            known, scorer = trees, trees.scorer(compute["batch_tokens"])
        elif trees.trees != known.trees:
            raise InputError(
                f"{folder}: its tokenizer reads the probes as other tokens than that of "
                f"{folders[0]}; expected models of one run"
            )
        with models.autocast(compute):
            metrics = scorer(Engine(model))
        examples = step * (batch_size or 0)
        now = trajectory.evaluation(trees.identity, metrics, step, examples, rows or np.nan)
        found.append(now)
        LOG.info("step %d: mean logp %.2f, %s", step, metrics["logp"].mean(), folder)
    table = pd.concat(found, ignore_index=True)
    return table if batch_size else table.assign(examples=pd.NA, epoch=np.nan)
