"""Changes, intervals, equal margins and verdicts, on trajectories whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import dynamics
from learning_dynamics.dose import dose_table
from learning_dynamics.dynamics import (
    change,
    equal_margin,
    estimate,
    interval,
    resampled_means,
)
from learning_dynamics.errors import InputError
from learning_dynamics.probe import RESPONSE_TYPES

COLUMNS = ["logp", "logp_argmax", "logp_greedy0", "logp_top_other"]
EXAMPLES = 6


def trajectory(steps, rates, seed=0, splits=("train",), kinds=RESPONSE_TYPES):
    """Every column moves by ``rates[kind, column]`` (or ``rates[kind]``) nats per update, from a
    start that differs between examples."""
    rng = np.random.default_rng(seed)
    rows = []
    for split in splits:
        for kind in kinds:
            for example in range(EXAMPLES):
                start = -20 - 5 * rng.random()
                for step in steps:
                    values = {
                        c: start + step * rates.get((kind, c), rates.get(kind, 0.0))
                        for c in COLUMNS
                    }
                    rows.append({"step": step, "split": split, "example_id": f"e{example}",
                                 "response_type": kind, "energy": 0.8, "greedy_match": 0.25,
                                 "prob_norm": 0.5,
                                 **values})  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def test_estimate_of_a_constant_is_that_constant():
    """No spread: the interval is a point."""
    result = estimate(np.full((3, 5), -2.5))
    assert (result.value, result.low, result.high) == pytest.approx((-2.5, -2.5, -2.5))
    assert result.seeds == (-2.5,) * 3 and result.side() == -1


def test_estimate_equals_a_plain_bootstrap():
    """Crossed resampling written as a loop over drawn indices."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 25)) + rng.normal(size=(3, 1)) + rng.normal(size=25)
    means = []
    for _ in range(4000):
        seeds, examples = rng.integers(3, size=3), rng.integers(25, size=25)
        means.append(values[np.ix_(seeds, examples)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    result = estimate(values)
    assert result.value == pytest.approx(values.mean())
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_one_seed_gives_an_interval_over_examples():
    """Known normal mean: the 95% interval over examples covers it in about 95% of data sets."""
    rng = np.random.default_rng(2)
    results = [estimate(rng.normal(1.0, 2.0, (1, 40))) for _ in range(100)]
    assert all(result.low < result.value < result.high for result in results)
    assert 88 <= sum(r.low <= 1.0 <= r.high for r in results) <= 99


def test_seeds_that_differ_widen_the_interval():
    """The same examples under seeds that shift them all: more than the examples' own spread."""
    one = np.random.default_rng(3).normal(size=(1, 30))
    same, shifted = estimate(np.repeat(one, 3, 0)), estimate(one + np.c_[[-1.0, 0.0, 1.0]])
    assert shifted.high - shifted.low > 1.5 * (same.high - same.low)


def test_estimate_leaves_out_examples_with_gaps():
    """An example without a value in some seed: as if it were in none."""
    values = np.random.default_rng(4).normal(size=(3, 20))
    holes = values.copy()
    holes[1, 4] = holes[0, 7] = holes[2, 7] = np.nan
    assert estimate(holes) == estimate(np.delete(values, [4, 7], 1))


def test_paired_arrays_share_their_draws():
    """A shift of every example shifts every resampled mean by it; another set of examples is drawn
    for itself, but seeds are shared in any case."""
    values = np.random.default_rng(5).normal(size=(3, 12))
    draws = resampled_means([values, values + 2.0])
    assert draws.shape == (4000, 2)
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 2.0)
    apart = resampled_means([values, values], paired=False)
    assert abs(np.corrcoef((apart[:, 0], apart[:, 1]))[0, 1]) < 0.9
    by_seed = [np.repeat([[0.0], [1.0], [5.0]], width, 1) for width in (4, 9)]
    of_seeds = resampled_means(by_seed, paired=False)
    np.testing.assert_allclose(of_seeds[:, 0], of_seeds[:, 1])
    assert len(set(of_seeds[:, 0].round(9))) == 10  # multisets of three seeds


def test_unpaired_draws_are_independent():
    """One seed, two sets of examples: the variance of the difference is the sum of variances."""
    rng = np.random.default_rng(6)
    one, two = rng.normal(size=(1, 50)), rng.normal(0, 3, size=(1, 80))
    draws = resampled_means([one, two], paired=False)
    expected = one.var() / 50 + two.var() / 80
    assert (draws[:, 1] - draws[:, 0]).var() == pytest.approx(expected, rel=0.1)
    assert interval(draws[:, 0]) == pytest.approx(
        (one.mean() - 1.96 * one.std() / 50**0.5, one.mean() + 1.96 * one.std() / 50**0.5), abs=0.05
    )


def test_change_reads_between_evaluations():
    """A line stays a line: at the end, at an evaluation, between two, and the mean over types."""
    rates = {"chosen": -0.5, "rejected": -1.5}
    runs = {seed: trajectory([0, 4, 10], rates, seed) for seed in (0, 1)}
    assert change(runs, "logp", ["chosen"]) == pytest.approx(np.full((2, EXAMPLES), -5.0))
    at = change(runs, "logp", ["chosen"], {0: 4, 1: 7})
    assert at == pytest.approx(np.repeat([[-2.0], [-3.5]], EXAMPLES, 1))
    both = change(runs, "logp", ["chosen", "rejected"], {0: 0, 1: 2})
    assert both == pytest.approx(np.repeat([[0.0], [-2.0]], EXAMPLES, 1))


def test_change_of_a_missing_type_is_named():
    """A type or split that was not probed."""
    with pytest.raises(InputError, match="'irr_hum' in split 'test'"):
        change({0: trajectory([0, 1], {})}, "logp", ["irr_hum"], split="test")


@given(st.floats(0.05, 2), st.floats(0.05, 2))
def test_equal_margin_of_two_lines(fast, slow):
    """Lines cross the smaller final margin at (that margin) / slope, exactly."""
    runs = [
        {5: trajectory([0, 30, 60, 90, 100], {"chosen": -1.0, "rejected": -1.0 - slope},
                       kinds=("chosen", "rejected"))}
        for slope in (fast, slow)
    ]  # fmt: skip
    common = 100 * min(fast, slow)
    found = equal_margin(runs)
    assert [f[5] for f in found] == pytest.approx([common / fast, common / slow])
    margins = [np.interp(f[5], *dynamics.margin(r[5])) for f, r in zip(found, runs, strict=True)]
    assert margins == pytest.approx([common, common])


def test_equal_margin_takes_the_first_crossing():
    """A margin that rises to 10, falls to 4 and ends at 6: level 6 is reached at update 6."""
    steps, margins = [0, 10, 20, 30], [0.0, 10.0, 4.0, 6.0]
    table = trajectory(steps, {}, kinds=("chosen", "rejected"))
    table["logp"] += table["step"].map(dict(zip(steps, margins, strict=True))) * (
        table["response_type"] == "chosen"
    )
    assert equal_margin([{0: table}]) == [{0: pytest.approx(6.0)}]


@pytest.mark.parametrize("seeds", [1, 3])
def test_changes_table_has_every_row(seeds):
    """13 types × 2 splits × (seeds + 1) rows a run, with the values of the trajectory."""
    rates = {"chosen": -0.5, ("chosen", "logp_argmax"): 0.25}
    runs = {s: trajectory([0, 4, 10], rates, s, ("train", "test")) for s in range(seeds)}
    table = dynamics.changes_table({"dpo": runs})
    assert len(table) == 13 * 2 * (seeds + 1)
    assert not table.duplicated(["run", "seed", "split", "response_type"]).any()
    assert set(table["seed"]) == {"all", *map(str, range(seeds))}
    chosen = table[table["response_type"] == "chosen"]
    assert chosen["change"].to_numpy() == pytest.approx(-5.0)
    assert chosen["from_best"].to_numpy() == pytest.approx(-5.0)
    assert (chosen["logp_end"] - chosen["logp_start"]).to_numpy() == pytest.approx(-5.0)
    assert chosen["logp_argmax_change"].to_numpy() == pytest.approx(2.5)
    assert table["p_label_end"].to_numpy() == pytest.approx(0.2)
    assert table["greedy_share_start"].to_numpy() == pytest.approx(0.25)


def without(table, *gaps):
    """A trajectory in which examples lack response types."""
    gone = [(row.example_id, row.response_type) in gaps for row in table.itertuples()]
    return table[~np.array(gone)]


def test_gaps_in_a_trajectory_stay_in_place():
    """An example that lacks a type is NaN in its place, other types' values are unmoved, and the
    mean over types is over those that it has."""
    rates = {"chosen": -0.5, "irr_hum": -2.0, "irr_test": -1.0}
    table = trajectory([0, 4, 10], rates, kinds=tuple(rates))
    gaps = without(table, ("e2", "irr_hum"), ("e4", "irr_hum"), ("e4", "irr_test"))
    steps, values = dynamics.series(gaps, "logp", "irr_hum")
    _, whole = dynamics.series(table, "logp", "irr_hum")
    assert steps.tolist() == [0, 4, 10]
    assert np.isnan(values).tolist() == [[e in (2, 4) for e in range(EXAMPLES)]] * 3
    np.testing.assert_array_equal(np.delete(values, [2, 4], 1), np.delete(whole, [2, 4], 1))
    mean = change({0: gaps}, "logp", ["irr_hum", "irr_test"])
    expected = [-15.0, -15.0, -10.0, -15.0, np.nan, -15.0]
    np.testing.assert_allclose(mean, [expected])


def test_a_trajectory_of_means_alone():
    """Imported runs have no example_id: one value per evaluation and type."""
    means = trajectory([0, 4, 10], {"chosen": -0.5}, kinds=("chosen", "irr_hum"))
    means = means[means["example_id"] == "e3"].assign(example_id=None)
    steps, values = dynamics.series(means, "logp", "chosen")
    assert steps.tolist() == [0, 4, 10] and values.shape == (3, 1)
    np.testing.assert_allclose(change({0: means}, "logp", ["chosen"]), [[-5.0]])


def test_changes_table_with_gaps():
    """An example that lacks a type is left out of that type's row, and of no other."""
    rates = {"chosen": -0.5, "irr_hum": -1.5}
    runs = {s: trajectory([0, 4, 10], rates, s, kinds=("chosen", "irr_hum")) for s in (0, 1)}
    gaps = {s: without(t, ("e1", "irr_hum")) for s, t in runs.items()}
    rest = {s: t[t["example_id"] != "e1"] for s, t in runs.items()}
    whole, found, fewer = (
        dynamics.changes_table({"dpo": r}).set_index(["response_type", "seed"])
        for r in (runs, gaps, rest)
    )
    pd.testing.assert_frame_equal(found.loc[["chosen"]], whole.loc[["chosen"]])
    pd.testing.assert_frame_equal(found.loc[["irr_hum"]], fewer.loc[["irr_hum"]])
    assert not found.isna().any().any()


def test_dose_table_reads_a_long_run_as_its_shorter_ones():
    """The value at update n of a long run is the final change of the run that stops there."""
    rates = {"chosen": -0.5, "rejected": -1.0}
    long = {0: trajectory([0, 60, 120, 240], rates)}
    short = {0: long[0][long[0]["step"] <= 60]}
    table = dose_table({"a": long, "b": short}, {"a": 1e-4, "b": 1e-4}, [60, 120, 480])
    rows = table.set_index(["run", "updates", "effect"])["value"]
    assert set(table["updates"]) == {60, 120} and len(table) == 5 * 3
    for name in table["effect"].unique():
        assert rows["a", 60, name] == rows["b", 60, name]
    assert rows["a", 120, "valley-label"] == pytest.approx(-120)
