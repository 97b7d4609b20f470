"""figures/forget: pushing away a response that the model finds likely, or one in a valley."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.figures import style
from learning_dynamics.forgetting import PREDICTED

QUANTITIES = {
    "best_other": "best other token\nat the forgotten prefixes",
    "greedy": "greedy token\nat the forgotten prefixes",
    "others": "other responses",
}
WORDS = {"supported": "#009E73", "contradicted": style.IRRELEVANT, "undecided": "#666666"}
REACH = 2.0  # curves are drawn up to this many common falls
COLOURS = [style.CHOSEN, "#AA4499", "#E69F00", "#009E73"]  # of the targets, the likely one first


def draw(study: dict, table: pd.DataFrame, comparison: pd.DataFrame) -> Figure:
    """The whole figure from the runs' curves and their comparison at equal fall
    (``learning_dynamics.forgetting``)."""
    style.apply()
    algorithms = list(comparison["algorithm"].unique())
    looks = _looks(comparison)
    pairs = len(looks) - 1  # comparisons, one line each
    below = 0.18 * (pairs // 2)  # inches: two names a line
    extra = below + 0.12 * pairs
    height = 1.25 + extra + 1.95 * len(algorithms)
    figure = plt.figure(figsize=(8.2, height))
    axes = figure.subplots(len(algorithms), len(QUANTITIES), sharey="col", squeeze=False)
    figure.subplots_adjust(left=0.115, right=0.985, top=1 - (1.15 + extra) / height,
                           bottom=0.5 / height, hspace=0.3, wspace=0.25)  # fmt: skip
    extremes: dict[str, list[float]] = {quantity: [0.0] for quantity in QUANTITIES}
    for row, name in zip(axes, algorithms, strict=True):
        rows = comparison[comparison["algorithm"] == name]
        runs = table[table["algorithm"] == name]
        for panel, quantity in zip(row, QUANTITIES, strict=True):
            part = rows[rows["quantity"] == quantity]
            extremes[quantity] += _panel(panel, runs, part, quantity, looks)
        row[0].set_ylabel(f"{name.replace('_', ' ')}\nchange (nats per token)")
    for panel, values in zip(axes[0], extremes.values(), strict=True):
        pad = 0.08 * (max(values) - min(values) or 1.0)
        panel.set_ylim(min(values) - pad, max(values) + pad)
    for panel, (quantity, title) in zip(axes[0], QUANTITIES.items(), strict=True):
        sign = ">" if PREDICTED[quantity] > 0 else "<"
        panel.set_title(f"{title}\n(predicted: Δ {sign} 0)", fontsize=8, pad=14 * max(1, pairs))
    axes[-1, 1].set_xlabel("fall of the forgotten response (nats per token)")
    figure.text(0.012, 1 - 0.08 / height, "Forgetting at equal cost to the forgotten: what does "
                "the rest pay?", fontsize=10, va="top")  # fmt: skip
    for number, (target, (colour, word)) in enumerate(looks.items()):
        start = comparison.loc[comparison["target"] == target, "start"].iloc[0]
        across, down = number % 2, number // 2
        figure.text(0.012 + 0.35 * across, 1 - (0.31 + 0.18 * down) / height,
                    f"forgetting {word} ({'likely' if number == 0 else 'unlikely'}: −{-start:.1f} "
                    "nats a token)", color=colour, fontsize=8, fontweight="bold",
                    va="top")  # fmt: skip
    figure.text(0.012, 1 - (0.5 + below) / height, "Change since SFT. Lines: one setting, mean "
                "over seeds. At the dotted fall, which all targets reach: mean over settings and "
                "95% t-interval over seeds. Δ: unlikely − likely.", fontsize=6.3, va="top",
                color="#444444")  # fmt: skip
    style.stamp(figure, study)
    return figure


def _looks(comparison: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and name of every target, the likely one first."""
    order = comparison.drop_duplicates("target").sort_values("start", ascending=False)["target"]
    names = [style.TYPES[target][2] if target in style.TYPES else target for target in order]
    colours = [COLOURS[min(number, len(COLOURS) - 1)] for number in range(len(names))]
    return dict(zip(order, zip(colours, names, strict=True), strict=True))


def _panel(
    panel: Axes, runs: pd.DataFrame, rows: pd.DataFrame, quantity: str, looks: dict
) -> list[float]:
    """Draw one panel; the values that it shows."""
    fall = rows["fall"].iloc[0]
    panel.axhline(0, color="#999999", lw=0.6)
    panel.axvline(fall, color="#999999", lw=0.6, ls=":")
    means = runs.groupby(["target", "run", "step"])[["fall", quantity]].mean().reset_index()
    limit = min(REACH * fall, means["fall"].max()) or 1.0
    span = limit * 1.04
    shown = means[means["fall"] <= span]
    for (target, _), curve in means.groupby(["target", "run"]):
        panel.plot(curve["fall"], curve[quantity], color=looks[target][0], lw=1, alpha=0.75)
    values = [*shown[quantity].dropna(), *rows["value"].dropna()]
    for number, (target, (colour, _)) in enumerate(looks.items()):
        row = rows[rows["target"] == target]
        if row.empty or not row["reached"].iloc[0]:
            continue
        found = row.iloc[0]
        at = fall + (number - (len(looks) - 1) / 2) * 0.03 * span
        panel.plot([at, at], [found["low"], found["high"]], color=colour, lw=1.2)
        panel.plot(at, found["value"], "o", color=colour, ms=5, mec="white", mew=0.6)
    verdicts = rows[rows["verdict"].notna()].to_dict("records")
    for number, row in enumerate(verdicts):
        which = f"{looks[row['target']][1]}: " if len(verdicts) > 1 else ""
        text = f"{which}Δ {row['difference']:+.2f}"
        if pd.notna(row["difference_low"]):
            text += f" [{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]"
        colour, text = WORDS[row["verdict"]], text.replace("-", "−")
        panel.text(0, 1.03 + 0.08 * number, f"{text}: {row['verdict']}", color=colour, fontsize=7,
                   fontweight="bold", transform=panel.transAxes)  # fmt: skip
    panel.set_xlim(min(0.0, shown["fall"].min()), span)
    return values
