"""figures/sft_then_dpo: DPO from models with more and less SFT behind them (App. D.3)."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from learning_dynamics.dynamics import Trajectories, change, equal_margin, last_step
from learning_dynamics.figures import curves, dpo, style
from learning_dynamics.figures.curves import Line, Panel

PANELS = [
    (Panel("chosen $y_u^+$", ()), ("chosen",), "logp"),
    (Panel("rejected $y_u^-$", ()), ("rejected",), "logp"),
    (Panel("other responses (mean)", ()), dpo.THIN, "logp"),
    (Panel("greedy along $y_u^+$", ()), ("chosen",), "logp_argmax"),
    (Panel("best other token at $y_u^-$", ()), ("rejected",), "logp_top_other"),
]
BASES = {"updates": ("o", "#000000", "● after as many updates"),
         "margin": ("D", "#AA4499", "◆ at equal margin")}  # fmt: skip


def draw(study: dict, runs: Mapping[str, Trajectories]) -> Figure:
    """The whole figure from DPO runs by name; ``study["sft_epochs"]`` gives the epochs of SFT
    before each. Above: curves under DPO. Below: what they come to, after as many updates as the
    shortest run has, and where each run first reaches the margin that all reach (not drawn where
    some run gains none)."""
    style.apply()
    epochs = study["sft_epochs"]
    title = "Does more SFT before DPO make DPO squeeze harder?"
    figure, axes = curves.grid(2, len(PANELS), title, right=0.45, top=0.95)
    order = sorted(runs, key=lambda run: epochs[run])
    shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.0, len(order)))
    colours = dict(zip(order, map(mpl.colors.to_hex, shades), strict=True))
    last = min(last_step(table) for by_seed in runs.values() for table in by_seed.values())
    at: dict[str, list[dict[int, float]]] = {
        "updates": [dict.fromkeys(runs[run], float(last)) for run in order],
        "margin": equal_margin([runs[run] for run in order]),
    }
    if not all(step > 0 for steps in at["margin"] for step in steps.values()):
        del at["margin"]
    for (top, bottom), (panel, kinds, column) in zip(axes.T, PANELS, strict=True):
        top.set_title(panel.title)
        items = [([runs[run]], Line(kinds, column, colours[run], label="")) for run in order]
        curves.draw_lines(top, items, panel, from_turn=True)
        top.set_xlabel("epochs of DPO")
        for number, (basis, where) in enumerate(at.items()):
            marker, colour, _ = BASES[basis]
            value, low, high = np.array(
                [_effect(runs[run], column, kinds, steps) for run, steps in zip(order, where,
                 strict=True)]
            ).T  # fmt: skip
            places = np.arange(len(order)) + (number - 0.5) * 0.16
            bottom.errorbar(places, value, [value - low, high - value], fmt=marker, color=colour,
                            ms=4, lw=1, ls="-", alpha=0.9)  # fmt: skip
        bottom.axhline(0, color="#999999", lw=0.6, ls=":")
        bottom.set_xticks(range(len(order)), [f"{epochs[run]:g}" for run in order])
        bottom.set_xlabel("epochs of SFT before")
    axes[0, 0].set_ylabel(curves.CHANGE)
    axes[1, 0].set_ylabel("change under DPO (nats)")
    names = [(f"epochs of SFT: {epochs[run]:g}", colours[run], "-") for run in order]
    curves.names(figure, names + [(word, colour, "") for _, colour, word in map(BASES.get, at)])
    curves.finish(figure, study, list(runs.values()), labels="change under DPO")
    return figure


def _effect(
    runs: Trajectories, column: str, kinds: tuple[str, ...], at: dict[int, float]
) -> tuple[float, float, float]:
    """Change by the update ``at``, and its interval as in the curves."""
    present = set(next(iter(runs.values()))["response_type"])
    moved = change(runs, column, [kind for kind in kinds if kind in present], at)
    low, high = curves.band(moved[:, None])
    return float(np.nanmean(moved)), float(low[0]), float(high[0])
