"""figures/mnist: one update on an image of a 4, and all updates together (the paper's Figure 1)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.digits import CLASSES, summary
from learning_dynamics.digits.summary import SHOWN, Seeds
from learning_dynamics.figures import style
from learning_dynamics.frontier import seeds_interval

NAMES = {"mlp": "MLP", "lenet": "LeNet"}
SMALL = 0.015  # residuals below it get no arrow, changes below half of it no label


def draw(study: dict, networks: dict[str, tuple[Seeds, Seeds]]) -> Figure:
    """One row of panels (a) to (d) per network.

    Args:
        study: ``study, dataset, model, seeds`` for the stamp, and ``step_lr``, the learning rate
            of the single steps.
        networks: by name, its predictions and its single steps, each by seed.
    """
    style.apply()
    height = 3.2
    figure = plt.figure(figsize=(10.6, height * len(networks) + 0.12))
    parts = figure.subfigures(len(networks), 1, squeeze=False)[:, 0]
    for part, (name, (predictions, steps)) in zip(parts, networks.items(), strict=True):
        _row(part, name, study, predictions, steps)
    style.stamp(figure, study)
    return figure


def _row(part: SubFigure, name: str, study: dict, predictions: Seeds, steps: Seeds) -> None:
    similar, dissimilar = summary.relatives(predictions, SHOWN)
    panels = part.subfigures(1, 4, width_ratios=[2.45, 2.75, 2.75, 2.65])
    part.text(0.003, 0.46, NAMES.get(name, name), rotation=90, va="center", fontsize=10,
              fontweight="bold")  # fmt: skip
    _residual(panels[0], steps)
    cases = {SHOWN: "same class", similar: "similar", dissimilar: "dissimilar"}
    _one_step(panels[1], steps, cases, study["step_lr"])
    _accumulated(panels[2], predictions, cases)
    _matrix(panels[3], predictions, similar)


def _means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds and half of the t-interval (0 with one seed), per class."""
    found = [seeds_interval(column) for column in values.T]
    return np.array([f.value for f in found]), np.nan_to_num([f.high - f.value for f in found])


def _classes(panel: Axes) -> None:
    panel.set_xticks(range(CLASSES))
    panel.tick_params(labelsize=6.5, length=2)
    panel.set_xlim(-0.6, CLASSES - 0.4)


def _residual(part: SubFigure, steps: Seeds) -> None:
    """Panel (a): the prediction on x_u and the residual e_4 − π as arrows."""
    panel = part.subplots()
    part.subplots_adjust(left=0.27, right=0.97, top=0.8, bottom=0.15)
    before, _ = _means(summary.step_probabilities(steps, SHOWN, None)[0])
    panel.bar(range(CLASSES), before, color=style.BEFORE, width=0.8)
    for k, height in enumerate(before):
        target = float(k == SHOWN)
        if abs(target - height) < SMALL:
            continue
        colour = style.CHOSEN if k == SHOWN else style.REJECTED
        panel.annotate("", (k, target), (k, height), zorder=3,
                       arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6,
                                   "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8})  # fmt: skip
    panel.text(SHOWN + 0.35, (1 + before[SHOWN]) / 2, f"{1 - before[SHOWN]:+.2f}", va="center",
               fontsize=7.5, color=style.CHOSEN, fontweight="bold")  # fmt: skip
    others = [k for k in range(CLASSES) if k != SHOWN]
    most = max(others, key=lambda k: before[k])
    panel.text(most, before[most] + 0.03, f"−{before[most]:.2f}", ha="center", fontsize=7.5,
               color="#A06000", fontweight="bold")  # fmt: skip
    panel.set_ylim(0, 1.03)
    _classes(panel)
    panel.set_ylabel("π(k | $x_u$)")
    panel.set_xlabel("class k")
    _heading(part, "a", f"One update on a {SHOWN}: residual", "grey: prediction on the image\n"
             f"before it; arrows: −G = $e_{SHOWN}$ − π")  # fmt: skip


def _one_step(part: SubFigure, steps: Seeds, cases: dict[int, str], lr: float) -> None:
    """Panel (b): the change of the prediction on other images by one such update."""
    axes = part.subplots(len(cases), 1, sharex=True, sharey=True)
    part.subplots_adjust(left=0.23, right=0.97, top=0.8, bottom=0.15, hspace=0.16)
    gains = {}
    for panel, (observed, word) in zip(axes, cases.items(), strict=True):
        before, after, predicted = summary.step_probabilities(steps, SHOWN, observed)
        change, half = _means(after - before)
        expected, _ = _means(predicted - before)
        gains[word] = change[SHOWN]
        shades = [style.CHOSEN if k == SHOWN else "#8A8A8A" for k in range(CLASSES)]
        panel.bar(range(CLASSES), change, color=shades, width=0.8, yerr=half,
                  error_kw={"lw": 0.8, "ecolor": "#333333"})  # fmt: skip
        panel.plot(range(CLASSES), expected, "_", color=style.IRRELEVANT, ms=9, mew=1.4)
        panel.axhline(0, color="#666666", lw=0.6)
        panel.text(0.99, 0.97, f"{word}: {observed}s   π({SHOWN}) {change[SHOWN]:+.3f}".replace(
            "-", "−"), transform=panel.transAxes, ha="right", va="top", fontsize=7)  # fmt: skip
        _classes(panel)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.3 * (high - low))
    axes[1].set_ylabel(f"Δπ(k | $x_o$), one step on a {SHOWN}")
    axes[-1].set_xlabel("class k")
    most = max(gains, key=gains.get)
    _heading(part, "b", f"It lifts π({SHOWN}) most for: {most}", "bars: after − before on test "
             f"images, η = {lr:g}; red: −ηAKG\nerror bars: 95% over seeds")  # fmt: skip


def _accumulated(part: SubFigure, predictions: Seeds, cases: dict[int, str]) -> None:
    """Panel (c): predictions per true class after all updates."""
    axes = part.subplots(len(cases), 1, sharex=True, sharey=True)
    part.subplots_adjust(left=0.2, right=0.97, top=0.8, bottom=0.15, hspace=0.16)
    start, end = summary.matrix(predictions, first=True), summary.matrix(predictions)
    labels = list(cases)
    for panel, label in zip(axes, labels, strict=True):
        value, half = _means(end[:, label])
        shades = [style.CHOSEN if k == label else "#8A8A8A" for k in range(CLASSES)]
        bump = max((k for k in range(CLASSES) if k != label), key=lambda k: value[k])
        shades[bump] = style.REJECTED
        panel.bar(range(CLASSES), value, color=shades, width=0.8, yerr=half,
                  error_kw={"lw": 0.8, "ecolor": "#333333"})  # fmt: skip
        panel.step(np.arange(-1, CLASSES + 1), np.pad(_means(start[:, label])[0], 1, mode="edge"),
                   where="mid", color="#333333", lw=0.7, ls=":")  # fmt: skip
        for k, colour in ((label, style.CHOSEN), (bump, "#A06000")):
            panel.text(k, min(value[k] + half[k] + 0.04, 1.0), f"{value[k]:.2f}", ha="center",
                       fontsize=6.5, color=colour, fontweight="bold")  # fmt: skip
        panel.text(0.01, 0.97, f"{label}s", transform=panel.transAxes, va="top", fontsize=8,
                   fontweight="bold")  # fmt: skip
        _classes(panel)
    axes[0].set_ylim(0, 1.19)
    axes[0].set_yticks([0, 0.5, 1])
    axes[1].set_ylabel("mean π(k | $x_o$), test images")
    axes[-1].set_xlabel("class k")
    row = end.mean(0)[SHOWN].copy()
    row[SHOWN] = 0
    _heading(part, "c", f"All updates together: {SHOWN}s lean to {row.argmax()}", "dotted: before "
             "training; orange: the largest other\nclass; error bars: 95% over seeds")  # fmt: skip


def _matrix(part: SubFigure, predictions: Seeds, similar: int) -> None:
    """Panel (d): mean prediction by true class."""
    panel = part.subplots()
    part.subplots_adjust(left=0.16, right=0.98, top=0.8, bottom=0.15)
    mean = summary.matrix(predictions).mean(0)
    panel.imshow(np.sqrt(mean), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for true in range(CLASSES):
        for k in range(CLASSES):
            if mean[true, k] >= 0.01:
                panel.text(k, true, f"{mean[true, k]:.2f}".lstrip("0"), ha="center", va="center",
                           fontsize=5.5, color="white" if mean[true, k] > 0.3 else "black",
                           fontweight="bold" if true == SHOWN and k == similar else "normal",
                           )  # fmt: skip
    panel.set_xticks(range(CLASSES))
    panel.set_yticks(range(CLASSES))
    panel.tick_params(labelsize=6.5, length=2)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    _heading(part, "d", "Accumulated influence", "mean π on test images, mean over seeds;\ncells "
             "below .01 left empty, shade ∝ √π")  # fmt: skip


def _heading(part: SubFigure, letter: str, title: str, caption: str) -> None:
    part.text(0.03, 0.985, f"({letter})", fontweight="bold", fontsize=9, va="top")
    part.text(0.125, 0.985, title, fontsize=8.5, va="top")
    part.text(0.125, 0.92, caption, fontsize=6.3, va="top", color="#444444")
