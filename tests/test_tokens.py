"""Truncation, end-of-text and their counters: the rules of docs, one by one."""

from argparse import Namespace

import pytest
from conftest import STUDY
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import models
from learning_dynamics.command import load_model
from learning_dynamics.errors import InputError
from learning_dynamics.study import SWITCHES
from learning_dynamics.tokens import Codec

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=60)


def ids_of(tokenizer, text):
    """The tokenizer's own answer."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@given(prompt=TEXT.filter(str), response=TEXT, limit=st.integers(1, 30), room=st.integers(1, 30))
def test_prompt_keeps_its_end_and_response_its_start(tiny, prompt, response, limit, room):
    """The tokenizer's own ids: the last ``limit`` of the prompt; the first that fit of response and
    end-of-text; nothing in between, no BOS."""
    tokenizer = tiny[1]
    codec = Codec(tokenizer, limit + room, limit)
    whole, answer = ids_of(tokenizer, prompt), ids_of(tokenizer, response)
    answer = [*answer, codec.end_of_text] if response.strip() else [codec.end_of_text]
    head = codec.prompt(prompt, "x")
    tail = codec.response(response, len(head))
    free = limit + room - len(head)
    assert head == whole[-limit:]
    assert tail == answer[:free]
    assert (codec.cut_prompts, codec.cut_responses) == (len(whole) > limit, len(answer) > free)


def test_a_cut_response_loses_its_end_of_text(tiny):
    """End-of-text is the last token exactly when the response fits, to the token."""
    tokenizer = tiny[1]
    text = " sure, you need a hammer."
    length = len(ids_of(tokenizer, text)) + 1
    fits, cut = Codec(tokenizer, 5 + length, 5), Codec(tokenizer, 5 + length - 1, 5)
    assert fits.response(text, 5)[-1] == tokenizer.eos_token_id
    assert cut.response(text, 5) == ids_of(tokenizer, text)
    assert (fits.cut_responses, cut.cut_responses) == (0, 1)


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_an_empty_response_is_end_of_text_alone(tiny, text):
    """The rule itself; it does not count as cut."""
    codec = Codec(tiny[1], 20, 10)
    assert codec.response(text, 3) == [tiny[1].eos_token_id]
    assert codec.cut_responses == 0


def test_the_leading_space_is_data(tiny):
    """With and without the space are different responses."""
    codec = Codec(tiny[1], 100, None)
    assert codec.response(" sure", 1) != codec.response("sure", 1)


def test_a_prompt_that_leaves_no_room_is_an_error(tiny):
    """Only that, and an empty prompt: the message names the row, the length and the option."""
    tokenizer = tiny[1]
    text = "\n\nHuman: how do i sew the hat?\n\nAssistant:"
    length = len(ids_of(tokenizer, text))
    with pytest.raises(InputError, match=rf"row-7.*{length} tokens.*max_length = {length} "):
        Codec(tokenizer, length, None).prompt(text, "row-7")
    assert len(Codec(tokenizer, length + 1, None).prompt(text, "row-7")) == length
    with pytest.raises(InputError, match=r"row-7.*empty"):
        Codec(tokenizer, length, None).prompt("", "row-7")


# -- rows, as published ----------------------------------------------------------------------


def published_row(tokenizer, prompt, responses, max_length, max_prompt_length, keep):
    """The reference implementation's truncation, word for word (notes on the paper, section 5.4),
    for responses that are not blank: those are end-of-text alone here."""
    fields = {"prompt": ids_of(tokenizer, prompt)}
    for number, text in enumerate(responses):
        written = ids_of(tokenizer, text) if text.strip() else []
        fields[number] = [*written, tokenizer.eos_token_id]
    longest_response_length = max(len(tokens) for tokens in fields.values())
    if len(fields["prompt"]) + longest_response_length > max_length:
        if keep == "start":
            fields["prompt"] = fields["prompt"][:max_prompt_length]
        else:
            fields["prompt"] = fields["prompt"][-max_prompt_length:]
    if len(fields["prompt"]) + longest_response_length > max_length:
        for number in range(len(responses)):
            fields[number] = fields[number][: max_length - len(fields["prompt"])]
    return fields["prompt"], [fields[number] for number in range(len(responses))]


@given(
    prompt=TEXT.filter(str),
    responses=st.lists(TEXT, min_size=1, max_size=4),
    limit=st.integers(1, 20),
    room=st.integers(1, 60),
    keep=st.sampled_from(["start", "end"]),
)
def test_published_truncation(tiny, prompt, responses, limit, room, keep):
    """Against the reference's own steps: tokens and counts of what was cut."""
    tokenizer = tiny[1]
    codec = Codec(tokenizer, limit + room, limit, published=True, keep=keep)
    tree = codec.row(prompt, responses, "x")
    head, tails = published_row(tokenizer, prompt, responses, limit + room, limit, keep)
    assert (tree.prompt, tree.responses) == (head, tails)
    whole, lengths = ids_of(tokenizer, prompt), [len(t) for t in tails]
    assert codec.cut_prompts == (len(head) < len(whole))
    uncut = [len(ids_of(tokenizer, t)) + 1 if t.strip() else 1 for t in responses]
    assert codec.cut_responses == sum(n < m for n, m in zip(lengths, uncut, strict=True))


@given(TEXT.filter(str), st.lists(TEXT, min_size=1, max_size=4), st.integers(1, 20))
def test_corrected_truncation_looks_at_each_text_alone(tiny, prompt, responses, limit):
    """A row is its prompt and each response as they are cut by themselves."""
    codec, alone = (Codec(tiny[1], limit + 6, limit) for _ in range(2))
    tree = codec.row(prompt, responses, "x")
    assert tree.prompt == alone.prompt(prompt, "x")
    assert tree.responses == [alone.response(text, len(tree.prompt)) for text in responses]
    assert (codec.cut_prompts, codec.cut_responses) == (alone.cut_prompts, alone.cut_responses)


def test_published_truncation_depends_on_the_rest_of_the_row(tiny):
    """The confound itself: a long neighbour cuts the prompt, and takes end-of-text from all that do
    not fit; corrected, it does neither."""
    tokenizer = tiny[1]
    prompt, short, long = "\n\nHuman: how do i sew the hat?", " sure", " a hammer" * 60
    size = len(ids_of(tokenizer, prompt))
    published = Codec(tokenizer, 60, size - 3, published=True)
    assert published.row(prompt, [short], "x").prompt == ids_of(tokenizer, prompt)
    both = published.row(prompt, [short, long], "x")
    assert both.prompt == ids_of(tokenizer, prompt)[3:]
    assert [r[-1] == tokenizer.eos_token_id for r in both.responses] == [True, False]
    corrected = Codec(tokenizer, 60, size)
    assert corrected.row(prompt, [short, long], "x").prompt == ids_of(tokenizer, prompt)


def test_published_prompts_that_leave_no_room(tiny):
    """Without a limit for prompts nothing can be cut; an empty prompt is one in any case."""
    text = " hammer" * 30
    codec = Codec(tiny[1], 20, None, published=True)
    with pytest.raises(InputError, match=r"row-7: \d+ tokens leave no room.*max_length = 20"):
        codec.row(text, [" a"], "row-7")
    with pytest.raises(InputError, match="row-7: empty"):
        codec.row("", [" a"], "row-7")
    assert (codec.cut_prompts, codec.cut_responses) == (0, 0)


# -- special tokens --------------------------------------------------------------------------


def test_special_tokens_are_text_unless_a_chat_template_wrote_them(tiny):
    """The name of a special token in HH text is text; in a chat data set it is the token."""
    tokenizer = tiny[1]
    text, end = " a<|endoftext|> b c", tokenizer.eos_token_id
    plain = Codec(tokenizer, 100, None)
    assert end not in plain.prompt(text, "x")
    assert plain.response(text, 1).count(end) == 1
    assert tokenizer.decode(plain.response(text, 1)[:-1]) == text
    chat = Codec(tokenizer, 100, None, special_tokens=True)
    expected = [*ids_of(tokenizer, " a"), end, *ids_of(tokenizer, " b c")]
    assert chat.prompt(text, "x") == expected
    assert chat.response(text, 1) == plain.response(text, 1)  # in an answer it is text


# -- from the configuration ------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "expected"), [
    ({}, {"published": False, "keep": "end", "count_end": False, "special_tokens": False}),
    ({"truncation": "as_published"}, {"published": True, "count_end": False}),
    ({"end_of_text": "as_published"}, {"published": False, "count_end": True}),
    ({"format": "ultrafeedback"}, {"keep": "start"}),
    ({"format": "hh"}, {"keep": "end"}),
    ({"chat_template": "hh"}, {"special_tokens": False}),
    ({"chat_template": None}, {"special_tokens": False}),
    ({"chat_template": "models/m"}, {"special_tokens": True}),
])  # fmt: skip
def test_the_codec_of_a_script(tiny, tmp_path, changed, expected):
    """What the data set says of its texts, and the model of its limits."""
    models.save(*tiny, tmp_path)
    texts = STUDY.texts("toyworld")
    switches = {k: v for k, v in changed.items() if k in SWITCHES}
    texts |= {"confounds": {**texts["confounds"], **switches}, **changed}
    compute = {"device": "cpu", "precision": "fp32", "threads": 1}
    limits = {"max_length": 77, "max_prompt_length": 33}
    model, codec = load_model(
        Namespace(model=tmp_path, model_spec=limits, texts=texts, compute=compute)
    )
    assert (codec.max_length, codec.max_prompt_length) == (77, 33)
    assert {name: getattr(codec, name) for name in expected} == expected
    assert codec.end_of_text == model.config.eos_token_id
