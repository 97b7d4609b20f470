"""figures/dpo: the learning dynamics of off-policy DPO (Fig. 4)."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from learning_dynamics.dynamics import Trajectories
from learning_dynamics.figures import curves, style
from learning_dynamics.figures.curves import GREEDY, GREEDY_PUBLISHED, Line, Panel
from learning_dynamics.figures.sft import SHARES

REPHRASES = ("chosen_gptsemantic", "chosen_gptformat")
REPHRASES_REJECTED = ("reject_gptsemantic", "reject_gptformat")
THIN = ("chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat",
        "chosen_initial", "irr_train", "irr_test", "irr_hum")  # fmt: skip

CHOSEN = Panel("$y_u^+$ and its rephrases", tuple(map(Line, ("chosen", *REPHRASES))))
REJECTED = Panel("$y_u^-$ and its rephrases", tuple(map(Line, ("rejected", *REPHRASES_REJECTED))))
BOTH = Panel("rephrases of $y_u^+$ against those of $y_u^-$",
             tuple(map(Line, (*REPHRASES, *REPHRASES_REJECTED))))  # fmt: skip
PAIR = Panel("$y_u^+$ against $y_u^-$", tuple(map(Line, ("chosen", "rejected"))))
MASS = Panel("where the mass went (- - greedy as published)", (
    *(Line(kind, label="", width=0.7) for kind in THIN),
    Line(THIN, colour="#888888", label="others", width=1.2, dash=(0, (1, 1))),
    Line("chosen"), Line("rejected"), GREEDY, GREEDY_PUBLISHED,
))  # fmt: skip
PANELS = [CHOSEN, REJECTED, BOTH, PAIR, MASS]


def draw(study: dict, runs: Mapping[str, list[Trajectories]]) -> Figure:
    """The whole figure from the chain of role ``dpo``."""
    style.apply()
    title = "DPO: what does it raise, and what does it lower?"
    figure, axes = curves.grid(2, 3, title, right=1.45)
    for axis, panel in zip(axes.flat, [*PANELS, SHARES], strict=True):
        panel.draw(axis, runs["dpo"])
    for row in axes:
        row[0].set_ylabel(curves.CHANGE)
    axes[1, 2].set_ylabel("probability, share")
    curves.finish(figure, study, runs["dpo"])
    return figure
