"""The registry of algorithms, read from the signatures of their losses.

A loss is a function whose positional arguments name what it reads and whose keyword-only arguments
are its hyper-parameters: default, and as annotation one of :data:`RANGES`::

    def dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1): ...

It is read as text (``ast``), never run: Snakemake plans without torch, and a user's file is
executed only by the jobs that train with it, through :mod:`learning_dynamics.algorithms.residuals`.
"""

import ast
import math
from dataclasses import dataclass
from pathlib import Path

from learning_dynamics.errors import InputError

# What the annotation of a hyper-parameter says: low, high, and whether they are left out.
RANGES = {
    "Real": (-math.inf, math.inf, True, True),
    "Positive": (0.0, math.inf, True, True),
    "NonNegative": (0.0, math.inf, False, True),
    "Share": (0.0, 1.0, False, False),
    "BelowOne": (0.0, 1.0, False, True),
    "BelowHalf": (0.0, 0.5, False, True),
}
Real = Positive = NonNegative = Share = BelowOne = BelowHalf = float

SIDES = {"response": ("response",), "chosen": ("chosen", "rejected")}
# What a loss may read of each of its responses; docs/algorithms.md says what they are.
PARTS = ["{}", "ref_{}", "{}_length", "{}_tokens", "ref_{}_tokens", "{}_mask", "{}_logits",
         "{}_labels"]  # fmt: skip
MISMATCHED = ("mismatched", "ref_mismatched")
# Algorithms whose training rows are, unless a run says otherwise, not the data's own.
ROWS = {"spin": "self-play", "online_dpo": "on-policy"}
FILES = ("one_response.py", "losses.py", "guarded.py")


@dataclass(frozen=True)
class Setting:
    """A hyper-parameter: its default and range; ``open_low`` and ``open_high`` say that the bound
    itself is left out."""

    default: float
    low: float
    high: float
    open_low: bool
    open_high: bool

    def expected(self) -> str:
        """The range in words."""
        low = f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        high = f"{'less than' if self.open_high else 'at most'} {self.high:g}"
        bounds = [low] * math.isfinite(self.low) + [high] * math.isfinite(self.high)
        return " ".join(["a number", " and ".join(bounds)]).strip()

    def check(self, value: object) -> str | None:
        """What is wrong with ``value``, or None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and math.isfinite(value):
            above = value > self.low or (value == self.low and not self.open_low)
            below = value < self.high or (value == self.high and not self.open_high)
            if above and below:
                return None
        hint = " (YAML reads 5e-7 as text: write 5.0e-7)" if isinstance(value, str) else ""
        return f"{value!r}: expected {self.expected()}{hint}"


@dataclass(frozen=True)
class Algorithm:
    """A loss and what it reads.

    Attributes:
        name: the function's name.
        place: ``file.py:function``; the package's own files relative to the project's root.
        wants: the function's positional arguments, in order.
        settings: its hyper-parameters, by name.
        source: its docstring.
        file: the user's file; None for the package's own losses.
        rows: what a run trains on unless it says otherwise: ``pairs``, ``self-play``,
            ``on-policy``.
    """

    name: str
    place: str
    wants: tuple[str, ...]
    settings: dict[str, Setting]
    source: str
    file: str | None = None
    rows: str = "pairs"

    @property
    def responses(self) -> tuple[str, ...]:
        """``("response",)`` or ``("chosen", "rejected")``: the responses of a training row."""
        return SIDES["response" if any(_side(w) == "response" for w in self.wants) else "chosen"]

    @property
    def reference(self) -> bool:
        """Whether it compares with the model that the run starts from, or with other rows'
        responses, whose log-probs come with the reference's."""
        return self.mismatched or any(want.startswith("ref_") for want in self.wants)

    @property
    def mismatched(self) -> bool:
        """Whether it asks for log-probs of other rows' responses."""
        return any(want in MISMATCHED for want in self.wants)

    @property
    def tokens(self) -> bool:
        """Whether it reads log-probs per token."""
        return any(want.endswith("_tokens") for want in self.wants)

    @property
    def logits(self) -> bool:
        """Whether it reads logits."""
        return any(want.endswith("_logits") for want in self.wants)


def algorithm(reference: str) -> Algorithm:
    """The algorithm called ``reference``: one of the package, or ``path/to/file.py:my_loss``, the
    path relative to the working directory.

    Raises:
        InputError: saying what is wrong: an unknown name, no such file or function, a file that is
            not Python, or a signature that cannot be a loss.
    """
    if reference in ALGORITHMS:
        return ALGORITHMS[reference]
    path, _, name = reference.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise InputError(
            f"{reference!r}: unknown; expected one of {', '.join(ALGORITHMS)}, or file.py:function"
        )
    found = _functions(Path(path), reference)
    if name not in found:
        known = ", ".join(found) or "none"
        raise InputError(f"{reference!r}: no such function; expected one of the file's: {known}")
    return _read(found[name], reference, path)


def known_arguments(response: str) -> list[str]:
    """What a loss that reads ``response`` may ask for, by name."""
    if response == "response":
        return [part.format("response") for part in PARTS]
    return [part.format(side) for side in SIDES["chosen"] for part in PARTS] + list(MISMATCHED)


def _side(argument: str) -> str | None:
    """The response that an argument is about; None for an argument that no loss may ask for."""
    if argument in MISMATCHED:
        return "mismatched"
    sides = ["response", "chosen", "rejected"]
    return next((s for s in sides if argument in [part.format(s) for part in PARTS]), None)


def _functions(path: Path, place: str) -> dict[str, ast.FunctionDef]:
    """The functions of a Python file, by name."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{place!r}: {reason}; expected file.py:function") from None
    except SyntaxError as error:
        reason = f"line {error.lineno}: {error.msg}" if error.lineno else error.msg
        raise InputError(f"{place!r}: not valid Python ({reason})") from None
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8, null bytes, depths
        raise InputError(f"{place!r}: not valid Python ({error})") from None
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _read(function: ast.FunctionDef, place: str, file: str | None) -> Algorithm:
    """The algorithm that a function's signature describes."""

    def fail(reason: str) -> None:
        raise InputError(f"{place!r}: {reason}")

    given = function.args
    for name in [function.name, *(argument.arg for argument in given.kwonlyargs)]:
        if not name.isascii():  # it becomes part of rules' and runs' names
            fail(f"{name!r}: expected a name of plain letters, digits and underscores")
    wants = tuple(argument.arg for argument in [*given.posonlyargs, *given.args])
    for star in filter(None, [given.vararg, given.kwarg]):
        fail(f"argument {star.arg!r} takes anything; expected named arguments")
    sides = {_side(want) for want in wants}
    for want in wants:
        if _side(want) is None:
            known = known_arguments("response" if "response" in sides else "chosen")
            if len(sides) == 1:  # not one that is known: it may be either kind
                known = [*known_arguments("response"), *known]
            fail(
                f"argument {want!r}: unknown; expected some of {', '.join(known)}, and "
                "hyper-parameters after a *"
            )
    if "response" in sides and len(sides) > 1:
        other = next(want for want in wants if _side(want) != "response")
        fail(f"argument {other!r} beside those of one response; expected response or chosen and "
             "rejected, not both")  # fmt: skip
    if not sides - {"mismatched"}:
        fail("reads no response; expected response, or chosen and rejected, among its arguments")
    settings = {}
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        about = f"hyper-parameter {argument.arg!r}"
        kind = _annotation(argument.annotation)
        if kind not in RANGES:
            fail(f"{about} is annotated {kind!r}; expected one of {', '.join(RANGES)}")
        value = _number(default)
        if value is None:
            written = ast.unparse(default) if default else "none"
            fail(f"{about}: its default is {written}; expected a number")
        settings[argument.arg] = Setting(value, *RANGES[kind])
        wrong = settings[argument.arg].check(value)
        if wrong:
            fail(f"{about}: its default is {wrong}")
    source = ast.get_docstring(function) or ""
    rows = ROWS.get(function.name, "pairs") if file is None else "pairs"
    return Algorithm(function.name, place, wants, settings, source, file, rows)


def _annotation(node: ast.expr | None) -> str:
    """The last name of an annotation; without one, or with float, any number will do."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        text = ast.unparse(node) if node else "float"
    name = text.rpartition(".")[2]
    return "Real" if name == "float" else name


def _number(node: ast.expr | None) -> float | None:
    try:
        value = ast.literal_eval(node) if node else None
    except ValueError:
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _package() -> dict[str, Algorithm]:
    here = Path(__file__).parent
    return {
        name: _read(function, f"learning_dynamics/algorithms/{file}:{name}", None)
        for file in FILES
        for name, function in _functions(here / file, file).items()
        if not name.startswith("_")
    }


ALGORITHMS = _package()
