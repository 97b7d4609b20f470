"""What the scripts that take single steps share: their arguments, and what is read."""

import argparse

from learning_dynamics.command import load_model
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_texts
from learning_dynamics.pairs import PAIR_COLUMNS
from learning_dynamics.rows import Rows, training_rows
from learning_dynamics.scoring import Engine


def add_steps(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`load_steps` reads beside a model's."""
    parser.add_argument("--pairs", required=True, help="pairs.parquet")
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)


def load_steps(args: argparse.Namespace, field: str) -> tuple[Engine, Rows, list[str]]:
    """The engine, the training pairs with y⁺ first, and their ids.

    Args:
        args: what the script was given.
        field: the field of the config that its batches are written in, for messages.

    Raises:
        InputError: when there are fewer pairs than the batches need.
    """
    model, codec = load_model(args)
    pairs = read_texts(args.pairs, PAIR_COLUMNS)
    train = pairs[pairs["split"] == "train"]
    if len(train) < args.batches * args.batch_size:
        raise InputError(
            f"{field}: {args.batches} batches of {args.batch_size} need "
            f"{args.batches * args.batch_size} pairs; the data set has {len(train)}"
        )
    spec = {"algorithm": "dpo", "labels": "given"}
    rows = training_rows(pairs, codec, spec, args.seed, None)
    return Engine(model), rows, list(train["example_id"])
