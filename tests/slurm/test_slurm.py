"""The CI study through a real SLURM: to its figure, and through a requeue. The other faults:
``make slurm-faults``, docs/reliability.md."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.slurm.faults import FAULTS, OVERLAYS, suffer, training_rule
from tests.slurm.study import Study

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def running():
    """A cluster; skips where SLURM is not installed, but never on CI."""
    if reason := cluster.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # Not pytest's folder, which only its owner may enter: munge refuses that.
    folder = Path(tempfile.mkdtemp(prefix="slurm-")).resolve()
    folder.chmod(0o755)
    with cluster.cluster(folder / "cluster") as it:
        yield it
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(running, tmp_path_factory):
    """The study after figures/squeeze.pdf."""
    study = Study(running, tmp_path_factory.mktemp("slurm") / "study", {"seeds": [0]})
    study.finish(study.start("figures/squeeze.pdf"))
    return study


def test_a_figure_from_nothing(finished):
    """Every job that is not local ran through SLURM, on both nodes, and all ended well."""
    assert (finished.folder / "figures/squeeze.pdf").read_bytes()[:5] == b"%PDF-"
    jobs = finished.cluster.jobs(finished.folder)
    assert len(jobs) == 14 and {state for _, state, _ in jobs} == {"COMPLETED"}
    assert {node for _, _, node in jobs} == set(cluster.NODES)


def test_a_requeued_training_ends_with_the_same_numbers(finished, running):
    """`scontrol requeue` while it trains: one job, two attempts, bit for bit an undisturbed run."""
    where = finished.folder.parent
    whole = Study(running, where / "whole", OVERLAYS["dpo"], finished.folder)
    undisturbed = whole.start(*training_rule(whole))
    struck = Study(running, where / "struck", OVERLAYS["dpo"], finished.folder)
    outcome = suffer(FAULTS["requeue"], struck)
    whole.finish(undisturbed)
    assert struck.equals(whole)
    assert outcome.expected(FAULTS["requeue"])
    assert (outcome.updates, outcome.attempts, outcome.jobs) == (120, 2, 1)
