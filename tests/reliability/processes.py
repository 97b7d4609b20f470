"""The processes of a session, for tests that see to it that none is left."""

from pathlib import Path


def processes_of(session: int) -> dict[int, str]:
    """Command lines of the living processes of a session, by process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state not in "ZX":
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace").strip()
        except OSError:  # it has just ended
            continue
    return found
