"""The data card of a probing set: a table of what each response type is like, and the findings:
anomalies, leaks, and differences from y⁺ that could pass for an effect of the type.

Both describe these rows, not a population, so nothing here is a test of significance. Words are
what whitespace separates, and texts are equal when their words are: a lost space hides no copy.
Everything but ``empty`` looks at non-empty responses, and a row counts for the first of the leaks
and copies that it shows, so that one fault has one name. Paper sections 3.5, 3.6 and 5.4.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from learning_dynamics.errors import InputError
from learning_dynamics.probe import PROBE_COLUMNS, RESPONSE_TYPES

TokenCounter = Callable[[list[str]], list[int]]
Finding = tuple[str, float, float, str]  # check, value, limit, sentence
SHUFFLE_OF = {"random_permute": "chosen", "random_nonhum": "irr_test"}
PREFIX = 60  # characters: two prompts that begin alike for so long are of one conversation
MARKS = re.compile(r"\s*\b(?:Human|Assistant):\s*|\s+")
FINISHED = re.compile(r"""[.!?…。！？"'”’»)\]}」』）]\s*$""")
ODD = re.compile(r"([^\w\s.])\1\1")  # "@@@", "###"; "..." is ordinary punctuation
# "Certainly! Here is a random sentence with 42 words:": the request is talked about, not answered.
TALK = re.compile(
    r"^[^\n:]{0,60}\bhere(['’]s| is| are)\b[^\n:]{0,40}"
    r"\b(text|sentences?|passage|paragraph|version|rewording|rewrite)\b",
    re.IGNORECASE,
)

# What a careful reader would let pass. Shares of rows unless said otherwise; "above y⁺" is a
# difference of shares, because y⁺ is the natural text.
LIMITS = {
    # Without all its types an example is in some means and not in others.
    "missing": 0.0,
    # Such a row scores end-of-text alone, a fraction of the nats of any other.
    "empty": 0.01,
    # The code that joins the texts sets it alike for all rows: a clean type has y⁺'s share exactly.
    "leading-space": 0.05,  # either side of y⁺
    # Σ log p grows with the length: a quarter more words is a quarter more nats at equal ease.
    "length": 1.25,  # factor between mean words and y⁺'s, either way
    "word-count": 0.1,  # mean relative error of irr_hum's words ...
    "word-count-equal": 0.5,  # ... where fewer rows than this have y⁺'s number exactly
    "unfinished": 0.1,  # above y⁺: people forget full stops too
    "odd-symbols": 0.05,  # above y⁺: Markdown is odd only where y⁺ has none
    "talk": 0.05,  # above y⁺: such an opening is alike in all types that have it
    # Copies make fewer independent rows (within) or blur two types (across): one row in twenty
    # moves a mean by little, and stock replies ("You're welcome.") stay below it.
    "duplicates-within": 0.05,  # above y⁺
    "duplicates-within-irr_train": 0.5,  # above y⁺; n draws from n rows repeat 1/e ≈ 0.37 of them
    "duplicates-across": 0.05,
    # Leaks change what a type or a split means: only stray coincidences may pass.
    "duplicates-splits": 0.01,
    "irr-test-trained": 0.01,
    "irr-train-untrained": 0.01,
    "own-answer": 0.01,
    "shuffle": 0.01,
    "related-prompts": 0.01,
}
SHARES = {  # checks of a share of rows; the measured column has the check's name
    "empty": "are empty: end-of-text alone is scored",
    "leading-space": "start with a space",
    "unfinished": "do not end like a sentence (cut by a length limit?)",
    "odd-symbols": "hold a run of one symbol, like “@@@”",
    "talk": "open with talk about the request (“Certainly! Here is a sentence …”)",
    "duplicates-within": "repeat an earlier row of the type",
    "duplicates-across": "are also responses of {partners}",
    "duplicates-splits": "occur in the training split too",
    "irr-test-trained": "are y⁺ of a training pair: a leak",
    "irr-train-untrained": "are y⁺ of no training pair",
    "own-answer": "are the example's own y⁺",
    "shuffle": "have other words than the text that they shuffle",
}
ABOVE_CHOSEN = {"unfinished", "odd-symbols", "talk", "duplicates-within"}
MEASURED = ["empty", "leading_space", "unfinished", "odd_symbols", "talk", "overlap",
            "same_words", "duplicates_within", "duplicates_across", "duplicates_splits",
            "own_answer", "in_training"]  # fmt: skip


def card(
    probes: pd.DataFrame, pairs: pd.DataFrame | None = None, tokens: TokenCounter | None = None
) -> pd.DataFrame:
    """One row per split × response type: ``count``; words and tokens per non-empty response;
    ``words_ratio``, mean words / y⁺'s; and the means of what :func:`measure` gives each row. NaN
    where no token counter, pairs or y⁺ is there."""
    table = []
    for split, kind, group, base in groups(measure(probes, pairs, tokens)):
        row = {"split": split, "response_type": kind, "count": len(group)}
        for name in ("words", "tokens"):
            row |= {f"{name}_mean": group[name].mean(), f"{name}_median": group[name].median()}
        row["words_ratio"] = row["words_mean"] / base["words"].mean()
        table.append(row | group[MEASURED].mean().to_dict())
    return pd.DataFrame(table)


def findings(
    probes: pd.DataFrame,
    pairs: pd.DataFrame | None = None,
    tokens: TokenCounter | None = None,
    limits: dict[str, float] = LIMITS,
) -> pd.DataFrame:
    """What is beyond ``limits``, a row per check, split and response type ("prompt" for prompts).
    ``value`` is a share of rows; for ``length`` a ratio, for ``word-count`` a relative error.
    Checks that need pairs are silent without them."""
    rows, limits = measure(probes, pairs, tokens), LIMITS | limits
    out = [*_missing(rows, limits), *_related_prompts(rows, limits)]
    for split, kind, group, base in groups(rows):
        here = [_share(name, kind, group, base, limits) for name in SHARES]
        here.append(_word_count(group, limits))
        # A response of other words than it was made to have is too long or short for that reason.
        if not {check[0] for check in here if check} & {"shuffle", "word-count"}:
            here.append(_length(group, base, limits))
        out += [(check[0], split, kind, *check[1:]) for check in here if check]
    out.sort(key=lambda finding: list(LIMITS).index(finding[0]))
    columns = ["check", "split", "response_type", "value", "limit", "message"]
    table = pd.DataFrame(out, columns=columns)
    about = table["response_type"] + " (" + table["split"] + "): "
    return table.assign(message=about + table["message"] + ".")


def _share(name: str, kind: str, group: pd.DataFrame, base: pd.DataFrame, limits: dict) -> Finding:
    column, limit = group[name.replace("-", "_")], limits.get(f"{name}-{kind}", limits[name])
    either_side = name == "leading-space"
    relative = either_side or (name in ABOVE_CHOSEN and kind != "chosen")
    excess = column.mean() - (base[column.name].mean() if relative else 0.0)
    if not (abs(excess) if either_side else excess) > limit:  # also where it is NaN
        return ()
    partners = "".join(group.loc[column > 0, "partners"].mode()[:1])
    sentence = f"{_counted(column)} {SHARES[name].format(partners=partners)}"
    sentence += f"; {column.mean() - excess:.0%} of y⁺ do" * relative
    return name, column.mean(), limit, sentence


def _length(group: pd.DataFrame, base: pd.DataFrame, limits: dict) -> Finding:
    words, other = group["words"].mean(), base["words"].mean()
    if not max(words / other, other / words) > limits["length"]:
        return ()
    sentence = f"{words:.1f} words on average, {words / other:.2f} times the {other:.1f} of y⁺"
    if group["tokens"].notna().any():
        sentence += f"; {group['tokens'].mean():.1f} and {base['tokens'].mean():.1f} tokens"
    return "length", words / other, limits["length"], sentence


def _word_count(group: pd.DataFrame, limits: dict) -> Finding:
    error = group["word_error"].dropna()
    value, exact, limit = error.mean(), (error == 0).mean(), limits["word-count"]
    if not (value > limit and exact < limits["word-count-equal"]):
        return ()
    sentence = f"the number of words is {value:.0%} off y⁺'s on average, exact in {exact:.0%}"
    return "word-count", value, limit, sentence


def _missing(rows: pd.DataFrame, limits: dict) -> Iterator[tuple]:
    for split, here in rows.groupby("split"):
        ids = here.groupby("response_type")["example_id"].nunique()
        count = here["example_id"].nunique()
        for kind in dict.fromkeys(["chosen", *kinds_of(rows)]):
            lacking = count - ids.get(kind, 0)
            if lacking / count > limits["missing"]:
                sentence = f"no row for {lacking} of {count} examples"
                yield "missing", split, kind, lacking / count, limits["missing"], sentence


def _related_prompts(rows: pd.DataFrame, limits: dict) -> Iterator[tuple]:
    prompts, limit = rows.drop_duplicates(["split", "example_id"]), limits["related-prompts"]
    start = prompts["prompt"].map(lambda text: MARKS.sub(" ", text).strip()[:PREFIX])
    for split, related in start.duplicated(keep=False).groupby(prompts["split"]):
        sentence = f"{_counted(related)} share their first {PREFIX} characters with another"
        if related.mean() > limit:
            yield "related-prompts", split, "prompt", related.mean(), limit, sentence


def _counted(hits: pd.Series) -> str:
    of, everything = hits.notna().sum(), len(hits)
    rest = f"; {hits.sum() / everything:.0%} of all {everything}" if of < everything else ""
    return f"{hits.sum():.0f} of {of} ({hits.mean():.0%}{rest})"


def measure(
    probes: pd.DataFrame, pairs: pd.DataFrame | None = None, tokens: TokenCounter | None = None
) -> pd.DataFrame:
    """The probe rows with their MEASURED values as 0, 1 or a number; NaN where there is none.

    ``words``, ``tokens``; ``unfinished`` skips shuffles and rows with odd symbols; ``overlap`` is
    the Jaccard overlap of lower-cased word sets with y⁺ and ``same_words`` whether the multisets
    are equal; ``in_training``: the text is y⁺ of a training pair of another example.
    """
    rows = probes[PROBE_COLUMNS[:5]].reset_index(drop=True)
    kind, raw = rows["response_type"], list(rows["response"].fillna(""))
    words = [text.split() for text in raw]
    text = rows["text"] = pd.Series([" ".join(w) for w in words], dtype=object)
    full = text != ""

    def where(values: object, defined: object = True) -> pd.Series:
        return pd.Series(values, rows.index, dtype=float).where(full & defined)

    rows["empty"] = (~full).astype(float)
    rows["words"] = where([len(w) for w in words])
    rows["tokens"] = where(tokens(raw) if tokens and raw else float("nan"))
    rows["leading_space"] = where([r.startswith(" ") for r in raw])
    odd = rows["odd_symbols"] = where([bool(ODD.search(r)) for r in raw])
    rows["talk"] = where([bool(TALK.search(r)) for r in raw], ~kind.isin(SHUFFLE_OF))
    natural = (odd == 0) & ~kind.isin(SHUFFLE_OF)
    rows["unfinished"] = where([not FINISHED.search(r) for r in raw], natural)

    examples = list(zip(rows["split"], rows["example_id"], strict=True))
    own = _look_up(rows[full], ["chosen"] * len(rows), examples)
    both = list(zip(words, own.str.split(), strict=True))
    sets = [[{word.lower() for word in side} for side in sides] for sides in both]
    rows["overlap"] = where([len(w & o) / max(1, len(w | o)) for w, o in sets], own != "")
    rows["same_words"] = where([sorted(w) == sorted(o) for w, o in both], own != "")
    error = [abs(len(w) / max(1, len(o)) - 1) for w, o in both]
    rows["word_error"] = where(error, (own != "") & (kind == "irr_hum"))

    trained: dict[str, set[str]] = defaultdict(set)
    for pair in () if pairs is None else pairs[pairs["split"] == "train"].itertuples():
        trained[" ".join(pair.chosen.split())].add(pair.example_id)
    ids = zip(text, rows["example_id"], strict=True)
    leaked = pd.Series([bool(trained.get(t, set()) - {i}) for t, i in ids], dtype=bool)
    rows["in_training"] = leaked.astype(float) if pairs is not None else float("nan")
    free = full.copy()

    def charge(name: str, hit: pd.Series) -> None:
        rows[name] = (hit & free).astype(float)
        free[hit] = False

    charge("own_answer", kind.str.startswith("irr_") & (text == own))
    charge("irr_test_trained", (kind == "irr_test") & leaked)
    charge("irr_train_untrained", (kind == "irr_train") & bool(trained) & ~text.isin(list(trained)))
    charge("duplicates_within", rows.duplicated(["split", "response_type", "text"]))
    rows["partners"] = _partners(rows[free]).reindex(rows.index, fill_value="")
    charge("duplicates_across", rows["partners"] != "")
    later = rows["split"] != "train"
    copied = ~later.groupby([kind, text]).transform("all") | ((kind == "chosen") & leaked)
    charge("duplicates_splits", later & copied & (kind != "irr_train"))
    # The shuffle of a row that is at fault itself says nothing about the shuffling.
    source = _look_up(rows[free], kind.map(SHUFFLE_OF), examples)
    wrong = [sorted(w) != sorted(s.split()) for w, s in zip(words, source, strict=True)]
    rows["shuffle"] = where(wrong, free & (source != ""))
    return rows


def _look_up(rows: pd.DataFrame, kinds: object, examples: list[tuple[str, str]]) -> pd.Series:
    """The text of the given type of each example, "" where ``rows`` has none."""
    texts = rows.set_index(["response_type", "split", "example_id"])["text"].to_dict()
    keys = [(kind, *example) for kind, example in zip(kinds, examples, strict=True)]
    return pd.Series([texts.get(key, "") for key in keys], dtype=object)


def _partners(rows: pd.DataFrame) -> pd.Series:
    """The other types that have a row's text too. irr_train is made of y⁺ and is on neither side;
    what irr_test shares with y⁺ is left to ``irr-test-trained``."""
    rows = rows[rows["response_type"] != "irr_train"]
    kinds = rows.groupby("text")["response_type"].agg(set).to_dict()
    pair = {"chosen": {"chosen", "irr_test"}, "irr_test": {"chosen", "irr_test"}}
    here = zip(rows["text"], rows["response_type"], strict=True)
    shared = [kinds[text] - pair.get(kind, {kind}) for text, kind in here]
    return pd.Series([", ".join(sorted(names)) for names in shared], rows.index, dtype=object)


def kinds_of(rows: pd.DataFrame) -> list[str]:
    """The response types of a table: the published ones in their order, then any others."""
    here = rows["response_type"].unique()
    return [k for k in RESPONSE_TYPES if k in here] + [k for k in here if k not in RESPONSE_TYPES]


def groups(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """(split, type, its rows, the split's y⁺ rows), for all that there are, train first."""
    for split in sorted(rows["split"].unique(), key=lambda name: name != "train"):
        by_kind = dict(list(rows[rows["split"] == split].groupby("response_type")))
        for kind in [k for k in kinds_of(rows) if k in by_kind]:
            yield split, kind, by_kind[kind], by_kind.get("chosen", rows[:0])


def as_markdown(table: pd.DataFrame, found: pd.DataFrame, title: str) -> str:
    """Findings, then the card."""
    lines = [f"# Probing set: {title}", "", f"## Findings: {len(found)}", ""]
    lines += [f"- **{row.check}** {row.message}" for row in found.itertuples()]
    lines += [] if len(found) else ["None: every response type is within the limits."]
    lines += ["", "## Response types", "", "Lengths per non-empty response; shares of rows.", ""]
    names = list(table.dropna(axis="columns", how="all"))
    cells = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    cells += [[_cell(n, row[n]) for n in names] for row in table[names].to_dict("records")]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in cells]) + "\n"


def _cell(name: str, value: object) -> str:
    if isinstance(value, str) or name == "count":
        return str(value)
    number = ".2f" if name in ("words_ratio", "overlap") else ".0%"
    number = ".1f" if name.endswith(("_mean", "_median")) else number
    return "–" if pd.isna(value) else format(value, number)


def token_counter(folder: str | Path) -> TokenCounter:
    """Counts tokens with the tokenizer of a local model folder; responses alone, no end-of-text."""
    from tokenizers import Tokenizer  # without transformers, which is slow to import

    file = Path(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: no tokenizer ({reason}); expected a model folder") from None
    tokenizer.no_truncation()
    return lambda texts: [
        len(one.ids) for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]
