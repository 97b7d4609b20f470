"""Switches and the machine fingerprint, on trajectories whose influence was planted."""

import numpy as np
import pandas as pd
import pytest

from learning_dynamics.confounds import (
    MACHINE,
    NATURAL,
    PARTS,
    SOURCE,
    as_markdown,
    course_table,
    fingerprint_table,
    influence,
    influence_table,
    judge,
    switch_table,
)
from learning_dynamics.dynamics import Estimate

KINDS = [*NATURAL, *MACHINE]
SEEDS, EXAMPLES = (0, 1), 30
UPDATES = ["chosen", "chosen_gptsemantic", "irr_hum"]


def trajectory(moves, counts_end, seed=0, noise=0.0, steps=(0, 8)):
    """Evaluations of train probes along which the parts of each type move by ``moves(kind)`` nats,
    more or less, at an even pace; a test probe is elsewhere."""
    rng, tables = np.random.default_rng(seed), []
    names = [f"e{n:02d}" for n in range(EXAMPLES)]
    for kind in KINDS:
        start = -5 - 5 * rng.random((EXAMPLES, 3))
        change = np.array(moves(kind)) + noise * rng.normal(size=(EXAMPLES, 3))
        for step in steps:
            first, body, end = (start + change * step / steps[-1]).T
            table = pd.DataFrame({"example_id": names, "logp_first": first, "logp_end": end})
            table["logp"] = first + body + end * counts_end
            apart = table[:1].assign(split="test", logp=step, logp_first=step, logp_end=step)
            both = pd.concat([table.assign(split="train"), apart])
            tokens = 20 if kind in MACHINE else 40
            tables.append(both.assign(step=step, response_type=kind, n_tokens=tokens))
    return pd.concat(tables).sample(frac=1, random_state=seed, ignore_index=True)


def training(planted, counts_end=False, noise=0.3, steps=(0, 8)):
    """Trajectories by leading space, update and seed in which training on a machine type moves the
    other machine types by ``planted[space]`` more than natural ones. All else is the same for all
    types, or does not belong to the fingerprint: a type's influence on itself, and what training
    on natural text does."""

    def moves(space, update, kind):
        if update == kind:
            return (50.0, 50.0, 50.0)
        if update not in MACHINE:
            return (7.0, -7.0, 7.0) if kind in MACHINE else (0.0, 0.0, 0.0)
        common = np.array([0.5, -2.0, 0.25])
        return common + np.array(planted[space]) * (kind in MACHINE)

    return {
        space: {
            update: {
                seed: trajectory(lambda k, s=space, u=update: moves(s, u, k), counts_end,
                                 1000 * seed + number, noise, steps)
                for seed in SEEDS
            }
            for number, update in enumerate(UPDATES)
        }
        for space in ("as_published", "corrected")
    }  # fmt: skip


# -- influence -------------------------------------------------------------------------------


@pytest.mark.parametrize("counts_end", [True, False])
def test_influence_is_split_into_its_parts(counts_end):
    """What was planted in each part, per example, whether or not end-of-text is in logp."""
    runs = {s: trajectory(lambda kind: (1.0, -2.0, 4.0), counts_end, s) for s in SEEDS}
    parts = influence(runs, "irr_hum", counts_end)
    assert list(parts) == PARTS == ["first token", "body", "end-of-text"]
    for part, value in zip(PARTS, (1.0, -2.0, 4.0), strict=True):
        np.testing.assert_allclose(parts[part], np.full((2, EXAMPLES), value))
    total = sum(parts.values())
    change = 3.0 if counts_end else -1.0
    np.testing.assert_allclose(total - (0.0 if counts_end else 4.0), change)


@pytest.mark.parametrize("counts_end", [True, False])
def test_a_cut_response_has_no_end(counts_end):
    """Its end-of-text moves by nothing, and all that moves is first token or body."""
    table = trajectory(lambda kind: (1.0, -2.0, 4.0), counts_end)
    cut = table["example_id"] == "e03"
    table.loc[cut, "logp"] -= table.loc[cut, "logp_end"] * counts_end
    table.loc[cut, "logp_end"] = np.nan
    parts = influence({0: table}, "chosen", counts_end)
    expected = np.where(np.arange(EXAMPLES) == 3, 0.0, 4.0)
    np.testing.assert_allclose(parts["end-of-text"], [expected])
    np.testing.assert_allclose(parts["first token"], 1.0)
    np.testing.assert_allclose(parts["body"], -2.0)


def test_an_example_without_the_type_is_in_no_part():
    """A gap in the probe set is left out of every part, end-of-text too."""
    table = trajectory(lambda kind: (1.0, -2.0, 4.0), False)
    gone = (table["response_type"] == "irr_hum") & (table["example_id"] < "e20")
    parts = influence({0: table[~gone]}, "irr_hum", False)
    for part, value in zip(PARTS, (1.0, -2.0, 4.0), strict=True):
        np.testing.assert_allclose(parts[part][0, 20:], value)
        assert np.isnan(parts[part][0, :20]).all(), part


def test_influence_table():
    """Every space × update × observed type × part: the planted value; the sum of the parts as part
    "all"; intervals as narrow as the noise."""
    planted = {"as_published": (3.0, 1.0, -0.5), "corrected": (0.0, 1.0, -0.5)}
    trained = {space: {update: runs[update] for update in ("irr_hum", "chosen")}
               for space, runs in training(planted).items()}  # fmt: skip
    table = influence_table(trained, False)
    assert len(table) == 2 * 2 * len(KINDS) * 4
    value = table.set_index(["leading_space", "update", "observed", "part"])["value"].sort_index()
    error = 5 * 0.3 / np.sqrt(len(SEEDS) * EXAMPLES)
    for space, extra in planted.items():
        for part, start, more in zip(PARTS, (0.5, -2.0, 0.25), extra, strict=True):
            assert value[space, "irr_hum", "chosen", part] == pytest.approx(start, abs=error)
            machine = value[space, "irr_hum", "chosen_gptformat", part]
            assert machine == pytest.approx(start + more, abs=error)
            assert value[space, "irr_hum", "irr_hum", part] == pytest.approx(50, abs=error)
        for kind in KINDS:
            whole = value[space, "chosen", kind]
            assert whole["all"] == pytest.approx(whole[PARTS].sum())
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert table["high"].sub(table["low"]).between(0.05, 0.6).all()


# -- the fingerprint -------------------------------------------------------------------------

# (planted as published, planted corrected) in first token, body and end-of-text; F by setting
# (leading space, end-of-text), the share, and the verdict.
WORLDS = {
    "first-token": ((3.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, "wholly an artefact"),
    "end-of-text": ((0.0, 0.0, 3.0), (0.0, 0.0, 3.0), 1.0, "wholly an artefact"),
    "both-ends": ((2.0, 0.0, 1.0), (0.0, 0.0, 1.0), 1.0, "wholly an artefact"),
    "reversed": ((3.0, 0.0, 0.0), (0.0, -1.0, 0.0), 4 / 3, "wholly an artefact"),
    "body": ((0.0, 3.0, 0.0), (0.0, 3.0, 0.0), 0.0, "not an artefact"),
    "stronger": ((0.0, 3.0, 0.0), (0.0, 4.0, 0.0), -1 / 3, "not an artefact"),
    "a-quarter": ((1.0, 3.0, 0.0), (0.0, 3.0, 0.0), 0.25, "partly an artefact"),
    "most": ((2.0, 1.0, 1.0), (0.0, 1.0, 1.0), 0.75, "mostly an artefact"),
    "nothing": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), None, "no fingerprint here"),
    "below": ((-1.0, 0.0, 0.0), (0.0, 3.0, 0.0), None, "no fingerprint here"),
}


@pytest.mark.parametrize(
    ("name", "counts_end"),
    [*((name, number % 2 == 0) for number, name in enumerate(WORLDS)), ("both-ends", False)],
)
def test_fingerprint_finds_what_was_planted(name, counts_end):
    """F in each of the four settings, its parts, the share and the verdict of docs/statistics.md;
    whether the runs' logp counts end-of-text changes none of them."""
    published, corrected, share, verdict = WORLDS[name]
    planted = {"as_published": published, "corrected": corrected}
    table = fingerprint_table(training(planted, counts_end), counts_end)
    assert table["leading_space"].tolist() == ["as_published"] * 2 + ["corrected"] * 2 + ["share"]
    near = 0.1  # 2 updates × 4 types against 4 types: the noise of each is 0.3
    for row in table.iloc[:4].to_dict("records"):
        extra = np.array(planted[row["leading_space"]])
        used = slice(3 if row["end_of_text"] == "as_published" else 2)
        assert row["F"] == pytest.approx(extra[used].sum(), abs=near)
        assert row["natural"] == pytest.approx(np.array([0.5, -2.0, 0.25])[used].sum(), abs=near)
        assert row["F"] == pytest.approx(row["mutual"] - row["natural"])
        assert row["F_low"] < row["F"] < row["F_high"]
        for part, value in list(zip(PARTS, extra, strict=True))[used]:
            assert row[f"F {part}"] == pytest.approx(value, abs=near)
        assert pd.isna(row["F end-of-text"]) == (row["end_of_text"] == "corrected")
    last = table.iloc[4]
    assert last["verdict"] == verdict and table["verdict"].isna()[:4].all()
    if share is not None:
        assert last["F"] == pytest.approx(share, abs=0.05)
        assert last["F_low"] < share + 0.05 and last["F_high"] > share - 0.05
        assert last["F_high"] - last["F_low"] < 0.3


def test_half_of_a_fingerprint_is_inside_its_interval():
    """Half in the first token and half in the body: the interval of the share holds one half, and
    the verdict is that of the docs for it: partly."""
    planted = {"as_published": (1.5, 1.5, 0.0), "corrected": (0.0, 1.5, 0.0)}
    last = fingerprint_table(training(planted, noise=1.0), False).iloc[4]
    assert last["F_low"] < 0.5 < last["F_high"] and last["F_low"] > 0
    assert last["F"] == pytest.approx(0.5, abs=0.1)
    assert last["verdict"] == "partly an artefact"


def test_only_machine_updates_and_other_types_count():
    """By hand, without noise: the mean over updates of machine text and over the types observed,
    less the update's own."""
    weight = {kind: n + 1.0 for n, kind in enumerate(KINDS)}
    runs = {
        space: {
            update: {0: trajectory(lambda k, u=update: (weight[k] * weight[u], 0.0, 0.0), False)}
            for update in UPDATES
        }
        for space in ("as_published", "corrected")
    }
    row = fingerprint_table(runs, False).iloc[0]
    trained = [update for update in UPDATES if update in MACHINE]
    assert len(trained) == 2
    mutual = np.mean([weight[u] * weight[o] for u in trained for o in MACHINE if o != u])
    natural = np.mean([weight[u] * weight[o] for u in trained for o in NATURAL])
    assert (row["mutual"], row["natural"]) == pytest.approx((mutual, natural))
    assert row["F"] == row["F first token"] == pytest.approx(mutual - natural)


@pytest.mark.parametrize("gaps", [
    MACHINE[:2],
    MACHINE,
], ids=["some", "all"])  # fmt: skip
def test_an_example_without_machine_responses(gaps):
    """A prompt that the provider refuses to write for is left out; the verdict stays."""
    planted = {"as_published": (3.0, 1.0, 0.0), "corrected": (0.0, 1.0, 0.0)}
    trained = training(planted)
    for by_update in trained.values():
        for update, runs in by_update.items():
            for seed, table in runs.items():
                gone = (table["example_id"] == "e05") & table["response_type"].isin(gaps)
                by_update[update][seed] = table[~gone]
    table = fingerprint_table(trained, False)
    assert table.iloc[4]["verdict"] == "mostly an artefact"
    assert table.iloc[4]["F"] == pytest.approx(0.75, abs=0.05)
    known = table.iloc[:4][["F", "F_low", "F_high", "F first token", "F body"]]
    assert not known.isna().any(axis=None)


def test_course_of_the_fingerprint():
    """F after every evaluation: half of it half-way, and at the end that of the fingerprint's
    table."""
    planted = {"as_published": (3.0, 1.0, 0.5), "corrected": (0.0, 1.0, 0.5)}
    trained = training(planted, steps=(0, 4, 8))
    course = course_table(trained, False).set_index(["setting", "step"])
    assert list(course.index) == [(space, step) for space in planted for step in (4, 8)]
    for space, whole in (("as_published", 4.5), ("corrected", 1.0)):
        assert course.loc[(space, 4), "F"] == pytest.approx(whole / 2, abs=0.1)
        half, end = (course.loc[(space, step)] for step in (4, 8))
        np.testing.assert_allclose(end, 2 * half)
    table = fingerprint_table(trained, False).set_index(["leading_space", "end_of_text"])
    for space in planted:
        whole = table.loc[(space, space), ["F", "F_low", "F_high"]].astype(float)
        np.testing.assert_allclose(course.loc[(space, 8)], whole)


def test_the_fingerprint_for_people():
    """The verdict with its share, the four settings, and the three largest effects of a switch."""
    planted = {"as_published": (3.0, 1.0, 0.0), "corrected": (0.0, 1.0, 0.0)}
    fingerprint = fingerprint_table(training(planted), False)
    switches = pd.DataFrame({"switch": "truncation", "run": "sft", "response_type": list("abcde"),
                             **{f"{q}_{part}": [0.1, -3.0, 2.0, 0.0, -1.0]
                                for q in ("start", "change") for part in
                                ("difference", "low", "high")}})  # fmt: skip
    text = as_markdown(switches, fingerprint)
    assert "**mostly an artefact**" in text
    assert [line.split("|")[3].strip() for line in text.splitlines()
            if line.startswith("| truncation")] == ["b", "c", "e"]  # fmt: skip
    assert "| truncation | sft | b | -3.00 [-3.00, -3.00] |" in text
    rows = [line for line in text.splitlines() if line.startswith(("| as_pub", "| corr"))]
    assert len(rows) == 4 and [" – |" in row for row in rows] == [False, True] * 2


def interval(low, high):
    """An estimate of which only the interval counts."""
    return Estimate((low + high) / 2, low, high, ())


@pytest.mark.parametrize(("published", "corrected", "share", "verdict"), [
    ((-1, 2), (1, 2), (0.6, 0.9), "no fingerprint here"),
    ((0, 2), (1, 2), (0.6, 0.9), "no fingerprint here"),
    ((-2, -1), (1, 2), (0.6, 0.9), "no fingerprint here"),
    ((1, 2), (-1, 2), (0.1, 0.9), "wholly an artefact"),
    ((1, 2), (0, 2), (-0.5, 0.4), "wholly an artefact"),
    ((1, 2), (-2, -1), (1.1, 1.9), "wholly an artefact"),
    ((1, 2), (1, 2), (0.51, 0.9), "mostly an artefact"),
    ((1, 2), (1, 2), (0.5, 0.9), "partly an artefact"),
    ((1, 2), (1, 2), (0.01, 0.4), "partly an artefact"),
    ((1, 2), (1, 2), (0.0, 0.4), "not an artefact"),
    ((1, 2), (1, 2), (-0.2, 0.9), "not an artefact"),
    ((1, 2), (1, 2), (-0.9, -0.2), "not an artefact"),
])  # fmt: skip
def test_judge(published, corrected, share, verdict):
    """docs/statistics.md, at and between its limits."""
    assert judge(interval(*published), interval(*corrected), share) == verdict


# -- switches --------------------------------------------------------------------------------


def runs_of(starts, changes, names=None):
    """Trajectories by seed of one type, from arrays (seeds, examples)."""
    tables = {}
    for seed, (start, change) in enumerate(zip(starts, changes, strict=True)):
        ids = names or [f"e{n:02d}" for n in range(len(start))]
        rows = [
            (step, "train", ids[n], "chosen", s + c * (step > 0))
            for n, (s, c) in enumerate(zip(start, change, strict=True))
            for step in (0, 8)
        ]
        columns = ["step", "split", "example_id", "response_type", "logp"]
        tables[seed] = pd.DataFrame(rows, columns=columns)
    return tables


def test_switch_table_paired_by_hand():
    """Published minus corrected, example by example: a constant shift has an interval of one
    point, however much examples and seeds differ."""
    rng = np.random.default_rng(0)
    starts, changes = rng.normal(-20, 5, (2, 30)), rng.normal(3, 2, (2, 30))
    plain = runs_of(starts, changes)
    faulty = runs_of(starts - 1.5, changes + 0.25)
    table = switch_table({"sft": plain, "dpo": faulty},
                         {"truncation": {"sft": faulty, "dpo": plain}})  # fmt: skip
    assert table[["switch", "run", "response_type"]].to_numpy().tolist() == [
        ["truncation", "sft", "chosen"], ["truncation", "dpo", "chosen"]]  # fmt: skip
    assert table["paired"].all()
    sft, dpo = table.to_dict("records")
    assert sft["start_corrected"] == pytest.approx(starts.mean())
    assert sft["start_published"] == pytest.approx(starts.mean() - 1.5)
    assert sft["change_corrected"] == pytest.approx(changes.mean())
    assert sft["change_published"] == pytest.approx(changes.mean() + 0.25)
    for row, sign in ((sft, 1), (dpo, -1)):
        for name, shift in (("start", -1.5), ("change", 0.25)):
            found = [row[f"{name}_{part}"] for part in ("low", "difference", "high")]
            assert found == pytest.approx([sign * shift] * 3)


def test_switch_table_unpaired():
    """Other examples: the difference of the means, in an interval as wide as two independent draws
    of examples and a shared draw of seeds make it (written here as a loop)."""
    rng = np.random.default_rng(1)
    by_seed = np.array([[0.0], [1.0], [3.0]])  # the same in both: shared seeds cancel it
    one, two = rng.normal(2, 1, (3, 40)) + by_seed, rng.normal(5, 2, (3, 25)) + by_seed
    plain = runs_of(np.zeros((3, 40)), one)
    faulty = runs_of(np.zeros((3, 25)), two, [f"f{n}" for n in range(25)])
    (row,) = switch_table({"sft": plain}, {"row_sampling": {"sft": faulty}}).to_dict("records")
    assert not row["paired"]
    assert row["change_difference"] == pytest.approx(two.mean() - one.mean())
    draws = []
    for _ in range(4000):
        seeds = rng.integers(3, size=3)
        a, b = rng.integers(40, size=40), rng.integers(25, size=25)
        draws.append(two[np.ix_(seeds, b)].mean() - one[np.ix_(seeds, a)].mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (row["change_low"], row["change_high"]) == pytest.approx(
        (low, high), abs=0.08 * (high - low)
    )
    assert (row["start_low"], row["start_high"]) == (0, 0)


def test_switch_table_with_gaps():
    """A type that one example lacks on one side: the difference is over those that both have; a
    type that only one side has at all is left out."""
    starts, changes = np.full((1, 6), -20.0), np.arange(6.0)[None]
    plain, faulty = runs_of(starts, changes), runs_of(starts, 2 * changes)
    more = faulty[0].assign(response_type="irr_hum")
    hole = more[more["example_id"] != "e05"]
    plain = {0: pd.concat([plain[0], more.assign(logp=more["logp"] - 1), more.assign(
        response_type="only_here")])}  # fmt: skip
    table = switch_table({"sft": plain}, {"x": {"sft": {0: pd.concat([faulty[0], hole])}}})
    assert table["response_type"].tolist() == ["chosen", "irr_hum"]
    assert table["paired"].all()
    assert table["change_difference"].tolist() == pytest.approx([2.5, 0.0])
    assert table["start_difference"].tolist() == pytest.approx([0.0, 1.0])
    assert not table.isna().any(axis=None)


def test_rewordings_of_one_text_and_lengths_are_told_apart():
    """Planted: types that reword the same text rise by 6 nats besides (no style at all): F says 6
    times the share of such pairs, F across sources none. And with equal influence per response,
    half as many tokens give twice as much per token."""

    def tables(moves):
        return {space: {u: {0: trajectory(lambda k, u=u: moves(u, k), False)} for u in UPDATES}
                for space in ("as_published", "corrected")}  # fmt: skip

    related = tables(lambda u, k: (0.0, 6.0 * (SOURCE.get(u) == SOURCE.get(k) is not None), 0.0))
    row = fingerprint_table(related, False).iloc[0]
    assert row["F_across"] == pytest.approx(0, abs=1e-9)
    assert row["mutual"] > 0
    equal = tables(lambda u, k: (0.0, -8.0, 0.0))
    row = fingerprint_table(equal, False).iloc[0]
    assert row["F"] == pytest.approx(0, abs=1e-9)
    assert row["F_per_token"] == pytest.approx(-8 / 20 + 8 / 40)
