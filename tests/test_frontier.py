"""Frontiers, equal margin, verdicts and forgetting, on trajectories whose truth is planted."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import dynamics, forgetting, frontier
from learning_dynamics.dynamics import seeds_interval
from learning_dynamics.frontier import (
    DOES_NOT,
    NO_CONTROL,
    NO_MARGIN,
    QUANTITIES,
    SQUEEZES,
    UNDECIDED,
    at_level,
    envelope,
    margin_curve,
    verdicts,
)

KINDS = ["chosen", "rejected", "irr_hum", "irr_test", "random_permute", "random_nonhum"]
COLUMNS = ["logp", "logp_argmax", "logp_greedy0", "logp_top_other"]
TOKENS = {"chosen": 10, "rejected": 20, "random_permute": 5}  # of a response; others have 4
EXAMPLES = 5


def trajectory(rates, steps=(0, 10, 20), seed=0):
    """Every column of every type moves by ``rates[type, column]`` (or ``rates[type]``) nats an
    update, from starts that differ between examples; the test split is elsewhere."""
    rng, rows = np.random.default_rng(seed), []
    for kind in KINDS:
        for example in range(EXAMPLES):
            start = -20 - 5 * rng.random()
            for step in steps:
                own = rates.get(kind, 0.0)
                values = {c: start + step * rates.get((kind, c), own) for c in COLUMNS}
                row = {"step": step, "split": "train", "example_id": f"e{example}"}
                row |= {"response_type": kind, "n_tokens": TOKENS.get(kind, 4), **values}
                rows += [row, {**row, "split": "test", **dict.fromkeys(COLUMNS, 7.0 * step)}]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def test_margin_curve_reads_the_right_columns():
    """Every quantity has a rate of its own; the table says which is which."""
    rates = {"chosen": -0.1, "rejected": -0.5, "irr_hum": -1.0, "irr_test": -2.0,
             "random_permute": 3.0, "random_nonhum": 5.0, ("rejected", "logp_top_other"): 0.7,
             ("chosen", "logp_argmax"): 0.2, ("chosen", "logp_greedy0"): -0.3}  # fmt: skip
    table = trajectory(rates)
    curve = margin_curve(table)
    expected = {"margin": 0.4, "best_other": 0.7, "others": -1.5, "shuffled": 4.0, "greedy": 0.2,
                "greedy0": -0.3, "chosen": -0.1, "rejected": -0.5}  # fmt: skip
    assert set(curve) == {"step", "margin", *QUANTITIES}
    for name, rate in expected.items():
        np.testing.assert_allclose(curve[name], rate * curve["step"], err_msg=name)
    # an example that lacks a type counts with those that it has
    gone = (table["example_id"] == "e1") & (table["response_type"] == "irr_hum")
    others = margin_curve(table[~gone])["others"].iloc[-1]
    assert others == pytest.approx(20 * (4 * -1.5 - 2.0) / EXAMPLES)
    few = margin_curve(table[~table["response_type"].str.startswith("random_")])
    assert few["shuffled"].isna().all() and few["others"].notna().all()


def test_t_quantiles_are_those_of_the_tables():
    """The 97.5% quantiles that every statistics book prints."""
    known = {1: 12.7062, 2: 4.30265, 3: 3.18245, 5: 2.57058, 10: 2.22814, 30: 2.04227}
    for freedom, value in known.items():
        assert dynamics.t_quantile(freedom) == pytest.approx(value, rel=1e-5)


def test_seeds_interval():
    """Three seeds: mean ± 4.303 s/√3, far wider than any resampling of three numbers; one: none."""
    found = seeds_interval([1.0, 2.0, 6.0])
    half = 4.30265 * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert found.value == 3.0 and found.seeds == (1.0, 2.0, 6.0)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    alone = seeds_interval([2.0])
    assert alone.value == 2.0 and np.isnan(alone.low) and alone.side() == 0


def curves(algorithm, slopes, seeds=(0, 1, 2), labels="given", lr=1e-4, margin=1.0, updates=100,
           **rest):  # fmt: skip
    """One run per seed: ``margin`` nats an update (a number, or one per seed), and ``best_other``
    ``slopes`` per nat of margin for labels given, per update for coin flips."""
    tables = []
    for number, seed in enumerate(seeds):
        slope = slopes[number] if isinstance(slopes, tuple | list) else slopes
        rate = margin[number] if isinstance(margin, tuple | list) else margin
        steps = np.arange(0, updates + 1, 20)
        gained = steps * (rate if labels == "given" else 0.0)
        values = dict.fromkeys(QUANTITIES, -0.5 * gained)
        values["best_other"] = slope * (gained if labels == "given" else steps)
        values |= {key: value * steps for key, value in rest.items()}
        tables.append(pd.DataFrame({"step": steps, "margin": gained, **values, "seed": seed}))
    name = f"{algorithm}-{lr}-{labels}"
    table = pd.concat(tables, ignore_index=True)
    return table.assign(run=name, algorithm=algorithm, lr=lr, setting="beta 0.1", labels=labels)


@settings(max_examples=12)
@given(st.floats(0.05, 3), st.floats(0.05, 3), st.integers(0, 3))
def test_equal_margin_is_that_of_dynamics(fast, slow, seed):
    """Two runs read where both first reach the smaller final margin: the same values that
    ``dynamics.equal_margin`` and ``dynamics.change`` give."""
    runs = [
        {seed: trajectory({"chosen": rate, "irr_hum": -2 * rate, "irr_test": 0.0}, (0, 7, 20))}
        for rate in (fast, slow)
    ]
    tables = [margin_curve(r[seed]).assign(run=str(n), seed=seed) for n, r in enumerate(runs)]
    table = pd.concat(tables)
    common = frontier.best_reached(table.assign(owner=table["run"]), "margin", "owner").min()
    here = at_level(table, "margin", common)
    for row, run, at in zip(here.itertuples(), runs, dynamics.equal_margin(runs), strict=True):
        expected = dynamics.change(run, "logp", ["irr_hum", "irr_test"], at).mean()
        assert row.step == pytest.approx(at[seed]) and row.others == pytest.approx(expected)


def test_at_level_takes_the_first_crossing():
    """A margin that rises to 10, falls to 4 and ends at 6: level 6 is reached at update 6. A run
    that misses the level in one seed is left out."""
    table = pd.DataFrame({"step": [0, 10, 20, 30], "margin": [0.0, 10.0, 4.0, 6.0],
                          "others": [0.0, -5.0, -50.0, -80.0], "run": "a", "seed": 0})  # fmt: skip
    found = at_level(table.iloc[::-1], "margin", 6.0).iloc[0]
    assert (found["step"], found["others"], found["margin"]) == pytest.approx((6.0, -3.0, 6.0))
    both = pd.concat([table, table.assign(seed=1, margin=[0.0, 1.0, 2.0, 3.0])])
    assert len(at_level(both, "margin", 2.5)) == 2 and at_level(both, "margin", 3.5).empty
    assert frontier.reached(both, "margin")["a"] == 3.0
    start = at_level(both, "margin", 0.0)
    assert (start["step"] == 0).all() and (start["others"] == 0).all()


def test_envelope_is_the_best_run_at_every_margin():
    """One run keeps the others high early, another late; quantities come from the one that is
    chosen, with its interval over seeds."""
    steps = np.array([0, 10, 20])
    rows = []
    for run, others, greedy in (("early", [0, -1, -30], 1.0), ("late", [0, -8, -9], 2.0)):
        for seed in (0, 1):
            values = dict.fromkeys(QUANTITIES, 0.0)
            values |= {"others": np.array(others) - seed * (steps > 0), "greedy": greedy * steps}
            rows.append(pd.DataFrame({"step": steps, "margin": 1.0 * steps, **values, "run": run,
                                      "seed": seed}))  # fmt: skip
    found = envelope(pd.concat(rows), [0.0, 10.0, 20.0, 25.0]).set_index("margin")
    assert list(found.index) == [0.0, 10.0, 20.0]  # none reaches 25
    assert found.loc[10, "run"] == "early" and found.loc[20, "run"] == "late"
    assert found.loc[10, "others"] == pytest.approx(-1.5) and found.loc[20, "greedy"] == 40
    half = 12.7062 * np.std([0, 1], ddof=1) / np.sqrt(2)
    assert found.loc[10, "others_high"] - found.loc[10, "others"] == pytest.approx(half, rel=1e-4)


def grid():
    """Algorithms whose verdicts are known. The weakest that counts gains 60 nats."""
    return pd.concat([
        curves("hard", [0.50, 0.51, 0.52]), curves("hard", 0.1, labels="coin"),
        curves("soft", [0.10, 0.11, 0.12], margin=0.6), curves("soft", 0.1, labels="coin"),
        curves("noisy", [0.10, 0.9, 0.2]), curves("noisy", 0.1, labels="coin"),
        curves("idle", 0.5, margin=0.1), curves("idle", 0.1, labels="coin"),
        curves("alone", 0.5),
    ], ignore_index=True)  # fmt: skip


def test_verdicts_of_planted_runs():
    """Who squeezes beyond its coin flips, at the margin that all reach; equal updates for these."""
    table = verdicts(grid())
    words = table.drop_duplicates("algorithm").set_index("algorithm")["verdict"].to_dict()
    assert words == {"hard": SQUEEZES, "soft": DOES_NOT, "noisy": UNDECIDED, "idle": NO_MARGIN,
                     "alone": NO_CONTROL}  # fmt: skip
    assert len(table) == len(words) * len(QUANTITIES)
    rows = table[table["quantity"] == "best_other"].set_index("algorithm")
    np.testing.assert_allclose(rows["margin"], 60.0)
    hard, soft = rows.loc["hard"], rows.loc["soft"]
    assert hard["value"] == pytest.approx(0.51 * 60) and hard["updates"] == pytest.approx(60)
    assert hard["coin"] == pytest.approx(6.0) and hard["beyond"] == pytest.approx(24.6)
    half = 4.30265 * 0.01 * 60 / np.sqrt(3)
    assert hard["beyond_low"] == pytest.approx(24.6 - half, rel=1e-4)
    # soft needs 100 updates for its 60 nats, and so its coin flips have 100 as well
    assert soft["coin"] == pytest.approx(10.0) and soft["beyond"] == pytest.approx(-3.4)
    assert rows.loc["idle", "reached"] == 0 and rows.loc["idle", "best_margin"] == pytest.approx(10)
    assert np.isnan(rows.loc["alone", "beyond"]) and rows.loc["alone", "value"] == pytest.approx(30)
    others = table[(table["quantity"] == "others") & (table["algorithm"] == "hard")].iloc[0]
    assert others["value"] == pytest.approx(-30.0) and others["verdict"] == SQUEEZES
    text = frontier.as_markdown(table)
    assert "margin of 60.0 nats" in text and "| **does not** |" in text and "nan" not in text
    assert "| hard | +30.60 [+29.11, +32.09] | +24.60" in text


@pytest.mark.parametrize(
    ("slopes", "word"),
    [
        ([SQUEEZES, SQUEEZES, DOES_NOT], SQUEEZES),
        ([DOES_NOT, DOES_NOT, SQUEEZES], DOES_NOT),
        ([SQUEEZES, DOES_NOT], UNDECIDED),
        ([SQUEEZES, UNDECIDED, DOES_NOT], UNDECIDED),
        ([SQUEEZES, UNDECIDED], UNDECIDED),
        ([UNDECIDED], UNDECIDED),
    ],
)
def test_a_majority_of_settings_decides(slopes, word):
    """One lucky setting decides nothing: more than half of those that reach the margin do."""
    kinds = {SQUEEZES: [0.5, 0.51, 0.52], DOES_NOT: [0.09, 0.1, 0.1], UNDECIDED: [0.0, 0.4, 0.5]}
    tables = []
    for number, kind in enumerate(slopes):
        lr = 1e-5 * (number + 1)
        tables += [curves("x", kinds[kind], lr=lr), curves("x", 0.1, lr=lr, labels="coin")]
    tables.append(curves("x", 9.0, lr=1.0, margin=0.5))  # reaches half of it: left out
    tables.append(curves("x", 0.1, lr=1.0, labels="coin"))
    row = verdicts(pd.concat(tables, ignore_index=True)).iloc[0]
    assert row["verdict"] == word and row["settings"] == len(slopes) + 1
    assert row["reached"] == len(slopes) and row["margin"] == pytest.approx(100)
    assert row["squeezing"] == slopes.count(SQUEEZES)
    assert row["not_squeezing"] == slopes.count(DOES_NOT)
    means = [np.mean(kinds[kind]) * 100 for kind in slopes]
    assert (row["lowest"], row["highest"]) == pytest.approx((min(means), max(means)))
    assert row["value"] == pytest.approx(np.mean(means))


def test_every_setting_has_its_own_twin():
    """Coin flips are matched by learning rate and hyper-parameters; a value's interval is over the
    seeds' means over settings, not over settings × seeds."""
    slow, fast = (curves("x", [0.4, 0.5, 0.6], lr=lr) for lr in (1e-5, 1e-4))
    other = curves("x", [0.7, 0.8, 0.9]).assign(run="other", setting="beta 0.3")
    coins = [curves("x", 0.1, lr=1e-5, labels="coin"), curves("x", 0.2, lr=1e-4, labels="coin")]
    coins.append(curves("x", 0.3, labels="coin").assign(run="other-coin", setting="beta 0.3"))
    row = verdicts(pd.concat([slow, fast, other, *coins], ignore_index=True)).iloc[0]
    assert row["coin"] == pytest.approx(20) and row["beyond"] == pytest.approx(60 - 20)
    half = 4.30265 * 10 / np.sqrt(3)  # seeds' means: 50, 60, 70
    assert (row["low"], row["high"]) == pytest.approx((60 - half, 60 + half), rel=1e-4)
    missing = verdicts(pd.concat([slow, fast, other, *coins[:2]], ignore_index=True)).iloc[0]
    assert missing["verdict"] == NO_CONTROL


def test_a_negligible_gain_is_none():
    """At most m/20 beyond coin flips, but not clearly above zero: does not; above: squeezes."""
    coin = curves("x", 0.1, labels="coin")
    around, beyond = [0.10, 0.12, 0.11], [0.119, 0.12, 0.121]  # 1 ± 2.5 and 2 ± 0.2 nats of 100
    for slopes, word in ((around, DOES_NOT), (beyond, SQUEEZES)):
        assert verdicts(pd.concat([curves("x", slopes), coin])).iloc[0]["verdict"] == word


def test_one_seed_settles_nothing():
    """Without a second seed there is no interval, and so no verdict, however large the gain."""
    one = pd.concat([curves("x", 5.0, (0,)), curves("x", 0.1, (0,), labels="coin")])
    row = verdicts(one).iloc[0]
    assert row["verdict"] == UNDECIDED and np.isnan(row["low"]) and row["value"] == 500
    assert "nan" not in frontier.as_markdown(verdicts(one))


def test_the_common_margin_is_reached_in_every_seed():
    """A setting counts by its worst seed, an algorithm by its best setting; no algorithm gains:
    there is no margin."""
    low = curves("a", 0.1, lr=1.0, margin=0.4)
    table = pd.concat([curves("a", 0.1, margin=[0.9, 0.5, 0.7]), low, curves("b", 0.1, margin=0.8)])
    found = verdicts(table)
    assert found["margin"].iloc[0] == pytest.approx(50)
    assert found.set_index("algorithm")["reached"].to_dict() == {"a": 1, "b": 1}
    none = verdicts(pd.concat([curves("a", 0.1, margin=-0.1), curves("b", 0.1, margin=0.0)]))
    assert (none["verdict"] == NO_MARGIN).all() and none["margin"].isna().all()
    assert "no margin" in frontier.as_markdown(none)


def test_setting_names():
    """What tells two runs of an algorithm apart, besides the learning rate."""
    assert frontier.setting_name({"beta": 0.1, "gamma": 2}) == "beta 0.1, gamma 2"
    assert frontier.setting_name({}) == "default"


def test_fall_curve_is_per_token_of_its_own_response():
    """10, 20, 5 and 4 tokens: nats per token of the response that a change belongs to."""
    rates = {"chosen": -1.0, "rejected": -2.0, "irr_hum": -0.4, "random_permute": -0.5,
             ("random_permute", "logp_top_other"): 0.25, ("random_permute", "logp_argmax"): 0.1,
             ("chosen", "logp_argmax"): 0.3}  # fmt: skip
    table = trajectory(rates)
    curve = forgetting.fall_curve(table, "random_permute")
    expected = {"fall": 0.1, "best_other": 0.05, "greedy": 0.02, "chosen": -0.1}
    expected |= {"others": (-0.1 - 0.1 + 0) / 3, "shuffled": -0.05, "greedy_chosen": 0.03}
    assert set(curve) == {"step", "logp", *expected}
    for name, rate in expected.items():
        np.testing.assert_allclose(curve[name], rate * curve["step"], atol=1e-12, err_msg=name)
    start = table[(table["step"] == 0) & (table["split"] == "train")]
    mean = start.loc[start["response_type"] == "random_permute", "logp"].mean() / 5
    assert curve["logp"].iloc[0] == pytest.approx(mean)
    of_chosen = forgetting.fall_curve(table, "chosen")
    np.testing.assert_allclose(of_chosen["fall"], 0.1 * of_chosen["step"])
    np.testing.assert_allclose(of_chosen["others"], curve["others"])


def falling(target, start, fall, algorithm="npo", seeds=3, **slopes):
    """Runs that forget ``target``: ``fall`` an update, the rest ``slopes`` per unit of fall."""
    steps, tables = np.array([0, 10, 20]), []
    for seed in range(seeds):
        fallen = fall * steps
        rest = {name: fallen * (slopes.get(name, 0.0) + 0.001 * (seed - 1)) for name in
                forgetting.QUANTITIES}  # fmt: skip
        tables.append(pd.DataFrame({"step": steps, "fall": fallen, "logp": start - fallen, **rest,
                                    "seed": seed}))  # fmt: skip
    names = {"run": f"{algorithm}-{target}", "algorithm": algorithm, "target": target}
    return pd.concat(tables, ignore_index=True).assign(**names)


def test_forgetting_compares_at_equal_fall():
    """The unlikely target falls twice as fast: it is read after half the updates. Likely is what
    the model finds likely, whatever its name or place in the list."""
    runs = pd.concat([
        falling("random_permute", -6.0, 0.4, best_other=0.5, greedy=0.1, others=-0.3, chosen=-1.0),
        falling("chosen", -1.0, 0.2, best_other=0.2, greedy=0.1, others=-0.2, chosen=-1.0),
    ], ignore_index=True)  # fmt: skip
    table = forgetting.comparison(runs)
    rows = table.set_index(["target", "quantity"])
    np.testing.assert_allclose(table["fall"], 4.0)
    assert rows.loc[("random_permute", "best_other"), "value"] == pytest.approx(2.0)
    found = rows.loc["random_permute"]
    assert found["difference"].round(9).to_dict() == {
        "best_other": 1.2, "greedy": 0.0, "others": -0.4, "chosen": 0.0, "shuffled": 0.0,
        "greedy_chosen": 0.0,
    }  # fmt: skip
    assert found["verdict"].dropna().to_dict() == {
        "best_other": "supported", "greedy": "undecided", "others": "supported"
    }  # fmt: skip
    assert rows.loc["chosen", "difference"].isna().all()
    assert rows.loc["chosen", "start"].iloc[0] == pytest.approx(-1.0)
    # the other way round: the same numbers contradict
    turned = runs.assign(logp=-7.0 - runs["logp"])
    verdict = forgetting.comparison(turned).set_index(["target", "quantity"])["verdict"]
    assert verdict["chosen", "best_other"] == verdict["chosen", "others"] == "contradicted"
    text = forgetting.as_markdown(table)
    assert "| npo, −4.00 | best_other | chosen +0.80 [" in text and "nan" not in text


def test_each_forgetting_loss_has_its_own_fall():
    """A loss that hardly forgets does not move where another is read; one seed: undecided."""
    runs = [falling("chosen", -1.0, 0.2), falling("random_permute", -6.0, 0.2, best_other=1.0)]
    weak = [falling("chosen", -1.0, 0.01, "gradient_ascent"),
            falling("random_permute", -6.0, 0.5, "gradient_ascent")]  # fmt: skip
    table = forgetting.comparison(pd.concat([*runs, *weak], ignore_index=True))
    assert table.groupby("algorithm")["fall"].first().round(9).to_dict() == {
        "npo": 4.0, "gradient_ascent": 0.2
    }  # fmt: skip
    single = pd.concat(runs, ignore_index=True).query("seed == 0")
    found = forgetting.comparison(single)["verdict"].dropna()
    assert set(found) == {UNDECIDED}
