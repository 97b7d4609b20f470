"""Truncation, end-of-text and their counters: the rules of docs, one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics.errors import InputError
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
