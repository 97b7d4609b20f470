"""How much of a run first-order influence predicts: the scores on data with known ones, the figure,
and what claims say of it."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from learning_dynamics import along, influence_table
from learning_dynamics.claims import CLAIMS, mechanism, report
from learning_dynamics.dynamics import seeds_interval, t_quantile
from learning_dynamics.figures import influence as drawing
from learning_dynamics.figures import style


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
    return pd.DataFrame(rows).reindex(columns=influence_table.COLUMNS)


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
    assert wide[[*influence_table.PARTS, "higher"]].sum(axis=1).to_numpy() == pytest.approx(
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


def followed(share, seed=0, kinds=("chosen", "rejected", "irr_hum", "random_nonhum")):
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
    return pd.DataFrame(rows).reindex(columns=influence_table.COLUMNS)


CLAIM = {claim.id: claim for claim in CLAIMS}


def test_claims_say_what_the_first_order_predicts():
    """Where steps predict 70% of everything, 70% of every linear part; of two shares, the ratio of
    sums with the interval of its linearisation; by the longest windows alone."""
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
