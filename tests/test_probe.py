"""Response types: how each is made, from which rows, and what becomes of those that are missing."""

import json
from collections import Counter
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import STUDY, TOYWORLD, dataset, probes_of, rephrased
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from learning_dynamics import claims, dynamics, pairs, probe
from learning_dynamics.errors import InputError
from learning_dynamics.pairs import GIVEN_COLUMNS, PAIR_COLUMNS
from learning_dynamics.probe import MADE, RESPONSE_TYPES, SAMPLED_TYPES, Example, draw_others
from learning_dynamics.scoring import Engine
from learning_dynamics.tokens import Codec
from learning_dynamics.trajectory import evaluation, probe_trees

PROBE = STUDY.config["probe"]
FILE = dataset(source="file", path="x")
NO_GIVEN = pd.DataFrame(columns=GIVEN_COLUMNS)
NO_REPHRASES = pd.DataFrame(columns=["example_id", "response_type", "response", "made_by",
                                     "status"])  # fmt: skip
MACHINE = ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat",
           "irr_hum"]  # fmt: skip
WORDS = st.lists(st.text("abc d\n,.", min_size=1, max_size=5), max_size=6).map(" ".join)


def switched(spec, *switches):
    """A data set with these switches as published."""
    return {**spec, "confounds": {**spec["confounds"], **dict.fromkeys(switches, "as_published")}}


def section(train, test, *types, **own):
    """Section probe."""
    names = list(types or MADE)
    return {**PROBE, "train": train, "test": test, "types": [*names, *own], "own_types": own}


def table(train, test, reserve=0, talk=lambda n: n):
    """Pairs whose chosen texts are all different; ``talk`` gives a row's conversation."""
    splits = ["train"] * train + ["test"] * test + ["reserve"] * reserve
    rows = [(split, f"e{n}", f"\n\nHuman: talk {talk(n)}\n\nHuman: q{n}\n\nAssistant:",
             f" the answer {n} to it", f" no {n}") for n, split in enumerate(splits)]  # fmt: skip
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def built(data, spec, of, given_rows=NO_GIVEN, rephrases=NO_REPHRASES):
    """The probe set with a column per response type, by example."""
    found = probe.build(data, given_rows, rephrases, spec, of)
    return found.pivot(index=["split", "example_id"], columns="response_type", values="response")


# -- the functions ---------------------------------------------------------------------------


def example(**fields):
    """An example whose texts are told apart by name."""
    names = ["split", "example_id", "prompt", "chosen", "rejected", "other_train", "other_test"]
    return Example(**{**{name: f" some {name} text" for name in names}, **fields})


@given(WORDS, st.integers(0, 9))
@pytest.mark.parametrize(("kind", "source"), [
    ("random_permute", "chosen"), ("random_nonhum", "other_test"),
])  # fmt: skip
def test_shuffles_keep_the_words(kind, source, text, seed):
    """The words of y⁺, or of the irr_test response, each as often; single spaces, none in front."""
    out = MADE[kind](example(**{source: text}), np.random.default_rng(seed))
    assert Counter(out.split()) == Counter(text.split())
    assert out == " ".join(out.split())


def test_shuffles_come_in_every_order():
    """All six orders of three words, about as often."""
    rng = np.random.default_rng(0)
    seen = Counter(MADE["random_permute"](example(chosen=" a b c"), rng) for _ in range(600))
    assert len(seen) == 6 and min(seen.values()) > 60


def test_irrelevant_types_are_what_was_drawn():
    """irr_train and irr_test: the chosen response of the row that was drawn, as it is."""
    rng = np.random.default_rng(0)
    assert MADE["irr_train"](example(), rng) == " some other_train text"
    assert MADE["irr_test"](example(), rng) == " some other_test text"
    assert set(MADE) == set(RESPONSE_TYPES) - set(SAMPLED_TYPES) - {"chosen", "rejected", *MACHINE}


# -- whose responses -------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 5))
def test_others_are_of_other_conversations_and_evenly_used(talks, count, seed):
    """Never of the row's own conversation, never its own text; and at each draw no row that fits
    was used less often: none comes twice while the pool lasts."""
    pool = table(len(talks), 0, talk=talks.__getitem__)
    probed = table(count, 0, talk=lambda n: n % 5).assign(
        chosen=[pool["chosen"][n % len(pool)] if n % 3 == 0 else f"own {n}" for n in range(count)]
    )

    def fits(row, n):
        other = pool.iloc[n]
        same = row.prompt.split("\n\n")[1] == other.prompt.split("\n\n")[1]
        return not same and row.chosen != other.chosen

    assume(len({*talks, *(n % 5 for n in range(count))}) > 1)  # else each prompt is its own talk
    rows, rng = list(probed.itertuples()), np.random.default_rng(seed)
    if not all(any(fits(row, n) for n in range(len(pool))) for row in rows):
        with pytest.raises(InputError, match=rf"all {len(pool)} rows .* expected at least two"):
            draw_others(rng, probed, pool)
        return
    used, number_of = Counter(), {text: n for n, text in enumerate(pool["chosen"])}
    for row, text in zip(rows, draw_others(rng, probed, pool), strict=True):
        number = number_of[text]
        assert fits(row, number)
        assert used[number] == min(used[n] for n in range(len(pool)) if fits(row, n))
        used[number] += 1


def test_others_are_a_random_draw():
    """Another generator draws otherwise; the same one the same."""
    probed, pool = table(8, 0), table(0, 30).assign(prompt="\n\nHuman: elsewhere\n\nAssistant:")
    rngs = [np.random.default_rng(seed) for seed in (0, 0, 1)]
    one, again, other = (draw_others(rng, probed, pool) for rng in rngs)
    assert one == again != other
    assert one != list(pool["chosen"][:8])


SIZES = st.tuples(st.integers(2, 12), st.integers(2, 12), st.integers(0, 6))


@settings(max_examples=30)
@given(SIZES, st.data(), st.booleans())
def test_every_type_comes_from_its_rows(sizes, data, published):
    """Of train and test probes alike. irr_train: a training row. irr_test: corrected never a
    training row, but a test row that is not probed; as published a row of the training split that
    is not probed, trained on or not. None twice while these last."""
    train, test, reserve = sizes
    counts = data.draw(st.tuples(st.integers(1, train), st.integers(0, test)))
    spec = switched(FILE, "irr_test_origin") if published else FILE
    rows = table(train, test, reserve * published)
    spare = train + reserve - counts[0] if published else test - counts[1]
    if spare < 2:
        with pytest.raises(InputError, match=rf"leaves {spare} held-out pairs for irr_test"):
            built(rows, spec, section(*counts))
        return
    found = built(rows, spec, section(*counts, *MADE, "chosen"))
    assert len(found) == sum(counts)
    assert found.groupby("split").size().to_dict() == {
        name: n for name, n in zip(("train", "test"), counts, strict=True) if n
    }
    trained = set(rows.loc[rows["split"] == "train", "chosen"])
    sources = ["train", "reserve"] if published else ["test"]
    held = set(rows.loc[rows["split"].isin(sources), "chosen"]) - set(found["chosen"])
    assert set(found["irr_train"]) <= trained
    assert set(found["irr_test"]) <= held and len(held) == spare
    used = [list(found["irr_test"]).count(text) for text in held]
    assert max(used) - min(used) <= 1
    assert not (found["irr_train"] == found["chosen"]).any()
    for kind, source in (("random_permute", "chosen"), ("random_nonhum", "irr_test")):
        assert found[kind].map(lambda t: sorted(t.split())).tolist() == (
            found[source].map(lambda t: sorted(t.split())).tolist()
        )


def test_types_are_drawn_apart():
    """What else is in the probe set changes no type: each has a stream of its own."""
    rows = table(9, 9)
    whole = built(rows, FILE, section(4, 2, *MADE, "chosen", "rejected"))
    pd.testing.assert_frame_equal(built(rows, FILE, section(4, 2, *MADE)), whole[sorted(MADE)])
    for kind in MADE:
        alone = built(rows, FILE, section(4, 2, kind, "chosen"))
        pd.testing.assert_series_equal(alone[kind], whole[kind])
    assert (whole["random_permute"].str.split() != whole["chosen"].str.split()).all()


def test_no_held_out_rows_are_needed_without_irr_test():
    """Every test row may be probed when nothing is made from the rest."""
    found = built(table(4, 3), FILE, section(2, 3, "chosen", "irr_train", "random_permute"))
    assert len(found) == 5
    with pytest.raises(InputError, match=r"probe\.test = 3: leaves 0 .* without irr_test and rand"):
        built(table(4, 3), FILE, section(2, 3, "chosen", "random_nonhum"))


def test_one_conversation_has_no_other_row():
    """irr_train needs the rows of a second conversation."""
    rows = table(4, 4, talk=lambda n: 0 if n < 4 else n)
    with pytest.raises(InputError, match="all 4 rows to draw from belong to one conversation"):
        built(rows, FILE, section(2, 1, "irr_train"))


def test_no_other_training_rows_are_needed_without_irr_train():
    """Training rows of one conversation are enough when no type is drawn from them."""
    rows = table(4, 4, talk=lambda n: 0 if n < 4 else n)
    assert len(built(rows, FILE, section(2, 1, "chosen", "irr_test", "random_permute"))) == 3


# -- which rows are probed -------------------------------------------------------------------


def test_probed_rows():
    """As published the first ones of each split; corrected a fixed random draw."""
    rows = table(20, 10, reserve=5)
    first = probe.probed_pairs(rows, NO_GIVEN, switched(FILE, "row_sampling"), section(4, 3))
    assert first["example_id"].tolist() == ["e0", "e1", "e2", "e3", "e20", "e21", "e22"]
    one, again = (probe.probed_pairs(rows, NO_GIVEN, FILE, section(4, 3)) for _ in range(2))
    pd.testing.assert_frame_equal(one, again)
    assert one["split"].tolist() == ["train"] * 4 + ["test"] * 3
    assert not one["example_id"].duplicated().any()
    assert not set(one["example_id"]) <= set(first["example_id"])


@pytest.mark.parametrize("switches", [(), ("row_sampling",)])
def test_rows_with_given_responses_come_first(switches):
    """Where a file brought responses for some rows of a split, those alone are probed; a split
    without any is as before. Too few are named as what they are."""
    rows, spec = table(20, 10), switched(FILE, *switches)
    given_rows = pd.DataFrame([(f"e{n}", "irr_hum", "x") for n in (3, 8, 9, 15)],
                              columns=GIVEN_COLUMNS)  # fmt: skip
    found = probe.probed_pairs(rows, given_rows, spec, section(3, 2))
    names = found["example_id"].tolist()
    assert set(names[:3]) < {"e3", "e8", "e9", "e15"}
    assert names[3:] == probe.probed_pairs(rows, NO_GIVEN, spec, section(3, 2))["example_id"][
        3:].tolist()  # fmt: skip
    if switches:
        assert names == ["e3", "e8", "e9", "e20", "e21"]
    with pytest.raises(InputError, match=r"probe\.train = 5: .* 4 train pairs with given respons"):
        probe.probed_pairs(rows, given_rows, spec, section(5, 2))
    with pytest.raises(InputError, match=r"probe\.test = 11: .* 10 test pairs; expected"):
        probe.probed_pairs(rows, given_rows, spec, section(3, 11))


# -- where a response comes from -------------------------------------------------------------


def test_given_before_written_before_made():
    """The data's own response first, then the provider's if it is one, then what is made here; the
    column made_by says which. A type that nobody has is absent."""
    rows = table(6, 6)
    names = list(rows["example_id"])
    brought = [("e1", "irr_hum", " given hum"), *((n, "irr_test", f" given {n}") for n in names)]
    given_rows = pd.DataFrame(brought, columns=GIVEN_COLUMNS)
    written = pd.DataFrame(
        [(n, kind, f" {kind} of {n}", "strong", "refusal" if n == "e2" else "ok")
         for n in names for kind in ("irr_test", "irr_hum", "chosen_gptformat")],
        columns=NO_REPHRASES.columns,
    )  # fmt: skip
    spec = switched(FILE, "row_sampling")
    of = section(4, 0, "chosen", "rejected", "irr_test", "irr_hum", "chosen_gptformat",
                 "chosen_gptsemantic", "random_permute", "chosen_initial")  # fmt: skip
    found = probe.build(rows, given_rows, written, spec, of)
    by = {(r.example_id, r.response_type): (r.response, r.made_by) for r in found.itertuples()}
    assert by["e0", "irr_test"] == (" given e0", "given")
    assert by["e1", "irr_hum"] == (" given hum", "given")
    assert by["e3", "irr_hum"] == (" irr_hum of e3", "strong")
    assert by["e0", "random_permute"][1] == "made" and by["e0", "rejected"] == (" no 0", "data")
    assert ("e2", "irr_hum") not in by and ("e2", "chosen_gptformat") not in by
    assert by["e2", "irr_test"] == (" given e2", "given")
    assert not {kind for _, kind in by} & {"chosen_gptsemantic", "chosen_initial"}
    order = [kind for kind in RESPONSE_TYPES if ("e0", kind) in by]
    assert found.loc[found["example_id"] == "e0", "response_type"].tolist() == order
    assert list(found) == probe.PROBE_COLUMNS


@pytest.fixture(scope="module")
def world():
    """(spec, data, what the world wrote) of a small toy world."""
    spec = {**TOYWORLD, "train_rows": 14, "test_rows": 8, "documents": 10}
    data = pairs.build(spec)
    return spec, data, rephrased(data, spec, section(6, 2, *RESPONSE_TYPES))


def test_gaps_survive_to_the_tables(tiny, world):
    """Answers that are none leave gaps in the probe set; the trajectory scores what is there, and
    tables and claims are means over it, without a NaN."""
    spec, data, written = world
    bad = written.index[(written["response_type"] == "irr_hum")][[0, 3]]
    bad = [*bad, written.index[(written["response_type"] == "chosen_gptformat")][1]]
    written = written.copy()
    written.loc[bad, "status"] = ["refusal", "empty", "too long"]
    lost = set(written.loc[bad, ["example_id", "response_type"]].itertuples(False, None))
    of = section(6, 2, *RESPONSE_TYPES)
    found = probe.build(data.pairs, data.given, written, spec, of)
    whole = probes_of(data, spec, of)
    keys = whole[["example_id", "response_type"]].itertuples(index=False, name=None)
    kept = whole[[key not in lost for key in keys]]
    pd.testing.assert_frame_equal(found, kept.reset_index(drop=True))

    model, tokenizer = tiny
    probes = probe_trees(found, Codec(tokenizer, 256, 128, count_end=False))
    scorer, moved = probes.scorer(4000), deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    run = pd.concat([evaluation(probes.identity, scorer(Engine(m)), step, 4 * step, 14)
                     for step, m in ((0, model), (9, moved))])  # fmt: skip
    by_example = run.pivot(index=["split", "response_type", "example_id"], columns="step",
                           values="logp")  # fmt: skip
    truth = (by_example[9] - by_example[0]).groupby(["split", "response_type"]).mean()
    changes = dynamics.changes_table({"dpo": {0: run, 1: run}})
    changes = changes[changes["seed"] == "all"].set_index(["split", "response_type"])
    assert len(changes) == len(truth) == 22 and not changes.isna().any().any()
    pd.testing.assert_series_equal(changes["change"].sort_index(), truth, check_names=False)
    steps = pd.DataFrame([{"kind": kind, "batch": 0, "p_label": 0.01, "dlogp_top_other": 0.1,
                           "dlogp_rest": 0.1, "dp_top_other": 0.1}
                          for kind in ("dpo", "coinflip", "sft")])  # fmt: skip
    roles = ("sft", "dpo", "continued", "coinflip", "sft_extend", "sft_matched", "dpo_long")
    evidence = claims.Recorded({r: {0: run, 1: run} for r in roles}, None, {0: steps, 1: steps})
    result, _ = claims.tables([claims.Column("toy", "d", "m", evidence)])
    tested = result[result["verdict"] != "not testable"]
    assert len(tested) >= 15 and not tested[["value", "low", "high"]].isna().any().any()


# -- leading spaces --------------------------------------------------------------------------


def test_leading_spaces_of_types(world):
    """Corrected, every type starts as y⁺ does; as published those that a machine or a shuffle wrote
    start with a word. Nothing else differs."""
    spec, data, written = world
    of = section(6, 2, *RESPONSE_TYPES)
    corrected, published = (
        probe.build(data.pairs, data.given, written, s, of)
        for s in (spec, switched(spec, "leading_space"))
    )
    assert corrected["response"].str.match(r" \S").all()
    bare = published["response_type"].isin([*MACHINE, "random_permute", "random_nonhum"])
    assert published.loc[bare, "response"].str.match(r"\S").all() and bare.sum() == 8 * 7
    assert published.loc[~bare, "response"].str.match(r" \S").all()
    assert (corrected["response"].str.strip() == published["response"].str.strip()).all()


def test_leading_spaces_go_where_the_house_has_none():
    """A data set whose answers start with a word; a blank response stays blank."""
    rows = table(5, 5).assign(chosen=[f"answer {n}" for n in range(10)])
    given_rows = pd.DataFrame([("e0", "irr_hum", " \n human"), ("e1", "irr_hum", " ")],
                              columns=GIVEN_COLUMNS)  # fmt: skip
    of = section(2, 0, "chosen", "rejected", "irr_hum")
    found = built(rows, FILE, of, given_rows)
    assert sorted(found["irr_hum"]) == [" ", "human"]
    assert found["rejected"].str.match("no").all()
    raw = built(rows, switched(FILE, "leading_space"), of, given_rows)
    assert sorted(raw["irr_hum"]) == [" ", " \n human"]


# -- types of the user's own -----------------------------------------------------------------

CODE = """
def shout(example, rng):
    return example.chosen.upper() + example.other_test + str(rng.integers(10**9))

def both(example, rng):
    return f" {example.split} {example.example_id} {example.prompt.strip()} {example.rejected}"

def others(example, rng):
    return example.other_train + "|" + example.other_test

def number(example, rng):
    return 3

def fails(example, rng):
    raise KeyError("nothing\\nhere")
"""


@pytest.fixture
def own(tmp_path):
    """The path of a file with functions of the user's."""
    path = tmp_path / "types.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def test_own_types(own):
    """They see the example and a generator of their own, stand behind the paper's types in the
    table, and change nothing in these; those that are not asked for are not even loaded."""
    rows = table(8, 8)
    types = {"mine": {"function": f"{own}:shout"}, "all": {"function": f"{own}:both"},
             "twin": {"function": f"{own}:shout"}}  # fmt: skip
    of = section(3, 2, *MADE, "chosen", **types)
    found = probe.build(rows, NO_GIVEN, NO_REPHRASES, FILE, of)
    kinds = found.loc[found["example_id"] == found["example_id"][0], "response_type"].tolist()
    assert kinds[-3:] == ["mine", "all", "twin"] and set(found["made_by"]) == {"data", "made"}
    plain = section(3, 2, *MADE, "chosen")
    plain["own_types"] = {"unused": {"function": "gone.py:f"}}
    rest = found[found["response_type"].isin(RESPONSE_TYPES)].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, probe.build(rows, NO_GIVEN, NO_REPHRASES, FILE, plain))
    wide = built(rows, FILE, of)
    drawn = [text.rsplit("it", 1) for text in wide["mine"]]
    assert [start + "it" for start, _ in drawn] == (
        wide["chosen"].str.upper() + wide["irr_test"]).tolist()  # fmt: skip
    assert len({number for _, number in drawn}) == 5
    assert (wide["twin"] != wide["mine"]).all()
    for (split, name), text in wide["all"].items():
        source = rows.set_index("example_id").loc[name]
        assert text == f" {split} {name} {source['prompt'].strip()} {source['rejected']}"
    pd.testing.assert_frame_equal(found, probe.build(rows, NO_GIVEN, NO_REPHRASES, FILE, of))


def test_own_types_see_the_drawn_rows(own):
    """Those of irr_train and irr_test, also where neither type is asked for."""
    rows, types = table(8, 8), {"mine": {"function": f"{own}:others"}}
    whole = built(rows, FILE, section(3, 2, *MADE, "chosen"))
    alone = built(rows, FILE, section(3, 2, "chosen", **types))
    assert alone["mine"].tolist() == (whole["irr_train"] + "|" + whole["irr_test"]).tolist()


def test_own_types_that_are_asked_for():
    """The provider's answers, or the file's, under the user's name."""
    given_rows = pd.DataFrame([("e1", "mine", " given")], columns=GIVEN_COLUMNS)
    written = pd.DataFrame([(f"e{n}", "mine", f" asked {n}", "strong", "ok") for n in range(4)],
                           columns=NO_REPHRASES.columns)  # fmt: skip
    of = section(1, 0, "chosen", mine={"ask": "say {response}", "of": "chosen"})
    found = probe.build(table(4, 4), given_rows, written, FILE, of)
    assert found["response"].tolist()[1:] == [" given"]
    found = probe.build(table(4, 4), NO_GIVEN, written, FILE, {**of, "train": 4})
    assert found.loc[found["response_type"] == "mine", "made_by"].tolist() == ["strong"] * 4


@pytest.mark.parametrize(("place", "fragments"), [
    ("{own}:number", ["probe.own_types.mine: returned 3; expected text"]),
    ("{own}:fails", ["probe.own_types.mine: fails on example 'e", "KeyError"]),
    ("{own}:gone", ["probe.own_types: '", "cannot be loaded (AttributeError", "gone"]),
    ("{own}:CODE", ["own_types.mine: fails on example", "TypeError"]),
    ("{own}.gone.py:f", ["no such file; expected file.py:function"]),
    ("{folder}/broken.py:f", ["cannot be loaded (SyntaxError"]),
    ("{folder}:f", ["no such file"]),
])  # fmt: skip
def test_own_types_that_do_not_work(own, place, fragments):
    """Type or place, and what happened, whatever the user's code did."""
    (own.parent / "broken.py").write_text("def f(:", encoding="utf-8")
    own.write_text(CODE + "CODE = 3\n", encoding="utf-8")
    place = place.format(own=own, folder=own.parent)
    of = section(2, 1, "chosen", "irr_train", mine={"function": place})
    with pytest.raises(InputError) as caught:
        probe.build(table(4, 4), NO_GIVEN, NO_REPHRASES, FILE, of)
    for fragment in fragments:
        assert fragment in str(caught.value)


# -- chat data sets --------------------------------------------------------------------------


def test_marks_of_a_chat_template_are_not_words(tmp_path):
    """The end-of-turn mark of a chat template is in no response: it is not shuffled among the
    words, and all types are closed alike, by end-of-text."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'"
        " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    (tmp_path / "my.jinja").write_text(template, encoding="utf-8")
    rows = [{"prompt": f"q {n}", "chosen": f"some answer {n}", "rejected": f"no {n}",
             "irr_hum": f"the cat {n}"} for n in range(12)]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = {**FILE, "chat_template": str(tmp_path / "my.jinja"), "test_share": 0.4}
    data = pairs.build(spec, [path])
    found = probe.build(data.pairs, data.given, NO_REPHRASES, spec,
                        section(3, 1, "chosen", "irr_hum", *MADE))  # fmt: skip
    assert not found["response"].str.contains("<", regex=False).any()
    assert found["prompt"].str.endswith("<|im_end|>\n<|im_start|>assistant\n").all()
