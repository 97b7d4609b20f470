"""Who is at work in a folder: a lock with a heartbeat, so that two trainings never write one run.

A holder is a small file that names its process. On the same machine it is alive as long as that
process is. Of a process elsewhere only the file's modification time is seen, which its heartbeat
moves: it counts as dead when the time has stood still for LIMIT seconds of the *observer's*
monotonic clock, so that no two clocks are ever compared. Nothing here needs a person: what a dead
process leaves is taken over. The lock is made by O_EXCL, which shared file systems keep; a holder
that was believed dead (suspended, cut off) finds out by :meth:`Lock.check` before it writes.
"""

import atexit
import json
import logging
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from learning_dynamics.errors import InputError

LOG = logging.getLogger(__name__)
HEARTBEAT = 15.0  # seconds between two touches of a holder's file
LIMIT = 300.0  # seconds without one after which a process elsewhere counts as dead
LOOK = 0.5  # seconds between two looks at what is held
REMIND = 600.0  # seconds between two lines of a process that waits


@dataclass(frozen=True)
class Holder:
    """A process. ``place`` is its machine since its last start, and its namespace of process
    numbers: where that is the same, ``pid`` and ``born`` can be looked up."""

    host: str
    place: str
    pid: int
    born: str
    token: str

    @classmethod
    def me(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(platform.node(), _place(), pid, _born(pid) or "", uuid.uuid4().hex)

    def dead(self) -> bool | None:
        """Whether the process is gone; None where that cannot be seen from here."""
        if self.place != _place():
            return None
        born = _born(self.pid)
        return born is None or bool(born and self.born and born != self.born)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _born(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; "" where that is not to be
    had; None when there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = words.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


def _read(path: Path) -> tuple[Holder | None, int] | None:
    """The holder that a file names (None: it is unreadable) and its modification time; None when
    there is no file. It is opened, not looked up, because that makes NFS ask the server."""
    try:
        with path.open("rb") as stream:
            text, moment = stream.read(), os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text)), moment
    except (ValueError, TypeError):
        return None, moment


def _create(path: Path, holder: Holder) -> None:
    """Write a holder's file. FileExistsError when there is one; no empty one is left behind by a
    full disk."""
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(file, json.dumps(asdict(holder)).encode())
        os.fsync(file)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(file)


class _Heart(threading.Thread):
    """Touches a holder's file until it is stopped, or the file is another's."""

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(daemon=True, name=f"heartbeat {path}")
        self._path, self._holder, self.stopped = path, holder, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(HEARTBEAT):
            with suppress(OSError):  # a hanging server, a full disk: the next beat tells
                found = _read(self._path)
                if found and found[0] == self._holder:
                    os.utime(self._path)  # the file system's own clock


class _Watch:
    """Finds out whether the holder of a file is gone, by looking at it again and again."""

    def __init__(self) -> None:
        self._seen: tuple | None = None
        self._since = 0.0

    def gone(self, found: tuple[Holder | None, int]) -> str | None:
        """Why the holder in ``found`` counts as dead; "" when it lives; None when that is not
        known yet."""
        holder, now = found[0], time.monotonic()
        dead = holder.dead() if holder else None
        if dead is not None:
            return "which is gone" if dead else ""
        moved = self._seen is not None and found != self._seen
        if self._seen is None or moved:
            self._seen, self._since = found, now
        if now - self._since >= LIMIT:
            return f"without a sign of life for {LIMIT:.0f} s"
        return "" if moved else None


class Lock:
    """The exclusive right to write in ``folder``, as a context manager; the file is ``.lock``.

    Entering waits for a living holder to end, with a line in the log, and takes over from a dead
    one, with another.

    Args:
        folder: made where it is missing.
        patience: seconds to wait for a living holder; None: as long as it lives.
    """

    def __init__(self, folder: str | Path, patience: float | None = None) -> None:
        self.path = Path(folder) / ".lock"
        self._patience = patience

    def __enter__(self) -> Self:
        """Raises InputError when a living holder outlasts the patience, OSError when the folder
        cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._holder = Holder.me()
        watch, started, reminded = _Watch(), time.monotonic(), None
        while True:
            try:
                _create(self.path, self._holder)
                break
            except FileExistsError:
                found = _read(self.path)
            if found is None:
                continue  # given back in between
            who = found[0] or "a process that has not said its name"
            if reason := watch.gone(found):
                LOG.warning("%s: taken over from %s, %s", self.path, who, reason)
                self._bury(found[0])
                continue
            waited = time.monotonic() - started
            if self._patience is not None and waited >= self._patience:
                raise InputError(
                    f"{self.path}: held by {who} after {waited:.0f} s; expected one training of "
                    "a run at a time (run again when that one has ended)"
                )
            if reminded is None or waited - reminded >= REMIND:
                LOG.warning("%s: held by %s; waiting until it ends", self.path, who)
                reminded = waited
            time.sleep(LOOK)
        self._heart = _Heart(self.path, self._holder)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heart.stopped.set()
        with suppress(OSError):
            if self._mine():
                self.path.unlink()

    def check(self) -> None:
        """Raise InputError when another process has taken over: what this one would write is not
        its to write any more."""
        for _ in range(5):
            found = _read(self.path)
            if found:
                break
            time.sleep(LOOK)  # moved away for a moment, see _bury
        if not found or found[0] != self._holder:
            other = f"taken over by {found[0]}" if found else "removed"
            raise InputError(
                f"{self.path}: {other}, which this process had locked; expected it to be left "
                "alone (nothing more is written; run again to go on)"
            )

    def _mine(self) -> bool:
        found = _read(self.path)
        return bool(found) and found[0] == self._holder

    def _bury(self, dead: Holder | None) -> None:
        """Move a dead holder's file away. Another process may have been faster and hold the lock
        already: then its file goes back, and in between its check is patient."""
        grave = self.path.with_name(f".lock.{self._holder.token}")
        try:
            self.path.rename(grave)
        except FileNotFoundError:
            return
        found = _read(grave)
        if found and found[0] != dead:
            with suppress(OSError):
                self.path.hardlink_to(grave)
        grave.unlink()


def register(folder: str | Path) -> Path:
    """Note in ``folder``, until it ends, that this process is at work; its file."""
    holder = Holder.me()
    path = Path(folder) / holder.token
    path.parent.mkdir(parents=True, exist_ok=True)
    _create(path, holder)
    _Heart(path, holder).start()
    atexit.register(path.unlink, missing_ok=True)
    return path


def others(mine: Path) -> bool:
    """Whether another living process is registered beside ``mine``. Takes up to LIMIT seconds where
    one elsewhere is silent; what dead ones left is removed."""
    watches: dict[Path, _Watch] = {}
    warned = False
    while True:
        known = True
        for path in set(mine.parent.iterdir()) - {mine}:
            found = _read(path)
            gone = watches.setdefault(path, _Watch()).gone(found) if found else None
            if gone == "":
                return True
            if gone:
                path.unlink(missing_ok=True)
            elif found:
                known = False
        if known:
            return False
        if not warned:
            LOG.warning("%s: waiting up to %.0f s for a sign of life", mine.parent, LIMIT)
            warned = True
        time.sleep(LOOK)
