"""figures/forks: branches of one saved model, and what each part of the loss does to the rest."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.figures import style
from learning_dynamics.forks import BESIDE, CAUSES

COLOURS = dict(zip(CAUSES, [style.CHOSEN, style.REJECTED, "#FFE0A3"], strict=True))
LOOKS = {  # of the branches' curves
    "loss": ("black", "-", "whole loss"),
    "without": (style.CHOSEN, "-", "without y⁻"),
    "valley": (style.REJECTED, "--", "y⁻ in the valley only"),
    "coin": ("#888888", "-", "coin-flip labels"),
    "random": ("#888888", ":", "random step of equal length"),
}
CURVES = {"rejected": "y⁻", "best other at y⁻": "best other token at y⁻"}


def draw(study: dict, table: pd.DataFrame, parts: pd.DataFrame) -> Figure:
    """The whole figure: a row per loss and start; left the parts of every change after the last
    update, right the curves of all branches (``learning_dynamics.forks``)."""
    style.apply()
    rows = list(parts.groupby(["algorithm", "from"], sort=False).groups)
    quantities = _order(parts)
    height = 1.25 + len(rows) * (0.55 + 0.17 * len(quantities))
    figure = plt.figure(figsize=(8.2, height))
    grid = figure.subplots(
        len(rows), 1 + len(CURVES), squeeze=False, width_ratios=[2.2, 1, 1]
    )  # fmt: skip
    figure.subplots_adjust(left=0.155, right=0.985, top=1 - 1.0 / height, bottom=0.55 / height,
                           hspace=0.28, wspace=0.28)  # fmt: skip
    for panels, (algorithm, start) in zip(grid, rows, strict=True):
        here = parts[(parts["algorithm"] == algorithm) & (parts["from"] == start)]
        _bars(panels[0], here, quantities)
        panels[0].set_title(
            f"{algorithm} from {start}, after {here['step'].iloc[0]} updates", fontsize=8
        )
        runs = table[(table["algorithm"] == algorithm) & (table["from"] == start)]
        for panel, (quantity, title) in zip(panels[1:], CURVES.items(), strict=True):
            _curves(panel, runs[runs["quantity"] == quantity])
            panel.set_title(title, fontsize=8)
    grid[-1, 0].set_xlabel("change since the branch began (nats per response)")
    for panel in grid[-1, 1:]:
        panel.set_xlabel("updates")
    figure.text(0.012, 1 - 0.08 / height, "Branches of one model: what does which part move?",
                fontsize=10, va="top")  # fmt: skip
    figure.text(0.012, 1 - 0.28 / height, "Bars add up to the whole loss's change (black, 95% "
                "t-interval over seeds).\nGrey: coin-flip labels (ring), a random step of equal "
                "length (cross).", fontsize=6.5, va="top", color="#444444")  # fmt: skip
    at = 0.012
    for cause, colour in COLOURS.items():
        figure.text(at, 1 - 0.56 / height, f"■ {cause}", color=colour if cause != "y⁻ elsewhere"
                    else "#C9A227", fontsize=7.5, fontweight="bold", va="top")  # fmt: skip
        at += 0.045 + 0.0105 * len(cause)
    _legend(grid[0, -1], figure, height)
    style.stamp(figure, study)
    return figure


def _order(parts: pd.DataFrame) -> list[str]:
    """Response types in the style's order, own types behind them, then what is beside them."""
    found = list(parts["quantity"].unique())
    types = [name for name in style.TYPES if name in found]
    return [*types, *(q for q in found if q not in style.TYPES and q not in BESIDE), *BESIDE]


def _bars(panel: Axes, parts: pd.DataFrame, quantities: list[str]) -> None:
    by = {key: group.set_index("quantity") for key, group in parts.groupby("part")}
    places = range(len(quantities))
    for place, quantity in zip(places, quantities, strict=True):
        ends = {True: 0.0, False: 0.0}  # where the bars to the right and to the left end
        for cause, colour in COLOURS.items():
            value = by[cause].loc[quantity, "value"]
            panel.barh(place, value, left=ends[value > 0], color=colour, height=0.72)
            ends[value > 0] += value
        whole = by["all"].loc[quantity]
        panel.plot([whole["low"], whole["high"]], [place, place], color="black", lw=1)
        panel.plot(whole["value"], place, "o", color="black", ms=3.4)
        panel.plot(by["coin"].loc[quantity, "value"], place, "o", mfc="none", mec="#777777", ms=4)
        panel.plot(by["random"].loc[quantity, "value"], place, "x", color="#777777", ms=4)
    panel.axvline(0, color="#666666", lw=0.6)
    names = [style.TYPES[q][2] if q in style.TYPES else style.plain(q) for q in quantities]
    panel.set_yticks(list(places), names, fontsize=6.5)
    panel.axhline(len(quantities) - len(BESIDE) - 0.5, color="#BBBBBB", lw=0.6)
    panel.invert_yaxis()


def _curves(panel: Axes, runs: pd.DataFrame) -> None:
    panel.axhline(0, color="#999999", lw=0.6)
    for branch, (colour, dashes, _) in LOOKS.items():
        here = runs[runs["branch"] == branch].groupby("step")["change"]
        mean = here.mean()
        panel.plot(mean.index, mean, color=colour, ls=dashes)
        if here.size().min() > 1:
            panel.fill_between(mean.index, here.min(), here.max(), color=colour, alpha=0.12, lw=0)


def _legend(panel: Axes, figure: Figure, height: float) -> None:
    lines = [
        plt.Line2D([], [], color=colour, ls=dashes, label=name)
        for colour, dashes, name in LOOKS.values()
    ]
    figure.legend(handles=lines, loc="upper right", bbox_to_anchor=(0.99, 1 - 0.02 / height),
                  ncols=2, fontsize=6.3, frameon=False, title="curves: mean and range of seeds",
                  title_fontsize=6.3)  # fmt: skip
