"""figures/winrate: does extend win? Rates over the epochs of DPO, beside the paper's Table 1."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.figures import style
from learning_dynamics.winrate import PUBLISHED

COLOURS = ["#0072B2", "#AA4499", "#009E73", "#E69F00"]  # of the comparisons, in their order
MARKS = ["o", "s", "D", "^"]
PAPER = {"ChatGPT": "P", "Claude": "X"}
FAINT = "#999999"
BEST = ["t over seeds", "paired bootstrap"]  # the interval that is drawn: the first there is


def draw(study: dict, table: pd.DataFrame) -> Figure:
    """The rates as a picture, and below it as a table (``learning_dynamics.winrate.table``)."""
    style.apply()
    table = table.assign(seed=table["seed"].astype(str))
    names = list(table["comparison"].unique())
    whole = table[table["seed"] == "all"]
    lines = len(whole.drop_duplicates(["comparison", "epoch"]))
    height = 3.95 + 0.17 * (lines + 1)
    figure = plt.figure(figsize=(6.4, height))
    axes = figure.add_axes((0.095, 1 - 3.25 / height, 0.68, 2.55 / height))
    axes.axhline(0.5, color="#555555", lw=0.8)
    labels = _paper(axes)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        labels.append(_curve(axes, table[table["comparison"] == name], number, len(names), colour))
    last = max(*whole["epoch"], *PUBLISHED["Claude"])
    axes.set_xlim(-0.35, last + 0.35)
    axes.text(last + 0.3, 0.5, "neither is better", color="#555555", fontsize=6, ha="right",
              va="bottom")  # fmt: skip
    ticks = sorted({*whole["epoch"], *PUBLISHED["Claude"]})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("epochs of DPO (0: before it)")
    axes.set_ylabel("win rate of the first run")
    low, high = axes.get_ylim()
    axes.set_ylim(max(-0.02, low), min(1.02, high))
    style.direct_labels(axes, labels, gap=0.085)
    figure.text(0.012, 1 - 0.07 / height, "Above the line, the first run's answers are "
                "preferred", fontsize=10, va="top")  # fmt: skip
    seeds = table.loc[table["seed"] != "all", "seed"].nunique()
    over = "t-interval over seeds" if seeds > 1 else "bootstrap over prompts (one seed)"
    order = "both orders, ties are half a win" if _protocol(table) == "swapped" else "as published"
    dots = "; small dots: single seeds" if seeds > 1 else ""
    figure.text(0.012, 1 - 0.28 / height, f"Judge: {table['judge'].iloc[0]} ({order}). Bars: 95% "
                f"{over}{dots}.\nGrey: the paper's Table 1 (Qwen1.5-1.8B on HH).",
                fontsize=6.5, va="top", color="#444444")  # fmt: skip
    _text(figure, whole, height)
    style.stamp(figure, study)
    return figure


def _protocol(table: pd.DataFrame) -> str:
    return table["protocol"].iloc[0]


def _paper(axes: Axes) -> list[tuple[float, str, str]]:
    """The paper's rates as faint marks; a label for each judge."""
    for judge, rates in PUBLISHED.items():
        axes.plot(list(rates), list(rates.values()), ls=":", lw=0.8, color=FAINT, ms=5,
                  marker=PAPER[judge], mec="white", mew=0.4, zorder=1)  # fmt: skip
    return [(rates[max(rates)], f"paper, {judge}", FAINT) for judge, rates in PUBLISHED.items()]


def _curve(
    axes: Axes, rows: pd.DataFrame, number: int, of: int, colour: str
) -> tuple[float, str, str]:
    """One comparison: seeds as dots, all seeds with their interval; its label."""
    shift = (number - (of - 1) / 2) * 0.12
    single = rows[rows["seed"] != "all"]
    if single["seed"].nunique() > 1:
        axes.plot(single["epoch"] + shift, single["rate"], ".", color=colour, ms=3, alpha=0.5)
    chosen = _drawn(rows).sort_values("epoch")
    at = chosen["epoch"] + shift
    axes.vlines(at, chosen["low"].clip(0), chosen["high"].clip(upper=1), color=colour, lw=1.3)
    axes.plot(at, chosen["rate"], color=colour, lw=1.2, marker=MARKS[number % len(MARKS)], ms=4.5,
              mec="white", mew=0.5)  # fmt: skip
    return float(chosen["rate"].iloc[-1]), rows["comparison"].iloc[0], colour


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of all seeds with the interval that is drawn, per comparison and epoch."""
    whole = rows[rows["seed"] == "all"]
    ranked = whole.assign(rank=whole["interval"].map(BEST.index)).sort_values("rank")
    return ranked.drop_duplicates(["comparison", "epoch"])


def _text(figure: Figure, whole: pd.DataFrame, height: float) -> None:
    """The table under the picture: counts, rate, both intervals."""
    heads = ["comparison", "epoch", "wins", "losses", "ties", "rate", *BEST]
    places = [0.02, 0.27, 0.345, 0.42, 0.495, 0.56, 0.63, 0.79]
    top = 1 - 3.78 / height

    def line(row: int, cells: list[str], **looks: str) -> None:
        for place, cell in zip(places, cells, strict=True):
            figure.text(place, top - 0.17 * row / height, cell, fontsize=6.3, va="top", **looks)

    line(0, heads, color="#555555")
    for row, (_, rows) in enumerate(whole.groupby(["comparison", "epoch"], sort=False), start=1):
        first = rows.iloc[0]
        bounds = {r["interval"]: f"{r['low']:.3f} to {r['high']:.3f}".replace("-", "−")
                  for _, r in rows.iterrows()}  # fmt: skip
        counts = [f"{first[name]:.0f}" for name in ("wins", "losses", "ties")]
        line(row, [first["comparison"], f"{first['epoch']:g}", *counts, f"{first['rate']:.3f}",
                   *(bounds.get(name, "–") for name in BEST)])  # fmt: skip
