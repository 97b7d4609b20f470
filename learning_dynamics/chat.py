"""Chat templates: from messages (role, content) to the texts of prompt, chosen and rejected."""

import json
from collections.abc import Callable
from pathlib import Path

from learning_dynamics.errors import InputError

# HH's own dialogue format, for messages (role, content); the response's space is part of it.
HH_TEMPLATE = (
    r"{% for m in messages %}{{ '\n\nHuman: ' if m.role == 'user' else '\n\nAssistant: ' }}"
    r"{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
MARKER = "@response@"


def chat_renderer(template: str | None) -> Callable[[str, dict], dict]:
    """A function that turns messages into ``prompt, chosen, rejected`` texts.

    ``template`` is ``hh`` (Human/Assistant turns), a file in Jinja, or a folder with a model's
    ``chat_template.jinja`` or ``tokenizer_config.json``. The prompt is what the template writes
    before the last assistant turn, history included; the response is what follows, up to the end of
    its content. The template's end-of-turn mark is left out: every response is closed by the
    tokenizer's end-of-text token, which for chat models is that mark.

    Raises:
        InputError: when the template cannot be read; the function raises it for messages that are
            not (role, content), or a template that rewrites the prompt once it is answered.
    """
    if template is None:
        return lambda place, row: row
    from transformers.utils.chat_template_utils import render_jinja_template

    source, special = _template_source(template)

    def write(place: str, messages: list[dict], open_turn: bool) -> str:
        try:
            texts, _ = render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=open_turn, **special
            )
        except Exception as error:  # a template is a program: anything may happen
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{place}: chat_template {template}: {reason}") from None
        return texts[0]

    def render(place: str, row: dict) -> dict:
        turns = {name: _messages(place, name, value) for name, value in row.items()}
        history = _history(place, turns)
        out = {"prompt": write(place, history, True)}
        for name in ("chosen", "rejected"):
            content = turns[name][-1]["content"]
            whole, marked = (
                write(place, [*history, {"role": "assistant", "content": text}], False)
                for text in (content, MARKER)
            )
            rest = whole.removeprefix(out["prompt"])
            # A template's own words before the answer may hold the answer's text.
            before = max(0, marked.removeprefix(out["prompt"]).find(MARKER))
            at = rest.find(content.strip(), before)
            if rest == whole or at < 0:
                raise InputError(
                    f"{place}: chat_template {template} rewrites the prompt or the response; "
                    "expected one that only appends"
                )
            # What the template writes behind it is the end of the turn: end-of-text, to us.
            out[name] = rest[: at + len(content.strip())]
        return out

    return render


def _history(place: str, turns: dict[str, list[dict]]) -> list[dict]:
    """What stands before the answer: the messages before it, or the prompt, which must agree."""
    before = {name: turns[name][:-1] for name in ("chosen", "rejected")}
    known = before["chosen"] or before["rejected"]
    for name, messages in before.items():
        if messages and messages != known:
            raise InputError(f"{place}: field {name!r} has another history than 'chosen'; expected "
                             "two answers to one prompt")  # fmt: skip
        role = turns[name][-1]["role"]
        if role != "assistant":
            raise InputError(
                f"{place}: field {name!r} ends with role {role!r}; expected the assistant's answer"
            )
    prompt = turns["prompt"]
    texts = [message["content"] for message in known if message["role"] == "user"]
    if (
        known
        and prompt
        and prompt != known
        and not (len(prompt) == 1 and prompt[0]["content"] in texts)
    ):
        raise InputError(f"{place}: field 'prompt' is {str(prompt)[:60]}; expected the messages "
                         "before the answer, or one of them")  # fmt: skip
    if not (known or prompt):
        raise InputError(f"{place}: no message before the response; expected a prompt")
    return known or prompt


def _messages(place: str, name: str, value: object) -> list[dict]:
    """Messages from a list, its JSON text, or plain text (one turn); a prompt may be absent."""
    if value is None and name == "prompt":
        return []
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return [{"role": "user" if name == "prompt" else "assistant", "content": value}]
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InputError(f"{place}: field {name!r} is neither text nor JSON") from None
    good = isinstance(value, list) and value
    for message in value if good else [None]:
        parts = [message.get(k) for k in ("role", "content")] if isinstance(message, dict) else [0]
        if not all(isinstance(part, str) for part in parts):
            raise InputError(
                f"{place}: field {name!r} is {str(value)[:60]}; expected text or a list of "
                "messages with role and content"
            )
    return [{key: message[key] for key in ("role", "content")} for message in value]


def _template_source(template: str) -> tuple[str, dict]:
    """The Jinja text, and the special tokens that it may name."""
    if template == "hh":
        return HH_TEMPLATE, {}
    path, special = Path(template), {}
    try:
        if path.is_dir():
            config = path / "tokenizer_config.json"
            facts = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
            if not isinstance(facts, dict):
                raise ValueError("no object")
            for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
                token = facts.get(name)
                special[name] = token.get("content") if isinstance(token, dict) else token or ""
            if (path / "chat_template.jinja").is_file():
                path = path / "chat_template.jinja"
            elif isinstance(facts.get("chat_template"), str):
                return facts["chat_template"], special
        return path.read_text(encoding="utf-8"), special
    except (OSError, ValueError, RecursionError):  # not there, not UTF-8, not JSON
        raise InputError(
            f"chat_template: {template}: cannot be read; expected hh, a Jinja file, or a model "
            "folder with a chat template"
        ) from None
