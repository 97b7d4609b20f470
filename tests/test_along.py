"""Influence along a run: the meter against influence functions called by hand, what it leaves
untouched, what survives an interruption, and the scores on data with known ones."""

import signal
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from learning_dynamics import along, influence, models
from learning_dynamics import finetune as loop
from learning_dynamics.claims import CLAIMS, mechanism, report
from learning_dynamics.errors import InputError
from learning_dynamics.figures import influence as drawing
from learning_dynamics.figures import style
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
    assert list(table.columns) == along.COLUMNS and "influence" not in plain
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
    np.testing.assert_allclose(one[along.PARTS].sum(axis=1), one["steps"], rtol=1e-6)
    np.testing.assert_array_equal(one["start"], one["steps"])
    longer = table.loc[[(3, 1.0)]]  # the two predictions are not one and the same
    assert (np.abs(longer["start"] / longer["steps"] - 1) > 1e-4).all()
    assert longer[along.PARTS].isna().all().all()


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


# -- scores ----------------------------------------------------------------------------------


def synthetic(seed=0, examples=6, kinds=("chosen", "rejected", "irr_hum"), steps=(20, 140)):
    """A table as a run leaves it: random predictions, measured beside them with noise and a shift
    by type; one step also at four times its length."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in steps:
        for updates, factor in ((1, 1.0), (1, 4.0), (4, 1.0)):
            for number, kind in enumerate(kinds):
                for example in range(examples):
                    value = factor * rng.normal()
                    row = {"step": step, "updates": updates, "factor": factor, "lr": 1e-4,
                           "example_id": f"e{example}", "response_type": kind, "n_tokens": 5,
                           "steps": value, "start": 2 * value,
                           "measured": 0.8 * value + number + 0.3 * rng.normal()}  # fmt: skip
                    if factor == 1:
                        row |= {"overlap": abs(value), "hidden": row["measured"] / (number - 5)}
                    if (updates, factor) == (1, 1):
                        row |= {"through_chosen": value + 1, "through_rejected": -1.0, "rest": 0.0}
                    rows.append(row)
    return pd.DataFrame(rows).reindex(columns=along.COLUMNS)


def plainly(table, predictor):
    """The scores as the page defines them, one window, L and factor, by loops over types."""
    left = apart = still = cross = spread = total = said = 0.0
    for _, rows in table.groupby("response_type"):
        m, p = rows["measured"].to_numpy(), rows[predictor].to_numpy()
        left += ((m - p) ** 2).sum()
        apart += ((m - m.mean()) ** 2).sum()
        still += (m**2).sum()
        cross += ((m - m.mean()) * (p - p.mean())).sum()
        spread += ((p - p.mean()) ** 2).sum()
        total, said = total + m.sum(), said + p.sum()
    return [1 - left / apart, 1 - left / still, cross / spread, said / total]


def test_scores_are_those_of_the_definitions():
    """Single windows, types and factors by loops; one seed and, as their mean with a t-interval,
    three."""
    from learning_dynamics.dynamics import seeds_interval

    runs = {seed: synthetic(seed) for seed in (0, 1, 2)}
    cell = {"role": "dpo", "step": 20, "updates": 1, "factor": 4.0, "response_type": "all"}
    for used in ([0], [0, 1, 2]):
        table = along.scores({"dpo": {seed: runs[seed] for seed in used}}).set_index([*cell])
        for predictor in ("steps", "start"):
            row = table.loc[[tuple(cell.values())]].set_index("predictor").loc[predictor]
            truth = []
            for seed in used:
                one = runs[seed]
                here = one[(one["step"] == 20) & (one["updates"] == 1) & (one["factor"] == 4)]
                truth.append(plainly(here, predictor))
            for name, values in zip(along.SCORES, np.transpose(truth), strict=True):
                assert row[name] == pytest.approx(np.mean(values), rel=1e-9)
                if len(used) > 1:
                    known = seeds_interval(values)
                    ends = row[[f"{name}_low", f"{name}_high"]].tolist()
                    assert ends == pytest.approx([known.low, known.high])
                else:
                    assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        row = table.xs("all", level="step").xs("irr_hum", level="response_type")
        assert (row[row["predictor"] == "steps"]["points"] == 12).all()
    assert table["lr"].unique().tolist() == [1e-4, 4e-4]


def test_scores_of_known_predictions():
    """Exact: 1, slope and share 1; half of what happens: 1 − 1/4 of the square, slope 2, share one
    half; each type's own mean: R² 0."""
    table = synthetic()
    mean = table.groupby(along.CELL)["measured"].transform("mean")
    centred = table.assign(measured=table["measured"] - mean)
    for known, wanted in (
        (table.assign(steps=table["measured"]), [1, 1, 1, 1]),
        (centred.assign(steps=centred["measured"] / 2), [0.75, 0.75, 2, np.nan]),
        (table.assign(steps=table["measured"] / 2), [np.nan, 0.75, 2, 0.5]),
        (table.assign(steps=mean), [0, np.nan, np.nan, 1]),
    ):
        found = along.scores({"sft": {0: known}})
        found = found[found["predictor"] == "steps"]
        for name, value in zip(along.SCORES, wanted, strict=True):
            if not np.isnan(value):
                assert found[name].to_numpy() == pytest.approx(value, abs=1e-9), name


def test_a_baseline_gets_its_best_scale_per_type():
    """What is proportional to the truth, with another factor for every type, explains all."""
    found = along.scores({"sft": {0: synthetic(), 1: synthetic(1)}}).set_index("predictor")
    assert found.loc["hidden", "r2"].to_numpy() == pytest.approx(1)
    assert (found.loc["overlap", "r2"] < 0.9).all()
    assert found.loc[along.BASELINES, ["slope", "share"]].isna().all().all()
    assert set(found.loc["hidden", "factor"]) == {1.0}


def test_a_seed_that_lacks_a_type_does_without():
    """Its other types are scored; the intervals of few prompts are finite."""
    short = synthetic(1, kinds=("chosen", "rejected"))
    found = along.scores({"dpo": {0: synthetic(), 1: short}})
    here = found[(found["response_type"] == "chosen") & (found["predictor"] == "steps")]
    alone = along.scores({"dpo": {1: short}, "sft": {0: synthetic()}})
    alone = alone[(alone["response_type"] == "chosen") & (alone["predictor"] == "steps")]
    both = alone.groupby("role", sort=False)["r2"].apply(np.array)
    assert here["r2"].to_numpy() == pytest.approx((both["dpo"] + both["sft"]) / 2)
    few = along.scores({"dpo": {0: synthetic(examples=3)}})
    few = few[(few["predictor"] == "steps") & (few["response_type"] == "all")]
    assert np.isfinite(few[["r2_low", "r2_high", "slope_low", "slope_high"]]).all().all()
    assert (few["r2_low"] > -1e3).all()


def test_parts_add_up_to_what_is_measured():
    found = along.parts({"dpo": {seed: synthetic(seed) for seed in (0, 1)}})
    wide = found.pivot(index=["step", "response_type"], columns="part", values="value")
    assert len(wide) == 3 * 3
    assert wide[[*along.PARTS, "higher"]].sum(axis=1).to_numpy() == pytest.approx(
        wide["measured"].to_numpy()
    )
    assert (wide["through_rejected"] == -1).all() and (wide["rest"] == 0).all()
    table = synthetic(0)
    one = table[(table["updates"] == 1) & (table["factor"] == 1)]
    alone = along.parts({"dpo": {0: table}})
    row = alone[(alone["step"] == 20) & (alone["part"] == "measured")].iloc[0]
    here = one[(one["step"] == 20) & (one["response_type"] == row["response_type"])]
    assert row["value"] == pytest.approx(here["measured"].mean())
    assert row["low"] < row["value"] < row["high"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figure_says_the_scores(tmp_path, seeds):
    """With and without extend, from tables as they are read again; its numbers are the table's."""
    study = {"study": "s", "dataset": "d", "model": "m", "seeds": list(range(seeds))}
    runs = {role: {k: synthetic(k + n) for k in study["seeds"]}
            for n, role in enumerate(["sft", "dpo", "extend"][: 2 + (seeds > 1)])}  # fmt: skip
    paths = [tmp_path / f"{name}.csv" for name in ("scores", "parts")]
    for path, table in zip(paths, (along.scores(runs), along.parts(runs)), strict=True):
        table.to_csv(path, index=False)
    scores, parts = map(pd.read_csv, paths)
    figure = drawing.draw(study, runs, scores, parts)
    texts = [text.get_text() for text in figure.findobj(Text)]
    cell = scores[(scores["step"] == "all") & (scores["response_type"] == "all")]
    cell = cell[(cell["updates"] == 1) & (cell["factor"] == 1) & (cell["predictor"] == "steps")]
    assert len(cell) == len(runs)
    for value in cell["r2"]:
        assert any(text.startswith(f"R² = {value:.2f}".replace("-", "−")) for text in texts)
    style.save(figure, [tmp_path / "a.pdf"])
    assert (tmp_path / "a.pdf").stat().st_size > 10_000


# -- claims ----------------------------------------------------------------------------------


def followed(share, seed=0, kinds=(*KINDS, "irr_hum", "random_nonhum")):
    """What a run's windows left, of which first-order steps predict a share."""
    rng = np.random.default_rng(seed)
    rows = []
    for step, updates in ((20, 1), (20, 16), (140, 1), (140, 16)):
        for kind in kinds:
            for example in range(3):
                pull = {"chosen": 3.0, "rejected": -5.0}.get(kind, -2.0)
                value = pull + 0.1 * rng.normal()
                rows.append({"step": step, "updates": updates, "factor": 1.0, "lr": 1e-4,
                             "example_id": f"e{example}", "response_type": kind, "n_tokens": 4,
                             "measured": value, "steps": share * value})  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=along.COLUMNS)


CLAIM = {claim.id: claim for claim in CLAIMS}


def test_claims_say_what_the_first_order_predicts():
    """Where steps predict 70% of everything, 70% of every linear part; of two shares, the ratio of
    sums with the interval of its linearisation; by the longest windows alone."""
    from learning_dynamics.dynamics import t_quantile

    runs = {role: {seed: followed(0.7, seed) for seed in (0, 1, 2)} for role in ("sft", "dpo")}
    found = {name: mechanism.shares(claim, runs) for name, claim in CLAIM.items()}
    linear = {"C1": 2, "C3": 1, "C11": 1, "C14": 4, "S1": 1, "S2": 2}
    for name, count in linear.items():
        assert len(found[name]) == count, name
        for row in found[name].values():
            assert row["first_order"] == pytest.approx(0.7)
            assert row["first_order_low"] == pytest.approx(0.7)
    assert "others" in found["C11"] and "y⁺" in found["S2"]
    for name in ("C2", "C5", "C7", "C8", "C9", "C12", "C15", "C16a", "C17", "O1"):
        assert found[name] == {}, name
    shares = (0.5, 0.6, 1.0)
    runs = {"dpo": {seed: followed(share, seed) for seed, share in enumerate(shares)}}
    sums = []
    for table in runs["dpo"].values():
        rows = table[(table["updates"] == 16) & (table["response_type"] == "rejected")]
        sums.append(rows[["steps", "measured"]].sum().to_numpy() / 3)
    predicted, measured = np.transpose(sums)
    ratio = predicted.sum() / measured.sum()
    left = predicted - ratio * measured
    half = t_quantile(2) * left.std(ddof=1) / np.sqrt(3) / abs(measured.mean())
    row = mechanism.shares(CLAIM["C14"], runs)["rejected"]
    assert list(row.values()) == pytest.approx([ratio, ratio - half, ratio + half])
    assert report.first_order(row).startswith(f"{ratio:.0%} [")


def test_a_share_of_nothing_is_not_given():
    """One seed; seeds that disagree on the sign; no run followed."""
    runs = {"dpo": {0: followed(0.7)}}
    assert mechanism.shares(CLAIM["C14"], runs) == mechanism.shares(CLAIM["C14"], {}) == {}
    flipped = followed(0.7, 1).assign(measured=lambda table: -table["measured"])
    assert mechanism.shares(CLAIM["C14"], {"dpo": {0: followed(0.7), 1: flipped}}) == {}
    assert report.first_order(dict.fromkeys(mechanism.NAMES, np.nan)) == "–"
