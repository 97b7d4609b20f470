"""The proxies from trajectories against the formulas spelled out, and against the published run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import inputs, proxies, published
from learning_dynamics import response_space as space
from learning_dynamics.errors import InputError
from learning_dynamics.figures import confidence, entk_proxies, response_space, style
from learning_dynamics.frontier import seeds_interval
from tests.conftest import ROOT

KINDS = ["chosen", "rejected", "irr_train", "random_permute", "random_nonhum"]
RUNS = ROOT.parent / "shared/data/published-runs"
LOGITS = 50


def trajectory(seed=0, kinds=KINDS, steps=(0, 5, 10, 15), examples=4, drift=None):
    """A random trajectory; ``drift`` is the change of ``logp`` per step by type."""
    rng = np.random.default_rng(seed)
    rows = []
    for example in range(examples):
        for kind in kinds:
            logp = rng.normal(-30, 5)
            for step in steps:
                logp += rng.normal() if drift is None else drift[kind] * 5 * (step > 0)
                rows.append(
                    {
                        "step": step, "split": "train", "example_id": f"e{example}",
                        "response_type": kind, "logp": logp, "n_tokens": 10,
                        "prob_norm": rng.uniform(0.2, 0.9), "residual_norm": rng.uniform(0.3, 1.2),
                        "logp_argmax": rng.normal(-9, 1), "logp_complement": rng.normal(-4, 1),
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(prob_norm_sq=table["prob_norm"] ** 2 + 0.01)


def measured(seed=0, kinds=KINDS, steps=(0, 5, 10)):
    """A random proxies.parquet."""
    rng = np.random.default_rng(seed)
    rows = [(s, f"e{e}", k, rng.uniform(1e-4, 1e-2), rng.normal())
            for s in steps for e in range(2) for k in kinds]  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "example_id", "response_type", *proxies.QUANTITIES])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_smoothing_in_closed_form(values):
    """s_t = 0.9^t x₀ + Σ 0.1 · 0.9^(t−i) x_i."""
    found = proxies.smoothed(values)
    for t in range(len(values)):
        terms = [0.1 * 0.9 ** (t - i) * values[i] for i in range(1, t + 1)]
        assert found[t] == pytest.approx(0.9**t * values[0] + sum(terms), abs=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_as_published_is_the_notebooks_formula(seed):
    """Written out in loops: norm over examples, root of the mean A_o of the observed type, mean p_e
    of random_nonhum, both at the later evaluation."""
    table = trajectory(seed)
    wide = table.set_index(["step", "example_id", "response_type"])
    steps, examples = [0, 5, 10, 15], [f"e{n}" for n in range(4)]
    for kind in KINDS:
        found = proxies.as_published(table, kind, LOGITS)
        assert found["step"].tolist() == steps[1:]
        for before, after, row in zip(steps, steps[1:], found.itertuples(), strict=False):
            delta, a_o, p_e = [], 0.0, 0.0
            for example in examples:
                now = wide.loc[(after, example, kind)]
                delta.append(now["logp"] - wide.loc[(before, example, kind), "logp"])
                a_o += (LOGITS * now["prob_norm"] ** 2 + LOGITS - 2) ** 0.5 / 4
                p_e += wide.loc[(after, example, "random_nonhum"), "residual_norm"] / 4
            assert row.lbk == pytest.approx(sum(d * d for d in delta) ** 0.5 / a_o**0.5 / p_e)
            assert row.sign_delta == pytest.approx(sum(delta) / 4 / a_o**0.5 / p_e)


def test_the_published_dpo_run():
    """Straight from the authors' npy with their metric positions: equal curves; and what the paper
    says of them: about +0.5 to 1 accumulated for y⁺, strongly negative for all others."""
    folder = RUNS / "prob_pythia410m_dpo"
    if not folder.is_dir():
        pytest.skip(f"the published runs are not here: {folder}")
    table = proxies.curves({"dpo": {0: published.import_run(folder)}}, {}, {})
    keys = list(json.loads((folder / "prob_train_metrics.json").read_text().split("\n")[0]))
    npy = np.load(folder / "logp_npy_all_chosen.npy")
    for kind in ("chosen", "rejected", "random_permute"):
        logp = npy[:, keys.index(f"logps_eval_prob_train/{kind}")]
        delta = logp[1:] - logp[:-1]
        scale = np.sqrt(npy[1:, keys.index("A_o")].mean(-1)) * npy[1:, keys.index("p_e")].mean(-1)
        for quantity, truth in (("lbk", np.linalg.norm(delta, axis=-1)),
                                ("sign_delta", delta.mean(-1))):  # fmt: skip
            rows = table[(table["observed"] == kind) & (table["quantity"] == quantity)]
            np.testing.assert_allclose(rows["value"], truth / scale, rtol=1e-9)
    sums = proxies.accumulated(table)
    sums = sums[sums["quantity"] == "sign_delta"].set_index("observed")["value"]
    assert 0.5 < sums["chosen"] < 1 and (sums.drop("chosen") < -1).all()


def test_means_alone_have_a_sign_and_no_norm():
    """Published files without per-probe values; a type that lacks A_o or any value has nothing."""
    table = trajectory(examples=1).assign(example_id=None, A_o=10.0)
    found = proxies.as_published(table, "chosen")
    assert found["lbk"].isna().all() and found["sign_delta"].notna().all()
    assert proxies.as_published(table.assign(logp=np.nan), "chosen") is None
    assert proxies.as_published(table.assign(residual_norm=np.nan), "chosen") is None
    assert proxies.as_published(table.drop(columns="A_o"), "chosen") is None
    two = table["response_type"].isin(["chosen", "rejected"])
    partly = table.assign(A_o=table["A_o"].where(two))
    assert proxies.as_published(partly, "irr_train") is None  # two to choose from
    one = table.assign(A_o=table["A_o"].where(table["response_type"] == "chosen"))
    assert proxies.as_published(one, "irr_train") is not None  # all share the only one


def whole(updates=("chosen", "rejected", "dpo"), seeds=(0, 1, 2)):
    """Curves of random runs, with what they were made from."""
    runs = {u: {s: trajectory(10 * n + s) for s in seeds} for n, u in enumerate(updates)}
    single = {u: {s: measured(10 * n + s) for s in seeds} for n, u in enumerate(updates[:2])}
    return runs, single, proxies.curves(runs, single, dict.fromkeys(seeds, LOGITS))


def test_accumulated_and_heatmap_by_hand():
    """Plain sums as defined, sums of the smoothed curve as published; columns divided by their
    range; t-intervals over seeds."""
    runs, single, table = whole()
    sums = proxies.accumulated(table).set_index(["update", "observed", "definition", "quantity"])
    by_hand = [t[t["response_type"] == "irr_train"].groupby("step")["lbk"].mean().sum()
               for t in single["rejected"].values()]  # fmt: skip
    row = sums.loc[("rejected", "irr_train", "as_defined", "lbk")]
    expected = seeds_interval(by_hand)
    assert row[["value", "low", "high"]].tolist() == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    assert ("dpo", "chosen", "as_defined", "lbk") not in sums.index
    columns = {}
    for kind in KINDS:
        columns[kind] = []
        for run in runs["dpo"].values():
            ema = proxies.smoothed(proxies.as_published(run, kind, LOGITS)["sign_delta"])
            columns[kind].append(ema.sum())
        found = sums.loc[("dpo", kind, "as_published", "sign_delta")]
        assert found["value"] == pytest.approx(np.mean(columns[kind]))
    values = pd.DataFrame(columns)
    values = values.div(values.max(axis=1) - values.min(axis=1), axis=0)
    heat = proxies.heatmap(runs, table)
    assert list(heat.columns) == ["update", "observed", "definition", "value", "low", "high",
                                  "seeds"]  # fmt: skip
    assert set(heat["update"]) == {"chosen", "rejected", "dpo"} and (heat["seeds"] == 3).all()
    heat = heat.set_index(["update", "observed", "definition"])
    for kind in KINDS:
        found = heat.loc[("dpo", kind, "as_published")]
        assert found["value"] == pytest.approx(values[kind].mean())
        half = 4.302652729749464 * values[kind].std() / 3**0.5
        assert found["high"] - found["value"] == pytest.approx(half, rel=1e-5)
        moved = [t[t["response_type"] == kind].groupby("step")["logp"].mean()
                 for t in runs["dpo"].values()]  # fmt: skip
        change = np.mean([m.iloc[-1] - m.iloc[0] for m in moved])
        assert heat.loc[("dpo", kind, "change"), "value"] == pytest.approx(change)


@given(st.permutations(range(6)))
def test_rank_correlation(order):
    """Against 1 − 6 Σ d² / (n (n² − 1)), which holds without ties."""
    one, two = pd.Series(range(6)), pd.Series(order)
    expected = 1 - 6 * ((one - two) ** 2).sum() / (6 * 35)
    assert proxies.rank_correlation(one**3, two * 2.0) == pytest.approx(expected)


def test_agreement_finds_the_kernel_that_made_the_proxies():
    """Proxies that are monotone in the kernel have ρ = 1, their opposite −1."""
    _, _, table = whole(seeds=(0, 1))
    sums = proxies.accumulated_by_seed(table)
    kernels = {}
    for seed in (0, 1):
        part = sums[(sums["seed"] == seed) & (sums["definition"] == "as_published")]
        wide = part.pivot(index=["update", "observed"], columns="quantity", values="value")
        kernels[seed] = wide.reset_index().assign(
            total=lambda t: t["lbk"] ** 3, per_position=lambda t: -t["lbk"],
        )  # fmt: skip
    found = proxies.agreement(kernels, table)
    keys = ["setting", "definition", "proxy", "kernel", "over"]
    rho = found.set_index(keys)["spearman"]
    for setting in (("one_step", "as_defined"), ("run", "as_published")):
        for over in ("all", "within"):
            assert rho[(*setting, "lbk", "total", over)] == pytest.approx(1)
            assert rho[(*setting, "lbk", "per_position", over)] == pytest.approx(-1)
    assert abs(rho["run", "as_defined", "lbk", "total", "all"]) < 0.999
    pairs = found.set_index(keys)["pairs"]
    assert pairs["run", "as_defined", "lbk", "total", "all"] == 10  # two of three were measured
    assert (found["seeds"] == 2).all()


# -- response space --------------------------------------------------------------------------


def profile(seed=0, scale=1.0):
    """Influence profiles with three clear groups."""
    rng = np.random.default_rng(seed)
    kinds = ["chosen", "rejected", "chosen_initial", "irr_train", "irr_test", "irr_hum",
             "random_permute", "random_nonhum"]  # fmt: skip
    centres = {"Y_IF": [0, 0, 1], "Y_non-IF": [2, -2, 0], "Y_non-hum": [-3, -1, -3]}
    rows = [np.array(centres[space.sub_space(k)]) + 0.1 * scale * rng.normal(size=3) for k in kinds]
    return pd.DataFrame(rows, index=kinds, columns=["chosen", "rejected", "dpo"])


def test_placement_keeps_distances_and_fixes_signs():
    """In two dimensions nothing is lost: distances are those of the standardised rows. chosen is at
    the right, rejected above, whatever the sign of the data."""
    flat = profile()[["chosen", "rejected"]]
    for one in (flat, -flat):
        points, share = space.placement(one)
        assert share.sum() == pytest.approx(1)
        assert points[0, 0] > 0 and points[1, 1] > 0
        rows = space.standardised(one)
        for i in range(len(rows)):
            apart = (np.linalg.norm(one - one[i], axis=1) for one in (points, rows))
            np.testing.assert_allclose(*apart, atol=1e-9)
    points, share = space.placement(flat[["chosen"]])
    assert (points[:, 1] == 0).all() and share.tolist() == pytest.approx([1, 0])


@given(st.floats(0, 6.28), st.booleans())
def test_procrustes_undoes_a_rotation(angle, flip):
    """And a reflection."""
    points, _ = space.placement(profile())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = points @ turn * ([1, -1] if flip else [1, 1])
    np.testing.assert_allclose(space.laid_over(turned, points), points, atol=1e-9)


def test_groups_are_found_where_there_are_any():
    """Clear groups: every neighbour is one's own. Labels that say nothing: about chance."""
    clear = space.response_space({s: profile(s) for s in range(3)})
    assert clear["own_sub_space"].all() and (clear["silhouette"] > 0.5).all()
    assert set(clear["seed"]) == {"all", 0, 1, 2}
    kinds = list(profile().index)
    chance = space.expected_by_chance(kinds)
    assert chance == pytest.approx((3 * 2 + 3 * 2 + 2 * 1) / (8 * 7))
    rng = np.random.default_rng(0)
    noise = [pd.DataFrame(rng.normal(size=(8, 5)), index=kinds) for _ in range(200)]
    share = np.mean([space.response_space({0: n})["own_sub_space"].mean() for n in noise])
    assert share == pytest.approx(chance, abs=0.03)


def test_profiles_are_changes_per_token():
    """A drift of 1 nat per update over ten tokens and 15 updates."""
    drift = dict(zip(KINDS, (1.0, 0.5, 0.0, -1.0, -2.0), strict=True))
    runs = {u: {3: trajectory(1, drift=drift)} for u in ("chosen", "dpo")}
    found = space.profiles(runs)[3]
    expected = [15 * drift[k] / 10 for k in KINDS]
    assert found["dpo"].loc[KINDS].tolist() == pytest.approx(expected)


# -- figures ---------------------------------------------------------------------------------

STUDY = {"study": "test", "dataset": "d", "model": "m", "seeds": [0, 1, 2],
         "updates": {"chosen": "on-chosen", "dpo": "on-dpo"}}  # fmt: skip


def test_figures_are_drawn(tmp_path):
    """With and without a kernel, measured updates, published runs and seeds; equal tables give
    equal files."""
    runs, _, table = whole()
    theirs = proxies.curves({"published: a_run": {0: trajectory(7)}}, {}, {0: LOGITS})
    every = pd.concat([table, theirs])
    truth = pd.DataFrame(
        {"update": u, "observed": k, "total": i + 1.0, "per_position": 1.0 / (i + 1), "lbk": i,
         "sign_delta": -i} for u in runs for i, k in enumerate(KINDS)
    )  # fmt: skip
    kernels = dict.fromkeys(range(3), truth)
    sums, found = proxies.accumulated(every), proxies.agreement(kernels, table)
    placed = space.response_space({s: profile(s) for s in range(3)})
    roles = {"sft": runs["chosen"], "dpo": runs["dpo"]}
    imported = {"a": trajectory(8).assign(evaluation=lambda t: t["step"] // 5, A_o=9.0)}
    logits = dict.fromkeys(range(3), LOGITS)
    for name, draw in {
        "proxies": lambda: entk_proxies.draw(STUDY, every, sums, found),
        "space": lambda: response_space.draw(STUDY, placed),
        "confidence": lambda: confidence.draw(STUDY, roles, logits, imported),
    }.items():
        paths = [tmp_path / f"{name}{n}.pdf" for n in range(1 if name == "proxies" else 2)]
        for path in paths:
            style.save(draw(), [path])
        assert paths[0].read_bytes() == paths[-1].read_bytes()
    one = proxies.curves({"dpo": {0: trajectory()}}, {}, {0: LOGITS})
    style.save(entk_proxies.draw(STUDY, one, proxies.accumulated(one), None), [tmp_path / "b.pdf"])
    single = {role: {0: by_seed[0]} for role, by_seed in roles.items()}
    style.save(confidence.draw(STUDY, single, logits, {}), [tmp_path / "c.pdf"])
    style.save(
        response_space.draw(STUDY, space.response_space({0: profile()})), [tmp_path / "d.pdf"]
    )


def test_the_number_of_logits_is_read_or_named(tmp_path):
    """From the base model's config.json, without torch."""
    study = {"seeds": [0], "homes": {"0": "it/seed0"}}
    folder = tmp_path / "models/it/seed0/model"
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        inputs.logits(str(tmp_path), study)
    folder.mkdir(parents=True)
    for text, expected in (('{"vocab_size": 7}', 7), ('{"text_config": {"vocab_size": 8}}', 8)):
        Path(folder / "config.json").write_text(text)
        assert inputs.logits(str(tmp_path), study) == {0: expected}
    Path(folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="vocab_size is None; expected the number of logits"):
        inputs.logits(str(tmp_path), study)
