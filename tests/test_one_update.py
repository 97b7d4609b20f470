"""Single updates of a run, token by token: the definitions, the bound, and that measuring changes
nothing."""

import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from learning_dynamics import finetune as loop
from learning_dynamics import models, one_update
from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.errors import InputError
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import training_rows
from learning_dynamics.scoring.trees import pack_plain
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import prepared
from learning_dynamics.trajectory import probe_trees
from tests.conftest import COMPUTE, run_spec

KINDS = ["chosen", "rejected"]


@pytest.fixture(autouse=True)
def restore_sigterm():
    """The loop installs a handler; tests leave none behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def probes(toy_pairs):
    """Three probed training prompts and a held-out one, y⁺ and y⁻ each."""
    probed = toy_pairs.iloc[[0, 1, 2, 12]]
    return pd.concat([probed.assign(response_type=k, response=probed[k]) for k in KINDS])


@pytest.fixture
def start(tiny, toy_pairs, probes, tmp_path):
    """Function that prepares a run on the tiny model: (learner, rows, probe trees)."""
    model, tokenizer = tiny
    models.save(model, tokenizer, tmp_path / "init")

    def prepare(algorithm="sft", **changes):
        spec = run_spec(algorithm, **{"rows": "probes", "batch_size": 3, **changes})
        codec = Codec(tokenizer, 256, 128, count_end=False)
        rows = training_rows(toy_pairs, codec, spec, 0, None, probes)
        trained = prepared(tmp_path / "init", tokenizer, None, 0, deepcopy(model))
        learner = loop.Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
        return learner, rows, probe_trees(probes, codec)

    return prepare


def run(start, folder, **changes):
    """A whole run's tables."""
    learner, rows, probes = start(**changes)
    return loop.finetune(learner, rows, probes, 0, Checkpoints(folder, "mark"), [])[0]


MEASURE = {"examples": 2, "max_vocabulary": 20000}


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_measuring_changes_no_bit(start, tmp_path, algorithm):
    """The same run with and without: equal trajectory and training table; and one row per measured
    update × training example × type."""
    common = {"algorithm": algorithm, "epochs": 5, "probe_every": 2}
    plain = run(start, tmp_path / "a", **common)
    measured = run(start, tmp_path / "b", **common, proxies=MEASURE)
    for name in ("trajectory", "training"):
        one, two = (t[name].drop(columns="rows_per_s", errors="ignore") for t in (plain, measured))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    table = measured["proxies"]
    assert list(table.columns) == one_update.COLUMNS and "proxies" not in plain
    assert table["step"].unique().tolist() == [0, 2, 4]  # not after the last evaluation
    assert len(table) == 3 * 2 * 2 and (table[["delta_sq", "g_sq", "lbk"]] > 0).all().all()
    lr = measured["training"].set_index("step")["lr"]
    assert (table["lr"] == lr.loc[table["step"] + 1].to_numpy()).all()


def test_a_stopped_run_ends_with_the_same_table(start, tmp_path, monkeypatch):
    """Stopped by SIGTERM after update 3 and run again: the same measurements, bit for bit."""
    common = {"epochs": 5, "probe_every": 2, "proxies": MEASURE}
    whole = run(start, tmp_path / "whole", **common)["proxies"]
    original, calls = loop.update, []

    def update(*args):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(SystemExit):
        run(start, tmp_path / "broken", **common)
    again = run(start, tmp_path / "broken", **common)["proxies"]
    pd.testing.assert_frame_equal(whole, again, check_exact=True)


def test_delta_is_the_change_across_the_update(start, tmp_path, tiny):
    """The change of log π that the trajectory sees across the same update; and ‖Δ‖² and SignDelta
    from the two models' own logits."""
    tables = run(start, tmp_path, epochs=1, probe_every=1, proxies=MEASURE, optimizer="sgd")
    keys = ["example_id", "response_type"]
    steps = [t.set_index(keys)["logp"] for _, t in tables["trajectory"].groupby("step")]
    table = tables["proxies"].set_index(keys)
    change = (steps[1] - steps[0]).loc[table.index]
    np.testing.assert_allclose(table["delta_logp"], change, rtol=1e-3, atol=1e-4)
    learner, rows, probes = start(optimizer="sgd")
    tree = probes.trees[0]
    single = type(tree)(tree.prompt, tree.responses[:1])
    before = _logp(tiny[0], single)
    for group in learner.optimizer.param_groups:
        group["lr"] = float(table["lr"].iloc[0])
    loop.update(learner, rows, [0, 1, 2])
    delta = (_logp(learner.trained.model, single) - before)[:-1]  # end-of-text is left out
    first = table.iloc[0]
    assert first["delta_sq"] == pytest.approx(float((delta**2).sum()), rel=1e-4)
    assert first["sign_delta"] == pytest.approx(float(delta.mean()), rel=1e-4)
    a_sq = sum(float((torch.eye(p.numel()) - p.exp()).square().sum()) for p in before[:-1])
    assert first["a_sq"] == pytest.approx(a_sq, rel=1e-5)
    assert first["lbk"] == pytest.approx(first["delta_sq"] / first["a_sq"] / first["g_sq"])


@torch.no_grad()
def _logp(model, tree):
    batch = pack_plain([tree])
    logits = model(input_ids=batch.input_ids).logits[0][batch.source]
    return logits.log_softmax(-1)


def test_g_of_sft_and_dpo_is_the_papers(start):
    """Equations 11 and 14: (π − e)/B, and β(1 − a)(π − e)/B with a = σ(0); y⁻ brings its sign."""
    for algorithm, scale in (("sft", [1.0]), ("dpo", [0.05, -0.05])):
        learner, rows, _ = start(algorithm)
        batch = learner.engine.pack(rows.trees)
        logits = learner.engine(batch, "logits").logits.detach()
        logp = logits.double().log_softmax(-1)
        own = logp.gather(-1, batch.target[:, None])[:, 0]
        reference = own if algorithm == "dpo" else None
        found = one_update.batch_residual(
            ALGORITHMS[algorithm], batch, logits, reference, {}, learner.spec
        )
        plain = logp.exp().scatter_add(-1, batch.target[:, None], -torch.ones(len(own), 1).double())
        sides = torch.tensor(scale)[batch.owner % len(scale)].double()
        torch.testing.assert_close(found, plain * sides[:, None] / 3, rtol=1e-5, atol=1e-8)


def test_too_many_logits_are_refused(start):
    """One line that says what to do."""
    learner, _, probes = start(proxies={"examples": 1, "max_vocabulary": 100})
    with pytest.raises(
        InputError, match=r"proxies\.max_vocabulary = 100: the model has \d+ logits"
    ):
        one_update.Meter(learner, probes)


def test_pairs_of_the_probes(start, toy_pairs, probes):
    """rows: probes for DPO: the probed training prompts' own y⁺ and y⁻, as the pairs have them."""
    _, rows, _ = start("dpo")
    codec = start("dpo")[0].trained.tokenizer
    assert len(rows) == 3 and rows.reference is None
    texts = [[codec.decode(r, skip_special_tokens=True) for r in t.responses] for t in rows.trees]
    assert texts == toy_pairs.iloc[:3][KINDS].to_numpy().tolist()
    only = probes[probes["response_type"] == "chosen"]
    with pytest.raises(InputError, match="no training prompt with both chosen and rejected"):
        training_rows(toy_pairs, None, run_spec("dpo", rows="probes"), 0, None, only)
