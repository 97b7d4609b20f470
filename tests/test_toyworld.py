"""The embedded world: truth, style and separateness of its response types."""

from collections import Counter

import pandas as pd
import pytest
from conftest import STUDY, TOYWORLD, probes_of

from learning_dynamics import pairs, probe, toyworld
from learning_dynamics.errors import InputError
from learning_dynamics.toyworld import World

PROBE = STUDY.config["probe"]


def words(text):
    """The words of a text, without punctuation."""
    return [word.strip(".,?") for word in text.split()]


@pytest.fixture(scope="module", params=[1, 2, 3])
def world(request):
    """(world, pairs, probes) of the default configuration, for three seeds of the world."""
    spec = {**TOYWORLD, "world_seed": request.param, "documents": 0}
    data = pairs.build(spec)
    return World(request.param), data.pairs, probes_of(data, spec, PROBE)


def test_size_of_the_default_world():
    """docs/statistics.md: at least 1,000 distinct words and 300 training pairs."""
    data = pairs.build({**TOYWORLD, "documents": 4000})
    table = data.pairs
    texts = [*data.corpus, *table["prompt"], *table["chosen"], *table["rejected"]]
    assert len({word for text in texts for word in words(text)}) >= 1000
    assert (table["split"] == "train").sum() >= 300
    assert not table["example_id"].duplicated().any() and not table["prompt"].duplicated().any()


def test_lexicons_are_disjoint():
    """Every invented word belongs to one lexicon, so that a fact can be read back from a text."""
    lexicon = World(1).lexicon
    counts = Counter(word for group in lexicon.values() for word in group)
    assert set(counts.values()) == {1}


def test_chosen_is_true_and_rejected_false_in_every_slot(world):
    """The world's own facts: tool and both actions, in their order."""
    made, table, _ = world
    tools, actions = set(made.lexicon["tools"]), set(made.lexicon["actions"])
    for row in table.itertuples():
        fact = made.facts[int(row.example_id.removeprefix("fact-"))]
        assert f"{fact.task} the {fact.thing}?" in row.prompt.rsplit("\n\nHuman:", 1)[1]
        for text, true in ((row.chosen, True), (row.rejected, False)):
            tool = [word for word in words(text) if word in tools]
            stated = [word for word in words(text) if word in actions]
            if true:
                assert (tool, stated) == ([fact.tool], list(fact.actions))
            else:
                assert len(tool) == 1 and tool != [fact.tool]
                assert len(stated) == 2 and not set(stated) & set(fact.actions)


def test_chosen_and_rejected_share_their_style(world):
    """The same sentence frame, word by word, once content words are masked."""
    made, table, _ = world
    content = {w for kind in ("tools", "actions", "adjectives", "adverbs")
               for w in made.lexicon[kind]}  # fmt: skip

    def frame(text):
        return [w in content for w in words(text)]

    assert all(frame(r.chosen) == frame(r.rejected) for r in table.itertuples())
    style = [
        Counter(w for text in table[side] for w in words(text) if w not in content)
        for side in ("chosen", "rejected")
    ]
    assert len(set(style[0]) ^ set(style[1])) <= 0.1 * len(set(style[0]) | set(style[1]))


def test_rewrites_state_what_they_should(world):
    """Facts named in each text: gptsemantic those of its original, gptformat and irr_hum none, and
    no answer shares a word of the machine's style with chosen or rejected."""
    made, _, probes = world
    facts = set(made.lexicon["tools"]) | set(made.lexicon["actions"])
    machine = set(toyworld.MACHINE_OPENERS + toyworld.MACHINE_CLOSERS)
    by_type = probes.pivot(index="example_id", columns="response_type", values="response")
    for row in by_type.itertuples():
        said = {kind: set(words(getattr(row, kind))) for kind in by_type.columns}
        for side in ("chosen", "reject"):
            original = said["chosen" if side == "chosen" else "rejected"]
            assert said[f"{side}_gptsemantic"] & facts == original & facts
            assert not said[f"{side}_gptformat"] & facts
            for kind in ("gptsemantic", "gptformat"):
                assert said[f"{side}_{kind}"] & machine and not original & machine
        assert not said["irr_hum"] & facts


def test_no_string_is_of_two_types(world):
    """All strings of all types; irr_train alone is by definition another prompt's chosen."""
    _, table, probes = world
    train = set(table.loc[table["split"] == "train", "chosen"])
    of_text: dict[str, set] = {}
    for row in probes.itertuples():
        of_text.setdefault(row.response, set()).add(row.response_type)
    shared = [types for types in of_text.values() if len(types) > 1]
    assert all(types == {"chosen", "irr_train"} for types in shared)
    irrelevant = probes[probes["response_type"] == "irr_train"]
    assert set(irrelevant["response"]) <= train


def test_irrelevant_responses_come_from_where_they_should(world):
    """irr_test from test rows outside the probe set; irr_train never from its own prompt."""
    _, table, probes = world
    probed = set(probes["example_id"])
    by_type = probes.pivot(index="example_id", columns="response_type", values="response")
    unprobed = table[(table["split"] == "test") & ~table["example_id"].isin(probed)]
    assert set(by_type["irr_test"]) <= set(unprobed["chosen"])
    assert not (by_type["irr_train"] == by_type["chosen"]).any()


def test_permutations_keep_the_words(world):
    """Bags of words: random_permute of chosen, random_nonhum of irr_test, in another order."""
    _, _, probes = world
    by_type = probes.pivot(index="example_id", columns="response_type", values="response")
    for shuffled, original in (("random_permute", "chosen"), ("random_nonhum", "irr_test")):
        pairs_of = list(zip(by_type[shuffled], by_type[original], strict=True))
        assert all(Counter(a.split()) == Counter(b.split()) and a != b for a, b in pairs_of)


def test_answers_start_with_a_space(world):
    """A type's leading space is data: every type of the toy world has exactly one."""
    _, table, probes = world
    texts = pd.concat([table["chosen"], table["rejected"], probes["response"]])
    assert texts.str.match(r" \S").all()
    assert table["prompt"].str.endswith("\n\nAssistant:").all()


def test_every_type_that_needs_no_model_is_there(world):
    """The 13 published types less the two that a model writes, once per probed prompt."""
    _, _, probes = world
    expected = set(probe.RESPONSE_TYPES) - set(probe.SAMPLED_TYPES)
    for _, group in probes.groupby("example_id"):
        assert sorted(group["response_type"]) == sorted(expected)
    counts = probes.drop_duplicates("example_id")["split"].value_counts().to_dict()
    assert counts == {split: PROBE[split] for split in ("train", "test")}


def test_the_world_is_a_function_of_its_seed():
    """The same seed gives identical tables and corpus, another one different ones."""
    small = {**TOYWORLD, "train_rows": 20, "test_rows": 20, "documents": 30}
    first, again = pairs.build(small), pairs.build(small)
    pd.testing.assert_frame_equal(first.pairs, again.pairs)
    assert first.corpus == again.corpus
    limits = {**PROBE, "train": 5, "test": 5}
    probes = [probes_of(first, small, limits) for _ in range(2)]
    pd.testing.assert_frame_equal(*probes)
    other = pairs.build({**small, "world_seed": 2})
    assert not set(first.pairs["chosen"]) & set(other.pairs["chosen"])


def test_too_many_rows_are_named():
    """The world has 960 facts: asking for more says so."""
    with pytest.raises(InputError, match="960 facts"):
        pairs.build({**TOYWORLD, "train_rows": 900, "test_rows": 61})
