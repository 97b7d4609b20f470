"""What an enemy would write: names, values, and valid inputs with something wrong in them.

Strategies of hypothesis. Each starts from a valid input and changes a little, so that most cases
reach the code behind the parsers.
"""

import json
import math
import pickle
from typing import Any

from hypothesis import strategies as st

MARK = "pwned"  # a file of this name anywhere means that something was executed


class Payload:
    """Creates the file :data:`MARK` when it is unpickled."""

    def __reduce__(self):
        return (exec, (f"open({MARK!r}, 'w').close()",))


PICKLE = pickle.dumps(Payload())
# Never an absolute path into the real system that could be harmed: the cage sees every write.
NAMES = [
    "../outside/x", "../../x", "a/../../outside/x", "/proc/self/x", "/dev/null", "~/x", "a/b", "..",
    ".", "", " ",
    "-", "-rf", "--help", "--log", "--config", "a b", " a", "a ", "a\n", "a\nb", "\na",
    f"$(touch {MARK})", f"`touch {MARK}`",
    f"; touch {MARK};", f"| touch {MARK}", f"&& touch {MARK}",
    f"'; touch {MARK}; '", f'"; touch {MARK}; "', f"a\ntouch {MARK}\n", "$HOME", "${IFS}", "*", "?",
    "[a]", "{a}", "{{a}}", "{a.b}", "{0}", "{wildcards.seed}", "{prompt}", "{response}", "{", "}",
    "%s%n", "%(x)s", "$x^$", r"$\frac$", r"$\bad{$", "a=b", "=a", "a+b", "a@1", "sft@0", "@", "#a",
    "a:b", "https://h/..", "https://h/a?b=c", "https://h/{a}", "https://u:p@h/x", "file:///etc/x",
    "a" * 120, "a" * 256, "a" * 5000, "é", "e\u0301", "日本", "\u202ea", "a\u200b", "\ufeff",
    "\x00",
    "a\x00b", "a\x1b[2J", "a\x7f", "\ud800", "a\udfff", "base", "sft", "toyworld", "NaN", "null",
    "true", "1e999", "-1", "0x10", "__class__", "__proto__", "os.py:system", "gone.py:f",
    f"!!python/object/apply:os.system ['touch {MARK}']", "{{ ''.__class__ }}",
    f"__import__('os').system('touch {MARK}')", "<script>", "a,b", 'a"b', "a'b", "a\\b", "\\",
]  # fmt: skip
names = st.sampled_from(NAMES)


def _deep(levels: int) -> list:
    out: list = []
    for _ in range(levels):
        out = [out]
    return out


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 1.5, -0.5, 1e-9, 1e9, 1e308, math.nan, math.inf, -math.inf,
    2**31, 2**63, 10**30, -(10**30), [], {}, [[]], [None], {"a": {}}, {"a": 1}, [1, 2], ["a"],
    _deep(50), "x" * 100_000, [0] * 10_000,
]  # fmt: skip
values = st.one_of(names, st.sampled_from(VALUES), st.integers(-5, 1000), st.text(max_size=8))


def paths(tree: Any, at: tuple = ()) -> list[tuple]:
    """The paths of all nodes of a JSON-like tree but its root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, node in items:
        found.append((*at, key))
        if isinstance(node, dict | list):
            found += paths(node, (*at, key))
    return found


@st.composite
def changed(draw: Any, tree: Any, changes: int = 3, rename: bool = True) -> Any:
    """A JSON-like tree with one to ``changes`` nodes replaced, removed, renamed or added."""
    tree = _copy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 1, *range(1, changes + 1)]))):
        known = paths(tree)
        if not known:
            break
        *above, last = draw(st.sampled_from(known))
        node = tree
        for key in above:
            node = node[key]
        how = draw(st.sampled_from(["value", "value", "value", "near", "remove", "rename", "add"]))
        old = node[last]
        if how == "near":
            node[last] = draw(st.sampled_from(_near(old)))
        elif how == "remove":
            del node[last]
        elif isinstance(node, dict) and how == "rename" and rename:
            node[draw(names)] = node.pop(last)
        elif isinstance(node, dict) and how == "add":
            node[draw(names)] = _copy(draw(values))  # the next change may be inside it
        else:
            node[last] = _copy(draw(values))
    return tree


def _near(old: Any) -> list:
    """Values that look right beside ``old``."""
    if isinstance(old, bool) or old is None:
        return [0, "", str(old), [old]]
    if isinstance(old, int | float):
        return [-old, old * 1000, old / 3, str(old), [old], old + 1, 0]
    if isinstance(old, str):
        return [old + "\n", " " + old, old * 2, old[:1], old.upper(), [old], {"a": old}, 0, ""]
    return [list(old), str(old), [old], None, len(old)]


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes that were cut, flipped, repeated, emptied or replaced."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    length = draw(st.integers(1, 64))
    flipped = bytearray(content)
    for place in draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=4)):
        if content:
            flipped[place] ^= 1 << draw(st.integers(0, 7))
    head, tail = content[:at], content[at:]
    kinds = {
        "flip": lambda: bytes(flipped),
        "cut": lambda: head,
        "hole": lambda: head + tail[length:],
        "twice": lambda: head + tail[:length] + tail,
        "nul": lambda: head + b"\x00" * length + tail,
        "tail": lambda: tail,
        "empty": lambda: b"",
        "mark": lambda: b"\xef\xbb\xbf" + content,
        "crlf": lambda: content.replace(b"\n", b"\r\n"),
        "doubled": lambda: content + content,
        "not utf-8": lambda: head + b"\xff\xfe" + tail,
        "pickle": lambda: PICKLE,
        "gzip": lambda: b"\x1f\x8b\x08" + content,
        "digits": lambda: head + b"9" * 5000 + tail,
        "deep": lambda: head + b"[" * 100_000,
        "zeros": lambda: b"\x00" * 1_000_000,
        "long": lambda: head + b"x" * 1_000_000 + tail,
    }
    return kinds[draw(st.sampled_from(["flip"] * 4 + list(kinds)))]()


def as_json(tree: Any) -> bytes:
    """A tree as JSON; lone surrogates are written as escapes."""
    return json.dumps(tree).encode()
