"""Tables of docs/reliability.md, written by what measured them."""

from pathlib import Path

from learning_dynamics.files import atomic


def write(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end -->`` of a Markdown file.

    Raises:
        ValueError: when the file has no such place.
    """
    whole, mark = page.read_text(encoding="utf-8"), f"<!-- {name} -->\n"
    start = whole.index(mark) + len(mark)
    end = whole.index("<!-- end -->", start)
    with atomic(page) as temporary:
        temporary.write_text(whole[:start] + text + whole[end:], encoding="utf-8")
