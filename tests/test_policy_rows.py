"""Rows that the policy writes: periods, references, the judge's order, and what a resume keeps."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from learning_dynamics.errors import InputError
from learning_dynamics.judge import judge_of
from learning_dynamics.policy_rows import PolicyRows
from learning_dynamics.reference import token_logps
from learning_dynamics.rows import rows_of_update, training_rows
from learning_dynamics.scoring import Engine
from learning_dynamics.tokens import Codec
from learning_dynamics.toyworld import World
from tests.conftest import COMPUTE, TOYWORLD, run_spec

WRITING = {"sample_tokens": 12, "temperature": 1.0, "next_turn": "\n\nHuman:"}


@pytest.fixture
def source(tiny, toy_pairs):
    """Function that makes PolicyRows and the engine of its policy."""
    train = toy_pairs[toy_pairs["split"] == "train"]

    def make(judge=None, frozen=None, **changes):
        codec = Codec(tiny[1], 256, 128)
        spec = run_spec("dpo", batch_size=3, **changes)
        rows = training_rows(toy_pairs, codec, spec, 0, None)
        made = PolicyRows(train, rows, codec, spec, 0, WRITING, judge, frozen)
        return made, rows, Engine(deepcopy(tiny[0]))

    return make


def shorter(prompt, one, two):
    """A judge that prefers the shorter answer."""
    return len(two) - len(one)


def moved(engine):
    """The engine after its weights have changed."""
    for parameter in engine.parameters():
        parameter.data.mul_(1.1)


def test_self_play_keeps_chosen_and_refers_to_the_writer(source):
    """y⁺ is the data's; y⁻ is newly written; the reference is the policy as it was at the start of
    the period, so the margin is 0 there and only there."""
    made, data, engine = source(rows="self-play", regenerate_every=2)
    first = made.at(0, engine, COMPUTE)
    numbers = sorted({n for u in (0, 1) for n in rows_of_update(u, data, 3, 0)})
    for n in numbers:
        assert first.trees[n].prompt == data.trees[n].prompt
        assert first.trees[n].responses[0] == data.trees[n].responses[0]
        assert first.trees[n].responses[1] != data.trees[n].responses[1]
    scored = token_logps(engine, [first.trees[n] for n in numbers], COMPUTE)
    for n, values in zip(numbers, scored, strict=True):
        for known, now in zip(first.reference[n], values, strict=True):
            np.testing.assert_allclose(known, now, rtol=1e-6)
    moved(engine)
    written = len(made.written)
    made.at(1, engine, COMPUTE)
    assert len(made.written) == written  # the same period
    again = made.at(2, engine, COMPUTE)
    assert made.written["period"].unique().tolist() == [0, 1]
    later = sorted({n for u in (2, 3) for n in rows_of_update(u, data, 3, 0)})
    now = token_logps(engine, [again.trees[n] for n in later], COMPUTE)
    np.testing.assert_allclose(again.reference[later[0]][1], now[0][1], rtol=1e-6)


def test_on_policy_is_ranked_by_the_judge(source, tiny):
    """Both are written; the judge's winner is y⁺; the reference stays the first model."""
    frozen = Engine(deepcopy(tiny[0]))
    made, data, engine = source(shorter, frozen, rows="on-policy")
    moved(engine)
    rows = made.at(0, engine, COMPUTE)
    table = made.written
    assert (table["chosen"].str.len() <= table["rejected"].str.len()).all()
    assert (table["chosen"].str.len() < table["rejected"].str.len()).any()
    assert sorted(table["row"]) == list(range(12))  # by default a period is an epoch
    values = token_logps(frozen, rows.trees, COMPUTE)
    for known, truth in zip(rows.reference, values, strict=True):
        for one, two in zip(known, truth, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)
    del data


def test_ties_are_broken_by_a_coin(source, tiny):
    """A judge that never prefers: either draw is y⁺ about as often, and ties are recorded."""
    made, _, engine = source(lambda *_: 0, Engine(deepcopy(tiny[0])), rows="on-policy")
    forward, _, _ = source(lambda *_: 1, Engine(deepcopy(tiny[0])), rows="on-policy")
    made.at(0, engine, COMPUTE)
    forward.at(0, engine, COMPUTE)
    assert made.written["tie"].all() and not forward.written["tie"].any()
    same = (made.written["chosen"] == forward.written["chosen"]).mean()
    assert 0.1 < same < 0.9


def test_what_was_cut_is_not_closed(source, tiny):
    """A sample that reached the length limit does not teach the policy to end there."""
    made, _, engine = source(rows="self-play")
    rows = made.at(0, engine, COMPUTE)
    end = tiny[1].eos_token_id
    cut = 0
    for record in made.written.to_dict("records"):
        closed = rows.trees[record["row"]].responses[1][-1] == end
        assert closed != record["unfinished"][1] or len(record["rejected"]) == 0
        cut += record["unfinished"][1]
    assert cut > 0


def test_restored_rows_are_the_same(source, tmp_path):
    """Through a Parquet file, as a resume does: trees and references as they were, and nothing is
    written anew in the same period."""
    made, _, engine = source(rows="self-play", regenerate_every=2)
    rows = made.at(0, engine, COMPUTE)
    made.written.to_parquet(tmp_path / "written.parquet")
    again, _, other = source(rows="self-play", regenerate_every=2)
    again.restore(pd.read_parquet(tmp_path / "written.parquet"))
    moved(other)
    same = again.at(1, other, COMPUTE)
    assert same.trees == rows.trees
    for one, two in zip(same.reference, rows.reference, strict=True):
        assert [v.tolist() for v in one] == [v.tolist() for v in two]


# -- judges ----------------------------------------------------------------------------------


def test_the_worlds_judge_knows_the_truth():
    """True beats half-true beats irrelevant beats false; two equally true answers tie."""
    world, rng = World(TOYWORLD["world_seed"]), np.random.default_rng(3)
    judge = judge_of({"provider": "toyworld", "world_seed": TOYWORLD["world_seed"]})
    for number in range(30):
        fact = world.facts[rng.integers(len(world.facts))]
        prompt, right = world.prompt(rng, fact), world.answer(rng, fact)
        wrong = world.answer(rng, world.false_fact(rng, fact))
        half = right.replace(fact.tool, "thing")
        ranked = [right, half, world.narrative(rng, 20), wrong]
        for better, worse in pairwise(ranked):
            assert judge(prompt, better, worse) > 0 > judge(prompt, worse, better), number
        assert judge(prompt, right, world.answer(rng, fact)) == 0


def test_a_judge_of_ones_own(tmp_path):
    """A function in a file; what is no number, or no function, is named."""
    file = tmp_path / "mine.py"
    file.write_text("def longer(p, a, b):\n    return len(a) - len(b)\n\n\n"
                    "def vague(p, a, b):\n    return 'a'\n")  # fmt: skip
    spec = {"provider": "function", "function": f"{file}:longer"}
    assert judge_of(spec)("p", "aaa", "b") == 2
    with pytest.raises(InputError, match=r"returned 'a'; expected a number"):
        judge_of({**spec, "function": f"{file}:vague"})("p", "a", "b")
    with pytest.raises(InputError, match=r"judge.function.*cannot be loaded"):
        judge_of({**spec, "function": f"{file}:absent"})
    with pytest.raises(InputError, match=r"judge.function.*no such file"):
        judge_of({**spec, "function": "absent.py:x"})
