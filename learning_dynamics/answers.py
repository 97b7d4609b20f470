"""Answers to requests: judged, asked for again when they are none, and kept on disk as they arrive,
so that none is paid for twice."""

import hashlib
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa

from learning_dynamics.errors import InputError
from learning_dynamics.files import write_json

REQUEST_COLUMNS = ["split", "example_id", "response_type", "source", "words", "request"]
Check = Callable[[str, str, int, dict], str]  # text, source, words, spec → "ok", or what is wrong
COUNTS = ["attempts", "prompt_tokens", "completion_tokens"]
TEXT_COLUMNS = ["split", "example_id", "response_type", "response", "made_by", "status"]
COLUMNS = [*TEXT_COLUMNS, *COUNTS]
SCHEMA = pa.schema([(name, pa.int64() if name in COUNTS else pa.string()) for name in COLUMNS])
QUOTES = ['""', "''", "“”", "‘’", "«»", "``"]
LOG_EVERY = 5.0  # seconds
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What came back for one request, and the tokens that were paid for it."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Failure:
    """Why a request got no answer, and whether it is worth asking again in this run."""

    reason: str
    again: bool


@dataclass
class Asked:
    """A request and what came back so far."""

    split: str
    example_id: str
    response_type: str
    source: str
    words: int
    request: str
    draw: int  # how many requests of the same wording stand before it
    answers: list[Answer] = field(default_factory=list)
    failure: Failure | None = None  # of the last try

    def status(self, spec: dict, check: Check) -> str:
        """What ``check`` says of the last answer; ``empty`` when there is none."""
        if not self.answers:
            return "empty"
        return check(self.answers[-1].text, self.source, self.words, spec)

    def settled(self, spec: dict, check: Check) -> bool:
        """Whether nothing is left to ask: a response without words has no rewording."""
        enough = len(self.answers) >= spec["attempts"]
        return enough or not self.words or self.status(spec, check) == "ok"


class Provider(Protocol):
    """Who answers.

    Attributes:
        name: what the column ``made_by`` says.
        section: the section of the configuration that asks it.
        identity: all that its answers depend on besides the request; None: they are not cached.
    """

    name: str
    section: str
    identity: dict[str, Any] | None

    def ask(self, rows: list[Asked], keep: Callable[[Asked, Answer | Failure], None]) -> None:
        """Ask once for each row; call ``keep``, from any thread, as soon as an outcome arrives."""


class Cache:
    """Answers on disk, one file each, named by the SHA-256 of all that the answer depends on: the
    provider's identity, the request, its draw and the number of the attempt."""

    def __init__(self, folder: str | Path, identity: dict) -> None:
        self._folder, self._identity = Path(folder), identity

    def get(self, row: Asked) -> Answer | None:
        """The row's next answer; None when there is none, or (with a warning) a damaged file."""
        path = self._path(row)
        try:
            answer = Answer(**json.loads(path.read_text(encoding="utf-8")))
            kinds = [type(value) for value in asdict(answer).values()]
            counts = (answer.prompt_tokens, answer.completion_tokens)
            if kinds == [str, int, int] and 0 <= min(counts) <= max(counts) < 2**63:
                answer.text.encode()  # half a surrogate pair is no text
                return answer
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError):
            pass
        LOG.warning("%s: not a whole answer; asking for it again", path)
        return None

    def put(self, row: Asked, answer: Answer) -> None:
        """Write the row's next answer, whole or not at all."""
        write_json(self._path(row), asdict(answer))

    def _path(self, row: Asked) -> Path:
        parts = [self._identity, row.request, row.draw, len(row.answers)]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{digest}.json"


def answer(
    requests: pd.DataFrame, spec: dict, provider: Provider | None, check: Check | None = None
) -> pd.DataFrame:
    """The answers to ``requests``, in their order, with :data:`COLUMNS`.

    An answer that ``check`` rejects is asked for again, until there are ``spec["attempts"]``;
    the last one stays, with its status, for callers to drop. Tokens are those of all answers to a
    request, the cached ones included.

    Args:
        requests: ``split, example_id, response_type, source, words, request``.
        spec: section ``rephrase`` or ``judge`` of the configuration.
        provider: None (``provider: none``) gives no rows.
        check: what an answer is; default :func:`check_rewording`.

    Raises:
        InputError: when the provider cannot work; and, after all others were asked for, when
            requests stay unanswered.
    """
    if provider is None:
        return pd.DataFrame(columns=COLUMNS)
    if check is None:
        check = check_rewording
        _check_patterns(spec["refusals"])
    draws = requests.groupby("request").cumcount()
    asked = requests[REQUEST_COLUMNS].itertuples(index=False, name=None)
    rows = [Asked(*row, draw=draw) for row, draw in zip(asked, draws, strict=True)]
    cache = Cache(spec["cache"], provider.identity) if provider.identity else None
    progress = _Progress()

    def keep(row: Asked, outcome: Answer | Failure) -> None:
        if isinstance(outcome, Failure):
            row.failure = outcome
        else:
            if cache:
                cache.put(row, outcome)
            row.answers.append(outcome)
        progress.add(outcome)

    for _ in range(spec["attempts"]):
        for row in rows:
            while cache and not row.settled(spec, check) and (known := cache.get(row)):
                row.answers.append(known)
        pending = [row for row in rows if not row.settled(spec, check)]
        pending = [row for row in pending if not row.failure or row.failure.again]
        if pending:
            progress.start(len(pending), len(rows))
            provider.ask(pending, keep)
    lost = [row for row in rows if not row.settled(spec, check)]
    if lost:
        reason = [row.failure.reason for row in lost if row.failure][-1]
        raise InputError(
            f"{provider.section}: {len(lost)} of {len(rows)} requests stay unanswered (last "
            f"reason: {reason}); expected an answer to each; run again to ask for those alone"
        )
    results = [_result(row, row.status(spec, check), provider.name) for row in rows]
    table = pd.DataFrame(results, columns=COLUMNS)
    invalid = table.loc[table["status"] != "ok", ["response_type", "status"]].value_counts()
    for (kind, status), count in invalid.items():
        LOG.warning("%s: %d of the answers are to be dropped: %s", kind, count, status)
    return table


def clean(text: str) -> str:
    """``text`` without surrounding white space and without one pair of quotes around the whole."""
    text = text.strip()
    if len(text) > 1 and text[0] + text[-1] in QUOTES:
        inner = text[1:-1]
        # "a" and "b" begins and ends with quotes that are no pair
        if text[0] not in inner and text[-1] not in inner:
            return inner.strip()
    return text


def check_rewording(text: str, source: str, words: int, spec: dict) -> str:
    """What an answer is: ``ok``, ``empty``, a ``refusal``, ``unchanged``, ``too short`` or ``too
    long``.

    A refusal starts as one of ``spec["refusals"]`` does (a curly apostrophe counts as a straight
    one), unless the source does so too: the rewording of an apology is an apology.

    Args:
        text: the answer, which is cleaned first.
        source: the response that it rewords; empty when it rewords none.
        words: the number of words that was asked for: that of the response.
        spec: section ``rephrase``; ``length`` holds the shortest and the longest answer as
            multiples of ``words``.
    """
    text, (shortest, longest) = clean(text), spec["length"]
    if not text:
        return "empty"
    if _refuses(text, spec["refusals"]) and not _refuses(source, spec["refusals"]):
        return "refusal"
    if text.casefold().split() == source.casefold().split():
        return "unchanged"
    if len(text.split()) < shortest * words:
        return "too short"
    return "too long" if len(text.split()) > longest * words else "ok"


def _refuses(text: str, patterns: list[str]) -> bool:
    text = text.strip().replace("’", "'")
    return any(re.match(pattern, text, re.IGNORECASE) for pattern in patterns)


def _check_patterns(patterns: list[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"rephrase.refusals: {pattern!r}: {error}; expected a regular expression"
            ) from None


def _result(row: Asked, status: str, name: str) -> tuple:
    text = clean(row.answers[-1].text) if row.answers else ""
    tokens = [sum(getattr(one, count) for one in row.answers) for count in COUNTS[1:]]
    place = row.split, row.example_id, row.response_type
    return *place, text, name, status, len(row.answers), *tokens


class _Progress:
    """Counts outcomes, and says so every few seconds and at the end of a round."""

    def __init__(self) -> None:
        self._lock, self._tokens = threading.Lock(), 0

    def start(self, total: int, of: int) -> None:
        LOG.info("asking for %d of %d responses", total, of)
        self._total, self._counts = total, Counter()
        self._started = self._said = time.monotonic()

    def add(self, outcome: Answer | Failure) -> None:
        with self._lock:
            self._counts[type(outcome)] += 1
            if isinstance(outcome, Answer):
                self._tokens += outcome.prompt_tokens + outcome.completion_tokens
            done, now = self._counts.total(), time.monotonic()
            if now - self._said < LOG_EVERY and done < self._total:
                return
            self._said = now
            LOG.info("answers %d/%d, failures %d, tokens %d, ETA %.0f s", self._counts[Answer],
                     self._total, self._counts[Failure], self._tokens,
                     (now - self._started) / done * (self._total - done))  # fmt: skip
