"""figures/response_space: the response types placed by their measured mutual influence, coloured by
the paper's three sub-spaces."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.figures import style
from learning_dynamics.frontier import seeds_interval
from learning_dynamics.response_space import expected_by_chance

COLOURS = {"Y_IF": style.CHOSEN, "Y_non-IF": style.IRRELEVANT, "Y_non-hum": style.RANDOM}
MARKERS = {"Y_IF": "o", "Y_non-IF": "s", "Y_non-hum": "^"}
NAMES = {"Y_IF": "Y_IF: follows the instruction", "Y_non-IF": "Y_non-IF: another’s answer, or none",
         "Y_non-hum": "Y_non-hum: no human language"}  # fmt: skip


def draw(study: dict, table: pd.DataFrame) -> Figure:
    """The whole figure from its table."""
    style.apply()
    figure = plt.figure(figsize=(8.2, 6.4))
    axes = figure.add_axes((0.085, 0.09, 0.885, 0.71))
    mean, seeds = (
        table[table["seed"].astype(str) == "all"],
        table[table["seed"].astype(str) != "all"],
    )
    _points(axes, mean, seeds)
    share = _over_seeds(seeds, "own_sub_space")
    silhouette = _over_seeds(seeds, "silhouette")
    chance = expected_by_chance(list(mean["response_type"]))
    updates = ", ".join(_name(update) for update in study["updates"])
    figure.text(0.012, 0.985, f"Nearest neighbour in the own sub-space of the paper: "
                f"{share} of types (chance {chance:.0%})", fontsize=9.5, va="top",
                fontweight="bold")  # fmt: skip
    text = (
        f"Silhouette of the three sub-spaces: {silhouette} (1: as drawn, 0: no groups). Types are "
        "near when training moves them alike: principal components of the change of log π per "
        f"token after training on {updates}, each update standardised. Small, thin: the seeds, "
        "laid over by Procrustes."
    )
    figure.text(0.012, 0.95, textwrap.fill(text, 128), fontsize=7.5, va="top", color="#444444")
    for number, (space, name) in enumerate(NAMES.items()):
        figure.text((0.085, 0.365, 0.7)[number], 0.825, f"{'●■▲'[number]} {name}", fontsize=8.5,
                    color=COLOURS[space], fontweight="bold")  # fmt: skip
    axes.set_xlabel(f"first component ({mean['share_x'].iloc[0]:.0%} of the variance)")
    axes.set_ylabel(f"second component ({mean['share_y'].iloc[0]:.0%})")
    style.stamp(figure, study)
    return figure


def _name(kind: str) -> str:
    return style.TYPES.get(kind, ("", 1, kind if kind != "dpo" else "DPO"))[2]


def _over_seeds(seeds: pd.DataFrame, column: str) -> str:
    found = seeds_interval(seeds.groupby("seed")[column].mean())
    percent = column == "own_sub_space"
    numbers = [f"{v:.0%}" if percent else f"{v:.2f}" for v in (found.value, found.low, found.high)]
    return numbers[0] + (f" [{numbers[1]}, {numbers[2]}]" if np.isfinite(found.low) else "")


def _points(axes: Axes, mean: pd.DataFrame, seeds: pd.DataFrame) -> None:
    for row in mean.to_dict("records"):
        colour, marker = COLOURS[row["sub_space"]], MARKERS[row["sub_space"]]
        for one in seeds[seeds["response_type"] == row["response_type"]].to_dict("records"):
            axes.plot([row["x"], one["x"]], [row["y"], one["y"]], color=colour, lw=0.6, alpha=0.6)
            axes.plot(one["x"], one["y"], marker, color=colour, ms=3, mfc="none", alpha=0.7)
        axes.plot(row["x"], row["y"], marker, color=colour, ms=8, mec="white")
    axes.axhline(0, color="#DDDDDD", lw=0.6, zorder=0)
    axes.axvline(0, color="#DDDDDD", lw=0.6, zorder=0)
    axes.margins(0.12)
    places: list[tuple[float, float]] = []
    scale = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    for row in mean.sort_values("y").to_dict("records"):
        x, y = row["x"] + 0.014 * scale[0], row["y"]
        while any(
            abs(x - a) < 0.17 * scale[0] and abs(y - b) < 0.034 * scale[1] for a, b in places
        ):
            y += 0.012 * scale[1]
        places.append((x, y))
        axes.annotate(_name(row["response_type"]), (row["x"], row["y"]), (x, y), fontsize=8,
                      va="center", color=COLOURS[row["sub_space"]],
                      arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#999999"})  # fmt: skip
