"""Where the mass of y⁻ lands: the balance, brute force, Lemma 1, and what is added up."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from learning_dynamics import landing, mass, one_step, theory
from learning_dynamics.figures import mass as figure
from learning_dynamics.figures import style
from learning_dynamics.rows import Rows, training_rows
from learning_dynamics.scoring import Engine, Tree
from learning_dynamics.tokens import Codec

BATCHES, SIZE = 3, 4
DPO = {"algorithm": "dpo", "labels": "given"}


@pytest.fixture(scope="module")
def measured(tiny, toy_pairs):
    """(engine before, engine after, rows, names, table) of one measurement."""
    engine = Engine(deepcopy(tiny[0]))
    rows = training_rows(toy_pairs, Codec(tiny[1], 256, 128), DPO, 0, None)
    names = list(toy_pairs.loc[toy_pairs["split"] == "train", "example_id"])
    table = mass.measure(engine, rows, names, BATCHES, SIZE, seed=0)
    return Engine(tiny[0]), engine, rows, names, table


def peaked(rng, n=6, vocabulary=40, spread=3.0):
    """log π of random softmaxes, (n, V), fp64."""
    return torch.from_numpy(spread * rng.normal(size=(n, vocabulary))).log_softmax(-1)


# -- the balance -----------------------------------------------------------------------------


def test_the_balance_closes_at_every_position(measured):
    """What the label, the greedy token, y⁺'s token and the rest gain adds up to nothing, though
    each is its own sum; so does what Lemma 1 predicts."""
    table = measured[-1]
    assert list(table.columns) == landing.COLUMNS and not table.isna().any().any()
    assert np.abs(table[[f"dp_{part}" for part in landing.PARTS]].sum(axis=1)).max() < 1e-12
    lemma = table[["dp_label", *(f"lemma_{part}" for part in landing.RECEIVERS)]].sum(axis=1)
    assert np.abs(lemma).max() < 1e-8
    assert table["dp_label"].abs().max() > 1e-3  # there is something to account for


def test_a_loss_of_mass_would_be_seen():
    """Log-probs that do not add up to one leave a balance that is not zero."""
    rng = np.random.default_rng(0)
    before = peaked(rng)
    label, none = torch.arange(6), torch.full((6,), -1)
    facts = mass.account(before, peaked(rng) - 0.01, label, none)
    balance = sum(facts[f"dp_{part}"] for part in landing.PARTS)
    assert (balance < -5e-3).all()


def test_the_steps_are_those_of_one_step(measured):
    """The same rows as one-step.parquet, and the same change of the label's mass; the weights are
    restored bit for bit."""
    fresh, after, rows, names, table = measured
    same = one_step.measure(after, rows, names, BATCHES, SIZE, seed=0)
    keys = ["kind", "batch", "example_id", "position"]
    pd.testing.assert_frame_equal(table[keys], same[keys])
    np.testing.assert_allclose(table["dp_label"], same["dp_label"], atol=1e-14)
    np.testing.assert_allclose(table["p_greedy"], same["p_top_other"], rtol=1e-12)
    for one, two in zip(fresh.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("chosen_is", ["none", "greedy", "another"])
def test_parts_by_brute_force(chosen_is):
    """Token by token, in plain Python: each token belongs to one part."""
    rng = np.random.default_rng(1)
    before, after = peaked(rng), peaked(rng)
    label = torch.from_numpy(rng.integers(0, 40, 6))
    chosen, expected = [], []
    for row in range(6):
        old, new = before[row].exp().tolist(), after[row].exp().tolist()
        y = int(label[row])
        greedy = max((v for v in range(40) if v != y), key=lambda v: old[v])
        another = next(v for v in range(40) if v not in (y, greedy))
        yplus = {"none": -1, "greedy": greedy, "another": another}[chosen_is]
        chosen.append(yplus)
        parts = dict.fromkeys(landing.PARTS, 0.0)
        for v in range(40):
            name = "label" if v == y else "rest"
            if v == greedy:
                name = "both" if v == yplus else "greedy"
            elif v == yplus:
                name = "chosen"
            parts[name] += new[v] - old[v]
        expected.append({**parts, "p_label": old[y], "p_greedy": old[greedy],
                         "label_greedy": old[y] > old[greedy]})  # fmt: skip
    facts = mass.account(before, after, label, torch.tensor(chosen))
    for row, truth in enumerate(expected):
        for part in landing.PARTS:
            assert facts[f"dp_{part}"][row].item() == pytest.approx(truth[part], abs=1e-14)
        for name in ("p_label", "p_greedy", "label_greedy"):
            assert facts[name][row].item() == pytest.approx(truth[name])


def test_alignment():
    """y⁺ and y⁻ compete at their first difference and nowhere else."""
    pairs = [
        ([5, 6, 7, 0], [5, 6, 8, 7, 0]),
        ([5, 0], [6, 0]),
        ([5, 6], [5, 6, 7]),  # y⁺ was cut there
        ([5, 0], [5, 0]),
    ]
    rows = Rows([Tree([1], [list(a), list(b)]) for a, b in pairs])
    owner = np.repeat(np.arange(4), [len(b) for _, b in pairs])
    position = np.concatenate([np.arange(len(b)) for _, b in pairs])
    step = one_step.Step("dpo", 0, [0, 1, 2, 3], None, None, None, owner, position)
    words, tokens = mass.alignment(rows, step)
    expected = ["shared", "shared", "fork", "apart", "apart", "fork", "apart", "shared", "shared",
                "apart", "shared", "shared"]  # fmt: skip
    assert list(words) == expected
    assert list(tokens) == [-1, -1, 7, -1, -1, 5, -1, -1, -1, -1, -1, -1]


def test_alignment_of_real_pairs(measured):
    """Every pair that differs has one fork; y⁺'s token gains nothing elsewhere."""
    table = measured[-1]
    forks = table[table["kind"] == "dpo"].groupby("example_id")["aligned"].apply(
        lambda a: (a == "fork").sum()
    )  # fmt: skip
    assert (forks == 1).all() and len(forks) == BATCHES * SIZE
    elsewhere = table[table["aligned"] != "fork"]
    assert (elsewhere[["dp_chosen", "dp_both", "lemma_chosen", "lemma_both"]] == 0).all().all()
    at_fork = table[table["aligned"] == "fork"]
    assert (at_fork["dp_chosen"] + at_fork["dp_both"] != 0).all()


# -- Lemma 1 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-3.0, -0.2, 0.4, 2.0])
def test_lemma_is_the_theorys(rate):
    """The vectorised step against theory.lemma1_ratio, row by row."""
    before = peaked(np.random.default_rng(2))
    label = torch.tensor([0, 7, 13, 21, 30, 39])
    found = mass.lemma1(before, label, torch.full((6,), rate, dtype=torch.float64)) - before
    for row in range(6):
        ratio = theory.lemma1_ratio(before[row].numpy(), int(label[row]), rate)
        np.testing.assert_allclose(found[row].exp(), ratio, rtol=1e-10)


@pytest.mark.parametrize("rate", [-5.0, -0.7, -1e-3, 1e-3, 0.5, 4.0])
def test_where_the_theory_holds_it_explains_everything(rate):
    """After a step of a softmax itself the rate is found again and nothing is left; the prediction
    in proportion leaves something."""
    before = peaked(np.random.default_rng(3))
    label = torch.tensor([0, 7, 13, 21, 30, 39])
    steps = [theory.step(row.numpy(), int(y), rate)
             for row, y in zip(before, label, strict=True)]  # fmt: skip
    after = torch.from_numpy(np.array(steps)).log_softmax(-1)
    facts = mass.account(before, after, label, torch.full((6,), -1))
    np.testing.assert_allclose(facts["rate"], rate, rtol=1e-4, atol=1e-9)
    for unit in ("p", "logp"):
        assert (facts[f"left_{unit}"] <= 1e-9 * facts[f"total_{unit}"]).all()
    assert (facts["left_p_proportional"] > 10 * facts["left_p"]).all()
    for part in landing.RECEIVERS:
        np.testing.assert_allclose(facts[f"lemma_{part}"], facts[f"dp_{part}"], atol=1e-8)


@pytest.mark.parametrize("spread", [0.1, 3.0, 12.0])
def test_the_label_is_calibrated(spread):
    """Any target between nothing and everything, from flat and from very peaked softmaxes; a label
    that has all probability has no rate."""
    rng = np.random.default_rng(4)
    before = peaked(rng, n=50, spread=spread)
    label = torch.from_numpy(rng.integers(0, 40, 50))
    here = before.gather(1, label[:, None])[:, 0]
    for change in (-4.0, -0.01, 0.01, 1.0):
        target = torch.minimum(here + change, here / 2)
        rate = mass.calibrated_rate(before, label, target)
        moved = mass.lemma1(before, label, rate).gather(1, label[:, None])[:, 0]
        assert (moved - target).abs().max() < 1e-8
    sure = torch.log_softmax(torch.tensor([[1e4, 0.0, 0.0]], dtype=torch.float64), -1)
    assert mass.calibrated_rate(sure, torch.tensor([0]), torch.tensor([-0.1]).double()).isnan()


def test_squares_by_brute_force():
    """Total and left, of probabilities and of log-probs, over all tokens but the label."""
    rng = np.random.default_rng(5)
    before, after = peaked(rng), peaked(rng)
    label = torch.from_numpy(rng.integers(0, 40, 6))
    facts = mass.account(before, after, label, torch.full((6,), -1))
    lemma = mass.lemma1(before, label, facts["rate"]).numpy()
    for row in range(6):
        keep = np.arange(40) != int(label[row])
        old, new = before[row].numpy()[keep], after[row].numpy()[keep]
        found, by_log = np.exp(new) - np.exp(old), new - old
        share = np.exp(old) / np.exp(old).sum()
        growth = np.log(np.exp(new).sum() / np.exp(old).sum())
        truth = {
            "total_p": ((found - found.mean()) ** 2).sum(),
            "left_p": ((found - np.exp(lemma[row][keep]) + np.exp(old)) ** 2).sum(),
            "left_p_proportional": ((np.exp(new) - share * np.exp(new).sum()) ** 2).sum(),
            "total_logp": ((by_log - growth) ** 2).sum(),
            "left_logp": ((by_log - lemma[row][keep] + old) ** 2).sum(),
        }
        for name, value in truth.items():
            assert facts[name][row].item() == pytest.approx(value, rel=1e-9)


# -- the summary -----------------------------------------------------------------------------


def planted(seed):
    """Positions of one seed: two of them lose 0.1 and 0.3 to the greedy token and the rest, a third
    gains."""
    table = pd.DataFrame(
        {
            "kind": "dpo", "batch": 0, "example_id": "e", "position": [0, 1, 5],
            "aligned": ["fork", "apart", "apart"], "p_label": [0.3, 0.3, 0.005],
            "p_greedy": 0.4, "label_greedy": False,
            "dp_label": [-0.1, -0.3, 0.2], "dp_greedy": [0.05, 0.24, -0.2],
            "dp_chosen": [0.04, 0.0, 0.0], "dp_both": 0.0, "dp_rest": [0.01, 0.06, 0.0],
            "rate": [-1.0, -1.0, np.nan], "lemma_greedy": [0.1, 0.2, np.nan],
            "lemma_chosen": [0.0, 0.0, np.nan], "lemma_both": [0.0, 0.0, np.nan],
            "lemma_rest": [0.0, 0.1, np.nan], "total_p": [1.0, 4.0, 9.0],
            "left_p": [0.5, 1.0 + seed, np.nan], "left_p_proportional": [1.0, 4.0, np.nan],
            "total_logp": 1.0, "left_logp": [2.0, 2.0, np.nan],
        }
    )  # fmt: skip
    return table[landing.COLUMNS]


def test_summary_of_planted_positions():
    """Shares are ratios of sums over the positions that lose; squares are added up before they are
    divided; positions without a rate have no prediction."""
    found = landing.summary({0: planted(0), 1: planted(1)})
    whole = found[found["by"] == "all"].set_index("quantity")
    value = whole["value"]
    assert value["positions"] == 3 and value["fell"] == pytest.approx(2 / 3)
    assert value["removed"] == pytest.approx(20)
    shares = [value[part] for part in landing.RECEIVERS]
    assert shares == pytest.approx([0.29 / 0.4, 0.04 / 0.4, 0, 0.07 / 0.4])
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert value["lemma_greedy"] == pytest.approx(0.3 / 0.4)
    assert value["explained_p"] == pytest.approx(np.mean([1 - 1.5 / 5, 1 - 2.5 / 5]))
    assert value["explained_p_proportional"] == 0 and value["explained_logp"] == -1
    # seed 0: 0.5 and 0.75; seed 1: 0.5 and 0.5
    assert value["explained_p_median"] == pytest.approx(np.mean([0.625, 0.5]))
    low, high = whole.loc["explained_p", ["low", "high"]]
    assert high - low == pytest.approx(2 * 12.706 * np.std([0.7, 0.5], ddof=1) / np.sqrt(2), 1e-3)


def test_bins_of_the_summary():
    """Depth, position (from 1) and alignment; a bin in which nothing is lost has no shares."""
    found = landing.summary({0: planted(0)})
    counts = found[found["quantity"] == "positions"].set_index(["by", "bin"])["value"]
    assert counts["depth"].to_dict() == {"<.01": 1, ".2–.5": 2}
    assert counts["position"].to_dict() == {"1": 1, "2": 1, "5–8": 1}
    assert counts["aligned"].to_dict() == {"fork": 1, "apart": 2}
    deep = found[(found["by"] == "depth") & (found["bin"] == "<.01")]
    assert set(deep["quantity"]) == {"positions", "fell"}
    assert found["low"].isna().all()  # one seed


def test_summary_of_what_was_measured(measured):
    """What lands adds up to what is removed, in every bin."""
    found = landing.summary({0: measured[-1]})
    assert set(found["kind"]) == set(one_step.KINDS)
    shares = found[found["quantity"].isin(landing.RECEIVERS)]
    assert len(shares) > 40
    keys = ["kind", "by", "bin"]
    removed = found[found["quantity"] == "removed"].set_index(keys)["value"]
    landed = shares.groupby(keys)["value"].sum() * removed
    np.testing.assert_allclose(landed, removed.loc[landed.index], rtol=0, atol=1e-10)
    assert found.loc[found["quantity"] == "explained_p", "value"].max() <= 1


# -- the figure ------------------------------------------------------------------------------

STUDY = {"study": "test", "dataset": "toy", "model": "tiny", "seeds": [0, 1]}


def test_the_figure(tmp_path):
    """It draws from the csv alone, what is missing left out; what is lost stands below its bin, and
    what lies outside the axis is written."""
    landing.summary({0: planted(0), 1: planted(8)}).to_csv(tmp_path / "mass.csv", index=False)
    table = pd.read_csv(tmp_path / "mass.csv")
    drawn = figure.draw(STUDY, table)
    said = {text.get_text() for part in drawn.subfigs for axes in part.axes
            for text in [*axes.texts, *axes.get_xticklabels()]}  # fmt: skip
    assert {".2–.5\n−20\n100%", "first\ndifference\n−10\n100%"} <= said
    low = table[(table["by"] == "depth") & (table["quantity"] == "explained_p")]
    assert low["value"].item() < 0 and low["low"].item() < figure.EXPLAINED[0]
    style.save(drawn, [str(tmp_path / "mass.png"), str(tmp_path / "mass.pdf")])
    assert (tmp_path / "mass.png").stat().st_size > 10_000
    far = table.assign(value=table["value"].where(table["quantity"] != "explained_p", -37.0))
    drawn = figure.draw(STUDY, far)
    texts = [text.get_text().strip() for axes in drawn.subfigs[2].axes for text in axes.texts]
    assert texts == ["-37"] * 2  # its bin, and all
