"""figures/entk_proxies: what an update does to every response type. The kernel's proxies as
defined, and as the published notebook computes them; how both agree with the true kernel."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from learning_dynamics.figures import style
from learning_dynamics.proxies import DEFINED, PUBLISHED

BLOCKS = [
    ("lbk", DEFINED, "LBK, as defined: ‖Δ log π‖² / (‖A‖²‖G‖²)"),
    ("sign_delta", DEFINED, "SignΔ, as defined: mean Δ log π (nats)"),
    ("lbk", PUBLISHED, "LBK, as published (from trajectories)"),
    ("sign_delta", PUBLISHED, "SignΔ, as published (from trajectories)"),
]
ROW, TOP, BOTTOM, AGREEMENT = 1.75, 1.25, 0.45, 2.9  # inches
NAMES = {"lbk": "LBK", "sign_delta": "SignΔ", "abs_sign_delta": "|SignΔ|"}
WHERE = {
    ("one_step", DEFINED): "one plain step, as defined",
    ("run", DEFINED): "along the runs, as defined",
    ("run", PUBLISHED): "along the runs, as published",
}


def draw(
    study: dict,
    curves: pd.DataFrame,
    accumulated: pd.DataFrame,
    agreement: pd.DataFrame | None,
) -> Figure:
    """The whole figure from its tables; ``agreement`` is None where no kernel was computed."""
    style.apply()
    updates = list(curves["update"].unique())
    below = 0.0 if agreement is None else AGREEMENT
    height = TOP + ROW * len(updates) + BOTTOM + below
    figure = plt.figure(figsize=(15.5, height))
    widths = [0.62, 0.38] * len(BLOCKS)
    grid = figure.add_gridspec(
        len(updates), len(widths), width_ratios=widths, left=0.075, right=0.993,
        top=1 - TOP / height, bottom=(BOTTOM + below) / height, hspace=0.32, wspace=0.52,
    )  # fmt: skip
    for row, update in enumerate(updates):
        for block, (quantity, definition, title) in enumerate(BLOCKS):
            of = {"update": update, "quantity": quantity, "definition": definition}
            left = figure.add_subplot(grid[row, 2 * block])
            right = figure.add_subplot(grid[row, 2 * block + 1])
            if row == 0:
                left.set_title(title, fontsize=9, fontweight="bold", y=1.1)
            if block == 0:
                left.text(-0.36, 0.5, _supervision(update), transform=left.transAxes, rotation=90,
                          ha="center", va="center", fontsize=8.5, fontweight="bold")  # fmt: skip
            here = _rows(curves, of)
            if here.empty:
                _absent(left, right, definition, update)
                continue
            _lines(left, here, quantity)
            _bars(right, _rows(accumulated, of))
            if row == len(updates) - 1:
                left.set_xlabel("updates")
                right.set_xlabel("summed over the run", fontsize=7, labelpad=9)
    _head(figure, height, curves, updates)
    if agreement is not None:
        _agreement(figure, agreement, below / height)
    style.stamp(figure, study)
    return figure


def _rows(table: pd.DataFrame, of: dict[str, str]) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[key] == value for key, value in of.items()])]


def _supervision(update: str) -> str:
    if update.startswith("published: "):
        return update.replace("published: ", "published run\n").replace("_", "\u200b_")
    if update in style.TYPES:
        return f"SFT on\n{style.TYPES[update][2]}"
    return f"{update.upper()} on\n(y⁺, y⁻)"


def _absent(left: Axes, right: Axes, definition: str, update: str) -> None:
    left.set_axis_off()
    right.set_axis_off()
    why = "not measured:\nneeds log π over the whole\nvocabulary inside the run"
    if definition == PUBLISHED:
        why = "the published file\nlacks these columns" if ":" in update else "not known"
    left.text(0.7, 0.5, why, ha="center", va="center", transform=left.transAxes, color="#888888",
              fontsize=7)  # fmt: skip


def _lines(axes: Axes, table: pd.DataFrame, quantity: str) -> None:
    """Mean over seeds: raw faint, smoothed on top."""
    for kind, rows in table.groupby("observed", sort=False):
        colour, alpha, _ = style.TYPES.get(kind, ("#555555", 1.0, kind))
        mean = rows.groupby("step")[["value", "ema"]].mean()
        width = 1.8 if kind in ("chosen", "rejected") else 1.0
        axes.plot(mean.index, mean["value"], color=colour, lw=0.5, alpha=0.25 * alpha)
        axes.plot(mean.index, mean["ema"], color=colour, lw=width, alpha=alpha)
    if quantity == "lbk" and (table["ema"] > 0).all():
        axes.set_yscale("log")
    else:
        axes.axhline(0, color="#999999", lw=0.6, ls=":")
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    axes.tick_params(labelsize=6)


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    kinds = [k for k in style.TYPES if k in set(table["observed"])]
    kinds += [k for k in table["observed"] if k not in kinds]
    rows = table.set_index("observed").loc[kinds]
    for y, (kind, row) in enumerate(rows.iterrows()):
        colour, alpha, _ = style.TYPES.get(kind, ("#555555", 1.0, kind))
        axes.barh(y, row["value"], 0.8, color=colour, alpha=alpha)
        if pd.notna(row["low"]):
            axes.plot([row["low"], row["high"]], [y, y], color="black", lw=0.7)
    names = [style.TYPES.get(k, ("", 1, k))[2] for k in kinds]
    axes.set_yticks(range(len(kinds)), names, fontsize=5)
    axes.invert_yaxis()
    axes.axvline(0, color="#666666", lw=0.6)
    axes.tick_params(axis="y", length=0, pad=1)
    axes.tick_params(axis="x", labelsize=5.5)
    axes.locator_params(axis="x", nbins=3)
    axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    axes.xaxis.get_offset_text().set_fontsize(5.5)
    reach = max(rows["value"].abs().max(), 1e-300)  # an interval may be far wider than the bars
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -2.5 * reach), min(high, 2.5 * reach))


def _head(figure: Figure, height: float, curves: pd.DataFrame, updates: list[str]) -> None:
    ours = curves[~curves["update"].str.startswith("published: ")]
    raised = []
    for update in [u for u in updates if u in set(ours["observed"])]:
        of = {"update": update, "quantity": "sign_delta", "definition": PUBLISHED}
        sums = _rows(ours, of).groupby("observed")["ema"].sum()
        raised.append(len(sums) > 0 and sums.idxmax() == update)
    own = f"SFT raises its own type most in {sum(raised)} of {len(raised)} updates"
    figure.text(0.012, 1 - 0.12 / height, f"What an update on one type (row) does to every other: "
                f"{own}" * bool(raised) or "What an update does to every type", fontsize=12,
                va="top", fontweight="bold")  # fmt: skip
    figure.text(0.012, 1 - 0.4 / height, "Thick: EMA s = 0.9 s + 0.1 x; faint: raw; mean over "
                "seeds. Bars: sum over the run (as published: of the EMA), 95% t-interval over "
                "seeds, cut where it is wider than the panel.", fontsize=8, va="top",
                color="#444444")  # fmt: skip
    x = 0.012
    present = set(curves["observed"])
    for kind, (colour, alpha, name) in style.TYPES.items():
        if kind in present:
            figure.text(x, 1 - 0.63 / height, f"■ {name}", color=colour, alpha=max(alpha, 0.5),
                        fontsize=8, va="top", fontweight="bold")  # fmt: skip
            x += (len(name) + 3.4) * 0.0048


def _agreement(figure: Figure, table: pd.DataFrame, share: float) -> None:
    titles = {"per_position": "‖K‖²_F per observed position"}
    grid = GridSpec(1, len(titles), figure=figure, left=0.16, right=0.985, top=share * 0.77,
                    bottom=share * 0.15, wspace=0.06)  # fmt: skip
    lines = [(w, q) for w in WHERE for q in NAMES]
    for number, (kernel, title) in enumerate(titles.items()):
        axes = figure.add_subplot(grid[number])
        axes.axvline(0, color="#999999", lw=0.7)
        for y, ((setting, definition), proxy) in enumerate(lines):
            of = {"setting": setting, "definition": definition, "proxy": proxy, "kernel": kernel}
            for over, marker, face, shift in (("all", "o", "black", -0.14),
                                              ("within", "o", "white", 0.14)):  # fmt: skip
                for row in _rows(table, {**of, "over": over}).to_dict("records"):
                    if pd.notna(row["low"]):
                        ends = np.clip([row["low"], row["high"]], -1, 1)
                        axes.plot(ends, [y + shift] * 2, color="black", lw=0.8)
                    axes.plot(row["spearman"], y + shift, marker, color="black", mfc=face, ms=4.5)
        for y in (2.5, 5.5):
            axes.axhline(y, color="#CCCCCC", lw=0.6)
        names = [f"{WHERE[w]}: {NAMES[q]}" for w, q in lines] if number == 0 else []
        axes.set_yticks(range(len(lines)) if names else [], names, fontsize=7)
        axes.set(xlim=(-1.03, 1.03), ylim=(len(lines) - 0.5, -0.5))
        axes.set_title(f"rank correlation with the true {title}", fontsize=8.5)
    pairs, seeds = int(table["pairs"].max()), int(table["seeds"].max())
    best = table[(table["proxy"] == "lbk") & (table["over"] == "all")
                 & (table["kernel"] == "per_position")]  # fmt: skip
    words = ", ".join(
        f"{WHERE[row.setting, row.definition]} {row.spearman:+.2f}" for row in best.itertuples()
    )
    figure.text(0.012, share * 0.985, f"Does LBK rank pairs as the true kernel does? {words}",
                fontsize=11, va="top", fontweight="bold")  # fmt: skip
    figure.text(0.012, share * 0.9, f"Spearman’s ρ on a model of at most 20,000 parameters, "
                f"{pairs} (update, observed) pairs, {seeds} seed{'s' * (seeds > 1)}, 95% "
                "t-interval. ● over all pairs   ○ over the observed types of one update, mean",
                fontsize=8, va="top", color="#444444")  # fmt: skip
