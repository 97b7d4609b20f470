"""A real SLURM cluster on this machine, for tests: munge, slurmctld and two slurmd on loopback.

Everything of it (configuration, key, sockets, logs, state) lies in one folder, its ports are free
ones, and it ends by the pids of its four processes; a SLURM that the machine has is not touched.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("node1", "node2")
DAEMONS = 2 + len(NODES)  # munged, slurmctld and two slurmd
SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # Debian's daemons are not on a user's PATH

# One job at a time on either node, and more memory than any job asks for: nothing checks it.
# A requeued job waits until its old credential has expired (cred_expire), by default 121 s.
# Without accounting, squeue must remember finished jobs (MinJobAge).
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=0
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
EnforcePartLimits=ALL
MinJobAge=3600
KillWait=5
InactiveLimit=0
AccountingStorageType=accounting_storage/none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=100000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=100000
PartitionName=tests Nodes=node1,node2 Default=YES MaxTime=1-00:00:00 State=UP
"""
# The plugin drops every SLURM_* variable before its inner srun, the configuration's place too.
SRUN = """#!/bin/sh
export SLURM_CONF={folder}/slurm.conf
exec {srun} "$@"
"""


def missing() -> str | None:
    """Why there can be no cluster here; None when all programs are here."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if not lacking:
        return None
    packages = "apt-get install munge slurm-wlm on Debian and Ubuntu"
    return f"SLURM is not installed ({', '.join(lacking)} not found); expected it: {packages}"


class Cluster:
    """A running cluster, as its user sees it: commands, and the environment that reaches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        path = f"{folder}/bin:{Path(sys.executable).parent}:{SEARCH}"
        self.environment = {**kept, "PATH": path, "SLURM_CONF": f"{folder}/slurm.conf"}
        self._started: list[subprocess.Popen] = []

    def run(self, *words: str) -> str:
        """The output of one of SLURM's commands; CalledProcessError when it fails."""
        return subprocess.check_output(
            words, env=self.environment, stderr=subprocess.PIPE, text=True
        ).strip()

    def start(self, words: list[str], output: Path, **options: object) -> subprocess.Popen:
        """A process in the background, which does not outlive the cluster; ``output`` grows by what
        it says."""
        with output.open("a") as stream:
            process = subprocess.Popen(words, env=self.environment, stdout=stream, stderr=stream,
                                       start_new_session=True, **options)  # fmt: skip
        self._started.append(process)
        return process

    def stop(self) -> None:
        """End what was started, the last one first, after the jobs that are left."""
        for process in self._started[DAEMONS:]:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.CalledProcessError):
            if left := self.run("squeue", "-h", "-o", "%i").split():
                self.run("scancel", *left)
            deadline = time.monotonic() + 30
            while self.run("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._started[:DAEMONS]):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def jobs(self, folder: Path, states: str = "all") -> list[tuple[str, str, str]]:
        """(job id, state, node) of the jobs that were submitted from ``folder``, oldest first."""
        rows = self.run("squeue", "-h", "-S", "i", f"--states={states}", "-o", "%i|%T|%N|%Z")
        split = [row.split("|") for row in rows.splitlines()]
        return [(job, state, node) for job, state, node, where in split if where == str(folder)]

    def nodes(self) -> list[str]:
        """The nodes' states; none while there is no answer."""
        with suppress(subprocess.CalledProcessError):
            return self.run("sinfo", "-h", "-N", "-o", "%T").split()
        return []

    def running(self, folder: Path) -> tuple[str, str]:
        """(job id, node) of the one job that runs in ``folder``."""
        ((job, _, node),) = self.jobs(folder, "RUNNING")
        return job, node


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _configure(folder: Path) -> None:
    """Write the configuration, the key, and srun's wrapper."""
    import getpass

    # munge wants a folder that every user may enter, and a key that only its owner may read.
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", "bin", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(
        folder=folder, host=host, user=getpass.getuser(), ports=_free_ports(3)
    )
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    wrapper = folder / "bin" / "srun"
    wrapper.write_text(SRUN.format(folder=folder, srun=shutil.which("srun", path=SEARCH)))
    wrapper.chmod(0o755)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Bring a cluster up in ``folder`` (new, where every user may enter) and take it down.

    Raises:
        RuntimeError: when it is not up within half a minute; names the log.
    """
    _configure(folder)
    it = Cluster(folder)
    munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}"
             for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]  # fmt: skip
    try:
        daemon = it.start(["munged", "--foreground", *munge], folder / "munged.log")
        _wait(it, "munged", daemon, (folder / "munge.socket").exists)
        it.start(["slurmctld", "-D"], folder / "slurmctld.log")
        for node in NODES:
            daemon = it.start(["slurmd", "-D", "-N", node], folder / f"{node}.log")
        _wait(it, "idle nodes", daemon, lambda: it.nodes() == ["idle"] * len(NODES))
        yield it
    finally:
        it.stop()


def _wait(it: Cluster, what: str, daemon: subprocess.Popen, until: Callable[[], bool]) -> None:
    """Wait until something is up; RuntimeError when its daemon ends, or after half a minute."""
    deadline = time.monotonic() + 30
    while not until():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{it.folder}/*.log: no {what} of SLURM came up")
        time.sleep(0.1)
