"""Pairs of every source: splits by conversation, switches, the length filter, given responses."""

import json
from collections import Counter

import pandas as pd
import pytest
from conftest import TOYWORLD, dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning_dynamics import pairs
from learning_dynamics.errors import InputError
from learning_dynamics.pairs import PAIR_COLUMNS, build, conversations, house_start, with_start
from learning_dynamics.sources import chat_renderer
from learning_dynamics.study import SWITCHES
from learning_dynamics.tokens import Codec

SMALL = {**TOYWORLD, "train_rows": 20, "test_rows": 8, "documents": 10}
GPT = ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat",
       "irr_hum"]  # fmt: skip


def switched(spec, **switches):
    """A data set with some switches as published (or corrected, when said so)."""
    values = {name: value if isinstance(value, str) else "as_published"
              for name, value in switches.items()}  # fmt: skip
    return {**spec, "confounds": {**spec["confounds"], **values}}


def file_spec(**entry):
    """A local file without test rows or pretraining unless said otherwise."""
    return dataset(source="file", path="x", **{"test_share": 0, **entry})


def row(number, talk=None, turn=0, **fields):
    """A row whose every text is its own, in conversation ``talk`` after ``turn`` exchanges."""
    talk = number if talk is None else talk
    history = "".join(f"\n\nHuman: more {k}\n\nAssistant: fine {k}" for k in range(turn))
    return {"prompt": f"\n\nHuman: talk {talk}{history}\n\nHuman: ask {number}\n\nAssistant:",
            "chosen": f" good {number}", "rejected": f" bad {number}", **fields}  # fmt: skip


def write(path, rows):
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def by_split(table, column="chosen"):
    """A column's values by split."""
    return {name: list(part[column]) for name, part in table.groupby("split")}


# -- the toy world ---------------------------------------------------------------------------


@pytest.mark.parametrize("switch", SWITCHES)
def test_toyworld_pairs_are_the_same_under_every_switch(switch):
    """Pairs, corpus and order; irr_test_origin alone adds the other facts as a reserve."""
    plain, changed = build(SMALL), build(switched(SMALL, **{switch: True}))
    kept = changed.pairs[changed.pairs["split"] != "reserve"]
    pd.testing.assert_frame_equal(kept, plain.pairs)
    assert changed.corpus == plain.corpus and len(plain.corpus) == 10
    assert changed.given.empty and list(changed.given) == pairs.GIVEN_COLUMNS
    reserve = changed.pairs[changed.pairs["split"] == "reserve"]
    assert len(reserve) == (960 - 28 if switch == "irr_test_origin" else 0)
    for name in ("example_id", "prompt", "chosen"):
        assert not changed.pairs[name].duplicated().any()
    assert list(changed.pairs) == PAIR_COLUMNS


# -- leading spaces --------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8"), max_size=8), st.sampled_from(["", " "]))
def test_with_start(text, start):
    """Exactly the start, then what was there but for white space; a blank text stays."""
    out = with_start(text, start)
    if text.isspace() or not text:
        assert out == text
    else:
        assert out.removeprefix(start) == text.lstrip() and out[: len(start)] == start
        assert not out[len(start)].isspace()


@pytest.mark.parametrize(("chosen", "start"), [
    ([" a", " b", "c", "\n d"], " "), ([" a", "b", "c", ""], ""), (["a", "\nb", "\t c"], ""),
])  # fmt: skip
def test_house_start(tmp_path, chosen, start):
    """The start of at least half of the chosen responses becomes that of all responses; as
    published every text stays as it is, and blank ones always do."""
    rejected = [*(f"  x{i}" for i in range(len(chosen) - 1)), " "]
    rows = [row(i, chosen=text, rejected=rejected[i]) for i, text in enumerate(chosen)]
    path, spec = write(tmp_path / "a.jsonl", rows), file_spec()
    table = build(spec, [path]).pairs.sort_values("example_id")
    assert table["chosen"].tolist() == [start + text.strip() if text else "" for text in chosen]
    assert table["rejected"].tolist() == [*(f"{start}x{i}" for i in range(len(chosen) - 1)), " "]
    assert house_start(table["chosen"]) == start
    plain = build(switched(spec, leading_space=True), [path]).pairs.sort_values("example_id")
    assert (plain["chosen"].tolist(), plain["rejected"].tolist()) == (chosen, rejected)


# -- files -----------------------------------------------------------------------------------


def test_rows_of_a_file(tmp_path):
    """The first training rows as published; corrected a random draw that is fixed, and of which a
    smaller one is a part."""
    path = write(tmp_path / "a.jsonl", [row(i) for i in range(30)])
    first = build(switched(file_spec(train_rows=6), row_sampling=True), [path]).pairs
    assert first["chosen"].tolist() == [f" good {i}" for i in range(6)]
    assert first["example_id"].tolist() == [f"row-{i:05d}" for i in range(6)]
    draws = [build(file_spec(train_rows=n), [path]).pairs["chosen"].tolist() for n in (6, 6, 12)]
    assert draws[0] == draws[1] != first["chosen"].tolist()
    assert len(set(draws[2])) == 12 and set(draws[0]) < set(draws[2])
    everything = build(file_spec(), [path]).pairs
    assert sorted(everything["chosen"]) == sorted(f" good {i}" for i in range(30))


TALKS = st.lists(st.integers(1, 6), min_size=6, max_size=20)
SHARE = st.integers(0, 10).map(lambda n: n / 20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TALKS, SHARE, SHARE)
def test_no_conversation_is_on_two_sides(tmp_path, sizes, pretrain, test):
    """Corpus, test and training rows by whole conversations: each has its share of the rows, or
    more by less than one conversation; nothing is lost and nothing is twice."""
    rows = [row(100 * talk + turn, talk, turn) for talk, n in enumerate(sizes) for turn in range(n)]
    path = write(tmp_path / "a.jsonl", rows)
    spec = file_spec(pretrain_share=pretrain, test_share=test)
    try:
        data = build(spec, [path])
    except InputError as error:
        assert "fewer than 2 training pairs" in str(error)
        return
    talk_of = {r["chosen"]: int(r["chosen"].split()[1]) // 100 for r in rows}
    sides = {name: [talk_of[text] for text in texts]
             for name, texts in by_split(data.pairs).items()}  # fmt: skip
    read = [text for text in data.corpus if " good " in text]
    sides["corpus"] = [talk_of[" good" + text.split(" good")[1]] for text in read]
    assert set(sides) <= {"corpus", "train", "test"}
    counts = Counter(talk for talks in sides.values() for talk in set(talks))
    assert counts == dict.fromkeys(range(len(sizes)), 1)  # each conversation on one side
    assert Counter(talk for talks in sides.values() for talk in talks) == dict(enumerate(sizes))
    wanted = {"corpus": pretrain * len(rows)}
    wanted["test"] = round(test * (len(rows) - len(sides["corpus"])))
    for side, share in wanted.items():
        assert share <= len(sides.get(side, [])) < share + max(sizes)


def test_corpus_holds_the_natural_texts(tmp_path):
    """Prompt and response of every natural type that was asked for; irr_hum stands alone."""
    extra = {"chosen_gptsemantic": "g", "irr_hum": " human ", "random_permute": "w", "x": "y"}
    rows = [row(i, **{k: f"{v}{i}" if k != "irr_hum" else f" human {i} " for k, v in extra.items()})
            for i in range(12)]  # fmt: skip
    data = build(file_spec(pretrain_share=0.5), [write(tmp_path / "a.jsonl", rows)])
    kept = set(data.pairs["chosen"])
    expected = [text for r in rows if r["chosen"] not in kept for text in (
        *(r["prompt"] + r[k] for k in ("chosen", "rejected", "chosen_gptsemantic")),
        r["irr_hum"].strip())]  # fmt: skip
    assert data.corpus == expected and len(expected) == 4 * 6


def test_split_column(tmp_path):
    """The file's own split decides, whatever the shares; a test conversation is not read in
    pretraining."""
    rows = [row(i, talk=i // 2, split="test" if i % 3 == 0 else "train") for i in range(18)]
    path = write(tmp_path / "a.jsonl", rows)
    spec = file_spec(pretrain_share=0.4, test_share=0.5)
    data = build(spec, [path])
    found = by_split(data.pairs)
    tests = {r["chosen"] for r in rows if r["split"] == "test"}
    assert set(found["test"]) == tests
    assert not set(found["train"]) & tests
    held = {i // 2 for i in range(18) if i % 3 == 0}
    read = {i for i in range(18) if any(text.endswith(f" good {i}") for text in data.corpus)}
    assert read and not {i // 2 for i in read} & held
    assert len(data.pairs) + len(read) == 18


def test_a_row_without_its_split(tmp_path):
    """Some rows with a split and some without: the row is named."""
    rows = [row(0, split="train"), row(1), row(2, split="train")]
    with pytest.raises(InputError, match=r"a\.jsonl.*(line 2|row-00001).*split"):
        build(file_spec(), [write(tmp_path / "a.jsonl", rows)])


def test_reserve_of_a_file(tmp_path):
    """With irr_test_origin as published the training rows that are not trained on are kept; without
    it, or without a limit, there are none."""
    rows = [row(i, split="test" if i < 3 else "train") for i in range(15)]
    path = write(tmp_path / "a.jsonl", rows)
    plain = build(file_spec(train_rows=5), [path]).pairs
    spec = switched(file_spec(train_rows=5), irr_test_origin=True)
    data = build(spec, [path])
    kept = data.pairs[data.pairs["split"] != "reserve"]
    pd.testing.assert_frame_equal(kept, plain)
    found = by_split(data.pairs)
    assert {name: len(texts) for name, texts in found.items()} == {
        "train": 5, "test": 3, "reserve": 7}  # fmt: skip
    assert set(found["reserve"]).isdisjoint(found["train"])
    assert sorted(data.pairs["chosen"]) == sorted(r["chosen"] for r in rows)
    whole = build({**spec, "train_rows": None}, [path]).pairs
    assert set(whole["split"]) == {"train", "test"}
    with pytest.raises(InputError, match=r"a\.jsonl: train_rows = 13: there are 12 training rows"):
        build(file_spec(train_rows=13), [path])


def test_given_responses_of_a_file(tmp_path):
    """The types that the data set names, of the pairs that are left, as the file has them."""
    rows = [row(i, irr_hum=f"human {i}", irr_test=f" t {i}") for i in range(10)]
    del rows[4]["irr_hum"]
    rows[5]["chosen_gptsemantic"] = ""
    path = write(tmp_path / "a.jsonl", rows)
    data = build(file_spec(train_rows=8), [path])
    kept = [int(name.removeprefix("row-")) for name in data.pairs["example_id"]]
    expected = {(f"row-{i:05d}", "irr_hum", f"human {i}") for i in kept if i != 4}
    expected |= {("row-00005", "chosen_gptsemantic", "")} if 5 in kept else set()
    assert set(data.given.itertuples(index=False, name=None)) == expected
    assert len(data.given) == len(expected) >= 7
    mapped = file_spec(given=["irr_test", "mine"], columns={"mine": "irr_hum"})
    found = build(mapped, [path]).given
    assert found["response_type"].value_counts().to_dict() == {"irr_test": 10, "mine": 9}


# -- the length filter -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer_folder(tiny, tmp_path_factory):
    """The tiny tokenizer as a model's folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny[1].save_pretrained(folder)
    return folder


def lengths(table, tokenizer):
    """Tokens of each pair as the scorer sees them: prompt and longer response with its end."""
    codec = Codec(tokenizer, 10**6, None)
    trees = [codec.row(r.prompt, [r.chosen, r.rejected], "x") for r in table.itertuples()]
    return [len(tree.prompt) + max(map(len, tree.responses)) for tree in trees]


def filtered(limit):
    """A local file under a length filter (any model: its folder is given apart)."""
    return {**file_spec(), "filter": {"max_tokens": limit, "tokenizer": "any"}}


@pytest.mark.parametrize("extra", [0, -1])
def test_length_filter_is_exact(tiny, tokenizer_folder, tmp_path, extra):
    """At the limit a pair stays, one token above it goes; end-of-text is counted."""
    whole = build(SMALL).pairs
    rows = whole[["prompt", "chosen", "rejected", "example_id"]].to_dict("records")
    rows[3] |= {"prompt": rows[3]["prompt"] * 3}
    path = write(tmp_path / "a.jsonl", rows)
    plain = build(file_spec(), [path]).pairs
    sizes = lengths(plain, tiny[1])
    limit = sorted(sizes)[len(sizes) // 2] + extra
    kept = build(filtered(limit), [path], tokenizer_folder).pairs
    expected = [name for name, n in zip(plain["example_id"], sizes, strict=True) if n <= limit]
    assert kept["example_id"].tolist() == expected
    assert 0 < len(expected) < len(plain)
    longest = max(lengths(kept, tiny[1]))
    assert longest == limit if extra == 0 else longest <= limit


def test_length_filter_counts_what_is_kept(tiny, tokenizer_folder, tmp_path):
    """A response that is given the house start is as long as it then is."""
    rows = [row(i) for i in range(5)]
    rows[2] |= {"chosen": ", " * 30, "rejected": " x"}
    path = write(tmp_path / "a.jsonl", rows)
    (size,) = lengths(pd.DataFrame(rows[2:3]), tiny[1])
    final = build(file_spec(), [path]).pairs
    assert max(lengths(final, tiny[1])) == size + 1
    kept = build(filtered(size), [path], tokenizer_folder).pairs
    assert max(lengths(kept, tiny[1])) <= size


def test_length_filter_leaves_too_little(tokenizer_folder, tmp_path):
    """No two training pairs are short enough."""
    path = write(tmp_path / "a.jsonl", [row(i) for i in range(5)])
    with pytest.raises(InputError, match="fewer than 2 training pairs"):
        build(filtered(8), [path], tokenizer_folder)
    with pytest.raises(InputError, match=r"gone/tokenizer\.json: cannot be read"):
        build(filtered(8), [path], tmp_path / "gone")


# -- the hub ---------------------------------------------------------------------------------


@pytest.fixture
def hub(hub_folder):
    """(spec, HH rows by split): 12 training and 6 test rows in a hub data set in HH's format."""
    rows = {split: [row(i + start) for i in range(n)]
            for split, n, start in (("train", 12, 0), ("test", 6, 50))}  # fmt: skip
    for split, part in rows.items():
        whole = [{k: r["prompt"] + r[k] for k in ("chosen", "rejected")} for r in part]
        write(hub_folder / split / f"{split}.jsonl", whole)
    spec = dataset(source="hub", hub=str(hub_folder), revision="0" * 40, format="hh", train_rows=5,
                   test_rows=4)  # fmt: skip
    return spec, rows


def test_rows_of_the_hub(hub):
    """The first rows as published; corrected a fixed random draw from the whole split. The number
    in an id is the row's."""
    spec, rows = hub
    first = build(switched(spec, row_sampling=True)).pairs
    assert by_split(first) == {"train": [f" good {i}" for i in range(5)],
                               "test": [f" good {i}" for i in range(50, 54)]}  # fmt: skip
    drawn, again = (build(spec).pairs for _ in range(2))
    pd.testing.assert_frame_equal(drawn, again)
    found = by_split(drawn)
    assert not set(found["train"]) <= {f" good {i}" for i in range(5)}
    assert {k: len(set(v)) for k, v in found.items()} == {"train": 5, "test": 4}
    for pair in (*drawn.itertuples(), *first.itertuples()):
        split, number = pair.example_id.split("-")
        source = rows[split][int(number)]
        assert (pair.split, pair.prompt) == (split, source["prompt"])
        assert (pair.chosen, pair.rejected) == (source["chosen"], source["rejected"])


def test_reserve_of_the_hub(hub):
    """All other training rows, with irr_test_origin as published alone."""
    spec, rows = hub
    plain = build(spec).pairs
    data = build(switched(spec, irr_test_origin=True))
    reserve = data.pairs[data.pairs["split"] == "reserve"]
    kept = data.pairs[data.pairs["split"] != "reserve"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, plain)
    trained = set(plain.loc[plain["split"] == "train", "chosen"])
    assert set(reserve["chosen"]) == {r["chosen"] for r in rows["train"]} - trained
    assert not data.pairs["example_id"].duplicated().any()


def test_too_few_rows_on_the_hub(hub):
    """The split, its rows and how many are wanted; no test rows wanted, none read."""
    spec, _ = hub
    with pytest.raises(InputError, match=r"data: test has 6 rows; expected 7"):
        build({**spec, "test_rows": 7})
    alone = build({**spec, "test_rows": 0, "test_split": "gone"}).pairs
    assert set(alone["split"]) == {"train"}


def test_probing_files_go_with_rows_of_the_hub(hub, tmp_path):
    """Given responses by prompt and chosen text, over all files; rows that are no pairs of the data
    set, and types that it does not name, are passed over."""
    spec, rows = hub
    spec = switched(spec, row_sampling=True)
    typed = {split: [{**r, "irr_hum": f"hum{r['chosen']}", "irr_test": "no"} for r in part]
             for split, part in rows.items()}  # fmt: skip
    typed["train"][2]["chosen"] += "!"  # another pair
    typed["train"][3]["prompt"] = "\n\nHuman: other\n\nAssistant:"
    files = [write(tmp_path / f"{split}.jsonl", part[::-1]) for split, part in typed.items()]
    data = build(spec, files)
    expected = {f"train-{i:05d}": f"hum good {i}" for i in (0, 1, 4)}
    expected |= {f"test-{i:05d}": f"hum good {50 + i}" for i in range(4)}
    assert dict(zip(data.given["example_id"], data.given["response"], strict=True)) == expected
    assert set(data.given["response_type"]) == {"irr_hum"}
    pd.testing.assert_frame_equal(data.pairs, build(spec).pairs)
    reserve = build(switched(spec, irr_test_origin=True), files)
    more = {f"train-{i:05d}" for i in range(12)} - {"train-00002", "train-00003"}
    assert set(reserve.given["example_id"]) == set(expected) | more


def test_a_probing_file_of_other_rows(hub, tmp_path):
    """Not one row in common: the file is named, and the switch that may be the cause."""
    spec, _ = hub
    path = write(tmp_path / "other.jsonl", [row(i, irr_hum="x") for i in range(70, 75)])
    with pytest.raises(InputError, match=r"other\.jsonl: no row is a pair.*row_sampling"):
        build(spec, [path])


# -- conversations ---------------------------------------------------------------------------

LLAMA = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role +"
    " '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt"
    " %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_conversation_is_the_first_turn():
    """HH's turns: later ones, and the space around, make no difference; another start does."""
    names = conversations(
        [row(i, *place)["prompt"] for i, place in enumerate(((7, 0), (7, 1), (7, 4), (8, 0)), 1)]
    )
    assert names == ["Human: talk 7"] * 3 + ["Human: talk 8"]
    system = [f"<|im_start|>system\nBe brief.\n\n<|im_end|>\n<|im_start|>user\n{q}" for q in "ab"]
    for alike in (["Human: a\nAssistant:", "Human: b\nAssistant:"], system):
        assert len(set(conversations(alike))) == 2


@pytest.mark.parametrize("template", [
    CHATML,
    LLAMA,
], ids=["chatml", "llama"])  # fmt: skip
def test_conversations_under_a_chat_template(tmp_path, template):
    """Different questions are different conversations whatever a template writes around them."""
    (tmp_path / "my.jinja").write_text(template, encoding="utf-8")
    rows = [{"prompt": f"q {i}", "chosen": f"y {i}", "rejected": f"n {i}"} for i in range(10)]
    path = write(tmp_path / "a.jsonl", rows)
    spec = file_spec(chat_template=str(tmp_path / "my.jinja"), test_share=0.3)
    assert build(spec, [path]).pairs["split"].value_counts().to_dict() == {"train": 7, "test": 3}


@pytest.mark.parametrize("template", [CHATML, LLAMA], ids=["chatml", "llama"])
def test_later_turns_and_system_messages_are_no_conversation(tmp_path, template):
    """Two turns of one conversation are one, whoever the system message says is speaking; another
    question under the same system message is another."""
    (tmp_path / "my.jinja").write_text(template, encoding="utf-8")
    render = chat_renderer(str(tmp_path / "my.jinja"))

    def prompt(system, *turns):
        roles = ["user", "assistant"] * 2
        messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]
        first = [{"role": "system", "content": system}] * bool(system)
        row = {"prompt": [*first, *messages], "chosen": "a", "rejected": "b"}
        return render("here", row)["prompt"]

    one = ["Why?", "So.", "But why?"]
    names = conversations([prompt("Be brief.\n\nBe kind.", *one), prompt("", *one[:1]),
                           prompt("Be rude.", *one[:1]), prompt("Be rude.", "How?")])  # fmt: skip
    assert names == ["Why?"] * 3 + ["How?"]
