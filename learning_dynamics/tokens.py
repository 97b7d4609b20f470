"""Text to tokens: the one place where prompt and response meet a tokenizer.

Prompt and response are tokenised apart and joined; no BOS; one end-of-text token closes a response
and is scored. An empty response is end-of-text alone. Too long: the prompt keeps its end, then the
response is cut and loses its end-of-text.
"""

from dataclasses import dataclass, field
from typing import Any

from learning_dynamics.errors import InputError


@dataclass
class Codec:
    """Encodes prompts and responses for one model.

    Attributes:
        tokenizer: a ``transformers`` tokenizer with an end-of-text token.
        max_length: most tokens of prompt and response together.
        max_prompt_length: prompts longer than this keep their last tokens; None cuts none.
        cut_prompts, cut_responses: how many were cut so far.
    """

    tokenizer: Any
    max_length: int
    max_prompt_length: int | None
    cut_prompts: int = field(default=0, init=False)
    cut_responses: int = field(default=0, init=False)

    @property
    def end_of_text(self) -> int:
        """Id of the token that closes a response."""
        return self.tokenizer.eos_token_id

    def prompt(self, text: str, name: str) -> list[int]:
        """Tokens of a prompt.

        Raises:
            InputError: when the prompt called ``name`` is empty or leaves no room for a response.
        """
        ids = self._encode(text)
        limit = self.max_prompt_length
        if limit is not None and len(ids) > limit:
            ids = ids[-limit:]
            self.cut_prompts += 1
        if not ids:
            raise InputError(f"prompt of {name}: empty; expected at least one token")
        if len(ids) >= self.max_length:
            raise InputError(
                f"prompt of {name}: {len(ids)} tokens leave no room for a response; expected fewer "
                f"than max_length = {self.max_length} (or set max_prompt_length)"
            )
        return ids

    def response(self, text: str, prompt_length: int) -> list[int]:
        """Tokens of a response, closed by end-of-text, that fit behind ``prompt_length`` tokens."""
        ids = self._encode(text) if text.strip() else []
        ids = [*ids, self.end_of_text]
        room = self.max_length - prompt_length
        if len(ids) > room:
            ids = ids[:room]
            self.cut_responses += 1
        return ids

    def _encode(self, text: str) -> list[int]:
        # A special token's name inside a text is text; lengths are this class's business.
        return self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
