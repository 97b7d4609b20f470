"""figures/confounds: what the faults of the published probing set change.

(a) is the machine fingerprint a tokenisation artefact, (b) what each switch changes, (c) the curves
that it changes most.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from learning_dynamics.confounds import MACHINE, PARTS
from learning_dynamics.dynamics import Trajectories, series
from learning_dynamics.figures import style
from learning_dynamics.study import SWITCHES

PART_COLOURS = {"first token": style.IRRELEVANT, "body": "#555555", "end-of-text": style.RANDOM}
SETTINGS = {
    ("as_published", "as_published"): "as published",
    ("corrected", "as_published"): "leading space\ncorrected",
    ("as_published", "corrected"): "end-of-text\nleft out",
    ("corrected", "corrected"): "both\ncorrected",
}
VERDICTS = {
    "wholly an artefact": "Wholly",
    "mostly an artefact": "Mostly",
    "partly an artefact": "Partly",
    "not an artefact": "No",
    "no fingerprint here": "There is none here",
}


def draw(
    study: dict,
    switches: pd.DataFrame,
    influence: pd.DataFrame,
    fingerprint: pd.DataFrame,
    course: pd.DataFrame,
    corrected: Mapping[str, Trajectories],
    published: Mapping[str, Mapping[str, Trajectories]],
) -> Figure:
    """The whole figure from its tables and the trajectories behind them."""
    style.apply()
    figure = plt.figure(figsize=(8.2, 11.6))
    parts = figure.subfigures(3, 1, height_ratios=[4.3, 4.2, 3.3])
    _fingerprint(parts[0], influence, fingerprint, course)
    _switches(parts[1], switches)
    _curves(parts[2], switches, corrected, published)
    style.stamp(figure, study)
    return figure


def _name(kind: str) -> str:
    return style.TYPES.get(kind, ("", 1, kind))[2]


def _in_order(kinds: pd.Series) -> list[str]:
    """The types present, the machine-written ones in one block."""
    present = list(dict.fromkeys([*style.TYPES, *kinds]))
    present = [kind for kind in present if kind in set(kinds)]
    return [k for k in present if k not in MACHINE] + [k for k in present if k in MACHINE]


def _fingerprint(
    figure: SubFigure, influence: pd.DataFrame, table: pd.DataFrame, course: pd.DataFrame
) -> None:
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1, 1.15], height_ratios=[1.5, 1], left=0.155,
                               right=0.95, top=0.76, bottom=0.2, wspace=0.12,
                               hspace=0.6)  # fmt: skip
    axes = [figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])]
    observed = _in_order(influence["observed"])
    updates = _in_order(influence["update"])
    whole = influence[influence["part"] == "all"]
    without_end = influence[influence["part"].isin(PARTS[:2])]
    grids = []
    for rows, space in ((whole, "as_published"), (without_end, "corrected")):
        rows = rows[rows["leading_space"] == space]
        cells = rows.pivot_table(index="observed", columns="update", values="value", aggfunc="sum")
        grids.append(cells.loc[observed, updates])
    own = np.array([[kind == update for update in updates] for kind in observed])
    off = np.concatenate([values.to_numpy()[~own] for values in grids])
    limit = float(np.quantile(np.abs(off), 0.97))
    titles = ("as published", "leading space corrected,\nend-of-text left out")
    for panel, values, title in zip(axes, grids, titles, strict=True):
        sns.heatmap(values, ax=panel, cmap="RdBu_r", vmin=-limit, vmax=limit, cbar=False,
                    annot=True, fmt="+.0f", annot_kws={"fontsize": 6}, linewidths=0.4)  # fmt: skip
        block = sum(kind in MACHINE for kind in observed)
        wide = sum(kind in MACHINE for kind in updates)
        panel.add_patch(Rectangle((len(updates) - wide, len(observed) - block), wide, block,
                                  fill=False, lw=1.6, ec="black", clip_on=False))  # fmt: skip
        panel.set_title(title, fontsize=8)
        panel.set_xticks(np.arange(len(updates)) + 0.5, [_name(k) for k in updates], rotation=35,
                         ha="right")  # fmt: skip
        panel.set(xlabel="", ylabel="")
    axes[0].set_yticks(np.arange(len(observed)) + 0.5, [_name(k) for k in observed], rotation=0)
    axes[1].set_yticks([])
    _excess(figure.add_subplot(grid[0, 2]), table)
    _course(figure.add_subplot(grid[1, 2]), course)
    share = table[table["leading_space"] == "share"].iloc[0]
    ends = table.set_index(["leading_space", "end_of_text"])["F"]
    style.heading(
        figure, "a", "Is the “machine fingerprint” tokenisation? "
        f"{VERDICTS[share['verdict']]}: {ends['as_published', 'as_published']:+.1f} → "
        f"{ends['corrected', 'corrected']:+.1f} nats when both are corrected",
    )  # fmt: skip
    figure.text(0.05, 0.915, "Change of log-prob (nats) of the type observed (row) after SFT on "
                "one type (column); box: machine-written types. Right: how much more\ntraining on "
                "a machine-written type raises the other ones than it raises natural text, by "
                "where in the response.", fontsize=7, va="top", color="#444444")  # fmt: skip


def _excess(panel: Axes, table: pd.DataFrame) -> None:
    for at, (key, _) in enumerate(SETTINGS.items()):
        space, end = key
        row = table[(table["leading_space"] == space) & (table["end_of_text"] == end)].iloc[0]
        up, down = 0.0, 0.0
        for part in PARTS:
            value = row.get(f"F {part}")
            if pd.isna(value):
                continue
            bottom = up if value > 0 else down
            panel.bar(at, value, 0.62, bottom=bottom, color=PART_COLOURS[part])
            up, down = (up + value, down) if value > 0 else (up, down + value)
        error = [[row["F"] - row["F_low"]], [row["F_high"] - row["F"]]]
        panel.errorbar(at, row["F"], yerr=error, fmt="D", color="black", ms=4, lw=1.2, mfc="white")
        panel.plot(at + 0.38, row["F_across"], "o", color="black", ms=3, mfc="white")
        panel.annotate(f"{row['F']:+.1f}", (at, max(up, row["F_high"])), ha="center", va="bottom",
                       xytext=(0, 3), textcoords="offset points", fontsize=8,
                       fontweight="bold")  # fmt: skip
    panel.axhline(0, color="#666666", lw=0.7)
    panel.margins(y=0.14)
    panel.set_xticks(range(len(SETTINGS)), list(SETTINGS.values()), fontsize=5.5)
    panel.yaxis.tick_right()
    panel.spines["left"].set_visible(False)
    panel.spines["right"].set_visible(True)
    panel.set_title(
        "F: machine over natural (nats, 95%)\n○ without rewordings of the same text", fontsize=7
    )
    for number, (part, colour) in enumerate(PART_COLOURS.items()):
        panel.text((0, 0.37, 0.6)[number], -0.36, f"■ {part}", color=colour, fontsize=6.5,
                   fontweight="bold", transform=panel.transAxes)  # fmt: skip


def _course(panel: Axes, course: pd.DataFrame) -> None:
    for setting, word, colour in (("as_published", "as published", style.IRRELEVANT),
                                  ("corrected", "both corrected", "#009E73")):  # fmt: skip
        rows = course[course["setting"] == setting]
        panel.plot(rows["step"], rows["F"], "o-", color=colour, ms=2.5, lw=1.2)
        panel.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
        low = rows["F"].iloc[-1] < course["F"].mean()
        panel.annotate(word, (rows["step"].iloc[-1], rows["F"].iloc[-1]), ha="right", fontsize=6.5,
                       va="bottom" if low else "top", xytext=(0, 4 if low else -6), color=colour,
                       textcoords="offset points")  # fmt: skip
    panel.axhline(0, color="#666666", lw=0.7)
    panel.margins(y=0.2)
    panel.yaxis.tick_right()
    panel.spines["left"].set_visible(False)
    panel.spines["right"].set_visible(True)
    panel.set_xlabel("updates: F at every dose", fontsize=7)


def _switches(figure: SubFigure, table: pd.DataFrame) -> None:
    roles = list(table["run"].unique())
    axes = figure.subplots(1, 1 + len(roles), sharey=True)
    figure.subplots_adjust(left=0.155, right=0.985, top=0.8, bottom=0.2, wspace=0.06)
    first = table[table["run"] == roles[0]]
    panels = [(first, "start", "log-prob at the start")]
    panels += [
        (table[table["run"] == role], "change", f"change under {role.upper()}") for role in roles
    ]
    kinds = _in_order(table["response_type"])
    names = [name for name in SWITCHES if name in set(table["switch"])]
    for panel, (rows, quantity, title) in zip(axes, panels, strict=True):
        cells = rows.set_index(["response_type", "switch"])
        values = np.array([[cells.loc[(k, s), f"{quantity}_difference"] for s in names]
                           for k in kinds])  # fmt: skip
        limit = max(1e-9, float(np.quantile(np.abs(values), 0.95)))
        sns.heatmap(values, ax=panel, cmap="RdBu_r", vmin=-limit, vmax=limit, cbar=False,
                    linewidths=0.4)  # fmt: skip
        for y, kind in enumerate(kinds):
            for x, switch in enumerate(names):
                cell = cells.loc[(kind, switch)]
                clear = cell[f"{quantity}_low"] > 0 or cell[f"{quantity}_high"] < 0
                value = values[y, x]
                text = f"{value:+.1f}" if abs(value) >= 0.05 else "·"
                panel.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=6,
                           color="white" if abs(value) > 0.65 * limit else "black",
                           fontweight="bold" if clear else "normal")  # fmt: skip
        panel.set_title(title)
        panel.set_xticks(np.arange(len(names)) + 0.5, [SWITCHES[s] for s in names], rotation=35,
                         ha="right")  # fmt: skip
    axes[0].set_yticks(np.arange(len(kinds)) + 0.5, [_name(k) for k in kinds], rotation=0)
    style.heading(figure, "b", "What each fault changes (nats, published minus corrected; bold: "
                  "interval excludes 0)")  # fmt: skip


def _curves(
    figure: SubFigure,
    table: pd.DataFrame,
    corrected: Mapping[str, Trajectories],
    published: Mapping[str, Mapping[str, Trajectories]],
) -> None:
    names = [name for name in SWITCHES if name in published]
    axes = np.atleast_1d(figure.subplots(1, len(names), squeeze=True))
    figure.subplots_adjust(left=0.075, right=0.985, top=0.72, bottom=0.17, wspace=0.42)
    for panel, switch in zip(axes, names, strict=True):
        rows = table[table["switch"] == switch]
        largest = rows.loc[rows["change_difference"].abs().idxmax()]
        kind, role = largest["response_type"], largest["run"]
        for runs, line, colour in ((corrected[role], "-", "#009E73"),
                                   (published[switch][role], "--", style.IRRELEVANT)):  # fmt: skip
            means = []
            for trajectory in runs.values():
                steps, values = series(trajectory, "logp", kind)
                means.append(np.nanmean(values, axis=1))
            panel.plot(steps, np.mean(means, axis=0), line, color=colour, lw=1.6)
        panel.set_title(f"{SWITCHES[switch]}\n{_name(kind)},\nunder {role.upper()}", fontsize=7)
        panel.set_xlabel("updates")
        panel.tick_params(labelsize=6)
    axes[0].set_ylabel("log-prob (nats)")
    figure.text(0.62, 0.985, "solid: corrected", color="#009E73", fontsize=8, va="top",
                fontweight="bold")  # fmt: skip
    figure.text(0.78, 0.985, "dashed: as published", color=style.IRRELEVANT, fontsize=8, va="top",
                fontweight="bold")  # fmt: skip
    style.heading(figure, "c", "The curve that each fault changes most")
