"""One style for every figure: the paper's colours, direct labels, the study's stamp.

Torch-free, so that figures redraw without the ML stack.
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.files import atomic
from learning_dynamics.provenance import commit

CHOSEN, REJECTED, IRRELEVANT, RANDOM = "#0072B2", "#E69F00", "#CC3311", "#33BBEE"
GREEDY, BEFORE = "#000000", "#BBBBBB"
# The paper's groups; lighter shades are derived types.
TYPES = {
    "chosen": (CHOSEN, 1.0, "y⁺"),
    "chosen_initial": (CHOSEN, 0.45, "initial"),
    "chosen_selfr": (CHOSEN, 0.3, "self-rephrase"),
    "chosen_gptsemantic": (CHOSEN, 0.7, "gpt-semantic y⁺"),
    "chosen_gptformat": (CHOSEN, 0.55, "gpt-format y⁺"),
    "rejected": (REJECTED, 1.0, "y⁻"),
    "reject_gptsemantic": (REJECTED, 0.75, "gpt-semantic y⁻"),
    "reject_gptformat": (REJECTED, 0.55, "gpt-format y⁻"),
    "irr_train": (IRRELEVANT, 1.0, "other's y⁺ (train)"),
    "irr_test": (IRRELEVANT, 0.6, "other's y⁺ (test)"),
    "irr_hum": (IRRELEVANT, 0.4, "human, unrelated"),
    "random_permute": (RANDOM, 1.0, "y⁺ shuffled"),
    "random_nonhum": (RANDOM, 0.6, "other shuffled"),
}

# The paper's symbols (its sections 3.3 and 4.1), and lines that stay apart without colour.
SYMBOLS = {
    "chosen": "$y_u^+$",
    "chosen_initial": r"$y_{\pi_0}$",
    "chosen_selfr": "$y_{selfr}^+$",
    "chosen_gptsemantic": "$y_{gpts}^+$",
    "chosen_gptformat": "$y_{gptf}^+$",
    "rejected": "$y_u^-$",
    "reject_gptsemantic": "$y_{gpts}^-$",
    "reject_gptformat": "$y_{gptf}^-$",
    "irr_train": r"$y_{j\neq u}^+$",
    "irr_test": "$y_{test}^+$",
    "irr_hum": "$y_{hum}$",
    "random_permute": "$y_{urnd}^+$",
    "random_nonhum": "$y_{rnd}$",
}
DASHES = {
    "chosen_initial": (0, (1, 1)),
    "chosen_selfr": (0, (4, 1, 1, 1)),
    "chosen_gptformat": (0, (4, 1.5)),
    "reject_gptformat": (0, (4, 1.5)),
    "irr_test": (0, (4, 1.5)),
    "irr_hum": (0, (1, 1)),
    "random_nonhum": (0, (4, 1.5)),
}


def apply() -> None:
    """Set seaborn's theme and the sizes of text and lines."""
    sns.set_theme(
        context="paper",
        style="ticks",
        rc={
            "font.family": "DejaVu Sans",
            "font.size": 8,
            "axes.labelsize": 8,
            "axes.titlesize": 8.5,
            "axes.titlelocation": "left",
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7,
            "lines.linewidth": 1.2,
            "pdf.fonttype": 42,
            "figure.dpi": 100,
        },
    )
    mpl.use("Agg")


def plain(text: str) -> str:
    """A text that is drawn as it stands: a dollar opens no formula."""
    return text.replace("$", r"\$")


def stamp(figure: Figure, study: dict) -> None:
    """Write study, data set, model, seeds and commit into the figure's corner, so that a toy
    figure is never taken for the paper's."""
    seeds = ", ".join(map(str, study["seeds"]))
    figure.text(
        0.995,
        0.002,
        f"study {study['study']} · {plain(study['dataset'])} · {study['model']} · "
        f"seed{'s' * (len(study['seeds']) > 1)} {seeds} · commit {commit()}",
        ha="right",
        va="bottom",
        fontsize=5.5,
        color="#666666",
    )


def save(figure: Figure, paths: list[str]) -> None:
    """Write the figure to every path; PDFs carry no date, so equal figures are equal files."""
    for path in map(Path, paths):
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=200, metadata=metadata)
    plt.close(figure)


def direct_labels(axes: Axes, labels: list[tuple[float, str, str]], gap: float = 0.075) -> None:
    """Label lines at the right edge: ``(y at the edge, text, colour)``, moved apart so that no two
    are closer than ``gap`` of the axis."""
    low, high = axes.get_ylim()
    places = sorted(((y - low) / (high - low), text, colour) for y, text, colour in labels)
    heights: list[float] = []
    for place, _, _ in places:
        heights.append(max(place, heights[-1] + gap) if heights else place)
    over = max(0.0, (heights[-1] if heights else 0) - 1.02)
    for i in range(len(heights) - 1, -1, -1):  # push back down from the top where there is room
        ceiling = heights[i + 1] - gap if i + 1 < len(heights) else 1.02
        heights[i] = min(heights[i], ceiling) if over else heights[i]
    for height, (_, text, colour) in zip(heights, places, strict=True):
        axes.text(1.02, height, text, color=colour, transform=axes.transAxes, va="center",
                  fontsize=6.5)  # fmt: skip


def heading(figure: SubFigure, letter: str, title: str) -> None:
    """A bold panel letter and a heading at the top left of a part of a figure."""
    figure.text(0.012, 0.985, f"({letter})", fontweight="bold", fontsize=10, va="top")
    figure.text(0.05, 0.985, title, fontsize=10, va="top")
