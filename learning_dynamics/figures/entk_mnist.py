"""figures/entk_mnist: the kernel between classes along training (the paper's Figure 7)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.digits import CLASSES, summary
from learning_dynamics.digits.summary import Seeds
from learning_dynamics.figures import style
from learning_dynamics.figures.mnist import NAMES
from learning_dynamics.frontier import seeds_interval

COLOURS = {"mlp": style.CHOSEN, "lenet": "#D55E00"}


def draw(study: dict, networks: dict[str, tuple[Seeds, Seeds]]) -> Figure:
    """Ten panels, one per class of the update, for the first network; three on phases for all.

    Args:
        study: ``study, dataset, model, seeds`` for the stamp, and ``dense``, the last epoch of
            the early phase.
        networks: by name, its kernel table and the training table of the same run, each by seed.
    """
    style.apply()
    figure = plt.figure(figsize=(10.2, 6.4))
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.6, 2.8])
    first = next(iter(networks))
    _classes(upper, first, networks[first][0], study["dense"])
    _phases(lower, networks, study["dense"])
    style.stamp(figure, study)
    return figure


def _epochs(panel: Axes, dense: int, last: int) -> None:
    """An axis that is linear up to the end of the early phase and logarithmic beyond."""
    panel.set_xscale("symlog", linthresh=dense, linscale=1)
    ticks = [0, dense, *(t for t in (100, 300, 1000) if dense * 1.5 < t <= last)]
    panel.set_xticks(ticks, [str(t) for t in ticks])
    panel.minorticks_off()
    panel.set_xlim(0, last)
    panel.tick_params(labelsize=6.5, length=2)


def _classes(part: SubFigure, name: str, entk: Seeds, dense: int) -> None:
    epochs, norms = summary.curves(entk, "norm")
    mean = norms.mean(0)
    axes = part.subplots(2, 5, sharex=True, sharey=True)
    part.subplots_adjust(left=0.06, right=0.965, top=0.83, bottom=0.11, hspace=0.22, wspace=0.26)
    for update, panel in enumerate(axes.flat):
        others = [k for k in range(CLASSES) if k != update]
        nearest = max(others, key=lambda k: mean[-1, update, k])
        for k in others:
            panel.plot(epochs, mean[:, update, k], color=style.BEFORE, lw=0.7)
        panel.plot(epochs, mean[:, update, nearest], color=style.REJECTED, lw=1.3)
        panel.plot(epochs, mean[:, update, update], color=style.CHOSEN, lw=1.6)
        found = [seeds_interval(column) for column in norms[:, :, update, update].T]
        if len(found[0].seeds) > 1:
            low, high = np.array([[f.low, f.high] for f in found]).T
            panel.fill_between(epochs, np.maximum(low, 0), high, color=style.CHOSEN, alpha=0.15,
                               lw=0)  # fmt: skip
        _epochs(panel, dense, epochs.max())
        panel.set_title(f"update on a {update}", fontsize=8)
        if update == 0:
            panel.set_ylim(0, 1.25 * mean.max())
        style.direct_labels(
            panel,
            [(mean[-1, update, update], str(update), style.CHOSEN),
             (mean[-1, update, nearest], str(nearest), "#A06000")],
            gap=0.11,
        )  # fmt: skip
    for row in axes:
        row[0].set_ylabel("$‖K(x_o, x_u)‖_F$")
    part.text(0.5, 0.015, "epoch (linear, then logarithmic)", ha="center", fontsize=7)
    own = int((mean[-1].argmax(1) == np.arange(CLASSES)).sum())
    style.heading(part, "a", f"{NAMES.get(name, name)}: how strongly an update reaches images of "
                  f"each class; its own class most for {own} of {CLASSES}")  # fmt: skip
    part.text(0.05, 0.925, "blue: $x_o$ of the same class (band: 95% over seeds)   orange: the "
              "other class with the largest kernel at the end   grey: the rest   means over pairs "
              "of images and seeds", fontsize=6.5, va="top", color="#444444")  # fmt: skip


def _band(panel: Axes, epochs: np.ndarray, values: np.ndarray, colour: str, **kind: object) -> None:
    """Mean over seeds with the t-interval, from (seeds, epochs); unmeasured epochs are bridged."""
    known = ~np.isnan(values).any(0)
    found = [seeds_interval(column) for column in values[:, known].T]
    panel.plot(epochs[known], [f.value for f in found], color=colour, **kind)
    if len(values) > 1:
        panel.fill_between(epochs[known], [f.low for f in found], [f.high for f in found],
                           color=colour, alpha=0.15, lw=0)  # fmt: skip


def _phases(part: SubFigure, networks: dict[str, tuple[Seeds, Seeds]], dense: int) -> None:
    axes = part.subplots(1, 3)
    part.subplots_adjust(left=0.06, right=0.94, top=0.74, bottom=0.16, wspace=0.42)
    last = max(int(t["epoch"].max()) for entk, _ in networks.values() for t in entk.values())
    labels: list[list] = [[], [], []]
    words = []
    for name, (entk, training) in networks.items():
        epochs, norms = summary.curves(entk, "norm")
        _, changes = summary.curves(entk, "change")
        moved = np.stack([table["moved"].to_numpy() for table in training.values()])
        colour, word = COLOURS.get(name, style.GREEDY), NAMES.get(name, name)
        size, change = norms.mean((2, 3)), changes.mean((2, 3))
        moved = np.where(np.isnan(change), np.nan, moved)
        likeness = summary.likeness_to_end(norms)
        _band(axes[0], epochs, size, colour)
        _band(axes[1], epochs, change, colour)
        _band(axes[1], epochs, moved, colour, ls="--", lw=0.9)
        _band(axes[2], epochs, likeness, colour)
        early, late = summary.phases(epochs, dense)
        words.append(f"{word} {np.nanmean(change[:, early]):.2%} in the first {dense}, "
                     f"{np.nanmean(change[:, late]):.2%} in the last fifth")  # fmt: skip
        labels[0].append((size[:, -1].mean(), word, colour))
        labels[1].append((change[:, -1].mean(), f"{word}: K", colour))
        labels[1].append((moved[:, -1].mean(), f"{word}: weights", colour))
        labels[2].append((likeness[:, -1].mean(), word, colour))
    for panel in axes[:2]:
        panel.set_yscale("log")  # a band that reaches zero is cut below the lowest mean
        panel.set_ylim(bottom=min(line.get_ydata().min() for line in panel.lines) / 2)
    axes[2].set_ylim(min(0, axes[2].get_ylim()[0]), 1.03)
    titles = ["size: mean $‖K‖_F$ over all pairs", "restlessness: change in one epoch,\n‖K − K′‖ / "
              "‖K′‖ and that of the weights", "relative influence: rank correlation of\n‖K‖ over "
              "the pairs of classes with the end"]  # fmt: skip
    for panel, title, names in zip(axes, titles, labels, strict=True):
        panel.axvspan(0, dense, color="#F0F0F0", zorder=0, lw=0)
        _epochs(panel, dense, last)
        panel.set_title(title, fontsize=7.5)
        panel.set_xlabel("epoch")
        if panel is not axes[2]:
            low, high = np.log(panel.get_ylim())
            names = [((np.log(y) - low) / (high - low), *rest) for y, *rest in names]
            twin = panel.twinx()  # labels are placed on a linear axis
            twin.set_axis_off()
            twin.set_ylim(0, 1)
            style.direct_labels(twin, names, gap=0.09)
        else:
            style.direct_labels(panel, names, gap=0.09)
    style.heading(part, "b", f"Phases: the first {dense} epochs (shaded) and the last fifth")
    part.text(0.05, 0.925, "mean change of the kernel in one epoch: " + "; ".join(words), va="top",
              fontsize=6.5, color="#444444")  # fmt: skip
