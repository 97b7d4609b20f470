"""Influence along a run: the meter against influence functions called by hand, what it leaves
untouched, and what survives an interruption."""

import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest

from learning_dynamics import finetune as loop
from learning_dynamics import influence, influence_table, models
from learning_dynamics.errors import InputError
from learning_dynamics.influence import meter
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import rows_of_update, training_rows
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import prepared
from learning_dynamics.trajectory import probe_trees
from tests.conftest import COMPUTE, run_spec

KINDS = ["chosen", "rejected"]
WANTED = {"examples": 2, "every": 4, "updates": [2, 3], "factors": [0.25, 16]}


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

    def prepare(algorithm="dpo", exact=False, **changes):
        spec = run_spec(algorithm, **{"rows": "probes", "batch_size": 3, "epochs": 9, **changes})
        codec = Codec(tokenizer, 256, 128, count_end=False)
        rows = training_rows(toy_pairs, codec, spec, 0, None, probes)
        own = deepcopy(model).double() if exact else deepcopy(model)
        trained = prepared(tmp_path / "init", tokenizer, spec["lora"], 0, own)
        learner = loop.Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
        return learner, rows, probe_trees(probes, codec)

    return prepare


def run(start, folder, **changes):
    """A whole run's tables and counters."""
    learner, rows, probes = start(**changes)
    return loop.finetune(learner, rows, probes, 0, Checkpoints(folder, "mark"), [])


LORA = {"rank": 2, "alpha": 4, "targets": "all-linear"}


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "sft"}, {}, {"accumulate": 2, "optimizer": "adamw"}, {"lora": LORA}],
    ids=["sft", "dpo", "adamw in pieces", "lora"],
)
def test_measuring_changes_no_bit(start, tmp_path, changes):
    """The same run with and without, every other meter too: equal trajectory and training table;
    and a row per window × L × factor × training example × type."""
    plain, _ = run(start, tmp_path / "a", **changes)
    measured, facts = run(start, tmp_path / "b", **changes, influence=WANTED)
    for name in ("trajectory", "training"):
        one, two = (t[name].drop(columns="rows_per_s", errors="ignore") for t in (plain, measured))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    table = measured["influence"]
    assert list(table.columns) == influence_table.COLUMNS and "influence" not in plain
    # Nine updates, two of warm-up: the window that begins after six ends with the run.
    assert table["step"].unique().tolist() == [2, 6]
    found = table.groupby(["step", "updates", "factor"]).size()
    cells = {(1, 0.25), (1, 16), (1, 1), (2, 1), (3, 1)}
    assert set(found.index) == {(s, *cell) for s in (2, 6) for cell in cells} and (found == 4).all()
    assert 0 < facts["seconds_influence"] < facts["seconds"]
    known = ["measured", "steps", "start"]
    assert table[known].notna().all().all() and (table["measured"] != 0).all()


def by_hand(learner, rows, trees):
    """What the meter must find in the window that begins after two updates, from the influence
    functions and forward mode, in fp64: {(updates, factor): {column: sums}}."""
    engine = learner.engine
    probes = influence.Probes(engine, trees.trees[:2], 600)
    counted = trees.identity["n_tokens"][:4]

    def sums(values):
        return probes.sums(values, counted)

    def at(done):
        for group in learner.optimizer.param_groups:
            group["lr"] = learner.spec["lr"] * min(1.0, (done + 1) / 3)
        return rows_of_update(done, rows, 3, 0)

    def weights():
        return {n: p.detach().clone() for n, p in engine.named_parameters()}

    for done in range(2):
        loop.update(learner, rows, at(done))
    step = influence.optimizer_step(learner, rows, at(2))
    origin, out = weights(), {}
    first = influence.log_probs(engine, probes)
    for factor in (0.25, 1.0, 16.0):
        longer = {n: factor * change for n, change in step.total.items()}
        out[1, factor] = {
            "measured": sums(influence.measured(engine, longer, probes)),
            "steps": factor * sums(influence.forward_mode(engine, step.total, probes)),
        }
    for name, part in step.parts.items():
        column = name if name == "rest" else f"through_{name}"
        out[1, 1.0][column] = sums(influence.forward_mode(engine, part, probes))
    total, overlap, hidden = 0, 0, 0
    for done in (2, 3, 4):
        before, numbers = weights(), at(done)
        updated = [rows.trees[i] for i in numbers]
        pulls = [sign * pull for pull in dpo_pull(engine, rows, numbers) for sign in (1, -1)]
        overlap = overlap + influence.token_overlap(probes.trees, updated, [0]) @ pulls
        with meter._placed(engine, origin):
            hidden = hidden + influence.hidden_cosine(engine, probes.trees, updated, 600) @ pulls
        loop.update(learner, rows, numbers)
        now = weights()
        with meter._placed(engine, before):
            moved = {n: now[n] - before[n] for n in now}
            total = total + influence.forward_mode(engine, moved, probes)
        with meter._placed(engine, origin):
            moved = {n: now[n] - origin[n] for n in now}
            linear = influence.forward_mode(engine, moved, probes)
        cell = out.setdefault((done - 1, 1.0), {})
        changed = influence.log_probs(engine, probes) - first
        cell |= {"measured": sums(changed), "steps": sums(total), "start": sums(linear)}
        cell |= {"overlap": 1e-3 * overlap, "hidden": 1e-3 * hidden}
    return out


def dpo_pull(engine, rows, numbers):
    """β(1 − a)/B of every row (equation 14)."""
    out = []
    for i in numbers:
        tree = rows.trees[i]
        logp = influence.log_probs(engine, influence.Probes(engine, [tree], 600))
        cut = len(tree.responses[0])
        ratios = [now.sum() - then.sum() for now, then in
                  zip((logp[:cut], logp[cut:]), rows.reference[i], strict=True)]  # fmt: skip
        out.append(0.1 / (1 + np.exp(0.1 * (ratios[0] - ratios[1]))) / len(numbers))
    return out


def test_the_meter_finds_what_the_functions_say(start, tmp_path):
    """Every column of a DPO window, in fp64."""
    from dataclasses import replace

    from learning_dynamics.reference import token_logps

    learner, rows, trees = start(exact=True)
    rows = replace(rows, reference=token_logps(learner.engine, rows.trees, COMPUTE))
    truth = by_hand(learner, rows, trees)
    table = run(start, tmp_path, exact=True, influence=WANTED)[0]["influence"]
    table = table[table["step"] == 2].set_index(["updates", "factor"])
    assert (table["lr"] == 1e-3).all()
    assert set(table.index) == set(truth)
    for cell, columns in truth.items():
        for name, value in columns.items():
            found = table.loc[[cell], name].to_numpy()
            scale = np.abs(truth[cell]["steps"]).max()
            scale = np.abs(value).max() if name in ("overlap", "hidden") else scale
            assert np.abs(found - value).max() < 1e-6 * scale, (cell, name)
    one = table.loc[[(1, 1.0)]]
    np.testing.assert_allclose(one[influence_table.PARTS].sum(axis=1), one["steps"], rtol=1e-6)
    np.testing.assert_array_equal(one["start"], one["steps"])
    longer = table.loc[[(3, 1.0)]]  # the two predictions are not one and the same
    assert (np.abs(longer["start"] / longer["steps"] - 1) > 1e-4).all()
    assert longer[influence_table.PARTS].isna().all().all()


def test_first_order_steps_approach_what_happens(start, tmp_path):
    """A tenth of the learning rate, a tenth of the relative error, of both predictions; in fp64."""
    errors = {name: [] for name in ("steps", "start")}
    for lr in (1e-5, 1e-6, 1e-7):
        table = run(start, tmp_path / str(lr), exact=True, lr=lr, influence=WANTED)[0]["influence"]
        table = table[(table["updates"] == 3) & (table["step"] == 2)]
        for name, found in errors.items():
            apart = np.linalg.norm(table[name] - table["measured"])
            found.append(apart / np.linalg.norm(table["measured"]))
    for found in errors.values():
        assert found[-1] < 1e-2
        np.testing.assert_allclose(np.divide(found[:-1], found[1:]), 10, rtol=0.3)


@pytest.mark.parametrize("stop", [3, 4, 5, 8])
def test_a_stopped_run_ends_with_the_same_table(start, tmp_path, monkeypatch, stop):
    """Stopped within a window, at its end, between windows: the same table, bit for bit."""
    common = {"influence": WANTED, "checkpoint_every": 100}
    whole, _ = run(start, tmp_path / "whole", **common)
    original, calls = loop.update, []

    def update(*args):
        if args[3:]:  # the run's own, which draws; looking ahead does an update, too
            calls.append(1)
            if len(calls) == stop:
                signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(SystemExit):
        run(start, tmp_path / "broken", **common)
    again, facts = run(start, tmp_path / "broken", **common)
    assert facts["attempts"] == 2 and facts["repeated"] == 0
    for name in ("influence", "trajectory"):
        pd.testing.assert_frame_equal(whole[name], again[name], check_exact=True)


def test_residual_weights_of_other_losses(start):
    """SFT: 1/rows; a loss of logits: ±1/rows; y⁻ left out of the gradient: 0."""
    learner, rows, _ = start("sft")
    assert influence.residual_weights(learner, rows, [0, 1]) == pytest.approx([0.5, 0.5])
    learner, rows, _ = start("orpo", negative="none")
    found = influence.residual_weights(learner, rows, [0, 1])
    assert min(found[::2]) > 0 and found[1::2] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, r"a window of 3 updates after 2 of warm-up does not end within the run's"),
        ({"direction": "random"}, r"direction = 'random': expected loss in runs with influence"),
    ],
)
def test_what_cannot_be_followed_is_refused(start, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(start, tmp_path, influence=WANTED, **changes)
