"""figures/dose: the squeezing statistics of DPO over learning rate × updates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from learning_dynamics.figures import style


def draw(study: dict, table: pd.DataFrame) -> Figure:
    """One heat map per effect; a cell is bold where its interval excludes zero, and says in how
    many seeds the sign is the predicted one."""
    style.apply()
    effects = list(table["effect"].unique())
    size = (2.3 * len(effects) + 0.6, 3.2)
    figure, axes = plt.subplots(1, len(effects), figsize=size, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.99, top=0.76, bottom=0.2, wspace=0.08)
    for panel, effect in zip(axes, effects, strict=True):
        rows = table[table["effect"] == effect]
        grid = rows.pivot(index="lr", columns="updates", values="value").sort_index(ascending=False)
        limit = max(1e-9, float(np.abs(grid.to_numpy()).max()))
        sns.heatmap(grid, ax=panel, cmap="RdBu_r", center=0, vmin=-limit, vmax=limit, cbar=False,
                    linewidths=0.5)  # fmt: skip
        for y, lr in enumerate(grid.index):
            for x, updates in enumerate(grid.columns):
                cell = rows[(rows["lr"] == lr) & (rows["updates"] == updates)].iloc[0]
                clear = cell["low"] > 0 or cell["high"] < 0
                dark = abs(cell["value"]) > 0.6 * limit
                panel.text(
                    x + 0.5, y + 0.5,
                    f"{cell['value']:+.1f}\n{cell['seeds_with_sign']}/{cell['seeds']}",
                    ha="center", va="center", fontsize=6.5, color="white" if dark else "black",
                    fontweight="bold" if clear else "normal",
                )  # fmt: skip
        predicted = rows["predicted"].iloc[0]
        panel.set_title(f"{rows['statement'].iloc[0]}\npredicted {predicted}", fontsize=7)
        panel.set_xlabel("updates")
        panel.set_ylabel("learning rate" if panel is axes[0] else "")
        panel.set_yticks(np.arange(len(grid)) + 0.5, [f"{lr:.3g}" for lr in grid.index], rotation=0)
    figure.suptitle(
        "Dose: change under DPO (nats; n/m: seeds with the predicted sign; "
        "bold: interval excludes 0)",
        x=0.01,
        ha="left",
        fontsize=9.5,
    )
    style.stamp(figure, study)
    return figure
