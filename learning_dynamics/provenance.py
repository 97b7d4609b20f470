"""Which version of the project made a result, and which of its code a result depends on."""

import ast
import hashlib
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# An import of the package, with its parentheses where it has some.
IMPORT = re.compile(
    r"^[ \t]*((?:from|import) learning_dynamics\b(?:[^\n(]*\([^)]*\)|[^\n]*))", re.MULTILINE
)


def commit() -> str:
    """Short hash of the checkout's commit, with ``+`` when tracked files differ from it;
    ``unknown`` outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        name = git("rev-parse", "--short=8", "HEAD")
        return name + "+" * bool(name and git("status", "--porcelain", "-uno")) or "unknown"
    except FileNotFoundError:
        return "unknown"


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """The files of the package that a file imports itself. Each is read once, and only its import
    statements are parsed: planning, and every job's Snakemake, ask for all scripts' code."""
    found = []
    for statement in IMPORT.findall(path.read_text(encoding="utf-8")):
        node = ast.parse(statement).body[0]
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            modules = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for module in modules:
            stem = ROOT.joinpath(*module.split("."))
            options = (stem.with_suffix(".py"), stem / "__init__.py")
            found += [option for option in options if option.is_file()]
    return tuple(found)


@cache
def code_of(script: str) -> list[str]:
    """The script and every module of the package that it imports, directly or not, relative to
    the project's root: what a result of this script depends on, found by reading the imports."""
    found: set[Path] = set()
    queue = [ROOT / script]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue += _imported(path)
    return sorted(str(path.relative_to(ROOT)) for path in found)


@cache
def _content(name: str) -> bytes:
    return (ROOT / name).read_bytes()


@cache
def digest_of(script: str) -> str:
    """SHA-256 over the names and contents of :func:`code_of` a script."""
    digest = hashlib.sha256()
    for name in code_of(script):
        digest.update(name.encode() + b"\0" + _content(name))
    return digest.hexdigest()
