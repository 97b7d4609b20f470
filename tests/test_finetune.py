"""The loop: runs that end the same however often they are stopped, for every algorithm."""

import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP

from learning_dynamics import finetune as loop
from learning_dynamics import models
from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.errors import InputError
from learning_dynamics.judge import judge_of
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.policy_rows import PolicyRows
from learning_dynamics.reference import reference_logps
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import rows_of_update, training_rows
from learning_dynamics.scoring import Engine
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import prepared
from learning_dynamics.trajectory import COLUMNS, probe_trees, update_of_epoch
from tests.conftest import COMPUTE, TOYWORLD, run_spec

WRITING = {"sample_tokens": 12, "temperature": 1.0, "next_turn": "\n\nHuman:"}
JUDGE = judge_of({"provider": "toyworld", "world_seed": TOYWORLD["world_seed"]})
UPDATES = 6  # two passes over 12 rows, four at a time


@pytest.fixture(autouse=True)
def restore_sigterm():
    """The loop installs a handler; tests leave none behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def reference(tiny, toy_pairs):
    """Reference log-probs of the tiny model."""
    return reference_logps(Engine(deepcopy(tiny[0])), toy_pairs, Codec(tiny[1], 256, 128), COMPUTE)


@pytest.fixture
def run(tiny, toy_pairs, reference, tmp_path):
    """Function that runs one finetuning from the tiny model: (tables, counters, trained model)."""
    model, tokenizer = tiny
    probed = toy_pairs.iloc[[0, 1, 12]]
    probes = pd.concat(
        [
            probed.assign(response_type=kind, response=probed[kind])
            for kind in ("chosen", "rejected")
        ]
    )
    models.save(model, tokenizer, tmp_path / "init")

    def start(folder="resume", keep=(), algorithm="dpo", **changes):
        spec = run_spec(algorithm, **changes)
        codec = Codec(tokenizer, 256, 128)
        rows = training_rows(toy_pairs, codec, spec, 0, reference, probes)
        trained = prepared(tmp_path / "init", tokenizer, spec["lora"], 0, deepcopy(model),
                           spec["checkpointing"])  # fmt: skip
        learner = loop.Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
        written = None
        if spec["rows"] in ("self-play", "on-policy"):
            train = toy_pairs[toy_pairs["split"] == "train"]
            frozen = Engine(deepcopy(model)) if spec["rows"] == "on-policy" else None
            written = PolicyRows(train, rows, codec, spec, 0, WRITING, JUDGE, frozen)
        tables, counters = loop.finetune(
            learner, rows, probe_trees(probes, codec), 0, Checkpoints(tmp_path / folder, "mark"),
            list(keep), written,
        )  # fmt: skip
        learner.save(tmp_path / f"{folder}-model")
        return tables, counters, trained.model

    return start


def same_weights(one, two):
    """Whether two models are equal bit for bit."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# -- the loop --------------------------------------------------------------------------------


def test_dpo_starts_at_margin_zero_and_loss_log_two(run):
    """Policy and reference are the same model before the first update."""
    first = run()[0]["training"].iloc[0]
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_tables_hold_the_whole_run(run):
    """Counters, warm-up and probed states as configured; the margin falls apart from 0."""
    tables, counters, _ = run(probe_every=4)
    trajectory, training = tables["trajectory"], tables["training"]
    assert list(trajectory.columns) == COLUMNS
    assert trajectory["step"].unique().tolist() == [0, 4, 6]
    assert (trajectory.groupby("step").size() == 6).all()
    assert training["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert training["examples"].tolist() == [4, 8, 12, 16, 20, 24]
    assert training["epoch"].iloc[-1] == 2 and trajectory["epoch"].max() == 2
    expected = [1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3, 1e-3]
    assert training["lr"].tolist() == pytest.approx(expected)
    assert training["loss"].iloc[-1] < training["loss"].iloc[0]
    assert counters["updates"] == UPDATES and counters["training_rows"] == 12


def interrupt(monkeypatch, how, at):
    """Make the loop fail at update ``at``: by SIGTERM, in the update, or in a probe evaluation."""
    holder, name = (loop.trajectory, "evaluation") if how == "probe" else (loop, "update")
    original, calls = getattr(holder, name), []

    def once(*args):
        calls.append(args)
        if len(calls) == at:
            if how != "sigterm":
                raise RuntimeError("killed")
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(holder, name, once)


@pytest.mark.parametrize(("how", "at", "repeated"), [
    ("sigterm", 1, 0), ("sigterm", 3, 0), ("sigterm", UPDATES, 0),
    ("update", 1, 0), ("update", 4, 1), ("update", UPDATES, 1), ("probe", 3, 1),
])  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_bits(run, monkeypatch, how, at, repeated):
    """The uninterrupted run: both tables and the weights, but for the speed; what was done twice is
    counted."""
    whole, _, model = run("whole")
    with monkeypatch.context() as patched:
        interrupt(patched, how, at)
        error = SystemExit if how == "sigterm" else RuntimeError
        with pytest.raises(error, match="143" if how == "sigterm" else "killed"):
            run()
    tables, counters, resumed = run()
    assert (counters["attempts"], counters["repeated"]) == (2, repeated)
    for name in whole:
        one, two = (t[name].drop(columns="rows_per_s", errors="ignore") for t in (whole, tables))
        pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True),
                                      check_exact=True)  # fmt: skip
    assert same_weights(model, resumed)


def test_a_kept_epoch_is_the_end_of_the_run_that_stops_there(run, tmp_path):
    """The state of a long run at update n, against a run of n updates; loadable from its folder."""
    run("long", keep=["1", "2"])
    for epoch in (1, 2):
        short = run(f"short{epoch}", epochs=epoch)[2]
        kept, _ = models.load(tmp_path / "long" / f"epoch{epoch}")
        assert same_weights(kept, short)


def test_an_epoch_trains_every_row_once(run, toy_pairs, tiny):
    """The recorded rows: the order that rows_of_update gives from update 0 on."""
    rows = training_rows(toy_pairs, Codec(tiny[1], 256, 128), run_spec("sft"), 0, None)
    seen = run(epochs=1)[0]["training"]["rows"].tolist()
    assert seen == [rows_of_update(u, rows, 4, 0) for u in range(3)]
    assert sorted(number for numbers in seen for number in numbers) == list(range(12))


def test_extend_counts_both_rows_of_a_pair(run):
    """A pass over 12 pairs is 24 rows: 6 updates of 4."""
    tables, counters, _ = run(algorithm="sft", target="extend", epochs=1)
    assert counters["updates"] == 6 and counters["training_rows"] == 24
    assert tables["trajectory"]["epoch"].max() == 1
    assert tables["training"]["margin"].isna().all()


def test_a_diverged_run_says_so(run):
    """A loss that is not finite is bad input, with the learning rate in the message."""
    with pytest.raises(InputError, match=r"lr = 1e\+30.*expected a finite loss"):
        run(algorithm="sft", lr=1e30)


@given(st.floats(0.01, 20), st.integers(1, 900), st.integers(1, 32))
def test_update_of_epoch_is_the_nearest_one(epoch, rows, size):
    """Rows consumed and asked for differ by half a batch at most; never zero updates."""
    update = update_of_epoch(epoch, rows, size)
    assert update >= 1
    assert update == 1 or abs(update * size - epoch * rows) <= size / 2 + 1e-6


@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if a.rows == "pairs"])
def test_every_algorithm_trains(run, name):
    """A run of every algorithm to its end; those that compare with a reference start where policy
    and reference are one."""
    tables, _, _ = run(algorithm=name, epochs=1)
    training = tables["training"]
    assert np.isfinite(training[["loss", "grad_norm"]]).all(axis=None)
    assert (training["grad_norm"] > 0).all()
    if ALGORITHMS[name].reference and len(ALGORITHMS[name].responses) == 2:
        assert training["margin"].iloc[0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["dpo", "kto", "orpo", "gate_dpo_tokens", "npo"])
def test_accumulation_changes_nothing_but_rounding(run, name):
    """One piece against two and four: same losses, gradients and trajectory."""
    whole = run("whole", algorithm=name, optimizer="sgd")[0]
    for pieces in (2, 4):
        parts = run(f"parts{pieces}", algorithm=name, optimizer="sgd", accumulate=pieces)[0]
        for table, columns in (("training", ["loss", "grad_norm", "residual_norm_chosen"]),
                               ("trajectory", ["logp", "entropy"])):  # fmt: skip
            np.testing.assert_allclose(parts[table][columns], whole[table][columns], rtol=2e-5)


def test_a_batch_must_have_a_row_for_each_piece(run):
    """More pieces than rows is bad input."""
    with pytest.raises(InputError, match=r"batch_size = 4.*accumulate = 5"):
        run(accumulate=5)


def test_checkpointing_recomputes_and_changes_nothing(run, monkeypatch):
    """Every update runs each layer's forward pass twice, and every number stays as it was."""
    calls = []
    original = GPTNeoXMLP.forward
    monkeypatch.setattr(GPTNeoXMLP, "forward", lambda self, x: calls.append(1) or original(self, x))
    whole = run("whole")[0]
    plain = len(calls)
    lean = run("lean", checkpointing=True)[0]
    layers = 2
    assert len(calls) - plain == plain + UPDATES * layers
    np.testing.assert_allclose(lean["trajectory"]["logp"], whole["trajectory"]["logp"], rtol=1e-6)


LORA = {"rank": 2, "alpha": 4, "targets": "all-linear"}


def test_adapters_alone_are_trained_and_merged(run, tiny, tmp_path):
    """With LoRA the base weights stay; the saved model loads without peft and scores what the last
    probe evaluation scored; stopped and resumed it ends the same."""
    tables, _, model = run("lora", lora=LORA, lr=1e-2)
    base = dict(tiny[0].named_parameters())
    for name, weight in model.named_parameters():
        if "lora" not in name:
            assert torch.equal(weight, base[name.replace(".base_layer", "")])
    start, end = (tables["trajectory"].query(f"step == {s}")["logp"].mean() for s in (0, UPDATES))
    assert abs(end - start) > 0.5
    saved, _ = models.load(tmp_path / "lora-model")
    assert saved.num_parameters() == tiny[0].num_parameters()
    child = prepared(tmp_path / "lora-model", tiny[1], None, 0)
    for name, weight in child.model.named_parameters():
        changed = not torch.equal(weight, base[name])
        assert changed == (
            "query_key_value.weight" in name or ("dense" in name and "weight" in name)
        )


def test_unknown_adapter_targets_are_named(run):
    """A module that the model does not have."""
    with pytest.raises(InputError, match=r"lora.targets = \['nothing'\]"):
        run(lora={**LORA, "targets": ["nothing"]})


def test_adapters_resume(run, monkeypatch):
    """A LoRA run that is stopped ends as one that is not."""
    whole = run("whole", lora=LORA)[0]
    with monkeypatch.context() as patched:
        interrupt(patched, "sigterm", 3)
        with pytest.raises(SystemExit):
            run(lora=LORA)
    again = run(lora=LORA)[0]
    pd.testing.assert_frame_equal(again["trajectory"], whole["trajectory"], check_exact=True)


@pytest.mark.parametrize(("name", "at"), [("spin", 3), ("spin", 5), ("online_dpo", 4)])
def test_runs_on_the_policys_own_rows_resume(run, monkeypatch, name, at):
    """Self-play and on-policy, stopped in a period and at its start: the same texts, the same bits;
    SPIN's margin is 0 at the start of every period, where the reference is the policy."""
    whole = run("whole", algorithm=name)[0]
    assert whole["written"]["period"].unique().tolist() == [0, 1]
    margins = whole["training"]["margin"]
    assert abs(margins[0]) < 1e-4 < abs(margins[2])
    assert (abs(margins[3]) < 1e-4) == (name == "spin")
    with monkeypatch.context() as patched:
        interrupt(patched, "update", at)
        with pytest.raises(RuntimeError, match="killed"):
            run(algorithm=name)
    tables = run(algorithm=name)[0]
    for table in ("trajectory", "training"):
        one, two = (t[table].drop(columns="rows_per_s", errors="ignore") for t in (whole, tables))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    columns = ["period", "row", "chosen", "rejected", "tie"]
    pd.testing.assert_frame_equal(whole["written"][columns], tables["written"][columns])
