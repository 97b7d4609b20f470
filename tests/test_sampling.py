"""Sampled responses: batches, where a text is cut, seeds, and which types are sampled at all."""

from itertools import product

import pandas as pd
import pytest
import torch
from conftest import STUDY
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import sampling
from learning_dynamics.errors import InputError
from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.sampling import generate, sample_probes
from learning_dynamics.tokens import Codec

TURN = "\n\nHuman:"
TEXTS = STUDY.texts("toyworld")
PROBE = STUDY.config["probe"]


class Parrot(torch.nn.Module):
    """A model that continues each prompt with the tokens that ``answer`` gives for it, and records
    how it was called."""

    def __init__(self, answer, end):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer, self.end, self.calls = answer, end, []

    def generate(self, input_ids, attention_mask, max_new_tokens, **settings):
        """Prompts followed by their answers, padded on the right as transformers does."""
        prompts = [row[mask.bool()].tolist() for row, mask in
                   zip(input_ids, attention_mask, strict=True)]  # fmt: skip
        self.calls.append((input_ids, attention_mask, max_new_tokens, settings, prompts))
        answers = [self.answer(prompt)[:max_new_tokens] for prompt in prompts]
        width = max(map(len, answers))
        padded = [answer + [self.end] * (width - len(answer)) for answer in answers]
        return torch.cat([input_ids, torch.tensor(padded, dtype=torch.long)], 1)


def ids_of(tokenizer, text):
    """The tokenizer's own answer."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def sample(model, codec, prompts, max_new=12, temperature=1.0, seed=0, turn=TURN, budget=200):
    """The texts that a call of generate gives."""
    answers = generate(model, codec, prompts, max_new, temperature, seed, turn, budget)
    return [text for text, _ in answers]


# -- where a text ends -----------------------------------------------------------------------


@pytest.mark.parametrize(("written", "turn", "expected"), [
    (" yes", TURN, " yes"),
    (" yes\n\nHuman: and?\n\nHuman: so?", TURN, " yes"),
    (" yes\n\nHuman: and?", "", " yes\n\nHuman: and?"),
    ("\n\nHuman: and?", TURN, ""),
    (" yes\n\nHu", TURN, " yes\n\nHu"),
    (" The Human: yes", "Human", " The "),
    (" yes<|endoftext|>", TURN, " yes"),
    ("<|endoftext|>", TURN, ""),
    (" yes\n", TURN, " yes\n"),
])  # fmt: skip
def test_where_a_response_ends(tiny, written, turn, expected):
    """At the string that opens the next human turn, or at end-of-text; the string may lie across
    tokens, and white space is kept."""
    tokenizer = tiny[1]
    codec = Codec(tokenizer, 100, None)
    parrot = Parrot(lambda _: ids_of(tokenizer, written), codec.end_of_text)
    assert sample(parrot, codec, [" a b"], 50, turn=turn) == [expected]


def test_samples_are_plain_samples(tiny):
    """Temperature as configured, no top-k and no top-p (paper 3.4: the library's defaults)."""
    codec = Codec(tiny[1], 100, None)
    parrot = Parrot(lambda _: [5], codec.end_of_text)
    sample(parrot, codec, [" a"], temperature=0.7)
    ((*_, settings_used, _),) = parrot.calls
    assert {k: settings_used[k] for k in ("do_sample", "temperature", "top_k", "top_p")} == {
        "do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}  # fmt: skip


@pytest.mark.parametrize(("max_length", "longest"), [(100, 12), (15, 12), (9, 6), (4, 1)])
def test_responses_have_at_most_the_tokens_asked_for(tiny, max_length, longest):
    """No more than asked for, and no more than fit behind the prompt."""
    model, tokenizer = tiny
    lengths = []
    original = model.generate

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def generate(self, **words):
            out = original(**words)
            lengths.append(out.shape[1] - words["input_ids"].shape[1])
            return out

    codec = Codec(tokenizer, max_length, 3)
    sample(Spy(), codec, ["how do i sew the hat?"] * 8, 12)
    assert max(lengths) == longest
    with pytest.raises(InputError, match="sample 0: 3 tokens leave no room"):
        sample(Spy(), Codec(tokenizer, 3, 3), ["how do i sew the hat?"])


def test_a_long_prompt_leaves_room_for_its_neighbours(tiny):
    """How long a response may be depends on its own prompt alone."""
    codec = Codec(tiny[1], 20, None)
    parrot = Parrot(lambda _: ids_of(tiny[1], " a" * 10), codec.end_of_text)
    long, short = (tiny[1].decode(ids_of(tiny[1], " b" * n)) for n in (16, 4))
    assert sample(parrot, codec, [long, short], 10)[1] == " a" * 10


def test_what_ended_a_response_is_told(tiny):
    """End-of-text or the next turn, against the length limit alone."""
    tokenizer = tiny[1]
    codec = Codec(tokenizer, 64, None)
    for text, ended in ((" yes<|endoftext|>", True), (" yes\n\nHuman: so", True), (" yes", False)):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        parrot = Parrot(lambda _, ids=ids: ids, codec.end_of_text)
        found = generate(parrot, codec, ["how?"], len(ids), 1.0, 0, TURN, 100)
        assert found == [(" yes", ended)]


# -- batches ---------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 9),
       st.integers(1, 150))  # fmt: skip
def test_batches(tiny, sizes, max_new, budget):
    """Each prompt once, left-padded and masked, in batches within the budget (a prompt that alone
    exceeds it stands alone); answers come back in the prompts' order."""
    tokenizer = tiny[1]
    codec = Codec(tokenizer, 60, None)
    texts = [f"{n}" + " a" * size for n, size in enumerate(sizes)]
    prompts = [ids_of(tokenizer, text) for text in texts]
    parrot = Parrot(lambda prompt: prompt[:max_new], codec.end_of_text)
    found = sample(parrot, codec, texts, max_new, budget=budget)
    assert found == [tokenizer.decode(prompt[:max_new]) for prompt in prompts]
    seen = [prompt for *_, batch in parrot.calls for prompt in batch]
    assert sorted(seen) == sorted(prompts)
    for ids, mask, longest, _, batch in parrot.calls:
        rows, width = ids.shape
        assert longest == max_new
        assert rows == 1 or rows * (width + max_new) <= budget
        assert width == max(map(len, batch))
        assert mask.tolist() == [[0] * (width - len(p)) + [1] * len(p) for p in batch]


def test_batched_generation_is_that_of_each_prompt(tiny):
    """At a temperature near 0: the most likely tokens one by one, from plain forward passes; the
    padding of a batch changes nothing."""
    model, tokenizer = tiny
    codec = Codec(tokenizer, 100, None)
    texts = [" sure,", "\n\nHuman: how do i sew the hat?\n\nAssistant:", " a", " one two three"]
    truth = []
    for text in texts:
        ids = ids_of(tokenizer, text)
        start = len(ids)
        while len(ids) < start + 8:
            with torch.no_grad():
                ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] == codec.end_of_text:
                break
        truth.append(tokenizer.decode(ids[start:], skip_special_tokens=True))
    for budget in (1, 60, 1000):
        assert sample(model, codec, texts, 8, 1e-4, turn="", budget=budget) == truth
    assert len(set(truth)) == 4


def test_the_seed_fixes_the_draws(tiny):
    """Whatever was drawn before; another seed draws otherwise, and so does every prompt of a batch
    by itself."""
    model, tokenizer = tiny
    codec, texts = Codec(tokenizer, 100, None), [" sure, you need"] * 6
    first = sample(model, codec, texts, seed=3)
    torch.rand(17)
    assert sample(model, codec, texts, seed=3) == first != sample(model, codec, texts, seed=4)
    assert len(set(first)) > 1


# -- probes ----------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What sample_probes asks generate for; the answers are ``written``, in turn."""
    calls, written = [], ["", "yes ", " yes", "\n yes", " "]

    def fake(model, codec, prompts, *rest):
        calls.append((prompts, *rest))
        return [(written[n % 5], True) for n in range(len(prompts))]

    monkeypatch.setattr(sampling, "generate", fake)
    return calls


def probes(kinds=("chosen", "rejected"), start=" "):
    """A probe set of five prompts."""
    splits = ["train"] * 4 + ["test"]
    rows = [(splits[n], f"e{n}", f"q {n}", kind, f"{start}{kind} {{x}} {n} ", "data")
            for n, kind in product(range(5), kinds)]  # fmt: skip
    return pd.DataFrame(rows, columns=PROBE_COLUMNS)


def own(table, texts=TEXTS, types=("chosen", "chosen_initial", "chosen_selfr"), seed=0):
    """A call of sample_probes."""
    section = {**PROBE, "types": list(types)}
    return sample_probes(table, None, None, texts, section, 777, seed, "m/s0")


def test_sampled_types(asked):
    """The model's own answer to each probed prompt, and its rewording of y⁺, asked for in the data
    set's words; one row per prompt and type, with the draws of each type its own."""
    texts = {**TEXTS, "self_rephrase": "say: {response} {y}", "next_turn": "NEXT"}
    table = own(probes(), texts)
    assert list(table) == PROBE_COLUMNS
    assert table["response_type"].tolist() == ["chosen_initial"] * 5 + ["chosen_selfr"] * 5
    assert table["example_id"].tolist() == [f"e{n}" for n in range(5)] * 2
    assert table["prompt"].tolist() == [f"q {n}" for n in range(5)] * 2
    assert table["split"].tolist() == (["train"] * 4 + ["test"]) * 2
    assert set(table["made_by"]) == {"m/s0"}
    (initial, *rest), (reword, *others) = asked
    assert initial == [f"q {n}" for n in range(5)]
    assert reword == [f"say: chosen {{x}} {n} {{y}}" for n in range(5)]
    for length, temperature, _, turn, budget in (rest, others):
        assert (length, temperature) == (PROBE["sample_tokens"], PROBE["temperature"])
        assert (turn, budget) == ("NEXT", 777)
    seeds = {rest[2], others[2]}
    own(probes(), texts, seed=1)
    seeds |= {call[3] for call in asked[2:]}
    own(probes(), texts)
    assert len(seeds) == 4 and [call[3] for call in asked[4:]] == [rest[2], others[2]]


@pytest.mark.parametrize(("start", "corrected"), [
    (" ", ["", " yes ", " yes", " yes", " "]), ("", ["", "yes ", "yes", "yes", " "]),
])  # fmt: skip
def test_leading_spaces_of_samples(asked, start, corrected):
    """Corrected, as y⁺ starts; as published, as the model wrote it; blank ones stay."""
    kinds = ("chosen", "chosen_initial")
    assert own(probes(start=start), types=kinds)["response"].tolist() == corrected
    texts = {**TEXTS, "confounds": {**TEXTS["confounds"], "leading_space": "as_published"}}
    raw = own(probes(start=start), texts, kinds)["response"].tolist()
    assert raw == ["", "yes ", " yes", "\n yes", " "]


def test_types_that_need_no_sampling(asked):
    """Those that the probe set has already, or that nobody asked for; perhaps none is left."""
    table = own(probes(("chosen", "chosen_initial")))
    assert set(table["response_type"]) == {"chosen_selfr"}
    assert set(own(probes(), types=["chosen", "chosen_initial"])["response_type"]) == {
        "chosen_initial"
    }
    assert len(asked) == 2
    for nothing in (
        own(probes(("chosen", "chosen_initial", "chosen_selfr"))),
        own(probes(), types=["chosen", "rejected"]),
    ):
        assert nothing.empty and list(nothing) == PROBE_COLUMNS
    assert len(asked) == 2


def test_sampled_probes_of_a_model(tiny, toy_pairs):
    """The whole way with a real model: text of bounded length that holds no turn of the human."""
    model, tokenizer = tiny
    table = toy_pairs.head(3).rename(columns={"chosen": "response"})
    table = table.assign(response_type="chosen", made_by="data")[PROBE_COLUMNS]
    probe = {**PROBE, "sample_tokens": 20}
    found, again, other = (
        sample_probes(table, model, Codec(tokenizer, 192, 100), TEXTS, probe, 400, seed, "m")
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(found, again)
    assert len(found) == 6 and (found["response"] != other["response"]).any()
    assert not found["response"].str.contains(TURN, regex=False).any()
    assert found["response"].str.match(r" \S|\s*$").all()
