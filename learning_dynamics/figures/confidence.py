"""figures/confidence: the model grows peakier. Peakiness per response type during SFT; the greedy
token and all other tokens together during SFT and during DPO; published runs below."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.dynamics import Trajectories, series
from learning_dynamics.figures import style
from learning_dynamics.frontier import seeds_interval
from learning_dynamics.proxies import kinds_of, peakiness

ALONG = {"chosen": ("along y⁺", "-"), "random_nonhum": ("along other shuffled", (0, (4, 2)))}
COLUMNS = {"logp_argmax": (style.GREEDY, "greedy token"),
           "logp_complement": (style.IRRELEVANT, "all other tokens")}  # fmt: skip
PER_ROW = 4


def draw(
    study: dict,
    runs: Mapping[str, Trajectories],
    logits: Mapping[int, int],
    published: Mapping[str, pd.DataFrame],
) -> Figure:
    """The whole figure.

    Args:
        runs: trajectories of the roles sft and dpo, by seed.
        logits: V by seed.
        published: imported runs by name; each has a panel of what its file holds.
    """
    style.apply()
    more = -(-len(published) // PER_ROW)
    height = 3.6 + 2.3 * more
    figure = plt.figure(figsize=(11.5, height))
    grid = figure.add_gridspec(1, 3, left=0.06, right=0.905, top=1 - 0.82 / height,
                               bottom=(0.5 + 2.3 * more) / height, wspace=0.78)  # fmt: skip
    axes = [figure.add_subplot(grid[n]) for n in range(3)]
    rises, kinds = _peakiness(axes[0], runs["sft"], logits)
    axes[0].set_title(f"SFT: peakiness ‖A‖_F rises for {rises} of {kinds} types", pad=16)
    for panel, role in zip(axes[1:], ("sft", "dpo"), strict=True):
        moved = _mass(panel, runs[role])
        words = "rises" if moved > 0 else "falls"
        amount = f"{moved:+.1f}".replace("-", "−")
        panel.set_title(f"{role.upper()}: greedy token along y⁺ {words} {amount} nats", pad=16)
        panel.set_ylabel("log-prob, sum over the response (nats)")
    axes[0].set_ylabel("‖A‖_F, mean over positions")
    for panel in axes:
        panel.set_xlabel("updates")
    figure.text(0.012, 1 - 0.1 / height, "Does training make the model peakier? Solid: along y⁺; "
                "dashed: along another’s y⁺, shuffled; bands: 95% t-interval over seeds",
                fontsize=10.5, va="top", fontweight="bold")  # fmt: skip
    figure.text(0.012, 1 - 0.34 / height, "The greedy token along y⁺ is the paper’s definition; "
                "along shuffled words is what its code recorded. The complement is summed outside "
                "the greedy token, so that no line has to be continued by hand.", fontsize=7.5,
                va="top", color="#444444")  # fmt: skip
    for number, (name, table) in enumerate(published.items()):
        column, row = number % PER_ROW, number // PER_ROW
        panel = figure.add_axes((0.06 + 0.235 * column, (0.55 + 2.3 * (more - 1 - row)) / height,
                                 0.175, 1.3 / height))  # fmt: skip
        _published(panel, name, table)
    style.stamp(figure, study)
    return figure


def _band(axes: Axes, steps: np.ndarray, curves: list[np.ndarray], **line) -> float:  # noqa: ANN003
    """Mean over seeds with its t-interval; the end value."""
    values = np.array(curves)
    if len(values) > 1 and line.get("lw", 1) > 1.2:
        found = [seeds_interval(column) for column in values.T]
        axes.fill_between(steps, [f.low for f in found], [f.high for f in found], lw=0,
                          color=line["color"], alpha=0.15)  # fmt: skip
    axes.plot(steps, values.mean(0), **line)
    return float(values.mean(0)[-1])


def _peakiness(axes: Axes, runs: Trajectories, logits: Mapping[int, int]) -> tuple[int, int]:
    """How many types grow peakier, of how many."""
    labels, rises = [], 0
    kinds = kinds_of(next(iter(runs.values())))
    for kind in kinds:
        found = [peakiness(table, kind, logits[seed]) for seed, table in runs.items()]
        colour, alpha, name = style.TYPES.get(kind, ("#555555", 1.0, kind))
        width = 1.8 if kind in ("chosen", "random_nonhum") else 0.9
        curves = [values for _, values in found]
        end = _band(axes, found[0][0], curves, color=colour, alpha=alpha, lw=width)
        rises += end > np.mean([values[0] for values in curves])
        labels.append((end, name, colour))
    style.direct_labels(axes, labels, gap=0.074)
    return rises, len(kinds)


def _mass(axes: Axes, runs: Trajectories) -> float:
    """Greedy token and complement along y⁺ and along y_rnd; the change of the first."""
    labels, moved = [], 0.0
    kinds = kinds_of(next(iter(runs.values())))
    for column, (colour, name) in COLUMNS.items():
        for kind, (along, line) in ALONG.items():
            if kind not in kinds:
                continue
            found = [series(table, column, kind) for table in runs.values()]
            curves = [np.nanmean(values, axis=1) for _, values in found]
            end = _band(axes, found[0][0], curves, color=colour, ls=line, lw=1.6)
            labels.append((end, f"{name}\n{along}", colour))
            if (column, kind) == ("logp_argmax", "chosen"):
                moved = float(np.mean([c[-1] - c[0] for c in curves]))
    style.direct_labels(axes, labels, gap=0.13)
    return moved


def _published(axes: Axes, name: str, table: pd.DataFrame) -> None:
    """Whatever the file holds of the greedy token, its complement and ‖A‖ (on its own axis)."""
    lines = []
    for column, (colour, word) in COLUMNS.items():
        known = table[table[column].notna() & np.isfinite(table[column])]
        for kind in known["response_type"].unique():
            mean = known[known["response_type"] == kind].groupby("evaluation")[column].mean()
            along, line = ALONG.get(kind, (kind, "-"))
            axes.plot(mean.index, mean, color=colour, ls=line, lw=1.4)
            lines.append((word.split()[0], along, colour))
    right = axes.twinx()
    right.spines["right"].set_visible(True)
    peaky = table[table["A_o"].notna()] if "A_o" in table else table.iloc[:0]
    for kind in peaky["response_type"].unique():
        colour, alpha, _ = style.TYPES[kind]
        mean = peaky[peaky["response_type"] == kind].groupby("evaluation")["A_o"].mean()
        right.plot(mean.index, mean, color=colour, lw=0.8, alpha=alpha)
    if peaky.empty:
        right.set_axis_off()
    else:
        right.set_ylabel("A_o (thin)", fontsize=6.5, color="#555555")
    words = sorted({along for _, along, _ in lines})
    axes.set_title(f"published: {name}\n{', '.join(words) or 'no such columns'}", fontsize=6.5)
    axes.set_xlabel("evaluations", fontsize=7)
    axes.set_ylabel("nats", fontsize=7)
