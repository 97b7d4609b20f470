"""Text to tokens: the one place where prompt and response meet a tokenizer.

Prompt and response are tokenised apart and joined; no BOS; one end-of-text token closes a response.
An empty response is end-of-text alone. Too long: the prompt keeps its end, then each response is
cut by itself and loses its end-of-text. ``truncation: as_published`` cuts as the reference
implementation does instead (paper.md 5.4): see :meth:`Codec.row`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from learning_dynamics.errors import InputError
from learning_dynamics.scoring import Tree


@dataclass
class Codec:
    """Encodes prompts and responses for one model.

    Attributes:
        tokenizer: a ``transformers`` tokenizer with an end-of-text token.
        max_length: most tokens of prompt and response together.
        max_prompt_length: prompts longer than this keep their last tokens; None cuts none.
        published: cut as the reference implementation does.
        keep: the end of a prompt that survives that cut: ``end`` (HH) or ``start`` (UltraFeedback).
        count_end: whether end-of-text enters a probe's sums (its log-prob is recorded in any case).
        special_tokens: whether prompts hold special tokens, as those of a chat template do; in all
            other texts a special token's name is text like any other.
        end_of_turn: the token that closes a response, where it is not the tokenizer's end-of-text
            (models trained on a chat template that has one).
        cut_prompts, cut_responses: how many were cut so far.
    """

    tokenizer: Any
    max_length: int
    max_prompt_length: int | None
    published: bool = False
    keep: str = "end"
    count_end: bool = True
    special_tokens: bool = False
    end_of_turn: str | None = None
    cut_prompts: int = field(default=0, init=False)
    cut_responses: int = field(default=0, init=False)

    @cached_property
    def end_of_text(self) -> int:
        """Id of the token that closes a response.

        Raises:
            InputError: when the tokenizer has no token ``end_of_turn``.
        """
        if self.end_of_turn is None:
            return self.tokenizer.eos_token_id
        known = self.tokenizer.get_vocab()
        if self.end_of_turn not in known:
            raise InputError(
                f"end_of_turn = {self.end_of_turn!r}: not a token of this model's tokenizer; "
                "expected the one that its chat template ends a turn with"
            )
        return known[self.end_of_turn]

    def row(self, prompt: str, responses: list[str], name: str) -> Tree:
        """The tokens of a prompt and its responses.

        As published, the row is measured by its longest field (the prompt is one of them): when the
        prompt and it do not fit, the prompt is cut to ``max_prompt_length``; when they still do not
        fit, every response is cut to what room the prompt leaves. So what is cut from a prompt
        depends on what else is in its row.

        Raises:
            InputError: when the prompt called ``name`` is empty or leaves no room for a response.
        """
        if not self.published:
            head = self.prompt(prompt, name)
            return Tree(head, [self.response(text, len(head)) for text in responses])
        head = self._encode(prompt, self.special_tokens)
        tails = [self._closed(text) for text in responses]
        longest = max(len(head), *map(len, tails))
        limit = self.max_prompt_length
        if len(head) + longest > self.max_length and limit is not None and len(head) > limit:
            head = head[-limit:] if self.keep == "end" else head[:limit]
            self.cut_prompts += 1
        self._check(head, name)
        if len(head) + longest > self.max_length:
            room = self.max_length - len(head)
            self.cut_responses += sum(len(tail) > room for tail in tails)
            tails = [tail[:room] for tail in tails]
        return Tree(head, tails)

    def prompt(self, text: str, name: str) -> list[int]:
        """Tokens of a prompt.

        Raises:
            InputError: when the prompt called ``name`` is empty or leaves no room for a response.
        """
        ids = self._encode(text, self.special_tokens)
        limit = self.max_prompt_length
        if limit is not None and len(ids) > limit:
            ids = ids[-limit:]
            self.cut_prompts += 1
        self._check(ids, name)
        return ids

    def response(self, text: str, prompt_length: int) -> list[int]:
        """Tokens of a response, closed by end-of-text, that fit behind ``prompt_length`` tokens."""
        ids = self._closed(text)
        room = self.max_length - prompt_length
        if len(ids) > room:
            ids = ids[:room]
            self.cut_responses += 1
        return ids

    def _check(self, ids: list[int], name: str) -> None:
        if not ids:
            raise InputError(f"prompt of {name}: empty; expected at least one token")
        if len(ids) >= self.max_length:
            raise InputError(
                f"prompt of {name}: {len(ids)} tokens leave no room for a response; expected fewer "
                f"than max_length = {self.max_length} (or set max_prompt_length)"
            )

    def _closed(self, text: str) -> list[int]:
        ids = self._encode(text) if text.strip() else []
        return [*ids, self.end_of_text]

    def _encode(self, text: str, special: bool = False) -> list[int]:
        # Lengths are this class's business, hence no warnings.
        return self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=not special, verbose=False
        )["input_ids"]
