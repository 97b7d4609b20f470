"""figures/sft: the learning dynamics of SFT (Fig. 3)."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.dynamics import Trajectories
from learning_dynamics.figures import curves, style
from learning_dynamics.figures.curves import GREEDY, GREEDY_PUBLISHED, Line, Panel

SIMILAR = Panel(
    "$y_u^+$ and similar ones (▾ own best)",
    tuple(map(Line, ("chosen", "chosen_gptsemantic", "chosen_gptformat", "rejected", "irr_test",
                     "irr_hum"))), peaks=True,
)  # fmt: skip
SHUFFLED = Panel("not language: shuffled words", tuple(map(Line, ("random_permute",
                 "random_nonhum"))), peaks=True)  # fmt: skip
OTHERS = Panel("others' answers (control: $y_{test}^+$)",
               tuple(map(Line, ("chosen", "irr_train", "irr_test"))), peaks=True)  # fmt: skip
MAXIMUM = Panel("greedy token (- - as published)", (Line("chosen"), GREEDY, GREEDY_PUBLISHED))
PANELS = [SIMILAR, SHUFFLED, OTHERS, MAXIMUM]
THEN = Panel("SFT, then DPO from its end", (*map(Line, ("chosen", "chosen_gptsemantic", "rejected",
             "irr_train")), GREEDY))  # fmt: skip
SHARES = Panel("mean p (–), share greedy (- -)", tuple(
    Line(kind, column, dash=dash) for kind in ("chosen", "rejected")
    for column, dash in (("p_label", "-"), ("greedy_match", (0, (4, 1.5))))
), levels=True, digits=2)  # fmt: skip


def draw(
    study: dict, runs: Mapping[str, list[Trajectories]], heatmap: pd.DataFrame | None = None
) -> Figure:
    """The whole figure.

    Args:
        runs: chains by role: ``sft`` (panels 1-3), ``then`` (SFT and the DPO that follows).
        heatmap: accumulated influence, tables/heatmap.csv; None leaves its panel out.
    """
    style.apply()
    title = "SFT: what is trained on rises; what resembles it rises and then falls?"
    figure, axes = curves.grid(2, 4, title, right=1.35)
    for axis, panel in zip(axes[0], PANELS, strict=True):
        panel.draw(axis, runs["sft"])
    THEN.draw(axes[1, 0], runs["then"])
    SHARES.draw(axes[1, 3], runs["sft"])
    for row in axes:
        row[0].set_ylabel(curves.CHANGE)
    axes[1, 3].set_ylabel("probability, share")
    place = axes[1, 1].get_position()
    wide = [
        place.x0 + 0.045,
        place.y0,
        axes[1, 2].get_position().x1 - place.x0 - 0.06,
        place.height,
    ]
    axes[1, 1].remove()
    axes[1, 2].remove()
    if heatmap is not None:
        draw_heatmap(figure.add_axes(wide), heatmap)
    else:
        left = axes[1, 0].get_position()
        axes[1, 0].set_position([left.x0, left.y0, wide[0] + wide[2] - left.x0, left.height])
    curves.finish(figure, study, [one for chain in runs.values() for one in chain])
    return figure


def draw_heatmap(axes: Axes, table: pd.DataFrame) -> None:
    """Accumulated influence of every update type (columns) on every response (rows), by definition:
    the change of its log-prob over the run. Hatched and faint where the interval holds zero."""
    rows = table[table["definition"] == "change"]
    grid = {key: rows.pivot(index="observed", columns="update", values=key).reindex(
        index=rows["observed"].unique(), columns=rows["update"].unique()
    ).to_numpy(dtype=float) for key in ("value", "low", "high")}  # fmt: skip
    limit = max(float(pd.Series(grid["value"].ravel()).abs().max()), 1e-9)
    axes.pcolormesh(
        grid["value"], cmap="RdYlBu", vmin=-limit, vmax=limit, edgecolor="white", lw=0.5
    )
    for (y, x), value in zip(
        ((y, x) for y in range(len(grid["value"])) for x in range(grid["value"].shape[1])),
        grid["value"].ravel(), strict=True,
    ):  # fmt: skip
        if pd.isna(value):
            continue
        unclear = grid["low"][y, x] <= 0 <= grid["high"][y, x]
        if unclear:
            axes.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], facecolor="#FFFFFFB0",
                      edgecolor="#999999", hatch="////", lw=0)  # fmt: skip
        axes.text(x + 0.5, y + 0.5, f"{value:+.1f}".replace("-", "−"), ha="center", va="center",
                  fontsize=6, color="#666666" if unclear else "white" if abs(value) > 0.75 * limit
                  else "black")  # fmt: skip
    axes.invert_yaxis()
    for axis, names in (
        (axes.xaxis, rows["update"].unique()),
        (axes.yaxis, rows["observed"].unique()),
    ):
        words = ["DPO" if name == "dpo" else style.SYMBOLS.get(name, name) for name in names]
        axis.set_ticks([n + 0.5 for n in range(len(words))], words)
    axes.tick_params(length=0)
    axes.set_xlabel("trained on (hatched: the interval holds 0)")
    axes.set_ylabel("observed")
    axes.set_title("accumulated influence (nats; blue up, red down)")
