"""The data card: it names the faults of a probing set, each by one name, and is silent on none."""

import json
import runpy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import card
from learning_dynamics.figures import probe, style
from learning_dynamics.probe import PROBE_COLUMNS, RESPONSE_TYPES

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow_scripts"
STUDY = {"study": "test", "dataset": "made up", "model": "none", "seeds": [0]}
WRITTEN = ["chosen_initial", "chosen_selfr", "chosen_gptsemantic", "chosen_gptformat", "rejected",
           "reject_gptsemantic", "reject_gptformat", "irr_hum", "my_own"]  # fmt: skip
ALL_TYPES = [*RESPONSE_TYPES, "my_own"]


# -- a clean probing set, and faults to plant in it ------------------------------------------


def sentence(rng, words=0):
    """So many invented words (default: 10 to 13) with a space before and a full stop after."""
    made = rng.integers(0, 20, (words or int(rng.integers(10, 14)), 3))
    said = ["".join("bcdfgklmnprstvwxyzhj"[i] + "aeiou"[i % 5] for i in word) for word in made]
    return " " + " ".join(said) + "."


def shuffled(rng, text):
    """The words of a text in another order."""
    return " " + " ".join(rng.permutation(text.split()))


def clean_set(seed):
    """(probes, pairs) without a fault: 24 training and 12 test examples of 14 types."""
    return tuple(table.copy() for table in made(seed))


@cache
def made(seed):
    """What :func:`clean_set` copies."""
    rng = np.random.default_rng(seed)
    pairs = pd.DataFrame(
        [
            (split, f"{split}-{i}", f"\n\nHuman:{sentence(rng, 6 + i % 9)}\n\nAssistant:",
             sentence(rng), sentence(rng))
            for split, count in (("train", 60), ("test", 12), ("reserve", 36)) for i in range(count)
        ],
        columns=["split", "example_id", "prompt", "chosen", "rejected"],
    )  # fmt: skip
    unseen = list(pairs.loc[pairs["split"] == "reserve", "chosen"])
    train = pairs[pairs["split"] == "train"]
    out = []
    for row in pd.concat([train[:24], pairs[pairs["split"] == "test"]]).itertuples():
        texts = {kind: sentence(rng) for kind in WRITTEN}
        texts |= {"chosen": row.chosen, "rejected": row.rejected, "irr_test": unseen.pop(),
                  "irr_hum": sentence(rng, len(row.chosen.split())),
                  "irr_train": rng.choice(train.loc[train["chosen"] != row.chosen, "chosen"]),
                  "random_permute": shuffled(rng, row.chosen)}  # fmt: skip
        texts["random_nonhum"] = shuffled(rng, texts["irr_test"])
        out += [(row.split, row.example_id, row.prompt, k, texts[k], "test") for k in ALL_TYPES]
    return pd.DataFrame(out, columns=PROBE_COLUMNS), pairs


def of(probes, kind, every=1):
    """The rows of a type, or every so-manieth of them."""
    return probes.index[probes["response_type"] == kind][::every]


def edit(kind, change, every=1):
    """A fault: ``change`` of every so-manieth response of a type."""

    def plant(probes, pairs, rng):
        rows = of(probes, kind, every)
        probes.loc[rows, "response"] = [change(text) for text in probes.loc[rows, "response"]]
        return probes

    return plant


def put(kind, source, every=5):
    """A fault: a fifth of a type's responses are those of ``source(probes, pairs, rows, rng)``."""

    def plant(probes, pairs, rng):
        rows = of(probes, kind, every)
        probes.loc[rows, "response"] = list(source(probes, pairs, rows, rng))
        return probes

    return plant


def from_pairs(split):
    """Chosen responses of pairs of a split, each once."""
    return lambda probes, pairs, rows, rng: rng.permutation(
        pairs.loc[pairs["split"] == split, "chosen"]
    )[: len(rows)]


def own(kind):
    """The responses of the same examples of another type."""

    def responses(probes, pairs, rows, rng):
        here = probes[probes["response_type"] == kind].set_index("example_id")["response"]
        return here.loc[probes.loc[rows, "example_id"]]

    return responses


def first(probes, pairs, rows, rng):
    """The type's first response of the same split, for all rows."""
    kind = probes.loc[rows[0], "response_type"]
    here = probes[probes["response_type"] == kind].groupby("split")["response"].first()
    return here.loc[probes.loc[rows, "split"]]


def conversations(probes, pairs, rng):
    """Three training prompts continue the talk of the first long one."""
    prompts = probes["prompt"].drop_duplicates()
    start = prompts[prompts.str.len() > 90].iloc[0]
    for i, name in enumerate(("train-20", "train-21", "train-22")):
        probes.loc[probes["example_id"] == name, "prompt"] = f"{start} yes.\n\nHuman: and {i}?"
    return probes


def cut_types(probes, pairs, rng):
    """A tenth of the irr_hum rows are not there."""
    return probes.drop(of(probes, "irr_hum", 10))


def test_as_train(probes, pairs, rng):
    """Test examples have the my_own responses of training examples."""
    rows = of(probes, "my_own")
    probes.loc[rows[-8:], "response"] = list(probes.loc[rows[:8], "response"])
    return probes


test_as_train.__test__ = False
LEAK = "irr-test-trained"
# name: (the check that should name it, the types that it should name, the fault)
FAULTS = {
    **{f"no space: {k}": ("leading-space", {k}, edit(k, str.strip))
       for k in ALL_TYPES if k != "chosen"},
    **{f"empty: {k}": ("empty", {k}, edit(k, lambda text: "", 7)) for k in ALL_TYPES},
    **{f"blank: {k}": ("empty", {k}, edit(k, lambda text: " \n", 1)) for k in ALL_TYPES},
    **{f"long: {k}": ("length", {k}, edit(k, lambda text: text + text[:-20] + ".", 1))
       for k in WRITTEN if k != "irr_hum"},
    **{f"cut: {k}": ("unfinished", {k}, edit(k, lambda text: text[:-1], 3)) for k in WRITTEN},
    **{f"talk: {k}": ("talk", {k}, edit(k, lambda text: " Sure! Here is a text:" + text, 3))
       for k in ("chosen_gptsemantic", "reject_gptformat")},
    **{f"symbols: {k}": ("odd-symbols", {k}, edit(k, lambda text: text + " @@@", 3))
       for k in WRITTEN},
    **{f"repeated: {k}": ("duplicates-within", {k}, put(k, first))
       for k in ALL_TYPES if k != "irr_train"},
    "all one: irr_train": ("duplicates-within", {"irr_train"}, put(
        "irr_train", lambda p, q, rows, rng: [q["chosen"][40]] * len(rows), 1)),
    **{f"copied: {k}": ("duplicates-across", {k, "my_own"}, put("my_own", own(k)))
       for k in WRITTEN if k != "my_own"},
    "of another y⁺": ("duplicates-across", {"chosen", "my_own"}, put("my_own", own("chosen"))),
    "test as train": ("duplicates-splits", {"my_own"}, test_as_train),
    "leak": (LEAK, {"irr_test"}, put("irr_test", from_pairs("train"))),
    "not trained": ("irr-train-untrained", {"irr_train"}, put("irr_train", from_pairs("reserve"))),
    **{f"own answer: {k}": ("own-answer", {k}, put(k, own("chosen")))
       for k in ("irr_train", "irr_test", "irr_hum")},
    "one conversation": ("related-prompts", {"prompt"}, conversations),
    "no shuffle": ("shuffle", {"random_permute"},
                   put("random_permute", lambda p, q, rows, rng: [sentence(rng) for _ in rows])),
    "shuffle of another": ("shuffle", {"random_nonhum"},
                           put("random_nonhum", lambda p, q, rows, rng: [
                               shuffled(rng, t) for t in own("rejected")(p, q, rows, rng)])),
    "word count": ("word-count", {"irr_hum"},
                   edit("irr_hum", lambda text: " " + " ".join(text.split()[3:]))),
    "missing rows": ("missing", {"irr_hum"}, cut_types),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_it_is_silent_on_a_clean_set(seed):
    """No finding, with pairs or without, whatever the texts."""
    probes, pairs = clean_set(seed)
    assert card.findings(probes, pairs).empty, card.findings(probes, pairs)["message"].tolist()
    assert card.findings(probes).empty
    table = card.card(probes, pairs)
    assert len(table) == 28 and table["count"].sum() == len(probes)
    shuffles = table[table["response_type"] == "random_permute"]
    assert (shuffles["same_words"] == 1).all() and (shuffles["overlap"] == 1).all()


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_has_one_name(fault):
    """The fault planted is named, with its type, and nothing else is."""
    check, kinds, plant = FAULTS[fault]
    probes, pairs = clean_set(len(fault))
    found = card.findings(plant(probes, pairs, np.random.default_rng(1)), pairs)
    assert set(found["check"]) == {check}, found["message"].tolist()
    assert set(found["response_type"]) == kinds


@settings(max_examples=20)
@given(st.integers(10, 10**6), st.sampled_from(sorted(FAULTS)))
def test_one_fault_has_one_name_in_any_texts(seed, fault):
    """The same over seeds."""
    check, _, plant = FAULTS[fault]
    probes, pairs = clean_set(seed)
    probes = plant(probes, pairs, np.random.default_rng(seed))
    assert set(card.findings(probes, pairs)["check"]) == {check}


def test_two_faults_have_two_names():
    """Faults do not hide each other."""
    probes, pairs = clean_set(0)
    for fault in ("leak", "no space: rejected", "empty: my_own"):
        FAULTS[fault][2](probes, pairs, np.random.default_rng(1))
    found = card.findings(probes, pairs)
    named = set(zip(found["check"], found["response_type"], strict=True))
    assert named == {(LEAK, "irr_test"), ("leading-space", "rejected"), ("empty", "my_own")}


def test_a_lost_space_hides_no_leak():
    """Texts are compared without the space around them."""
    probes, pairs = clean_set(0)
    FAULTS["leak"][2](probes, pairs, np.random.default_rng(1))
    edit("irr_test", str.strip)(probes, pairs, None)
    assert set(card.findings(probes, pairs)["check"]) == {LEAK, "leading-space"}


# -- the published set -----------------------------------------------------------------------


def published(hh_rows):
    """(probes, pairs) of the published file."""
    keys = ["split", "example_id", "prompt"]
    pairs = pd.DataFrame(hh_rows).assign(split="train", example_id=[f"r{i}" for i in range(500)])
    probes = pairs.melt(keys, var_name="response_type", value_name="response")
    return probes.assign(made_by="file"), pairs[[*keys, "chosen", "rejected"]]


def test_it_names_the_confounds_of_the_published_set(hh_rows):
    """Notes on the paper, sections 3.5 and 3.6: each confound there, and no check beyond them."""
    found = card.findings(*published(hh_rows))
    named = {c: set(rows["response_type"]) for c, rows in found.groupby("check")}
    rephrases = {"chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat"}
    shuffles = {"random_permute", "random_nonhum"}
    assert named == {
        "leading-space": {*rephrases, *shuffles, "irr_hum", "chosen_selfr", "chosen_initial"},
        "length": {*rephrases, "chosen_selfr", "rejected"},
        "empty": {"chosen_initial"},
        "unfinished": {"chosen_initial", "chosen_selfr"},
        "odd-symbols": {"chosen_selfr"},
        "talk": {"irr_hum"},
        "word-count": {"irr_hum"},
        "related-prompts": {"prompt"},
    }
    text = "\n".join(found["message"])
    assert "chosen_initial (train): 21 of 500 (4%) are empty" in text
    assert "90%; 86% of all 500) start with a space" in text


# -- by hand ---------------------------------------------------------------------------------


def table(rows):
    """A probe table from (split, example, type, response)."""
    made = [(s, e, f"{e}?", k, response, "hand") for s, e, k, response in rows]
    return pd.DataFrame(made, columns=PROBE_COLUMNS)


def test_the_card_by_hand():
    """Two examples, every column computed by hand."""
    probes = table([
        ("train", "a", "chosen", " One two three four."), ("train", "b", "chosen", " Five six."),
        ("train", "a", "mine", "one two @@@ x"), ("train", "b", "mine", None),
    ])  # fmt: skip
    pairs = pd.DataFrame({"split": ["train", "test"], "example_id": ["b", "c"],
                          "chosen": [" One  two three four. ", "one two @@@ x"]})  # fmt: skip
    rows = card.card(probes, pairs, lambda texts: [len(t) for t in texts]).set_index(
        "response_type"
    )
    chosen, mine = rows.loc["chosen"], rows.loc["mine"]
    assert (chosen["words_mean"], chosen["words_median"], chosen["words_ratio"]) == (3, 3, 1)
    assert (chosen["tokens_mean"], chosen["unfinished"], chosen["leading_space"]) == (15, 0, 1)
    assert (chosen["in_training"], mine["in_training"]) == (0.5, 0)  # a's y⁺ is b's in the pairs
    assert (mine["count"], mine["empty"], mine["words_mean"]) == (2, 0.5, 4)
    assert (mine["words_ratio"], mine["tokens_mean"]) == (4 / 3, 13)
    assert (mine["overlap"], mine["same_words"]) == (2 / 6, 0)  # {one, two} of six words
    assert (mine["leading_space"], mine["odd_symbols"]) == (0, 1)
    assert np.isnan(mine["unfinished"])  # its one response has odd symbols
    assert rows.notna().drop(columns="unfinished").all(axis=None)
    assert card.card(probes)[["tokens_mean", "in_training"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [("Yes.", 0), ("Yes. ", 0), ("Yes", 1), ("Why?\n", 0), ("so…", 0), ("“Yes.”", 0), ("(no)", 0),
     ("first,", 1), ("see:", 1), ("はい。", 0), ("one two th", 1)],
)  # fmt: skip
def test_what_ends_like_a_sentence(text, unfinished):
    """Full stops of any script, marks, closing quotes and brackets."""
    assert card.measure(table([("train", "a", "x", text)]))["unfinished"][0] == unfinished


@pytest.mark.parametrize(
    ("text", "odd"),
    [("a @@@ b", 1), ("a @@ b", 0), ("well... yes....", 0), ("###", 1), ("aaa 000", 0),
     ("a ! ! !", 0), ("😀😀😀", 1), ("___", 0)],
)  # fmt: skip
def test_what_is_an_odd_symbol(text, odd):
    """Runs of three equal symbols; dots, letters and digits are none."""
    assert card.measure(table([("train", "a", "x", text)]))["odd_symbols"][0] == odd


def test_limits_decide():
    """A stricter limit finds more, a looser one less; a message has the numbers."""
    probes, pairs = clean_set(3)
    edit("rejected", str.strip, 10)(probes, pairs, None)
    found = card.findings(probes, pairs)
    assert found["message"].tolist()[0] == (
        "rejected (train): 21 of 24 (88%) start with a space; 100% of y⁺ do."
    )
    assert card.findings(probes, pairs, limits={"leading-space": 0.2}).empty
    assert len(card.findings(probes, pairs, limits={"length": 1.0})) > 20
    tokens = card.findings(probes, pairs, lambda t: [2] * len(t), limits={"length": 1.0})
    assert "2.0 and 2.0 tokens" in tokens["message"].iloc[-1]


# -- whatever comes --------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train", "test", "other"]),
            st.sampled_from("abcd"),
            st.sampled_from([*RESPONSE_TYPES, "own type", "ü"]),
            st.one_of(st.none(), st.text(max_size=12), st.sampled_from([" ", " a b.", "b a"])),
        ),
        max_size=12,
    )
)
def test_any_table_has_a_card(rows):
    """Missing and repeated types, empty and odd texts: finite values, one sentence each."""
    probes = table(rows)
    pairs = pd.DataFrame([{"split": "train", "example_id": "a", "chosen": " a b."}])
    made, found = card.card(probes, pairs), card.findings(probes, pairs)
    assert found["value"].astype(float).map(np.isfinite).all()
    assert all(m.endswith(".") and "nan" not in m.split(": ", 1)[1] for m in found["message"])
    assert made.empty if probes.empty else made["count"].sum() == len(probes)
    assert card.as_markdown(made, found, "any").startswith("# Probing set: any\n")


def test_without_chosen_there_is_nothing_to_compare_with():
    """That y⁺ is missing is then the one finding."""
    probes, pairs = clean_set(0)
    probes = probes[probes["response_type"].isin(["rejected", "my_own"])]
    assert set(card.findings(probes, pairs)["check"]) == {"missing"}


# -- figure and scripts ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clean", "faulty", "test only", "one row", "empty"])
def test_the_figure_holds_all_its_text(kind):
    """It draws, filled where there are findings, and no text leaves the page."""
    probes, pairs = clean_set(1)
    if kind == "faulty":
        for name in ("leak", "no space: rejected", "missing rows", "long: my_own", "word count"):
            probes = FAULTS[name][2](probes, pairs, np.random.default_rng(1))
        probes["response_type"] = probes["response_type"].replace("my_own", "a_type_of_my_own" * 3)
    probes = {"test only": probes[probes["split"] == "test"], "one row": probes[:1],
              "empty": probes[:0]}.get(kind, probes)  # fmt: skip
    figure = probe.draw(STUDY, probes, pairs)
    figure.canvas.draw()
    page = figure.bbox
    texts = figure.findobj(style.mpl.text.Text)
    for text in [t for t in texts if t.get_visible() and t.get_text()]:
        box = text.get_window_extent()
        assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1), text.get_text()
    filled = [p for p in figure.findobj(style.mpl.patches.Rectangle)
              if p.get_facecolor() == style.mpl.colors.to_rgba(probe.ALARM)]  # fmt: skip
    assert bool(filled) == (kind == "faulty")
    style.plt.close(figure)


def run(monkeypatch, name, *arguments):
    """Run a workflow script; its exit code."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return done.value.code


def test_the_scripts_write_card_and_figure(tmp_path, monkeypatch):
    """From tables, and from a file in the published format."""
    probes, pairs = clean_set(2)
    FAULTS["leak"][2](probes, pairs, np.random.default_rng(1))
    half = len(probes) // 2
    for name, part in (("a", probes[:half]), ("b", probes[half:]), ("pairs", pairs)):
        part.to_parquet(tmp_path / f"{name}.parquet")
    given = ("--probes", tmp_path / "a.parquet", tmp_path / "b.parquet", "--pairs",
             tmp_path / "pairs.parquet", "--study", json.dumps(STUDY))  # fmt: skip
    out = ("--table", tmp_path / "probe.csv", "--findings", tmp_path / "findings.csv",
           "--markdown", tmp_path / "probe.md")  # fmt: skip
    assert run(monkeypatch, "make_card.py", *given, *out) == 0
    assert set(pd.read_csv(tmp_path / "findings.csv")["check"]) == {LEAK}
    assert len(pd.read_csv(tmp_path / "probe.csv")) == 28
    assert "**irr-test-trained** irr_test (train)" in (tmp_path / "probe.md").read_text("utf-8")
    assert run(monkeypatch, "draw_probe.py", *given, "--out", tmp_path / "probe.pdf") == 0
    assert (tmp_path / "probe.pdf").stat().st_size > 1000

    raw = tmp_path / "raw.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": " a b c.", "rejected": "x y z."} for i in range(3)]
    raw.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    code = run(monkeypatch, "make_card.py", "--file", raw, "--study", json.dumps(STUDY), *out)
    assert code == 0
    assert set(pd.read_csv(tmp_path / "findings.csv")["check"]) == {
        "leading-space", "duplicates-within"
    }  # fmt: skip
