"""figures/residuals: the update that each loss imposes on one softmax (the paper's Figure 2).

Left, one step at the positions of y⁺ and y⁻; right, how hard it pulls and pushes along the way.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.figures import style
from learning_dynamics.provenance import commit

PLACES = {
    "chosen": "at y⁺",
    "rejected": "at y⁻, a likely token",
    "rejected in a valley": "at y⁻, in a valley",
}
FED = 0.05  # gain of the peak's probability that is called out
SAME = 1e-6  # losses whose numbers differ by less are drawn once
UNMOVED = 0.1  # change of log π(y⁻) below which it is called not pushed
COLOURS = ["#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#3FA0DD", "#8C564B", "#7570B3",
           "#66A61E", "#A6761D", "#E7298A"]  # fmt: skip
LIMIT = 3.0  # of the coefficients' axes, in units of their size at m = 0


def draw(steps: pd.DataFrame, coefficients: pd.DataFrame) -> Figure:
    """The whole figure from the two tables of ``learning_dynamics.updates``."""
    style.apply()
    groups = merged(steps, coefficients)
    many = len(groups) > len(COLOURS)
    palette = sns.husl_palette(len(groups), l=0.5) if many else COLOURS
    colours = dict(zip(groups, palette, strict=False))
    height = 1.45 + 0.78 * len(groups)
    figure = plt.figure(figsize=(9.6, height))
    left, right = figure.subfigures(1, 2, width_ratios=[6.1, 3.5])
    _steps(left, steps, groups, colours, height)
    _coefficients(right, coefficients, groups, colours, height)
    figure.text(0.995, 0.002, "one softmax, no model · losses at their default hyper-parameters · "
                f"commit {commit()}", ha="right", va="bottom", fontsize=5.5,
                color="#666666")  # fmt: skip
    return figure


def merged(steps: pd.DataFrame, coefficients: pd.DataFrame) -> dict[str, list[str]]:
    """Algorithms by the first one whose numbers are theirs: equal updates and coefficients."""
    groups: dict[str, list[str]] = {}
    curves = {}
    for name, rows in steps.groupby("algorithm", sort=False):
        by = coefficients[coefficients["algorithm"] == name][["chosen", "rejected"]]
        curve = np.concatenate([rows["after"], by.to_numpy().ravel()])
        same = [
            first
            for first, other in curves.items()
            if curve.shape == other.shape
            and np.allclose(curve, other, rtol=SAME, atol=SAME, equal_nan=True)
        ]
        if same:
            groups[same[0]].append(name)
        else:
            curves[name], groups[name] = curve, [name]
    return groups


def _words(names: list[str]) -> str:
    return "\n".join(line for name in names for line in textwrap.wrap(name.replace("_", " "), 11))


def _steps(
    figure: SubFigure, steps: pd.DataFrame, groups: dict, colours: dict, height: float
) -> None:
    axes = figure.subplots(len(groups), len(PLACES), sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.14, right=0.985, top=1 - 0.98 / height, bottom=0.5 / height,
                           hspace=0.12, wspace=0.05)  # fmt: skip
    for row, (name, names) in zip(axes, groups.items(), strict=True):
        row[0].set_ylabel(_words(names), rotation=0, ha="right", va="center", fontweight="bold",
                          fontsize=7.5 if len(names) < 3 else 6.5, color=colours[name])  # fmt: skip
        for panel, place in zip(row, PLACES, strict=True):
            part = steps[(steps["algorithm"] == name) & (steps["place"] == place)]
            panel.tick_params(labelsize=6, length=2)
            panel.set_yticks([0, 0.5])
            if part.empty:
                panel.text(0.5, 0.4, "not read", transform=panel.transAxes, ha="center",
                           fontsize=7, color="#999999", style="italic")  # fmt: skip
                continue
            _step(panel, part, colours[name], place)
    for panel, title in zip(axes[0], PLACES.values(), strict=True):
        panel.set_title(title, fontsize=8, loc="center")
    axes[0, 0].set_ylim(0, 1.22 * max(steps["after"].max(), steps["before"].max()))
    axes[-1, 1].set_xlabel("token")
    _heading(figure, "a", "One gradient step on one softmax", "Grey: before; line: after a step of "
             "equal length. ▲ y⁺   ▼ y⁻   ● most likely other token. Red: the step away from y⁻\n"
             "feeds it, and how much of that y⁻ itself pays. Losses without a reference hardly "
             "push a y⁻ that is far less likely than y⁺.", 6.1)  # fmt: skip


def _step(panel: Axes, part: pd.DataFrame, colour: tuple, place: str) -> None:
    token, before = part["token"].to_numpy(), part["before"].to_numpy()
    after, label, peak = part["after"].to_numpy(), part["label"].iloc[0], part["peak"].iloc[0]
    panel.fill_between(token, before, step="mid", color=style.BEFORE, lw=0, zorder=1)
    panel.step(token, after, where="mid", color=colour, lw=1.2, zorder=2)
    marker, shade = ("^", style.CHOSEN) if place == "chosen" else ("v", style.REJECTED)
    panel.plot(label, after[label] + 0.045, marker, color=shade, ms=5, zorder=4, clip_on=False)
    panel.plot(peak, after[peak], "o", color=style.GREEDY, ms=3, zorder=4)
    gain, paid = after[peak] - before[peak], before[label] - after[label]
    fed = place != "chosen" and gain > FED
    lines = [(f"● {before[peak]:.2f} → {after[peak]:.2f}",
              style.IRRELEVANT if fed else "#555555", "bold" if fed else "normal", 7)]  # fmt: skip
    sign = "▲" if place == "chosen" else "▼"
    lines.append((f"{sign} {before[label]:.2g} → {after[label]:.2g}", shade, "normal", 6))
    if fed:
        lines.append((f"of which y⁻ pays {paid / gain:.0%}", style.IRRELEVANT, "normal", 6))
    elif place != "chosen" and abs(np.log(after[label] / before[label])) < UNMOVED:
        lines.append(("not pushed", "#555555", "normal", 6))
    for number, (text, shade, weight, size) in enumerate(lines):
        panel.text(0.98, 0.95 - 0.23 * number, text, va="top", ha="right", fontsize=size,
                   transform=panel.transAxes, color=shade, fontweight=weight)  # fmt: skip


def _coefficients(
    figure: SubFigure, table: pd.DataFrame, groups: dict, colours: dict, height: float
) -> None:
    axes = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.15, right=0.72, top=1 - 0.98 / height, bottom=0.5 / height,
                           hspace=0.1)  # fmt: skip
    limits = {"chosen": (-1.0, LIMIT), "rejected": (-LIMIT, 1.0)}
    words = {"chosen": "c₊: pulls y⁺ up", "rejected": "c₋: below zero, pushes y⁻ away"}
    for panel, (side, (low, high)) in zip(axes, limits.items(), strict=True):
        labels = []
        panel.axhline(0, color="#999999", lw=0.7)
        panel.axvline(0, color="#999999", lw=0.7, ls=":")
        panel.set_ylim(low, high)
        for name, names in groups.items():
            rows = table[table["algorithm"] == name]
            if rows.empty or rows[side].isna().all():
                continue
            start = rows.loc[rows["margin"].abs().idxmin(), ["chosen", "rejected"]].abs().max()
            values = rows[side].to_numpy() / start
            panel.plot(rows["margin"], values, color=colours[name], lw=1.5)
            size = rows.loc[rows["margin"].abs().idxmin(), side]
            end = float(np.clip(values[-1], low, high))
            more = f" (+{len(names) - 1})" if len(names) > 1 else ""
            labels.append((end, f"{name.replace('_', ' ')}{more}  {size:+.2g}".replace("-", "−"),
                           colours[name]))  # fmt: skip
        style.direct_labels(panel, labels, gap=0.055)
        panel.text(0.0, 1.02, words[side], transform=panel.transAxes, fontsize=8)
        panel.set_ylabel("c / its size at m = 0")
    axes[1].set_xlabel("margin m (nats)")
    _heading(figure, "b", "Pull and push against the margin", "c = −∂L/∂log π, mean over 20 tokens "
             "of −2 nats; the log-ratios\nshare the margin: r₊ = m/2, r₋ = −m/2. Numbers: c at m = "
             "0.", 3.5)  # fmt: skip


def _heading(figure: SubFigure, letter: str, title: str, caption: str, width: float) -> None:
    """As ``style.heading``, in inches, for parts that stand side by side."""
    height = figure.bbox.height / figure.figure.dpi
    top = 1 - 0.08 / height
    figure.text(0.08 / width, top, f"({letter})", fontweight="bold", fontsize=10, va="top")
    figure.text(0.36 / width, top, title, fontsize=10, va="top")
    figure.text(0.36 / width, 1 - 0.34 / height, caption, fontsize=6.3, va="top", color="#444444")
