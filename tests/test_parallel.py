"""One process against two, weights whole or sharded: the same run, and resumed the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from learning_dynamics import models
from learning_dynamics.errors import InputError
from learning_dynamics.parallel import accelerator_of
from tests.conftest import COMPUTE, ROOT, run_spec

UPDATES = 24  # eight passes over 12 rows, four at a time
MODES = {"one": (1, "none"), "two": (2, "none"), "sharded": (2, "fsdp")}


@pytest.fixture(scope="module")
def runs(tiny, toy_pairs, tmp_path_factory):
    """Folders of tables and model by mode and name of what tests/parallel_worker.py trained: a run
    of KTO (its reference point is a statistic of the batch), the same broken off, and LoRA. One
    start per mode. Where weights are whole, also a run of which influence is measured, in two
    processes broken off within a window."""
    folder = tmp_path_factory.mktemp("parallel")
    models.save(*tiny, folder / "init")
    toy_pairs.to_parquet(folder / "pairs.parquet")
    probed = toy_pairs.iloc[[0, 1, 2, 12, 13]]
    probes = [probed.assign(response_type=k, response=probed[k]) for k in ("chosen", "rejected")]
    pd.concat(probes).to_parquet(folder / "probes.parquet")
    kto = run_spec("kto", epochs=8, optimizer="adamw", accumulate=2)
    lora = run_spec("dpo", epochs=8, optimizer="adamw",
                    lora={"rank": 2, "alpha": 4, "targets": "all-linear"})  # fmt: skip
    # A cut counts from where the run goes on: up to two updates past the last checkpoint are lost.
    cuts = np.random.default_rng(0).integers(3, 5, 10).tolist()
    along = run_spec(epochs=8, optimizer="adamw", influence={"examples": 2, "every": 8,
                     "updates": [4], "factors": [4]})  # fmt: skip
    asked = {"whole": (kto, []), "broken": (kto, cuts), "lora": (lora, [])}
    followed = {"one": (along, []), "two": ({**along, "checkpoint_every": 5}, [7])}
    for mode, (processes, sharding) in MODES.items():
        wanted = {**asked, "along": followed[mode]} if mode in followed else asked
        job = {
            "compute": {**COMPUTE, "processes": processes, "sharding": sharding},
            "runs": [{"out": f"{mode}-{name}", "spec": spec, "cuts": cuts}
                     for name, (spec, cuts) in wanted.items()],
        }  # fmt: skip
        words = [str(ROOT / "tests/parallel_worker.py"), str(folder), json.dumps(job)]
        if processes > 1:
            words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                     str(processes), *words]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True,
                              text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    names = [*asked, "along"]
    return {mode: {name: folder / f"{mode}-{name}" for name in names} for mode in MODES}


def tables(folder):
    """Trajectory and training table."""
    return [pd.read_parquet(folder / f"{name}.parquet") for name in ("trajectory", "training")]


def scores(folder):
    """Log-probs of some tokens under the saved model: its weights are not compared, because AdamW
    makes steps of rounding where a gradient is 0 (the biases of keys)."""
    ids = torch.arange(40)[None]
    with torch.no_grad():
        logp = models.load(folder / "model")[0](ids).logits[0, :-1].log_softmax(-1)
    return logp.gather(1, ids[0, 1:, None])[:, 0].tolist()


@pytest.mark.parametrize("mode", ["two", "sharded"])
def test_processes_change_nothing_but_rounding(runs, mode):
    """Every number of the trajectory to 1e-5 relative, the training table too, and the model that
    is saved, which a single process loads."""
    for one, other in zip(*(tables(runs[m]["whole"]) for m in ("one", mode)), strict=True):
        assert list(one.columns) == list(other.columns) and len(one) == len(other)
        for name in one.columns.drop(["rows_per_s"], errors="ignore"):
            if name == "rows":
                assert [list(r) for r in one[name]] == [list(r) for r in other[name]]
            elif one[name].dtype == float:
                # The margin is a difference of sums of hundreds of nats.
                small = 1e-5 * (100 if name == "margin" else 0.1)
                np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=small)
            else:
                assert (one[name] == other[name]).all()
    assert scores(runs[mode]["whole"]) == pytest.approx(scores(runs["one"]["whole"]), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_broken_off_at_ten_random_updates(runs, mode):
    """Ten times broken off, each time taken up from the last checkpoint: the uninterrupted run, bit
    for bit."""
    whole, broken = runs[mode]["whole"], runs[mode]["broken"]
    counters = json.loads((broken / "counters.json").read_text())
    assert counters["attempts"] == 11 and counters["updates"] == UPDATES
    for one, other in zip(tables(whole), tables(broken), strict=True):
        columns = one.columns.drop(["rows_per_s"], errors="ignore")
        pd.testing.assert_frame_equal(one[columns], other[columns], check_exact=True)


@pytest.mark.parametrize("mode", ["two", "sharded"])
def test_adapters_in_several_processes(runs, mode):
    """LoRA, under FSDP too: the run of one process, and a merged model."""
    one, two = (runs[m]["lora"] for m in ("one", mode))
    for mine, theirs in zip(tables(one), tables(two), strict=True):
        name = "logp" if "logp" in mine else "loss"
        np.testing.assert_allclose(theirs[name], mine[name], rtol=1e-5)
    assert scores(two) == pytest.approx(scores(one), rel=1e-5)


def test_a_missing_launch_is_named():
    """More processes configured than run."""
    with pytest.raises(InputError, match=r"processes = 2: 1 are running"):
        accelerator_of({**COMPUTE, "processes": 2})


def test_half_precision_needs_a_gpu():
    """fp16 has no training path on a CPU."""
    with pytest.raises(InputError, match=r"precision = 'fp16'.*cuda"):
        accelerator_of({**COMPUTE, "precision": "fp16"})


def test_influence_along_a_run_is_that_of_one_process(runs):
    """Windows of a run in two processes, taken up again within one: what one process finds, but for
    rounding."""
    one, two = (runs[mode]["along"] for mode in ("one", "two"))
    found = [pd.read_parquet(folder / "influence.parquet") for folder in (one, two)]
    assert len(found[0]) == len(found[1]) == 3 * 3 * 4
    assert json.loads((two / "counters.json").read_text())["attempts"] == 2
    for name in ("measured", "steps", "start", "through_chosen", "through_rejected", "hidden"):
        values = [table[name].to_numpy() for table in found]
        scale = np.nanmax(np.abs(values[0]))
        np.testing.assert_allclose(values[1], values[0], rtol=0, atol=2e-3 * scale)
