"""What is known of imported runs: the published ones, and trajectories of anyone's training;
torch-free."""

import json
from functools import cache
from pathlib import Path

import yaml

from learning_dynamics.errors import InputError

FACTS = "dynamics.json"  # beside a trajectory: whose it is, and what it cost
METRICS = "prob_train_metrics.json"  # of the reference implementation
TRAJECTORY = "trajectory.parquet"
KINDS = {"role": str, "algorithm": str, "model": str, "data": str, "lr": (int, float), "seed": int,
         "conversations": dict}  # fmt: skip
LONGEST = 100  # characters of a name


@cache
def known_runs() -> dict[str, dict]:
    """What is known of each published run, by folder name (published_runs.yaml)."""
    path = Path(__file__).with_name("published_runs.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def facts_of(folder: str | Path) -> dict:
    """What is known of the run in ``folder``, in the shape of :func:`known_runs`.

    Where it holds a trajectory this is what :data:`FACTS` beside it says: ``group`` (the name of
    its data), ``model, role, algorithm, lr, seed``, ``conversations`` (by example, the first
    example of its conversation), and ``own``: true. Nothing is known without that file.

    Raises:
        InputError: when it is no JSON object, or a field has another type.
    """
    folder = Path(folder)
    if (folder / METRICS).is_file():
        return known_runs().get(folder.resolve().name, {})
    path = folder / FACTS
    if not path.is_file():
        return {"own": True}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object; expected {', '.join(KINDS)}")
    facts = {}
    for name, kind in KINDS.items():
        value = found.get(name)
        if value is None:
            continue
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if kind is str:
            fits = fits and value.isprintable() and 0 < len(value) <= LONGEST
        if kind is dict:
            fits = fits and all(isinstance(other, str) for other in value.values())
        if not fits:
            wanted = {str: "a short text", dict: "texts by name", int: "a whole number"}
            raise InputError(
                f"{path}: {name} is {str(value)[:LONGEST]!r}; expected "
                f"{wanted.get(kind, 'a number')}, or null"
            )
        facts["group" if name == "data" else name] = value
    return {"own": True, **facts}
