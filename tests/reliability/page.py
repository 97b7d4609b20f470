"""Tables of docs/reliability.md, written by what measured them."""

from pathlib import Path

from learning_dynamics.files import atomic


def read(page: Path, name: str) -> str:
    """What stands between ``<!-- name -->`` and ``<!-- end -->`` of a Markdown file.

    Raises:
        ValueError: when the file has no such place.
    """
    return _split(page, name)[1]


def write(page: Path, name: str, text: str) -> None:
    """Replace what stands there; ValueError as above."""
    before, _, after = _split(page, name)
    with atomic(page) as temporary:
        temporary.write_text(before + text + after, encoding="utf-8")


def _split(page: Path, name: str) -> tuple[str, str, str]:
    whole, mark = page.read_text(encoding="utf-8"), f"<!-- {name} -->\n"
    start = whole.index(mark) + len(mark)
    end = whole.index("<!-- end -->", start)
    return whole[:start], whole[start:end], whole[end:]
