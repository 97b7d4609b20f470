"""figures/probe: the data card of a probing set as a picture; what is out of order is filled.

(a) one row per response type, one column per property, (b) the findings in words.
"""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics import card
from learning_dynamics.card import TokenCounter
from learning_dynamics.figures import style

ALARM, FINE, BAND = "#B5005B", "#C4C4C4", "#F7F7F7"
CHECKS, WIDTH, LINE = 8, 150, 0.17  # checks in words; characters and inches of a line
# panel: (title, what is averaged, the checks that fill its cells)
PANELS = {
    "length": ("length ({unit}): median,\nquartiles; line: y⁺", [], ["length", "word-count"]),
    "space": ("starts with\na space", ["leading_space"], ["leading-space"]),
    "empty": ("empty\n(or missing)", ["empty"], ["missing", "empty"]),
    "unfinished": ("unfinished\nsentence", ["unfinished"], ["unfinished"]),
    "odd": ("odd symbols\n(“@@@”)", ["odd_symbols"], ["odd-symbols"]),
    "talk": ("talks about\nthe request", ["talk"], ["talk"]),
    "overlap": ("words shared\nwith y⁺", ["overlap"], ["shuffle", "own-answer"]),
    "copies": (
        "copied\nor leaked",
        ["duplicates_within", "duplicates_across", "duplicates_splits", "irr_test_trained",
         "irr_train_untrained"],
        ["irr-test-trained", "irr-train-untrained", "duplicates-splits", "duplicates-across",
         "duplicates-within"],
    ),
}  # fmt: skip


def draw(
    study: dict,
    probes: pd.DataFrame,
    pairs: pd.DataFrame | None = None,
    tokens: TokenCounter | None = None,
) -> Figure:
    """The whole figure of any probing set; lengths are in words without a token counter."""
    style.apply()
    rows, found = card.measure(probes, pairs, tokens), card.findings(probes, pairs, tokens)
    kinds, splits, lines = card.kinds_of(rows), _splits(rows), _in_words(found)
    heights = [1.1 + (0.18 + 0.09 * len(splits)) * max(1, len(kinds)), 0.55 + LINE * len(lines)]
    figure = plt.figure(figsize=(10.4, sum(heights)))
    cells, words = figure.subfigures(2, 1, height_ratios=heights)
    _cells(cells, heights[0], rows, found)
    count = f"{len(found)} finding{'s' * (len(found) != 1)}"
    sizes = [f"{rows.loc[rows['split'] == s, 'example_id'].nunique()} {s}" for s in splits]
    of = f"{' and '.join(sizes) or 'no'} examples"
    title = f"Probing set of {style.plain(study['dataset'])}: {count} ({of})"
    style.heading(cells, "a", title)
    style.heading(words, "b", "The findings in words")
    for number, (check, sentence) in enumerate(lines):
        at = 1 - (0.36 + LINE * number) / heights[1]
        words.text(0.05, at, check, fontsize=7.5, va="top", color=ALARM, fontweight="bold")
        words.text(0.165, at, style.plain(sentence), fontsize=7.5, va="top")
    style.stamp(figure, study)
    return figure


def _splits(rows: pd.DataFrame) -> list[str]:
    return [split for split in ("train", "test") if (rows["split"] == split).any()]


def _cells(figure: SubFigure, height: float, rows: pd.DataFrame, found: pd.DataFrame) -> None:
    widths = [2.1] + [1] * (len(PANELS) - 1)
    axes = figure.subplots(1, len(PANELS), sharey=True, width_ratios=widths)
    figure.subplots_adjust(left=0.125, right=0.985, top=1 - 0.72 / height, bottom=0.38 / height,
                           wspace=0.1)  # fmt: skip
    kinds, splits = card.kinds_of(rows), _splits(rows)
    unit = "tokens" if rows["tokens"].notna().any() else "words"
    for panel, (name, (title, columns, checks)) in zip(axes, PANELS.items(), strict=True):
        panel.set_title(title.format(unit=unit))
        for place, kind in enumerate(kinds):
            if place % 2:
                panel.axhspan(place - 0.5, place + 0.5, color=BAND, lw=0, zorder=0)
            for number, split in enumerate(splits):
                group = rows[(rows["response_type"] == kind) & (rows["split"] == split)]
                bad = found[
                    found["check"].isin(checks)
                    & (found["response_type"] == kind)
                    & (found["split"] == split)
                ]
                share = 1 / len(splits)
                low = place - 0.5 + number * share
                if len(bad):
                    panel.axhspan(low + 0.05, low + share - 0.05, color=ALARM, lw=0, zorder=1)
                colour = "white" if len(bad) else FINE
                y, marker = low + share / 2, "oD"[number]
                if name == "length":
                    at = 0.0  # its numbers are at the right
                    _quartiles(panel, group[unit], y, colour, marker)
                else:
                    at = group[columns].mean().sum(min_count=1)
                    panel.plot(at, y, marker, color=colour, ms=3.2, zorder=3)
                if len(bad):
                    worst = bad.loc[bad["value"].idxmax()]
                    _number(panel, _value(worst["check"], worst["value"]), at, y)
        if name != "length":
            panel.set_xlim(-0.08, 1.08)
            panel.set_xticks([0, 1], ["0", "1" if name == "overlap" else "100%"])
        panel.tick_params(left=False)
        panel.spines["left"].set_visible(False)
    _reference(axes[0], rows, unit)
    axes[0].set_ylim(max(1, len(kinds)) - 0.5, -0.5)
    axes[0].set_yticks(range(len(kinds)), [style.plain(_short(_name(kind))) for kind in kinds])
    for tick, kind in zip(axes[0].get_yticklabels(), kinds, strict=True):
        tick.set_color(style.TYPES.get(kind, ("#777777",))[0])
        tick.set_fontsize(8 if len(_name(kind)) < 20 else 6)
    key = "filled: beyond its limit · grey: in order" + " · ● train ◆ test" * (len(splits) > 1)
    figure.text(0.985, 1 - 0.13 / height, key, ha="right", va="top", fontsize=7.5, color=ALARM)


def _short(name: str) -> str:
    return name if len(name) <= 21 else f"{name[:20]}…"


def _name(kind: str) -> str:
    return style.TYPES.get(kind, ("", 1, "prompts" if kind == "prompt" else kind))[2]


def _quartiles(panel: Axes, lengths: pd.Series, y: float, colour: str, marker: str) -> None:
    low, middle, high = lengths.quantile([0.25, 0.5, 0.75])
    panel.plot([low, high], [y, y], "-", color=colour, lw=1.6, zorder=3)
    panel.plot(middle, y, marker, color=colour, ms=3.6, zorder=3)


def _reference(panel: Axes, rows: pd.DataFrame, unit: str) -> None:
    """The line at y⁺'s median in the first split, and room for numbers at the right."""
    right = panel.dataLim.x1 if rows[unit].notna().any() else 1.0
    panel.set_xlim(0, 1.35 * right)
    chosen = (rows["response_type"] == "chosen") & rows["split"].isin(_splits(rows)[:1])
    if rows.loc[chosen, unit].notna().any():
        panel.axvline(rows.loc[chosen, unit].median(), color=style.CHOSEN, lw=0.8, zorder=2)


def _number(panel: Axes, text: str, at: float, y: float) -> None:
    """A number in a filled cell, at the side where the mark is not."""
    x, side = (0.04, "left") if at > 0.5 else (0.96, "right")
    panel.text(x, y, text, transform=panel.get_yaxis_transform(), ha=side, va="center",
               color="white", fontsize=7, fontweight="bold", zorder=4)  # fmt: skip


def _value(check: str, value: float) -> str:
    if check == "length":
        return f"×{value:.2f}"
    percent = f"{value:.1%}" if 0 < value < 0.0995 else f"{value:.0%}"
    return f"±{percent}" if check == "word-count" else percent


def _in_words(found: pd.DataFrame) -> list[tuple[str, str]]:
    """Lines of (check, who is found with what value); a check of several lines is named once."""
    if not len(found):
        return [("none", "every response type is within the limits")]
    lines: list[tuple[str, str]] = []
    checks = list(found["check"].unique())
    for check in checks[:CHECKS]:
        here, who = found[found["check"] == check], []
        for split, rows in here.groupby("split", sort=False):
            names = [
                f"{_name(r.response_type)} {_value(check, r.value)}" for r in rows.itertuples()
            ]
            where = f"{split}: " * (found["split"].nunique() > 1)
            who.append(where + "; ".join(names))
        wrapped = textwrap.wrap(" | ".join(who), WIDTH)
        lines += zip([check] + [""] * (len(wrapped) - 1), wrapped, strict=True)
    rest = checks[CHECKS:]
    return lines + [("and also", ", ".join(rest))] * bool(rest)
