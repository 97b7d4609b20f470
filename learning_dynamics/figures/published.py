"""figures/published: runs of the reference implementation beside ours, with the greedy token's
log-prob along y⁺ told apart from the published one along shuffled words (a known error)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.dynamics import Trajectories, series
from learning_dynamics.figures import style

# What is drawn: (column, response type, colour, line, name)
CURVES = [
    ("logp", "chosen", style.CHOSEN, "-", "y⁺"),
    ("logp", "rejected", style.REJECTED, "-", "y⁻"),
    ("logp", "irr_train", style.IRRELEVANT, "-", "other's y⁺ (train)"),
    ("logp_argmax", "chosen", style.GREEDY, "-", "greedy along y⁺"),
    ("logp_argmax", "random_nonhum", "#888888", "--", "greedy along shuffled words"),
]


def draw(
    study: dict, published: Mapping[str, pd.DataFrame], ours: Mapping[str, Trajectories]
) -> Figure:
    """One panel per published run and per run of ours: change since the start, by epoch.

    Args:
        published: imported trajectories by name.
        ours: our own trajectories by name and seed.
    """
    style.apply()
    panels = [(name, {0: table}) for name, table in published.items()]
    panels += [(f"ours: {study['study']}, {name}", runs) for name, runs in ours.items()]
    columns = 4
    rows = -(-len(panels) // columns)
    height = 2.2 * rows + 0.8
    figure, grid = plt.subplots(rows, columns, figsize=(10.4, height), squeeze=False)
    figure.subplots_adjust(left=0.055, right=0.99, top=1 - 0.85 / height, bottom=0.5 / height,
                           hspace=0.55, wspace=0.22)  # fmt: skip
    for panel in grid.flat[len(panels) :]:
        panel.set_axis_off()
    for panel, (name, runs) in zip(grid.flat, panels, strict=False):
        _panel(panel, runs)
        panel.set_title(name, fontsize=7.5, fontweight="bold" * name.startswith("ours") or "normal")
    for panel in grid[:, 0]:
        panel.set_ylabel("change since start (nats)")
    figure.text(0.012, 1 - 0.1 / height, "Published runs beside ours: the greedy token along y⁺, "
                "and along shuffled words (the published argmax, a known error)", fontsize=10,
                va="top")  # fmt: skip
    for number, (_, _, colour, line, word) in enumerate(CURVES):
        sample = {"-": "—", "--": "- -"}[line]
        figure.text((0.03, 0.08, 0.13, 0.29, 0.44)[number], 1 - 0.4 / height, f"{sample} {word}",
                    color=colour, fontsize=8, va="top",
                    fontweight="bold")  # fmt: skip
    style.stamp(figure, study)
    return figure


def _panel(panel: Axes, runs: Trajectories) -> None:
    panel.axhline(0, color="#999999", lw=0.6, ls=":")
    table = next(iter(runs.values()))
    by_epoch = table["epoch"].notna().all()
    for column, kind, colour, line, _ in CURVES:
        here = table[(table["response_type"] == kind) & table[column].notna()]
        if here.empty:
            continue
        curves = []
        for trajectory in runs.values():
            steps, values = series(trajectory[trajectory[column].notna()], column, kind)
            curves.append(np.nanmean(values - values[0], axis=1))
        x = np.sort(here["epoch"].unique()) if by_epoch else steps
        panel.plot(x, np.mean(curves, axis=0), line, color=colour, lw=1.5)
    panel.set_xlabel("epochs" if by_epoch else "updates")
