"""figures/algorithms: who squeezes, and at what price a margin is gained.

(a) every algorithm at one common margin, (b) frontiers: what happens on the way there.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.figures import style
from learning_dynamics.frontier import DOES_NOT, SQUEEZES, envelope

# A verdict has a colour and a marker, so that it is seen before it is read.
VERDICTS = {SQUEEZES: (style.IRRELEVANT, "o"), DOES_NOT: ("#009E73", "s")}
NEITHER = ("#666666", "D")
NULL = "#AAAAAA"
AT_MARGIN = {
    "best_other": "best other token\nat y⁻ prefixes",
    "others": "other responses",
    "greedy": "greedy token along y⁺",
}
FRONTIERS = {
    "others": "other\nresponses",
    "best_other": "best other token\nat y⁻ prefixes",
    "greedy": "greedy token\nalong y⁺",
}
COLUMNS = 9  # panels side by side, at most
LEVELS = 25
REACH = 2.5  # the frontiers are drawn up to this many common margins


def draw(study: dict, table: pd.DataFrame, verdicts: pd.DataFrame) -> Figure:
    """The whole figure from the runs' curves and the verdicts (``learning_dynamics.frontier``)."""
    style.apply()
    best = verdicts[verdicts["quantity"] == "best_other"]
    order = list(best.sort_values("value", ascending=False, na_position="last")["algorithm"])
    wide = -(-len(order) // -(-len(order) // COLUMNS))  # as even as may be
    blocks = [order[i : i + wide] for i in range(0, len(order), wide)]
    heights = [1.55 + 0.27 * len(order), *[3.9] * len(blocks)]
    heights[1] += 0.55  # for the heading
    figure = plt.figure(figsize=(8.6, sum(heights)))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    _at_margin(parts[0], verdicts, order)
    frontiers = _frontiers(table, order)
    for number, (part, names) in enumerate(zip(parts[1:], blocks, strict=True)):
        _block(part, table, verdicts, frontiers, names, max(wide, 4), first=number == 0)
    style.stamp(figure, study)
    return figure


def look(verdict: str) -> tuple[str, str]:
    """Colour and marker of a verdict."""
    return VERDICTS.get(verdict, NEITHER)


def _at_margin(figure: SubFigure, table: pd.DataFrame, order: list[str]) -> None:
    height = 1.55 + 0.27 * len(order)
    axes = figure.subplots(1, len(AT_MARGIN), sharey=True)
    figure.subplots_adjust(left=0.155, right=0.83, top=1 - 0.98 / height, bottom=0.42 / height,
                           wspace=0.1)  # fmt: skip
    heights = dict(zip(order, np.arange(len(order))[::-1], strict=True))
    for panel, (quantity, title) in zip(axes, AT_MARGIN.items(), strict=True):
        panel.axvline(0, color="#999999", lw=0.6)
        panel.set_title(title, fontsize=8)
        panel.set_xlabel("change (nats)")
        for row in table[table["quantity"] == quantity].to_dict("records"):
            if not row["reached"]:
                continue
            at, (colour, marker) = heights[row["algorithm"]], look(row["verdict"])
            if pd.notna(row["coin"]):
                panel.plot(row["coin"], at, "|", color=NULL, ms=9, mew=2.5)
            panel.plot([row["lowest"], row["highest"]], [at, at], color=colour, lw=5, alpha=0.25,
                       solid_capstyle="butt")  # fmt: skip
            panel.plot([row["low"], row["high"]], [at, at], color=colour, lw=1)
            panel.plot(row["value"], at, marker, color=colour, ms=4.5)
        panel.grid(axis="y", lw=0.3)
        _room(panel, table[(table["quantity"] == quantity) & (table["reached"] > 0)])
    axes[0].set_yticks(list(heights.values()), list(heights))
    axes[0].set_ylim(-0.6, len(order) - 0.4)
    best = table[table["quantity"] == "best_other"].set_index("algorithm")
    for tick, name in zip(axes[0].get_yticklabels(), order, strict=True):
        tick.set_color(look(best.loc[name, "verdict"])[0])
    for name, at in heights.items():
        row = best.loc[name]
        note = f"{row['reached']:.0f} of {row['settings']:.0f} settings"
        if not row["reached"]:
            note = f"gains {row['best_margin']:.1f} nats at most"
        beside = axes[-1].get_yaxis_transform()
        axes[-1].text(1.04, at + 0.13, row["verdict"], color=look(row["verdict"])[0], fontsize=8,
                      fontweight="bold", va="center", transform=beside)  # fmt: skip
        axes[-1].text(1.04, at - 0.27, note, color="#777777", fontsize=5.5, va="center",
                      transform=beside)  # fmt: skip
    margin = table["margin"].iloc[0]
    title = f"At equal margin (+{margin:.1f} nats): who squeezes?"
    style.heading(figure, "a", title if np.isfinite(margin) else "No algorithm gains a margin")
    figure.text(0.05, 1 - 0.34 / height, "Change since SFT. Marker: mean over the settings that "
                "reach the margin; line: 95% t-interval over seeds; wide band: range of settings; "
                "grey bar: the same runs with\ncoin-flip labels after as many updates. Squeezes: "
                "the best other token gains more than under coin flips, in most settings.",
                fontsize=6.3, va="top", color="#444444")  # fmt: skip


def _room(panel: Axes, rows: pd.DataFrame) -> None:
    """Limits from values, ranges and nulls: an interval of three seeds may leave the panel."""
    known = rows[["value", "lowest", "highest", "coin"]].to_numpy(dtype=float)
    if not np.isfinite(known).any():
        return
    low, high = min(0.0, np.nanmin(known)), max(0.0, np.nanmax(known))
    pad = 0.12 * (high - low or 1.0)
    low_bound, high_bound = rows["low"].min(), rows["high"].max()
    wide = 0.5 * (high - low or 1.0)
    left = max(np.nanmin([low, low_bound]), low - wide)
    right = min(np.nanmax([high, high_bound]), high + wide)
    panel.set_xlim(left - pad, right + pad)


def _frontiers(table: pd.DataFrame, order: list[str]) -> dict[str, pd.DataFrame]:
    """Every algorithm's envelope up to the margin that its best run reaches."""
    out = {}
    for name in order:
        runs = table[(table["algorithm"] == name) & (table["labels"] != "coin")]
        top = runs.groupby(["run", "step"])["margin"].mean().max()
        out[name] = envelope(runs, np.linspace(0, max(top, 0.0), LEVELS))
    return out


def _block(
    figure: SubFigure,
    table: pd.DataFrame,
    verdicts: pd.DataFrame,
    frontiers: dict[str, pd.DataFrame],
    names: list[str],
    wide: int,
    first: bool,
) -> None:
    axes = figure.subplots(3, len(names), sharex=True, sharey="row", squeeze=False)
    height = 3.9 + 0.55 * first
    width = (0.985 - 0.1) * len(names) / wide
    figure.subplots_adjust(left=0.1, right=0.1 + width, top=1 - (0.4 + 0.45 * first) / height,
                           bottom=0.42 / height, wspace=0.1, hspace=0.1)  # fmt: skip
    common = verdicts["margin"].iloc[0]
    words = verdicts.drop_duplicates("algorithm").set_index("algorithm")["verdict"]
    means = table.groupby(["algorithm", "run", "labels", "step"], sort=False, dropna=False)
    means = means[["margin", *FRONTIERS]].mean().reset_index()
    top = means["margin"].max()
    limit = min(REACH * common, top) if np.isfinite(common) else max(top, 1.0)
    shown = means[means["margin"] <= limit]
    for column, name in zip(axes.T, names, strict=True):
        colour, _ = look(words[name])
        title = "\n".join(textwrap.wrap(name.replace("_", " "), 12))
        column[0].set_title(title, color=colour, fontsize=7.5, fontweight="bold",
                            loc="center")  # fmt: skip
        for panel, quantity in zip(column, FRONTIERS, strict=True):
            panel.axhline(0, color="#999999", lw=0.5)
            panel.axvline(common, color="#999999", lw=0.5, ls=":")
            for other, curve in frontiers.items():
                if other != name:
                    panel.plot(curve["margin"], curve[quantity], color="#E4E4E4", lw=0.8, zorder=1)
            for run, curve in means[means["algorithm"] == name].groupby("run"):
                coin = (curve["labels"] == "coin").any()
                panel.plot(curve["margin"], curve[quantity], color=NULL if coin else colour,
                           lw=1.1 if coin else 0.6, alpha=0.9 if coin else 0.55,
                           zorder=2, gid=run)  # fmt: skip
            curve = frontiers[name]
            bounds = curve[f"{quantity}_low"], curve[f"{quantity}_high"]
            panel.fill_between(curve["margin"], *bounds, color=colour, alpha=0.18, lw=0, zorder=2)
            panel.plot(curve["margin"], curve[quantity], color=colour, lw=2, zorder=3)
            panel.tick_params(labelsize=6)
    for panel, (quantity, title) in zip(axes[:, 0], FRONTIERS.items(), strict=True):
        panel.set_ylabel(title, fontsize=7)
        thick = pd.concat(frontiers.values())
        drawn = pd.concat([shown, thick[thick["margin"] <= limit]])[quantity]
        low, high = drawn.min(), drawn.max()
        pad = 0.08 * (high - low or 1.0)
        panel.set_ylim(low - pad, high + pad)
    axes[0, 0].set_xlim(max(shown["margin"].min(), -0.3 * limit) - 0.04 * limit, 1.04 * limit)
    figure.text(0.1 + width / 2, 0.1 / height, "margin gained (nats)", ha="center", fontsize=8)
    if first:
        style.heading(figure, "b", "Frontiers: what a margin costs")
        figure.text(0.05, 1 - 0.29 / height, "Change since SFT (nats). Thin: one setting (learning "
                    "rate × hyper-parameters), mean over seeds; thick: at each margin the setting "
                    "that keeps the others highest, with its\ninterval over seeds; light: the "
                    "other algorithms' thick lines; grey: coin-flip labels, whose margin does not "
                    "grow; dotted: the margin of (a).", fontsize=6.3, va="top",
                    color="#444444")  # fmt: skip
