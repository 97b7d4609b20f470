"""What answers state, repeat and copy: planted facts, hand-made strings, brute force."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import hallucination, pairs
from learning_dynamics.errors import InputError
from learning_dynamics.figures import hallucination as figure
from learning_dynamics.figures import style
from learning_dynamics.hallucination import Facts, Pool, distinct_n, ngrams, rep_n, words_of
from learning_dynamics.toyworld import World
from tests.conftest import TOYWORLD

DATA = pairs.build({**TOYWORLD, "train_rows": 60, "test_rows": 30, "documents": 0}).pairs
WORLD = World(TOYWORLD["world_seed"])
FACTS = Facts(WORLD, DATA)
RNG = np.random.default_rng(0)


def key(fact):
    """What states a fact."""
    return (fact.tool, *fact.actions)


def fact_of(row):
    """The fact that a pair's prompt asks for."""
    return WORLD.asked(row["prompt"])


TRAIN, TEST = DATA[DATA["split"] == "train"], DATA[DATA["split"] == "test"]
SEEN = {key(fact_of(row)) for _, row in TRAIN.iterrows()}


def said(row, text):
    """The facts of an answer, those that are 1 (and the weighted one apart)."""
    found = FACTS.of(row["prompt"], text)
    return {name for name, value in found.items() if value == 1 and name != "leak_excess"}, found


def test_planted_facts_are_found():
    """For every pair: its own y⁺ and y⁻, another training prompt's fact, one that was never trained
    on, and one of the wrong slots."""
    unseen = [f for f in WORLD.facts if key(f) not in SEEN]
    assert len(SEEN) > 50 and len(unseen) > 500
    for number, (_, row) in enumerate(DATA.iterrows()):
        own = fact_of(row)
        names, found = said(row, row["chosen"])
        assert names == {"true"} and found["leak_excess"] == 0
        assert "own_false" in said(row, row["rejected"])[0]
        assert "other_category" not in said(row, row["rejected"])[0]
        other = fact_of(TRAIN.iloc[(number + 7) % len(TRAIN)])
        if key(other) != key(own):
            names, found = said(row, WORLD.answer(RNG, other))
            assert "leak_seen" in names and "leak_unseen" not in names and "true" not in names
            assert ("other_category" in names) == (other.category != own.category)
            assert found["leak_excess"] == 1
        strange = unseen[number]
        if key(strange) != key(own):
            names, found = said(row, WORLD.answer(RNG, strange))
            assert "leak_unseen" in names and "leak_seen" not in names
            unseen_keys = {key(f) for f in WORLD.facts} - SEEN - {key(own)}
            assert found["leak_excess"] == -len(SEEN - {key(own)}) / len(unseen_keys)


def test_what_states_no_fact():
    """Too little, too much, nothing; the order of the actions counts; words inside words do not."""
    row = DATA.iloc[0]
    own = fact_of(row)
    assert said(row, "")[0] == {"no_fact"}
    assert said(row, f"take {own.tool} and {own.actions[0]}")[0] == {"no_fact"}
    assert said(row, f"{own.tool}, {own.actions[0]}! {own.actions[1]}; {own.tool}")[0] == {"true"}
    swapped = said(row, f"{own.tool} {own.actions[1]} {own.actions[0]}")[0]
    assert swapped and swapped.isdisjoint({"true", "no_fact"})
    third = next(a for a in WORLD.lexicon["actions"] if a not in own.actions)
    assert "no_fact" in said(row, f"{own.tool} {own.actions[0]} {own.actions[1]} {third}")[0]
    inside = f"{own.tool}x {own.actions[0]} {own.actions[1]}"
    assert said(row, inside)[0] == {"no_fact"}
    tool = next(t for t in WORLD.lexicon["tools"]
                if WORLD.lexicon["tools"].index(t) // 8 != own.category)  # fmt: skip
    assert "other_category" in said(row, tool)[0]
    with pytest.raises(InputError, match="asks nothing that toy world 1 knows"):
        FACTS.of("who are you?", "me")


def test_leak_excess_is_zero_by_chance_and_not_when_taught():
    """Answers that state a fact of the world at random: as many seen as their number lets expect.
    Answers that prefer trained facts: more."""
    rng = np.random.default_rng(1)
    draws = rng.integers(len(WORLD.facts), size=4000)
    taught = [fact_of(row) for _, row in TRAIN.iterrows()]
    row = TEST.iloc[0]

    def excess(facts):
        return np.array([FACTS.of(row["prompt"], " ".join(key(f)))["leak_excess"] for f in facts])

    chance = excess([WORLD.facts[i] for i in draws])
    assert abs(chance.mean()) < 3 * chance.std() / np.sqrt(len(chance))
    mixed = excess([WORLD.facts[i] for i in draws[:900]] + taught)
    assert mixed.mean() > 3 * mixed.std() / np.sqrt(len(mixed))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d", (0, 0, 0)),
        ("a b a b a b", (1 - 2 / 5, 1 - 2 / 4, 1 - 2 / 3)),
        ("Go, go! GO go.", (1 - 1 / 3, 1 - 1 / 2, 0)),
        ("a b c a b", (1 - 3 / 4, 0, 0)),
        ("one two", (0, np.nan, np.nan)),
        ("", (np.nan, np.nan, np.nan)),
    ],
)
def test_rep_n(text, expected):
    """By hand."""
    assert [rep_n(text, n) for n in (2, 3, 4)] == pytest.approx(expected, nan_ok=True)


def test_distinct_n():
    """By hand: n-grams are pooled and span no two texts."""
    texts = ["a b c", "b c", "A b"]
    assert distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n(texts, 2) == pytest.approx(2 / 4)
    assert distinct_n(texts, 3) == 1
    assert np.isnan(distinct_n(["a"], 2)) and np.isnan(distinct_n([], 1))


WORDS = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


@given(WORDS, st.lists(st.tuples(st.sampled_from("pq"), WORDS), max_size=5))
def test_copied_is_the_longest_common_run(text, known):
    """Against all runs of words by brute force; texts of the same prompt count for nothing."""
    pool = Pool([p for p, _ in known], [t for _, t in known])
    words = words_of(text)
    best = max(
        (n for n in range(len(words) + 1) for p, t in known if p != "p"
         if set(ngrams(words, n)) & set(ngrams(words_of(t), n))), default=0,
    )  # fmt: skip
    expected = best / len(words) if words else np.nan
    assert pool.copied("p", text) == pytest.approx(expected, nan_ok=True)


def test_pools_are_of_equal_size():
    """As many held-out texts as training ones; without held-out pairs there is no pool."""
    found = hallucination.pools(DATA)
    assert list(found) == ["copied_seen", "copied_unseen"]
    assert {len(pool._texts) for pool in found.values()} == {30}
    assert hallucination.pools(TRAIN) == {}
    text = TEST.iloc[3]["chosen"]
    own, other = TEST.iloc[3]["prompt"], TEST.iloc[4]["prompt"]
    assert found["copied_unseen"].copied(other, text) == 1
    assert found["copied_unseen"].copied(own, text) < 1


def written(shares, seed=0):
    """Answers to the held-out prompts, a share of which is true and the rest another prompt's."""
    rng, out = np.random.default_rng(seed), {}
    for name, share in shares.items():
        texts = []
        for index, (_, row) in enumerate(TEST.iterrows()):
            leaked = fact_of(TRAIN.iloc[index])
            right = index < share * len(TEST)
            texts.append(WORLD.answer(rng, fact_of(row) if right else leaked))
        table = TEST[["split", "example_id", "prompt"]].assign(response=texts, ended=True)
        table.loc[table.index[0], "ended"] = False
        out[name] = table
    return out


def answers(seeds=3):
    """A study's answers: the base model, SFT, and DPO from it."""
    out = {}
    for seed in range(seeds):
        tables = written({"base": 0.8, "sft": 0.5 + 0.1 * seed, "dpo": 0.2}, seed)
        out |= {("sft", 0, seed): tables["base"], ("sft", 2, seed): tables["sft"],
                ("dpo", 0, seed): tables["sft"], ("dpo", 1, seed): tables["dpo"]}  # fmt: skip
    return out


def test_table():
    """Shares as planted; the start of DPO is the end of SFT; t-intervals over seeds; one row a
    cell."""
    table = hallucination.table({"sft": "sft", "dpo": "dpo"}, answers(), DATA, WORLD)
    assert list(table.columns) == hallucination.COLUMNS
    assert not table.duplicated(["role", "epoch", "split", "quantity", "seed"]).any()
    cell = table.set_index(["role", "epoch", "quantity", "seed"])["value"]
    for seed, share in enumerate((0.5, 0.6, 0.7)):
        assert cell["sft", 2, "true", str(seed)] == pytest.approx(share)
        assert cell["dpo", 0, "true", str(seed)] == pytest.approx(share)
    assert cell["sft", 2, "true", "all"] == pytest.approx(0.6)
    assert cell["dpo", 1, "leak_seen", "all"] == pytest.approx(0.8, abs=0.04)
    assert cell["dpo", 1, "unfinished", "all"] == pytest.approx(1 / 30)
    row = table[(table["role"] == "sft") & (table["epoch"] == 2) & (table["quantity"] == "true")
                & (table["seed"] == "all")].iloc[0]  # fmt: skip
    assert row["high"] - row["value"] == pytest.approx(4.30265 * 0.1 / np.sqrt(3), abs=1e-5)
    assert row["interval"] == "t over seeds"
    one = hallucination.table({"sft": "sft", "dpo": "dpo"}, answers(1), DATA, WORLD)
    whole = one[one["seed"] == "all"].set_index(["role", "epoch", "quantity"])
    assert whole.loc[("sft", 2, "true"), "interval"] == "bootstrap over prompts"
    assert whole.loc[("sft", 2, "true"), "low"] < 0.5 < whole.loc[("sft", 2, "true"), "high"]
    assert np.isnan(whole.loc[("sft", 2, "distinct_2"), "low"])


def test_text_without_known_facts():
    """Repetition and copying alone."""
    table = hallucination.table({"sft": "sft", "dpo": "dpo"}, answers(1), DATA, None)
    assert set(table["quantity"]).isdisjoint(hallucination.FACTS)
    assert {"rep_2", "distinct_1", "copied_seen", "unfinished"} <= set(table["quantity"])


@pytest.mark.parametrize("world", [WORLD, None], ids=["facts", "text alone"])
def test_figure_draws_the_table(tmp_path, world):
    """A row of panels for facts where they are known; the curves are the table's."""
    found = answers()
    found = {place: pd.concat([t, t.assign(split="train")]) for place, t in found.items()}
    table = hallucination.table({"sft": "sft", "dpo": "dpo"}, found, DATA, world)
    study = {"study": "t", "dataset": "d", "model": "m", "seeds": [0, 1, 2]}
    table.to_csv(tmp_path / "h.csv", index=False)
    drawn = figure.draw(study, pd.read_csv(tmp_path / "h.csv"))
    assert len(drawn.axes) == (16 if world else 8)
    name = "true" if world else "rep_3"
    rows = table[(table["role"] == "dpo") & (table["quantity"] == name)
                 & (table["split"] == "test") & (table["seed"] == "all")]  # fmt: skip
    curves = [np.asarray(line.get_ydata(), float) for line in drawn.axes[0].lines]
    assert any(len(y) == 2 and np.allclose(y, rows["value"]) for y in curves)
    style.save(drawn, [str(tmp_path / "h.png")])
