"""figures/mass: where the mass that one update takes from y⁻ lands, and what Lemma 1 explains.

(a) by depth of the valley, (b) by position and alignment with y⁺, (c) the share that the softmax
alone explains.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.figures import style
from learning_dynamics.landing import ALIGNED, DEPTH_LABELS, PLACE_LABELS

KINDS = {"dpo": "one DPO step", "coinflip": "one coin-flip DPO step", "sft": "one SFT step on y⁺"}
RECEIVERS = {  # part → (colour, name)
    "greedy": (style.GREEDY, "greedy token before"),
    "chosen": (style.CHOSEN, "y⁺'s token"),
    "both": ("#AA4499", "y⁺'s token, greedy before"),
    "rest": ("#999999", "all the rest"),
}
PREDICTIONS = {
    "explained_p": ("#009E73", "o", "Lemma 1: probabilities"),
    "explained_p_proportional": ("#D55E00", "s", "others in proportion: probabilities"),
    "explained_logp": (style.RANDOM, "D", "Lemma 1: log-probs"),
}
ALIGNED_WORDS = {"shared": "same token\nin y⁺", "fork": "first\ndifference", "apart": "behind it"}
SHARES, EXPLAINED = (-1.05, 2.05), (-1.05, 1.05)  # what the axes show; what lies outside is said


def draw(study: dict, table: pd.DataFrame) -> Figure:
    """The figure from ``tables/mass.csv`` (:func:`learning_dynamics.landing.summary`) alone."""
    style.apply()
    figure = plt.figure(figsize=(8.6, 9.6))
    parts = figure.subfigures(3, 1, height_ratios=[1.12, 1, 0.95])
    _by_depth(parts[0], table)
    _by_place(parts[1], table)
    _explained(parts[2], table)
    style.stamp(figure, study)
    return figure


def _by_depth(figure: SubFigure, table: pd.DataFrame) -> None:
    axes = figure.subplots(1, len(KINDS), sharey=True)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.73, bottom=0.24, wspace=0.06)
    for panel, (kind, title) in zip(axes, KINDS.items(), strict=True):
        rows = table[(table["kind"] == kind) & (table["by"] == "depth")]
        panel.set_title(title)
        _landing(panel, rows, DEPTH_LABELS, DEPTH_LABELS)
        panel.set_xlabel("π(y⁻ token) before the step")
    axes[0].set_ylabel("share of what y⁻ loses")
    _legend(figure, 0.86)
    seeds = _seeds(table)
    style.heading(figure, "a", "Of the probability that one step takes from y⁻: where it lands, by "
                  "depth of the valley")  # fmt: skip
    figure.text(0.05, 0.905, "Filled: measured, 95% "
                + (f"t-interval over {seeds} seeds. " if seeds > 1 else "(one seed: no interval). ")
                + "Hollow: Lemma 1 from the softmax alone, with y⁻'s own loss. Below: points that "
                "y⁻ loses per position; share of positions where it loses.",
                fontsize=6.3, va="top", color="#444444")  # fmt: skip


def _by_place(figure: SubFigure, table: pd.DataFrame) -> None:
    place, aligned = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [1.7, 1]})
    figure.subplots_adjust(left=0.075, right=0.985, top=0.83, bottom=0.26, wspace=0.06)
    rows = table[table["kind"] == "dpo"]
    _landing(place, rows[rows["by"] == "position"], PLACE_LABELS, PLACE_LABELS)
    place.set_xlabel("position in y⁻")
    place.set_ylabel("share of what y⁻ loses")
    words = [ALIGNED_WORDS[word] for word in ALIGNED]
    _landing(aligned, rows[rows["by"] == "aligned"], ALIGNED, words, lines=2)
    aligned.set_xlabel("y⁺ in the same context", labelpad=2)
    style.heading(figure, "b", "The DPO step by position, and by how y⁺ stands to it: they compete "
                  "in one softmax at their first difference alone")  # fmt: skip


def _explained(figure: SubFigure, table: pd.DataFrame) -> None:
    axes = figure.subplots(1, len(KINDS), sharey=True)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.68, bottom=0.22, wspace=0.06)
    bins = [*DEPTH_LABELS, "all"]
    for panel, (kind, title) in zip(axes, KINDS.items(), strict=True):
        rows = table[(table["kind"] == kind) & table["by"].isin(["depth", "all"])]
        panel.set_title(title)
        panel.axhline(0, color="#999999", lw=0.6)
        panel.axvline(len(DEPTH_LABELS) - 0.5, color="#999999", lw=0.6, ls=":")
        for number, (name, (colour, mark, _)) in enumerate(PREDICTIONS.items()):
            shift = (number - 1) * 0.25
            _points(panel, rows, name, bins, shift, EXPLAINED, color=colour, marker=mark, ms=4)
            _points(panel, rows, f"{name}_median", bins, shift + 0.09, EXPLAINED, color=colour,
                    marker="_", ms=5, interval=False)  # fmt: skip
        panel.set_xticks(range(len(bins)), bins)
        panel.set_xlim(-0.6, len(bins) - 0.4)
        panel.set_xlabel("π(y⁻ token) before the step")
        panel.set_ylim(*EXPLAINED)
    axes[0].set_ylabel("share explained (R²)")
    style.heading(figure, "c", "What the softmax alone explains of the change of all other tokens")
    figure.text(0.05, 0.895, "1 − squares left ÷ squares left by a constant, over the vocabulary "
                "besides y⁻'s token, pooled over positions; dash: median position.\nThe "
                "constant: an even share of probability, an equal change of log-prob. What lies "
                "below the axis is written at its edge.",
                fontsize=6.3, va="top", color="#444444")  # fmt: skip
    at = 0.05
    for colour, mark, word in PREDICTIONS.values():
        at = _entry(figure, at, 0.79, colour, mark, word)


def _landing(
    panel: Axes, rows: pd.DataFrame, bins: list[str], words: list[str], lines: int = 1
) -> None:
    """Shares by receiver, measured and predicted; below each bin what is lost there."""
    panel.axhline(0, color="#999999", lw=0.6)
    panel.axhline(1, color="#999999", lw=0.6, ls=":")
    for number, (part, (colour, _)) in enumerate(RECEIVERS.items()):
        shift = (number - 1.5) * 0.2
        _points(panel, rows, part, bins, shift, SHARES, color=colour, marker="o", ms=3.6)
        _points(panel, rows, f"lemma_{part}", bins, shift + 0.07, SHARES, color=colour, marker="o",
                ms=3.6, mfc="white", interval=False)  # fmt: skip
    removed, fell = (rows[rows["quantity"] == name].set_index("bin")["value"]
                     for name in ("removed", "fell"))  # fmt: skip
    labels = [
        f"{word}\n−{removed[name]:.2g}\n{100 * fell[name]:.0f}%" if name in removed else word
        for name, word in zip(bins, words, strict=True)
    ]
    panel.set_xticks(range(len(bins)), labels, fontsize=6.3 if lines == 1 else 6)
    panel.set_xlim(-0.5, len(bins) - 0.5)
    panel.set_ylim(*SHARES)
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def _points(
    panel: Axes, rows: pd.DataFrame, quantity: str, bins: list[str], shift: float,
    limits: tuple[float, float], interval: bool = True, **line,  # noqa: ANN003
) -> None:  # fmt: skip
    """One quantity over the bins; a value outside the axis is written at its edge."""
    found = rows[rows["quantity"] == quantity].set_index("bin")
    for at, name in enumerate(bins):
        if name not in found.index or np.isnan(value := found.at[name, "value"]):
            continue
        if not limits[0] <= value <= limits[1]:
            if interval:
                edge = limits[0] if value < limits[0] else limits[1]
                panel.text(at + shift, edge, f" {value:.2g} ", rotation=90, fontsize=5.3,
                           ha="center", va="bottom" if value < 0 else "top",
                           color=line["color"])  # fmt: skip
            continue
        if interval and found.loc[name, ["low", "high"]].notna().all():
            low, high = np.clip(found.loc[name, ["low", "high"]].astype(float), *limits)
            panel.plot([at + shift] * 2, [low, high], color=line["color"], lw=0.8)
        panel.plot(at + shift, value, ls="", **line)


def _seeds(table: pd.DataFrame) -> int:
    return int(table["seeds"].max())


def _legend(figure: SubFigure, height: float) -> None:
    at = 0.05
    for colour, word in RECEIVERS.values():
        at = _entry(figure, at, height - 0.03, colour, "o", word)


def _entry(figure: SubFigure, at: float, height: float, colour: str, mark: str, word: str) -> float:
    """A mark and its name; where the next one begins."""
    spot = plt.Line2D([at + 0.005], [height], marker=mark, color=colour, ms=4,
                      transform=figure.transSubfigure)  # fmt: skip
    figure.add_artist(spot)
    figure.text(at + 0.015, height, word, color=colour, fontsize=7, fontweight="bold", va="center")
    return at + 0.04 + 0.0085 * len(word)
