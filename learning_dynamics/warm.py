"""Warm start: jobs that need not import torch and transformers again.

    python -m learning_dynamics.warm snakemake --cores 2 figures/squeeze.pdf

Importing the libraries takes longer than many a small run. So they are imported once, in a process
that then forks for every job; ``python`` on the command's PATH is ``warm/python``, which hands
its arguments, environment, folder and files to that process and waits for the job's exit code.
Nothing of this package is loaded before the fork: a job runs the code that lies there when it
starts. Anything but a script, and everything where no such process listens, runs as usual. However
the command ends, the process ends with it, and its jobs with the process.
"""

import array
import atexit
import contextlib
import ctypes
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from learning_dynamics.allocator import MEMORY

SOCKET = "LEARNING_DYNAMICS_WARM"  # environment variable: where the process listens
CLIENT = Path(__file__).resolve().parent.parent / "warm"
# What jobs import, besides this package. A library that is missing is left to the job to miss.
LIBRARIES = ["numpy", "pandas", "pyarrow.parquet", "yaml", "torch", "transformers", "accelerate",
             "safetensors.torch", "tokenizers", "seaborn", "matplotlib.pyplot",
             "matplotlib.backends.backend_pdf"]  # fmt: skip
MODELS = ["GPTNeoXForCausalLM", "LlamaForCausalLM", "AutoModelForCausalLM", "AutoTokenizer",
          "PreTrainedTokenizerFast"]  # fmt: skip
LARGEST = 1 << 20  # bytes of one request


def _end_with(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it has ended already
        signal.raise_signal(number)


def _leave(*_: object) -> None:
    """End, once: the kernel tells of every thread of the parent."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def serve(path: str, parent: int) -> None:
    """Import the libraries, listen at the socket ``path`` and fork for every request, until
    process ``parent`` ends. Single-threaded, so that a fork is safe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command and its jobs
    signal.signal(signal.SIGTERM, _leave)
    clients: dict[int, socket.socket] = {}  # by process of the job
    try:
        _end_with(parent, signal.SIGTERM)
        _listen(path, parent, clients)
    except SystemExit:
        pass
    finally:
        for job in clients:
            os.kill(job, signal.SIGKILL)
        shutil.rmtree(Path(path).parent, ignore_errors=True)
    os._exit(0)  # the libraries have nothing to put in order


def _listen(path: str, parent: int, clients: dict[int, socket.socket]) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)  # requests wait while the libraries are imported
    Path(f"{path}.new").rename(path)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            __import__(name)
    transformers = sys.modules.get("transformers")
    for name in MODELS if transformers else []:
        getattr(transformers, name)
    for name in [m for m in sys.modules if m.partition(".")[0] == "learning_dynamics"]:
        del sys.modules[name]
    asleep, awake = os.pipe()
    os.set_blocking(awake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(awake, warn_on_full_buffer=False)
    watched = selectors.DefaultSelector()
    watched.register(listener, selectors.EVENT_READ)
    watched.register(asleep, selectors.EVENT_READ)
    while os.getppid() == parent:  # where the kernel does not tell
        for key, _ in watched.select(timeout=2):
            if key.fileobj is listener:
                client, _ = listener.accept()
                job = _start(client, [listener, *clients.values()])
                if job is None:
                    client.close()
                else:
                    clients[job] = client
                    watched.register(client, selectors.EVENT_READ, job)
            elif key.fileobj == asleep:
                os.read(asleep, 4096)
            else:
                with contextlib.suppress(ProcessLookupError):
                    word = key.fileobj.recv(1)  # a signal to pass on; nothing: the client is gone
                    os.kill(key.data, word[0] if word else signal.SIGKILL)
                if not word:
                    watched.unregister(key.fileobj)
        while clients:
            job, status = os.waitpid(-1, os.WNOHANG)
            if not job:
                break
            client = clients.pop(job)
            with contextlib.suppress(KeyError):
                watched.unregister(client)
            with contextlib.suppress(OSError):
                client.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            client.close()


def _start(client: socket.socket, others: list[socket.socket]) -> int | None:
    """Read a request and fork; the job's process, None where the client said nothing."""
    size = array.array("i")
    message, files, _, _ = socket.recv_fds(client, LARGEST, 3 * size.itemsize)
    while message and not message.endswith(b"\n"):
        message += client.recv(LARGEST)
    if not message:
        return None
    server = os.getpid()
    job = os.fork()
    if job:
        for file in files:
            os.close(file)
        return job
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _end_with(server, signal.SIGKILL)
        for other in (client, *others):
            other.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        code = _run(**json.loads(message))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(words: list[str], environment: dict[str, str], folder: str) -> int:
    """The script ``words[0]`` as ``python`` would run it."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    known = [entry for entry in sys.path if entry and Path(entry) != CLIENT.parent]
    here = [str(Path(words[0]).resolve().parent)]
    sys.path[:] = [*here, *filter(None, environment.get("PYTHONPATH", "").split(":")), *known]
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    return 0


def start(interpreter: str = sys.executable) -> tuple[subprocess.Popen, dict[str, str]]:
    """Start the process, which ends with this one; and the environment variables under which
    ``python`` is warm."""
    path = f"{tempfile.mkdtemp(prefix='warm-')}/jobs-of-{os.getpid()}"
    process = subprocess.Popen(
        [interpreter, "-m", "learning_dynamics.warm", "--serve", path, str(os.getpid())],
        env={**os.environ, **MEMORY, "PYTHONPATH": str(CLIENT.parent)},
        stdin=subprocess.DEVNULL,
    )
    while process.poll() is None and not Path(path).exists():
        time.sleep(0.01)  # a job that finds nobody here would start cold, and outlive the command
    return process, {SOCKET: path, "PATH": f"{CLIENT}:{os.environ['PATH']}"}


@contextlib.contextmanager
def listening(interpreter: str = sys.executable):  # noqa: ANN201
    """The variables of :func:`start`; the process ends with the block."""
    process, variables = start(interpreter)
    try:
        yield variables
    finally:
        process.terminate()
        process.wait()


def main(words: list[str]) -> None:
    """Become a command whose jobs start warm: its signals and its exit code are its own."""
    if words[0] == "--serve":
        serve(words[1], int(words[2]))
    else:
        _, variables = start()
        os.execvpe(words[0], words, {**os.environ, **variables})


if __name__ == "__main__":
    main(sys.argv[1:])
