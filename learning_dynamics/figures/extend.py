"""figures/extend: SFT on both responses before DPO, and what any extra rows do (Fig. 5)."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from learning_dynamics.figures import curves, dpo, style
from learning_dynamics.figures.curves import Line, Panel

# Role: colour, dash, and what SFT was on.
ROLES = {
    "baseline": (style.CHOSEN, "-", "baseline: SFT on y⁺"),
    "extend": (style.REJECTED, "-", "extend: SFT on y⁺ and y⁻"),
    "matched": ("#AA4499", (0, (4, 1.5)), "twin: SFT on y⁺ alone, as many rows as extend"),
    "irrelevant": ("#009E73", (0, (1, 1)), "twin: SFT on y⁺ and another's y⁺, as many rows"),
}
SHUFFLED = ("random_permute", "random_nonhum")
PANELS = [
    (Panel("chosen $y_u^+$", ()), "chosen", "logp"),
    (Panel("rejected $y_u^-$", ()), "rejected", "logp"),
    (Panel("other responses (mean)", ()), dpo.THIN, "logp"),
    (Panel("shuffled words (mean)", ()), SHUFFLED, "logp"),
    (Panel("greedy along $y_u^+$", ()), "chosen", "logp_argmax"),
    (Panel("greedy along $y_{rnd}$ (as published)", ()), "random_nonhum", "logp_argmax"),
    (Panel("best other token at $y_u^-$", ()), "rejected", "logp_top_other"),
    (Panel("mean p of $y_u^+$ tokens", (), levels=True, digits=2), "chosen", "p_label"),
]


def draw(study: dict, runs: Mapping[str, curves.Stages]) -> Figure:
    """The whole figure from the chains SFT → DPO by role; x = 0 is the start of DPO."""
    style.apply()
    title = "Does extend soften DPO more than as many other rows do?"
    figure, axes = curves.grid(2, 4, title, right=0.5, top=0.95)
    for axis, (panel, kinds, column) in zip(axes.flat, PANELS, strict=True):
        items = []
        for role, chain in runs.items():
            colour, dash, _ = ROLES[role]
            items.append((chain, Line(kinds, column, colour, dash, width=1.5)))
        axis.set_title(panel.title)
        curves.draw_lines(axis, items, panel, from_turn=True)
        axis.set_xlabel("epochs of pairs since DPO began")
    for row in axes:
        row[0].set_ylabel(curves.CHANGE)
    axes.flat[-1].set_ylabel("probability")
    curves.names(figure, [(ROLES[role][2], *ROLES[role][:2]) for role in runs])
    every = [one for chain in runs.values() for one in chain]
    curves.finish(figure, study, every, labels="change since DPO began")
    return figure
