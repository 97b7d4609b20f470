"""Functions of the user's own, in a file outside the package: ``path/to/file.py:function``."""

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from learning_dynamics.errors import InputError


@cache
def load_function(place: str, field: str) -> Callable:
    """The function at ``place``, which the configuration names in ``field``.

    Raises:
        InputError: when the file cannot be read or run, or holds no such function.
    """
    path, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"own:{path}", path)
    if spec is None or not Path(path).is_file():
        raise InputError(f"{field}: {place!r}: no such file; expected file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        return getattr(module, name)
    except Exception as error:  # it is the user's code: anything may happen
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{field}: {place!r}: cannot be loaded ({reason})") from None
