"""figures/tokens: how far runs move each token, by position, by class, and in one example."""

from collections.abc import Mapping

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from learning_dynamics.dynamics import Estimate, seeds_interval
from learning_dynamics.figures import style
from learning_dynamics.landing import PLACE_LABELS, PLACES
from learning_dynamics.token_classes import CLASSES, END

Moved = Mapping[int, pd.DataFrame]  # by seed, what token_classes.changes says of one run
ROLES = {"sft": "SFT", "dpo": "DPO"}
GROUPS = {  # of response types: colour, name
    "chosen": (style.CHOSEN, "y⁺"),
    "rejected": (style.REJECTED, "y⁻"),
    "other": ("#999999", "all other types"),
}
WIDTH, SIZE = 96, 7.0  # characters of a line of the example, and their size in points
MOST_LINES = 8  # of a response of the example
MOST_SHOWN = 400  # characters of one token


def draw(study: dict, moved: Mapping[str, Moved]) -> Figure:
    """The figure from the changes of every token, by role and seed
    (:func:`learning_dynamics.token_classes.changes`)."""
    style.apply()
    moved = {
        role: {seed: _grouped(table) for seed, table in by_seed.items()}
        for role, by_seed in moved.items()
    }
    name = _typical(moved["dpo"])
    lines = [
        (role, kind, _lines(next(iter(moved[role].values())), name, kind))
        for role in ROLES
        for kind in ("chosen", "rejected")
    ]
    text = 0.75 + 0.17 * sum(len(rows) + 1 for *_, rows in lines)
    figure = plt.figure(figsize=(8.6, 2 * 2.5 + 0.3 + text))
    *parts, example = figure.subfigures(3, 1, height_ratios=[2.65, 2.65, text])
    for letter, part, (role, word) in zip("ab", parts, ROLES.items(), strict=True):
        _one_run(part, letter, word, moved[role])
    _example(example, lines, name, next(iter(moved["dpo"])))
    style.stamp(figure, study)
    return figure


def _grouped(table: pd.DataFrame) -> pd.DataFrame:
    kind = table["response_type"].where(table["response_type"].isin(GROUPS), "other")
    place = pd.cut(table["position"], PLACES, labels=PLACE_LABELS, right=False)
    return table.assign(group=kind, place=place.astype(str))


def _means(moved: Moved, column: str, by: str, group: str) -> dict[str, Estimate]:
    """Mean over tokens per bin and seed, then over seeds with a t-interval."""
    found = {}
    for table in moved.values():
        rows = table[table["group"] == group]
        if by == "place":  # end-of-text stands at a class of its own
            rows = rows[rows["class"] != END]
        for name, value in rows.groupby(by)[column].mean().items():
            found.setdefault(str(name), []).append(float(value))
    return {name: seeds_interval(values) for name, values in found.items()}


def _one_run(figure: SubFigure, letter: str, word: str, moved: Moved) -> None:
    place, kind = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.25]})
    figure.subplots_adjust(left=0.09, right=0.985, top=0.82, bottom=0.22, wspace=0.2)
    for group, (colour, _) in GROUPS.items():
        for column, line in (("change", "-"), ("greedy_change", "--")):
            if column == "greedy_change" and group == "other":
                continue
            found = _means(moved, column, "place", group)
            names = [name for name in PLACE_LABELS if name in found]
            at = np.array([PLACE_LABELS.index(name) for name in names])
            values = [found[name].value for name in names]
            place.plot(at, values, line, color=colour, lw=1.6 if line == "-" else 0.9, marker="o",
                       ms=2.6)  # fmt: skip
            if column == "change":
                place.fill_between(at, [found[n].low for n in names],
                                   [found[n].high for n in names], color=colour, lw=0,
                                   alpha=0.15)  # fmt: skip
    for number, (group, (colour, name)) in enumerate(GROUPS.items()):
        found = _means(moved, "change", "class", group)
        for at, label in enumerate(CLASSES):
            if label in found:
                shift = at + (number - 1) * 0.22
                kind.plot([shift] * 2, [found[label].low, found[label].high], color=colour, lw=0.9)
                kind.plot(shift, found[label].value, "o", color=colour, ms=3.6)
        place.text(0.98, 0.98 - 0.1 * number, name, color=colour, fontsize=7, fontweight="bold",
                   ha="right", va="top", transform=place.transAxes)  # fmt: skip
    for panel in (place, kind):
        panel.axhline(0, color="#999999", lw=0.6)
    place.set_xticks(range(len(PLACE_LABELS)), PLACE_LABELS)
    place.set_xlabel("position in the response (dashed: the greedy token there)")
    place.set_ylabel("change of log-prob\n(nats per token)")
    kind.set_xticks(range(len(CLASSES)), [name.replace(" ", "\n", 1) for name in CLASSES])
    kind.set_xlabel("class of the token (the first that fits)")
    style.heading(figure, letter, f"{word}: from its start to its end, train probes")


def _typical(moved: Moved) -> str:
    """The example whose change of log π(y⁻) is the median one, in the first seed."""
    table = next(iter(moved.values()))
    total = table[table["response_type"] == "rejected"].groupby("example_id")["change"].sum()
    return str(total.sort_values(kind="stable").index[(len(total) - 1) // 2])


def _lines(table: pd.DataFrame, name: str, kind: str) -> list[list[tuple[str, float]]]:
    """A response as lines of (text, change), at most :data:`WIDTH` characters each."""
    rows = table[(table["example_id"] == name) & (table["response_type"] == kind)]
    lines: list[list[tuple[str, float]]] = [[]]
    room = WIDTH
    for token, change, label in rows[["token", "change", "class"]].itertuples(index=False):
        word = " ⊣ end" if label == END else _visible(token)
        if len(word) > room and lines[-1]:
            lines.append([])
            room = WIDTH
        lines[-1].append((word, float(change)))
        room -= len(word)
    return [*lines[:MOST_LINES], *([[("…", 0.0)]] if len(lines) > MOST_LINES else [])]


def _visible(token: str) -> str:
    """A token as one line of printable text."""
    shown = "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in token)
    return shown[:MOST_SHOWN] or "·"


def _example(figure: SubFigure, lines: list[tuple], name: str, seed: int) -> None:
    inches = figure.bbox.height / figure.figure.dpi
    axes = figure.add_axes((0.03, 0.2 / inches, 0.85, 1 - 0.55 / inches))
    values = np.abs([change for *_, rows in lines for row in rows for _, change in row])
    limit = max(float(np.quantile(values, 0.95)) if len(values) else 0.0, 1e-6)
    colours = mpl.colormaps["RdBu"]
    height = sum(len(rows) + 1 for *_, rows in lines)
    axes.set_xlim(0, WIDTH + 1)
    axes.set_ylim(height, 0)
    axes.axis("off")
    at = 0
    for role, kind, rows in lines:
        colour, word = GROUPS[kind]
        total = sum(change for row in rows for _, change in row)
        axes.text(0, at + 0.55, f"{ROLES[role]}, {word}  ({total:+.1f} nats)", color=colour,
                  fontsize=7.5, fontweight="bold", va="center")  # fmt: skip
        for number, row in enumerate(rows, at + 1):
            column = 0
            for text, change in row:
                shade = colours(0.5 + 0.5 * np.clip(change / limit, -1, 1))
                _token(axes, column, number, text, shade)
                column += len(text)
        at += len(rows) + 1
    bar = figure.add_axes((0.91, 0.2, 0.012, 0.5))
    scale = mpl.colors.Normalize(-limit, limit)
    figure.colorbar(mpl.cm.ScalarMappable(scale, colours), cax=bar, extend="both")
    bar.set_title("nats", fontsize=6.5)
    bar.tick_params(labelsize=6)
    style.heading(figure, "c", "One example: change of each token's log-prob")
    figure.text(0.45, 0.975, f"{style.plain(name)}, seed {seed}; chosen because its change of y⁻ "
                "under DPO is the median one", fontsize=6.3, va="top", color="#444444")  # fmt: skip


def _token(axes: Axes, column: int, line: int, text: str, shade: tuple) -> None:
    axes.add_patch(
        Rectangle((column, line + 0.04), len(text), 0.92, facecolor=shade, lw=0.3, ec="white")
    )
    dark = np.dot(shade[:3], (0.3, 0.59, 0.11)) < 0.45
    for place, letter in enumerate(text):  # letter by letter: no font is as wide as it says
        if letter != " ":
            axes.text(column + place + 0.5, line + 0.52, style.plain(letter), ha="center",
                      va="center", fontsize=SIZE, family="DejaVu Sans Mono",
                      color="white" if dark else "black", clip_on=True)  # fmt: skip
