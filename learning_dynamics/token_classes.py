"""What kind of token each one is, and how far a run moves it. Torch-free.

Definitions: docs/statistics.md, section "Token by token".
"""

import re

import numpy as np
import pandas as pd

# The closed classes of English: articles and determiners, pronouns, prepositions, conjunctions,
# auxiliaries, and particles.
_CLOSED = """
a an the this that these those some any each every no all both either neither such same
other another what which whose i me my mine myself you your yours yourself he him his
himself she her hers herself it its itself we us our ours ourselves they them their theirs
themselves who whom one ones someone anyone everyone something anything everything nothing
nobody of in on at by for with about against between into through during before after
above below to from up down out off over under near behind past inside outside beyond
toward towards across along around among upon without within until since per via and or
but nor so yet if because as than though although while whether when where why how unless
plus then also am is are was were be been being have has had having do does did doing will
would shall should can could may might must won't can't not there here too very just only
"""
FUNCTION_WORDS = frozenset(_CLOSED.split())
END, FIRST, FUNCTION = "end-of-text", "first token", "function words"
SHARED, OF_CHOSEN, OF_REJECTED, NEITHER = ("in y⁺ and y⁻", "in y⁺ alone", "in y⁻ alone",
                                           "in neither")  # fmt: skip
CLASSES = [FIRST, FUNCTION, SHARED, OF_CHOSEN, OF_REJECTED, NEITHER, END]
WORD = re.compile(r"[\w'’]+")
KEYS = ["example_id", "response_type"]
COLUMNS = [*KEYS, "position", "token", "class", "start", "change", "greedy_change"]


def classes(tokens: list[str], closed: bool, chosen: set[str], rejected: set[str]) -> list[str]:
    """The class of each token of a response, the first that fits of: end-of-text; first token;
    function words (of whose word it is a part, or no letters or digits at all: punctuation); and
    whether the same token occurs in y⁺, in y⁻, in both or in neither.

    Args:
        tokens: their text; together the response.
        closed: whether the last one is end-of-text.
        chosen, rejected: the tokens of y⁺ and y⁻ to the same prompt.
    """
    ends = np.cumsum([len(token) for token in tokens])
    function = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=bool)
    for word in WORD.finditer("".join(tokens)):
        function[word.start() : word.end()] = _is_function(word[0])
    out = []
    for place, (token, end) in enumerate(zip(tokens, ends, strict=True)):
        letters = [end - len(token) + i for i, c in enumerate(token) if WORD.match(c)]
        if closed and place == len(tokens) - 1:
            out.append(END)
        elif place == 0:
            out.append(FIRST)
        elif all(function[i] for i in letters):
            out.append(FUNCTION)
        else:
            sides = {(True, True): SHARED, (True, False): OF_CHOSEN, (False, True): OF_REJECTED}
            out.append(sides.get((token in chosen, token in rejected), NEITHER))
    return out


def _is_function(word: str) -> bool:
    """Whether a word is of a closed class, contractions by their first part (don't, it's)."""
    word = word.lower().replace("’", "'")
    stems = {word, word.removesuffix("n't"), word.partition("'")[0]}
    return not stems.isdisjoint(FUNCTION_WORDS)


def changes(table: pd.DataFrame, split: str = "train") -> pd.DataFrame:
    """How far a run moved every token, from its first evaluation to its last: :data:`COLUMNS`.

    ``position`` counts from 0; ``start`` is the label's log-prob at the first evaluation,
    ``change`` that of the label and ``greedy_change`` that of the log-prob of the token that is
    greedy at the time, in nats.

    Args:
        table: a run's tokens.parquet (:func:`token_trajectory.read`).
        split: of the probes.
    """
    rows = table[table["split"] == split]
    first, last = (rows[rows["step"] == step].set_index(KEYS)
                   for step in (rows["step"].min(), rows["step"].max()))  # fmt: skip
    sides: dict[str, dict[str, set[str]]] = {"chosen": {}, "rejected": {}}
    for (example, kind), row in first.iterrows():
        if kind in sides:
            words = list(row["text"])
            sides[kind][example] = set(words[:-1] if row["closed"] else words)
    parts = []
    for (example, kind), row in first.iterrows():
        after, tokens = last.loc[(example, kind)], list(row["text"])
        seen = [sides[side].get(example, set()) for side in ("chosen", "rejected")]
        parts.append(
            pd.DataFrame(
                {
                    "example_id": example,
                    "response_type": kind,
                    "position": range(len(tokens)),
                    "token": tokens,
                    "class": classes(tokens, row["closed"], *seen),
                    "start": row["logp"],
                    "change": after["logp"] - row["logp"],
                    "greedy_change": after["logp_argmax"] - row["logp_argmax"],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)
