"""figures/influence: Proposition 1 on real networks while they train: where the first order
predicts what a step does to every response, and how far it carries."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure

from learning_dynamics.along import ALL, Runs
from learning_dynamics.figures import style

ROLES = {
    "sft": ("#009E73", "SFT"),
    "dpo": (style.GREEDY, "DPO"),
    "extend": ("#AA4499", "DPO, extend"),
}
PREDICTORS = {  # (dashes, mark, name)
    "steps": ("-", "o", "every step to first order"),
    "start": ("--", "s", "kernel of the start"),
    "hidden": (":", "D", "hidden-state cosine"),
    "overlap": ("-.", "^", "token overlap"),
}
THROUGH = {
    "through_chosen": (style.CHOSEN, "through y⁺"),
    "through_rejected": (style.REJECTED, "through y⁻"),
    "rest": ("#555555", "momentum, decay, rounding"),
    "higher": ("#CCCCCC", "beyond the first order"),
}
# R² as the axes show it: by the log of what is left, 1 − R².
SHOWN = [0.9999, 0.999, 0.99, 0.9, 0.0, -9.0, -99.0, -999.0]
BEST, WORST = 1e-5, 2e3  # 1 − R²; what lies beyond stands at the edge, hollow


def draw(study: dict, runs: Runs, scores: pd.DataFrame, parts: pd.DataFrame) -> Figure:
    """The figure from what runs left behind, its scores and its parts
    (:mod:`learning_dynamics.along`)."""
    style.apply()
    roles = [role for role in ROLES if role in runs]
    kinds = _order(parts["response_type"].unique())
    height = 2.75 + 2.35 + 1.1 + 0.15 * len(kinds)
    figure = plt.figure(figsize=(8.6, height))
    rows = figure.subfigures(3, 1, height_ratios=[2.75, 2.35, 1.1 + 0.15 * len(kinds)])
    _scatter(rows[0], runs, scores, roles)
    _reach(rows[1], scores, roles)
    _through(rows[2], parts, roles, kinds)
    style.stamp(figure, study)
    return figure


def _order(found: list[str]) -> list[str]:
    return [*(k for k in style.TYPES if k in found), *(k for k in found if k not in style.TYPES)]


def _cell(scores: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of all types together with these values."""
    rows = scores[scores["response_type"] == ALL]
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows


def _scatter(figure: SubFigure, runs: Runs, scores: pd.DataFrame, roles: list[str]) -> None:
    axes = np.atleast_1d(figure.subplots(1, len(roles)))
    figure.subplots_adjust(left=0.075, right=0.985, top=0.77, bottom=0.17, wspace=0.24)
    for panel, role in zip(axes, roles, strict=True):
        table = pd.concat(runs[role].values())
        table = table[(table["updates"] == 1) & (table["factor"] == 1)]
        looks = [style.TYPES.get(kind, ("#777777", 1.0)) for kind in table["response_type"]]
        colours = [to_rgba(look[0], 0.4 + 0.5 * look[1]) for look in looks]
        limit = 1.05 * table[["steps", "measured"]].abs().to_numpy().max()
        panel.plot([-limit, limit], [-limit, limit], color="#999999", lw=0.8, zorder=0)
        panel.scatter(table["steps"], table["measured"], s=9, lw=0, c=colours)
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit))
        row = _cell(scores, role=role, step=ALL, updates=1, factor=1, predictor="steps").iloc[0]
        words = f"R² = {_number(row, 'r2')}\nslope {_number(row, 'slope')}"
        panel.text(0.03, 0.97, words, transform=panel.transAxes, va="top", fontsize=7.5,
                   fontweight="bold")  # fmt: skip
        colour, name = ROLES[role]
        panel.set_title(f"{name}, lr {row['lr']:.2g}", color=colour, fontweight="bold")
        panel.set_xlabel("predicted: J Δθ (nats)")
    axes[0].set_ylabel("measured (nats)")
    style.heading(figure, "a", "One optimiser step: change of every probed response, predicted to "
                  "first order against measured")  # fmt: skip
    figure.text(0.05, 0.895, "Each point a response in one window; line: equal; colours: types as "
                "in (d). R² against each type's own mean: what is said of single responses.",
                fontsize=6.3, va="top", color="#444444")  # fmt: skip


def _number(row: pd.Series, name: str) -> str:
    text = f"{row[name]:.2f}"
    if pd.notna(row[f"{name}_low"]):
        text += f" [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
    return text.replace("-", "−")


def _reach(figure: SubFigure, scores: pd.DataFrame, roles: list[str]) -> None:
    over, rate, *longer = figure.subplots(1, 2 + len(roles), sharey=True)
    figure.subplots_adjust(left=0.09, right=0.985, top=0.7, bottom=0.2, wspace=0.1)
    for role in roles:
        colour, name = ROLES[role]
        one = _cell(scores, role=role, updates=1, predictor="steps")
        _line(over, one[(one["factor"] == 1) & (one["step"] != ALL)], "step", colour)
        here = one[one["step"] == ALL].sort_values("lr")
        _line(rate, here, "lr", colour)
        _line(rate, here[here["factor"] == 1], "lr", colour, size=6.5)
        over.plot([], [], color=colour, label=name)
    over.set_xlabel("updates done")
    over.set_title("over training")
    over.set_ylabel("R² within types")
    over.legend(fontsize=6, frameon=False, loc="best", handlelength=1.2)
    rate.set(xscale="log", xlabel="learning rate of one step")
    rate.set_title("by rate (large: the run's)")
    for panel, role in zip(longer, roles, strict=True):
        colour, name = ROLES[role]
        for predictor, (dashes, mark, words) in PREDICTORS.items():
            rows = _cell(scores, role=role, step=ALL, factor=1, predictor=predictor)
            _line(panel, rows.sort_values("updates"), "updates", colour, dashes, mark)
            panel.plot([], [], color="#555555", ls=dashes, marker=mark, ms=3, label=words)
        panel.set_xscale("log", base=2)
        ticks = sorted(_cell(scores, role=role, factor=1)["updates"].unique())
        panel.set_xticks(ticks, [f"{tick}" for tick in ticks])
        panel.set_xlabel("updates of the run")
        panel.set_title(name, color=colour, fontweight="bold")
    handles = longer[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=6.3, frameon=False, ncols=4, loc="upper right",
                  bbox_to_anchor=(0.99, 0.915))  # fmt: skip
    over.set_ylim(*_ends(scores))
    over.set_yscale("log")
    ticks = [tick for tick in SHOWN if over.get_ylim()[1] <= 1 - tick <= over.get_ylim()[0]]
    over.set_yticks([1 - tick for tick in ticks], [f"{t:g}".replace("-", "−") for t in ticks])
    for panel in (over, rate, *longer):
        panel.axhline(1, color="#999999", lw=0.8)
        panel.minorticks_off()
    style.heading(figure, "b, c", "")
    figure.text(0.085, 0.985, "How far it carries: along the run and with the rate of one step "
                "(b), with the number of updates (c)", fontsize=10, va="top")  # fmt: skip
    figure.text(0.05, 0.895, "Line: each type's own mean (R² = 0). Axis: log of 1 − R².",
                fontsize=6.3, va="top", color="#444444")  # fmt: skip


def _ends(scores: pd.DataFrame) -> tuple[float, float]:
    """The lowest and the highest end of the axis, as 1 − R²."""
    left = 1 - _cell(scores)["r2"].dropna()
    left = left.clip(BEST, WORST) if len(left) else pd.Series([0.1, 1.0])
    return max(2.0, 2 * left.max()), min(0.5, left.min() / 2)


def _line(
    panel: Axes,
    rows: pd.DataFrame,
    across: str,
    colour: str,
    dashes: str = "-",
    mark: str = "o",
    size: float = 3,
) -> None:
    """1 − R² with its interval."""
    x, left = rows[across].to_numpy(dtype=float), 1 - rows["r2"].to_numpy()
    shown = np.clip(left, BEST, WORST)
    low, high = (np.clip(1 - rows[f"r2_{end}"], BEST, WORST) for end in ("low", "high"))
    panel.plot(x, shown, color=colour, ls=dashes, lw=1)
    panel.vlines(x, low, high, color=colour, lw=0.6, alpha=0.6)
    for inside, face in ((shown == left, colour), (shown != left, "white")):
        panel.plot(x[inside], shown[inside], mark, color=colour, mfc=face, ms=size)


def _through(figure: SubFigure, parts: pd.DataFrame, roles: list[str], kinds: list[str]) -> None:
    axes = np.atleast_1d(figure.subplots(1, len(roles), sharey=True))
    figure.subplots_adjust(left=0.155, right=0.985, top=0.8, bottom=0.19, wspace=0.08)
    for panel, role in zip(axes, roles, strict=True):
        here = parts[(parts["role"] == role) & (parts["step"] == ALL)]
        by = {part: rows.set_index("response_type") for part, rows in here.groupby("part")}
        for place, kind in enumerate(kinds):
            if kind not in by["measured"].index:
                continue
            ends = {True: 0.0, False: 0.0}
            for part, (colour, _) in THROUGH.items():
                value = by[part].loc[kind, "value"]
                panel.barh(place, value, left=ends[value > 0], color=colour, height=0.72)
                ends[value > 0] += value
            whole = by["measured"].loc[kind]
            panel.plot([whole["low"], whole["high"]], [place, place], color="black", lw=1)
            panel.plot(whole["value"], place, "o", color="black", ms=3.4)
        panel.axvline(0, color="#666666", lw=0.6)
        colour, name = ROLES[role]
        panel.set_title(name, color=colour, fontweight="bold")
        panel.set_xlabel("change by one step (nats)")
    names = [style.TYPES[k][2] if k in style.TYPES else style.plain(k) for k in kinds]
    axes[0].set_yticks(range(len(kinds)), names, fontsize=6.5)
    for label, kind in zip(axes[0].get_yticklabels(), kinds, strict=True):
        label.set_color(style.TYPES.get(kind, ("#555555",))[0])
    axes[0].invert_yaxis()
    style.heading(figure, "d", "What one step does to each type, and through which response")
    at = 0.05
    for part, (colour, words) in THROUGH.items():
        ink = "#888888" if part == "higher" else colour
        figure.text(at, 0.925, f"■ {words}", color=ink, fontsize=7, fontweight="bold", va="top")
        at += 0.035 + 0.0078 * len(words)
    figure.text(at, 0.925, "● measured, their sum", fontsize=7, fontweight="bold", va="top")
