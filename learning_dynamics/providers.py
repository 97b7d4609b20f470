"""Who answers requests (rewordings, verdicts): an OpenAI-compatible endpoint, a local instruction
model, or the toy world, which knows the rewordings."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from learning_dynamics.answers import Answer, Asked, Failure
from learning_dynamics.errors import InputError
from learning_dynamics.rephrase import ASKED
from learning_dynamics.toyworld import Fact, World

DEAD_AFTER = 4  # failures in a row, times concurrency, after which an endpoint is given up
Keep = Callable[[Asked, Answer | Failure], None]


class OpenAI:
    """Any endpoint that speaks the OpenAI chat protocol, through the official client.

    The client backs off and tries again after connection errors, time-outs and the statuses 408,
    409, 429 and 5xx. Neither the key nor what a server says of an error is ever shown.

    Args:
        spec: section ``rephrase`` or ``judge``.
        section: which of them, for what is said of it.

    Raises:
        InputError: without a usable model, address or key; from :meth:`ask` when the endpoint
            refuses the key or does not know the model.
    """

    def __init__(self, spec: dict, section: str = "rephrase") -> None:
        import openai

        self._openai, self._spec, self.name, self.section = openai, spec, spec["model"], section
        if not self.name:
            raise InputError(f"{section}.model: missing; expected a model of the endpoint")
        variable = spec["key_variable"]
        key = os.environ.get(variable, "").strip()
        if not key or not (key.isascii() and key.isprintable()):
            raise InputError(
                f"{section}.key_variable: {variable} holds no key; expected an environment "
                "variable with the endpoint's key in ASCII (any text where the endpoint wants none)"
            )
        self._client = openai.OpenAI(
            api_key=key,
            base_url=spec["base_url"],
            timeout=spec["timeout"],
            max_retries=spec["retries"],
        )
        address = self._client.base_url  # may come from the environment
        if address.scheme not in ("http", "https") or not address.host:
            raise InputError(
                f"{section}.base_url: {spec['base_url']!r}; expected http:// or https:// and a host"
            )
        self.identity = {
            "provider": "openai",
            "base_url": str(address),
            **{key: spec[key] for key in ("model", "system", "temperature", "max_tokens")},
        }

    def ask(self, rows: list[Asked], keep: Keep) -> None:
        """Ask for all rows, ``spec["concurrency"]`` at a time. A dead endpoint is given up after
        several times as many failures in a row."""

        def ask_and_keep(row: Asked) -> bool:
            outcome = self._ask(row.request)
            keep(row, outcome)  # before the worker asks on: a kill loses only what is in flight
            return isinstance(outcome, Answer)

        with ThreadPoolExecutor(self._spec["concurrency"]) as pool:
            jobs = [pool.submit(ask_and_keep, row) for row in rows]
            failures = 0
            try:
                for job in as_completed(jobs):
                    failures = 0 if job.result() else failures + 1
                    if failures >= DEAD_AFTER * self._spec["concurrency"]:
                        pool.shutdown(wait=True, cancel_futures=True)
                        break
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, request: str) -> Answer | Failure:
        openai, spec = self._openai, self._spec
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=spec["model"],
                messages=_messages(spec, request),
                temperature=spec["temperature"],
                max_tokens=spec["max_tokens"],
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(
                f"{self.section}.key_variable: the endpoint refuses the key in "
                f"{spec['key_variable']} ({error.status_code}); expected a key that "
                f"may use model {spec['model']!r}"
            ) from None
        except openai.NotFoundError:
            raise InputError(
                f"{self.section}.model: {spec['model']!r} is not found (404); expected a model of "
                f"the endpoint, and its address in {self.section}.base_url (often ending in /v1)"
            ) from None
        except openai.APIError as error:
            code = getattr(error, "status_code", None)
            return Failure(type(error).__name__ + f" {code}" * bool(code), again=False)
        return _read(raw.http_response.content)


def _messages(spec: dict, request: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": spec["system"]},
        {"role": "user", "content": request},
    ]


def _read(body: bytes) -> Answer | Failure:
    """The answer in a response's body."""
    try:
        value = json.loads(body)
        text = value["choices"][0]["message"].get("content") or ""
        usage = value.get("usage") or {}
        tokens = [int(usage.get(f"{kind}_tokens") or 0) for kind in ("prompt", "completion")]
        # Half a surrogate pair, where the server cut its text, is no text for Parquet.
        if not all(0 <= count < 2**63 for count in tokens):
            raise ValueError("no count of tokens")
        return Answer(text.encode(errors="replace").decode(), *tokens)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return Failure("malformed answer", again=True)


class Transformers:
    """A local instruction model; one without a chat template is given the plain request.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: its tokenizer.
        spec: section ``rephrase`` or ``judge``; ``concurrency`` requests make a batch.
        max_length: most tokens of a request and its answer together.
        folder: where the model was loaded from; the cache tells models apart by its files' content.
        seed: fixes the samples, together with the requests of a batch and their attempts.
        section: which section it is.
    """

    def __init__(
        self, model: Any, tokenizer: Any, spec: dict, max_length: int, folder: str | Path,
        seed: int, section: str = "rephrase",
    ) -> None:  # fmt: skip
        from learning_dynamics.resume import fingerprint
        from learning_dynamics.tokens import Codec

        chat = bool(tokenizer.chat_template)
        self._codec = Codec(tokenizer, max_length, None, special_tokens=chat)
        self._model, self._spec, self._seed = model, spec, seed
        self.name, self.section = str(folder), section
        self.identity = {
            "provider": "transformers",
            "model": fingerprint({"max_length": max_length, "seed": seed}, [folder]),
            **{key: spec[key] for key in ("system", "temperature", "max_tokens")},
        }

    def ask(self, rows: list[Asked], keep: Keep) -> None:
        """Ask for all rows, batch by batch. Answers count the tokens of their text, encoded again.

        Raises:
            InputError: when a request leaves no room for an answer.
        """
        from learning_dynamics.sampling import generate

        spec, codec, size = self._spec, self._codec, self._spec["concurrency"]
        for batch in (rows[start : start + size] for start in range(0, len(rows), size)):
            prompts = [self._prompt(row.request) for row in batch]
            lengths = [
                len(codec.prompt(text, f"{row.response_type} of {row.example_id}"))
                for text, row in zip(prompts, batch, strict=True)
            ]
            drawn = [self._seed, *([row.request, row.draw, len(row.answers)] for row in batch)]
            seed = int.from_bytes(hashlib.sha256(json.dumps(drawn).encode()).digest()[:4])
            texts = generate(
                self._model,
                codec,
                prompts,
                max_new=spec["max_tokens"],
                temperature=spec["temperature"] or 1e-4,  # it takes no 0; this is as good
                seed=seed,
                turn="",
                batch_tokens=size * codec.max_length,  # one batch
            )
            for row, (text, _), length in zip(batch, texts, lengths, strict=True):
                written = codec.tokenizer(text, add_special_tokens=False, verbose=False)
                keep(row, Answer(text, length, len(written["input_ids"])))

    def _prompt(self, request: str) -> str:
        from jinja2 import TemplateError

        if not (tokenizer := self._codec.tokenizer).chat_template:
            return request
        one = {"role": "user", "content": f"{self._spec['system']}\n\n{request}"}
        for messages in (_messages(self._spec, request), [one]):
            try:
                return tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except TemplateError as error:  # many templates know no system role
                reason = str(error)
        raise InputError(f"{self.name}: chat template: {reason}; expected one that takes a request")


class Toyworld:
    """The toy world answers by itself, exactly and without the requests' wording.

    Args:
        dataset: the toy world's data set, of which ``world_seed`` counts.
    """

    name, section, identity = "toyworld", "rephrase", None

    def __init__(self, dataset: dict) -> None:
        self._world = World(dataset["world_seed"])
        self._facts = {f"fact-{i:04d}": (i, fact) for i, fact in enumerate(self._world.facts)}

    def ask(self, rows: list[Asked], keep: Keep) -> None:
        """Answer all rows; an answer is fixed by the world, the example and the type.

        Raises:
            InputError: for a type that the world does not know, or an example of another world.
        """
        for row in rows:
            keep(row, Answer(self._answer(row).strip(), 0, 0))

    def _answer(self, row: Asked) -> str:
        world, kind = self._world, row.response_type
        if kind not in ASKED:
            raise InputError(
                f"rephrase.provider: 'toyworld' cannot write type {kind!r}; expected one of "
                f"{', '.join(ASKED)}, or another provider"
            )
        if row.example_id not in self._facts:
            raise InputError(
                f"example {row.example_id!r}: no fact of toy world {world.seed}; expected fact-0000"
                f" to fact-{len(self._facts) - 1:04d}"
            )
        number, fact = self._facts[row.example_id]
        rng = np.random.default_rng([world.seed, 5, number, list(ASKED).index(kind)])
        template, side = ASKED[kind]
        if template == "semantic":
            return world.machine_answer(rng, stated(world, fact, row.source))
        if template == "format":
            return world.format_answer(rng, int(side == "rejected"))
        return world.narrative(rng, row.words)


def stated(world: World, fact: Fact, text: str) -> Fact:
    """The fact that an answer to the question of ``fact`` states, read back from its words.

    Raises:
        InputError: when it names no tool, or not two actions, of ``world``.
    """
    words = [word.strip(".,") for word in text.split()]
    tools = [word for word in words if word in world.lexicon["tools"]]
    actions = [word for word in words if word in world.lexicon["actions"]]
    if not tools or len(actions) != 2:
        raise InputError(
            f"response {text[:60]!r}: states no fact; expected an answer of toy world {world.seed}"
        )
    return Fact(fact.task, fact.thing, fact.category, tools[0], (actions[0], actions[1]))
