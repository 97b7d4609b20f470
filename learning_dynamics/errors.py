"""How bad input reaches the user: one line on stderr, exit code 2, no traceback."""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from learning_dynamics.usage import MARK, used

# Libraries that log their own workings at INFO.
NOISY = [
    "httpx",
    "httpx2",
    "openai",
    "huggingface_hub",
    "datasets",
    "filelock",
    "fsspec",
    "matplotlib",
    "fontTools",
]
LONGEST = 1000  # characters of an error

# What to do about an error of the disk.
ADVICE = {
    errno.ENOSPC: "free space (what was finished is kept; run again to go on)",
    errno.EDQUOT: "room in the quota (what was finished is kept; run again to go on)",
    errno.EROFS: "a file system to write to (what was finished is kept; run again to go on)",
}


class InputError(ValueError):
    """Bad input. The message names the file or field, the value found and what was expected."""


def one_line(message: object) -> str:
    """A message as one line of at most :data:`LONGEST` characters, whatever it quotes: control
    characters and half characters are written out, the middle of a long one is left out."""
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 + 5 :]}"


def fail(message: object) -> NoReturn:
    """Print ``error: <message>`` as one line and exit with code 2."""
    print("error: " + one_line(message), file=sys.stderr, flush=True)
    raise SystemExit(2)


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's ``main``, turning bad input and unusable paths into one clear line.

    Every script takes ``--log FILE``: progress goes there, warnings and errors also to stderr;
    without it everything goes to stderr. The log of a job that succeeds ends with what it used.
    SIGTERM ends it as an exception does: nothing half-written or locked is left behind.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    to_file = _start_logging()
    # Progress bars of the libraries would fill the logs.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        code = main() or 0
    except KeyboardInterrupt:
        sys.exit(130)
    except InputError as error:
        message = str(error)
    except MemoryError:
        message = "memory: not enough for this input; expected a smaller one, or a larger machine"
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        place = error.filename or "file system"  # a full disk names no file
        wanted = ADVICE.get(error.errno, "a path to read or write")
        message = f"{place}: {error.strerror or error}; expected {wanted}"
    else:
        if to_file:
            logging.getLogger("usage").info("%s%s", MARK, json.dumps(used()))
        sys.exit(code)
    if to_file:
        logging.getLogger("error").info("error: %s", one_line(message))
    fail(message)


def _start_logging() -> bool:
    """Set up logging as ``--log`` asks; whether there is a log file."""
    logging.raiseExceptions = False  # a log on a full disk is no reason for a traceback
    console = logging.StreamHandler(sys.stderr)
    handlers: list[logging.Handler] = [console]
    if "--log" in sys.argv:
        at = sys.argv.index("--log")
        if at + 1 == len(sys.argv):
            fail("--log: no file given; expected a log file to write")
        path = Path(sys.argv[at + 1])
        del sys.argv[at : at + 2]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.environ.get("RANK", "0") != "0":  # one of several processes writes the log
                path = Path(os.devnull)
            handlers.append(
                logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
            )
        except OSError as error:
            fail(f"{path}: {error.strerror}; expected a log file to write")
        console.setLevel(logging.WARNING)
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return len(handlers) > 1
