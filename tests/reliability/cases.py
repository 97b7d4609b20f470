"""The kinds of cases, each with its weight: a valid input with something wrong in it, and the
commands that a user would give it to."""

from collections.abc import Callable
from typing import Any

from tests.reliability.configs import configs, named
from tests.reliability.data import pairs, probing, published, replies, tables, templates
from tests.reliability.formats import Case, Files
from tests.reliability.models import checkpoints, model_folders

KINDS: dict[str, tuple[int, Callable[[Files], Any]]] = {
    "config": (4, configs), "names": (4, named), "pairs": (4, pairs), "probing": (3, probing),
    "templates": (2, templates), "tables": (3, tables), "published": (3, published),
    "models": (4, model_folders), "checkpoints": (3, checkpoints), "endpoint": (2, replies),
}  # fmt: skip
__all__ = ["KINDS", "Case"]
