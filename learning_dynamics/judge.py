"""Judges: which of two answers to a prompt is better."""

from collections.abc import Callable

from learning_dynamics.errors import InputError
from learning_dynamics.own import load_function
from learning_dynamics.toyworld import World

Judge = Callable[[str, str, str], float]


def judge_of(spec: dict) -> Judge:
    """The judge that section ``judge`` asks for: a function of prompt and two answers whose value
    is above 0 where the first is better, below 0 where the second is, 0 for a tie.

    ``toyworld`` counts the true facts that an answer states, less the false ones; ``function`` is
    the user's own, ``file.py:name``.

    Raises:
        InputError: when the user's function cannot be loaded, or returns no number.
    """
    if spec["provider"] == "toyworld":
        world = World(spec["world_seed"])
        return lambda prompt, one, two: world.truth(prompt, one) - world.truth(prompt, two)
    function = load_function(spec["function"], "judge.function")

    def judge(prompt: str, one: str, two: str) -> float:
        value = function(prompt, one, two)
        if not isinstance(value, int | float):
            raise InputError(f"judge.function = {spec['function']!r}: returned {value!r}; expected "
                             "a number")  # fmt: skip
        return value

    return judge
