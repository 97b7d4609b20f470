"""The published HH probing file, by its own texts: how each response type was made, and what
differs between types (notes on the paper, sections 3.3 to 3.6)."""

from collections import Counter

import pytest

# Section 3.5. The notes split at every single space, without stripping first: the leading space of
# HH's own responses counts as a word of its own, and so do doubled spaces. (Splitting at any white
# space gives 46.9 for chosen, 41.8 for initial, 34.9 for rejected.)
MEAN_WORDS = {
    "chosen": 49.1, "chosen_initial": 42.6, "chosen_selfr": 104.5, "chosen_gptsemantic": 36.7,
    "chosen_gptformat": 30.8, "rejected": 36.7, "reject_gptsemantic": 30.7,
    "reject_gptformat": 26.7, "irr_train": 53.1, "irr_test": 42.2, "irr_hum": 43.8,
}  # fmt: skip
CHATGPT = ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat",
           "irr_hum"]  # fmt: skip


def texts(rows, kind):
    """All responses of a type."""
    return [row[kind] for row in rows]


def mean(values):
    """The mean of an iterable."""
    values = list(values)
    return sum(values) / len(values)


def same_words(one, other):
    """Whether two texts hold the same words, whatever their order and the space between."""
    return Counter(one.split()) == Counter(other.split())


def test_500_rows_of_13_types(hh_rows):
    """Section 3.3: a prompt and 13 keys per row, all text."""
    assert len(hh_rows) == 500
    assert all(set(row) == {"prompt", *MEAN_WORDS, "random_permute", "random_nonhum"}
               for row in hh_rows)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "source"), [("random_permute", "chosen"), ("random_nonhum", "irr_test")]
)
def test_shuffles_keep_the_words_of_their_source(hh_rows, kind, source):
    """Section 3.4, step 8: 500 of 500. Line breaks and doubled spaces were not kept, so words are
    what any white space separates."""
    assert sum(same_words(row[kind], row[source]) for row in hh_rows) == 500


def test_irr_train_is_the_chosen_response_of_another_row(hh_rows):
    """Section 3.4, step 6: 499 lie inside the file (index 500 could be drawn), none is its own."""
    inside = set(texts(hh_rows, "chosen"))
    assert sum(row["irr_train"] in inside for row in hh_rows) == 499
    assert not any(row["irr_train"] == row["chosen"] for row in hh_rows)


def test_irr_test_lies_outside_the_file(hh_rows):
    """Section 3.4, step 7: rows from 500 on. The five texts that are also in the file are one
    stock reply in three spellings."""
    inside = set(texts(hh_rows, "chosen"))
    shared = [text for text in texts(hh_rows, "irr_test") if text in inside]
    assert len(shared) == 5
    assert all(text.strip().startswith("You") and "welcome" in text for text in shared)


def test_leading_spaces(hh_rows):
    """Section 3.6: always, never, or in between."""
    share = {kind: mean(text.startswith(" ") for text in texts(hh_rows, kind))
             for kind in [*MEAN_WORDS, "random_permute", "random_nonhum"]}  # fmt: skip
    for kind in ("chosen", "rejected", "irr_train", "irr_test"):
        assert share[kind] == 1
    for kind in [*CHATGPT, "chosen_selfr"]:
        assert share[kind] == 0
    assert share["chosen_initial"] == pytest.approx(0.86, abs=0.005)
    # "~97% of the random types without": 97.0% and 98.4%
    assert (share["random_permute"], share["random_nonhum"]) == (0.030, 0.016)


def test_empty_responses(hh_rows):
    """Section 3.4, step 4: 21 initial answers are empty; one rejected response is a space."""
    empty = Counter(kind for row in hh_rows for kind in row if not row[kind].strip())
    assert empty == {"chosen_initial": 21, "rejected": 1}


@pytest.mark.parametrize("kind", MEAN_WORDS)
def test_mean_words(hh_rows, kind):
    """Section 3.5, to the digit printed."""
    assert round(mean(len(t.split(" ")) for t in texts(hh_rows, kind)), 1) == MEAN_WORDS[kind]


def test_median_words(hh_rows):
    """Section 3.5 prints 36 for chosen; the middle values are 36 and 37."""
    counts = sorted(len(text.split(" ")) for text in texts(hh_rows, "chosen"))
    assert counts[249:251] == [36, 37]


def test_human_sentences_only_roughly_have_the_words_asked_for(hh_rows):
    """Section 3.6. Words as the notebook counts them (section 3.3): space-separated."""
    pairs = [(len(r["irr_hum"].split(" ")), len(r["chosen"].split(" "))) for r in hh_rows]
    assert mean(a == b for a, b in pairs) < 0.25
    assert 0.1 < mean(abs(a - b) / b for a, b in pairs) < 0.3


def test_self_rephrases_are_full_of_at_signs(hh_rows):
    """Section 3.6: the marks of their prompt, "@@@", which no other type has."""
    at = Counter(kind for row in hh_rows for kind in row if "@@@" in row[kind])
    assert at == {"chosen_selfr": 376}


def test_prompts(hh_rows):
    """Section 3.5: words, further human turns, and how many start alike."""
    prompts = texts(hh_rows, "prompt")
    assert round(mean(len(text.split(" ")) for text in prompts), 1) == 91.9
    assert sum(text.count("\n\nHuman:") > 1 for text in prompts) == 368
    starts = Counter(text[:60] for text in prompts)
    assert sum(n * (n - 1) // 2 for n in starts.values()) == 42
    assert sum(n for n in starts.values() if n > 1) == 21  # 7 conversations, one of them 9 times
