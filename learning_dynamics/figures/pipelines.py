"""figures/pipelines: the runs that the study compares, as boxes and arrows (Fig. 17)."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from learning_dynamics.figures import extend, style

ROWS = {  # what a run's rows are, by target: words, rows per pair
    "chosen": ("y⁺", 1),
    "rejected": ("y⁻", 1),
    "extend": ("y⁺ and y⁻", 2),
    "irrelevant": ("y⁺ and another's y⁺", 2),
}
BOX, GAP = 2.5, 0.75  # inches


def draw(study: dict) -> Figure:
    """A line per chain of ``study["chains"]``: the base model, its runs with what they train on,
    epochs and learning rate (``study["specs"]``), and the probes along them."""
    style.apply()
    chains = study["chains"]
    longest = max(map(len, chains.values()))
    width = 1.75 + longest * (BOX + GAP) + 1.1
    height = 0.9 + 1.05 * len(chains)
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    axes.text(0.1, height - 0.12, "What is compared: every chain is probed along its way",
              fontsize=11, va="top")  # fmt: skip
    middle = (0.45 + height - 0.5) / 2
    _box(axes, 0.1, middle, 1.1, "base model\n$\\pi_0$", "#666666")
    for number, (role, chain) in enumerate(chains.items()):
        colour, _, words = extend.ROLES.get(role, (style.GREEDY, "-", role))
        y = height - 1.05 - 1.05 * number
        axes.text(1.75, y + 0.44, words, color=colour, fontsize=8.5, fontweight="bold", va="center")
        left, source = 1.75, (1.2, middle)
        for place, (run, epoch) in enumerate(chain):
            _arrow(axes, source, (left, y), colour)
            _box(axes, left, y, BOX, _words(run, study["specs"][run], epoch), colour)
            source = (left + BOX, y)
            left += BOX + GAP
            if place + 1 < len(chain) and epoch:
                axes.text(left - GAP / 2, y + 0.08, f"epoch {epoch}", fontsize=6.5, ha="center")
        _arrow(axes, source, (left, y), colour)
        axes.text(left + 0.06, y, "curves, claims", fontsize=8, va="center", color="#666666")
    style.stamp(figure, study)
    return figure


def _words(run: str, spec: dict, epoch: str | None) -> str:
    if "target" in spec:
        words, per_pair = ROWS.get(spec["target"], (spec["target"], 1))
    else:
        words, per_pair = "(y⁺, y⁻)", 1
        if spec.get("labels") == "coin":
            words += ", coin-flip labels"
    rows = f"rows per pair: {spec['epochs'] * per_pair:g}"
    return (f"{spec['algorithm'].upper()} on {words}\nepochs {spec['epochs']:g} ({rows}), "
            f"lr {spec['lr']:g}\n{run}")  # fmt: skip


def _box(axes: Axes, left: float, y: float, width: float, text: str, colour: str) -> None:
    shape = FancyBboxPatch((left, y - 0.29), width, 0.58, boxstyle="round,pad=0,rounding_size=0.08",
                           facecolor="white", edgecolor=colour, lw=1.4)  # fmt: skip
    axes.add_patch(shape)
    axes.text(left + width / 2, y, text, ha="center", va="center", fontsize=7, linespacing=1.25)


def _arrow(axes: Axes, start: tuple, end: tuple, colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2})
