"""Response types that a strong model writes: rewordings of y⁺ and y⁻, and human-like text.

A type is a template and the response that it rewords: here the templates are filled. Who answers is
in :mod:`learning_dynamics.providers`, what becomes of the answers in
:mod:`learning_dynamics.answers`.
"""

import string

import pandas as pd

from learning_dynamics.answers import REQUEST_COLUMNS
from learning_dynamics.errors import InputError

ASKED = {  # response type → (template, which response it rewords)
    "chosen_gptsemantic": ("semantic", "chosen"),
    "chosen_gptformat": ("format", "chosen"),
    "reject_gptsemantic": ("semantic", "rejected"),
    "reject_gptformat": ("format", "rejected"),
    "irr_hum": ("human", "chosen"),
}
PLACEHOLDERS = ["prompt", "response", "words"]


def needed(probed: pd.DataFrame, given: pd.DataFrame, spec: dict, probe: dict) -> pd.DataFrame:
    """The requests (as of :func:`requests`) that a probe set needs: its types that a provider
    writes, the user's own ones included, less the responses that were given with the data.

    Args:
        probed: the probed pairs.
        given: ``example_id, response_type`` of the given responses.
        spec: section ``rephrase`` of the data set.
        probe: section ``probe``.
    """
    templates = dict(spec["templates"])
    kinds = {kind: entry for kind, entry in ASKED.items() if kind in probe["types"]}
    for kind, own in (probe.get("own_types") or {}).items():
        if kind in probe["types"] and "ask" in own:
            name = f"own_types.{kind}"  # never one of the built-in templates
            templates[name], kinds[kind] = own["ask"], (name, own["of"])
    table = requests(probed, {} if spec["provider"] == "none" else kinds, templates)
    known = set(zip(given["example_id"], given["response_type"], strict=True))
    asked = zip(table["example_id"], table["response_type"], strict=True)
    return table[[key not in known for key in asked]].reset_index(drop=True)


def requests(
    probed: pd.DataFrame, kinds: dict[str, tuple[str, str]], templates: dict[str, str]
) -> pd.DataFrame:
    """One request per example and type, example by example.

    Columns: ``split, example_id, response_type, source`` (the response to reword, without
    surrounding white space; empty when the template does not show it), ``words`` (those of the
    response) and ``request`` (the filled template).

    Args:
        probed: ``split, example_id, prompt, chosen, rejected``.
        kinds: type → (name of its template, side: ``chosen`` or ``rejected``).
        templates: their texts, with ``{prompt}``, ``{response}`` and ``{words}``; a literal brace
            is doubled.

    Raises:
        InputError: for an unknown template or side, or a template that cannot be filled.
    """
    parsed = {
        name: parse(f"rephrase.templates.{name}", text, PLACEHOLDERS)
        for name, text in templates.items()
    }
    for kind, (name, side) in kinds.items():
        if name not in templates:
            raise InputError(
                f"type {kind!r}: template {name!r}; expected one of {', '.join(templates)}"
            )
        if side not in ("chosen", "rejected"):
            raise InputError(f"type {kind!r}: side {side!r}; expected chosen or rejected")
    rows = []
    for row in probed.itertuples():
        for kind, (name, side) in kinds.items():
            response = getattr(row, side).strip()
            words = len(response.split())
            fields = {"prompt": row.prompt.strip(), "response": response, "words": words}
            request = filled(parsed[name], fields)
            shown = any(place == "response" for _, place in parsed[name])
            rows.append(
                (row.split, row.example_id, kind, response if shown else "", words, request)
            )
    return pd.DataFrame(rows, columns=REQUEST_COLUMNS)


def parse(place: str, template: str, known: list[str]) -> list[tuple[str, str]]:
    """A template as pieces of text, each with the placeholder that follows it, or with nothing.

    Raises:
        InputError: naming ``place``, when it holds anything but the placeholders ``known``.
    """
    places = ", ".join(f"{{{name}}}" for name in known)
    expected = f"expected {places}, and {{{{ or }}}} for a brace"
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{place}: {error}; {expected}") from None
    for _, field, form, conversion in pieces:
        if field is not None and (field not in known or form or conversion):
            raise InputError(f"{place}: {{{field}}} is unknown or has a format; {expected}")
    return [(text, field or "") for text, field, _, _ in pieces]


def filled(pieces: list[tuple[str, str]], fields: dict[str, object]) -> str:
    """The text of a parsed template. Braces in the fields are text: nothing is parsed again."""
    return "".join(f"{text}{fields[place] if place else ''}" for text, place in pieces)
