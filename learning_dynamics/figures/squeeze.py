"""figures/squeeze: where the probability mass goes.

(a) theory, (b) along DPO and its controls, (c) in one step, (d) what extend changes.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from learning_dynamics import dynamics
from learning_dynamics.dynamics import Trajectories, change, estimate, series
from learning_dynamics.figures import style
from learning_dynamics.landing import DEPTH_LABELS, DEPTHS

ROLES = {"dpo": "DPO", "continued": "control: SFT continued", "coinflip": "control: coin-flip DPO"}
PARTS = {
    "label": (style.REJECTED, "y⁻ token"),
    "top_other": (style.GREEDY, "best other token"),
    "rest": ("#999999", "all remaining"),
}


def draw(
    study: dict,
    runs: Mapping[str, Trajectories],
    one_step: Mapping[int, pd.DataFrame],
    theory: pd.DataFrame,
) -> Figure:
    """The whole figure from trajectories by role, single-step tables by seed and theory's table."""
    style.apply()
    figure = plt.figure(figsize=(8.2, 13.2))
    parts = figure.subfigures(4, 1, height_ratios=[3.6, 4.0, 2.0, 3.4])
    _theory(parts[0], theory)
    _along(parts[1], runs)
    _one_step(parts[2], one_step)
    _extend(parts[3], runs)
    style.stamp(figure, study)
    return figure


def _theory(figure: SubFigure, table: pd.DataFrame) -> None:
    titles = list(table["regime"].unique())
    axes = figure.subplots(3, len(titles), sharex=True, sharey="row",
                           gridspec_kw={"height_ratios": [1, 1, 0.9]})  # fmt: skip
    figure.subplots_adjust(left=0.085, right=0.985, top=0.8, bottom=0.11, hspace=0.15, wspace=0.1)
    for column, title in zip(axes.T, titles, strict=True):
        rows = table[table["regime"] == title]
        label = int(rows["label"].iloc[0])
        index, before, after = rows["class"], rows["before"], rows["after"]
        for panel in column[:2]:
            panel.fill_between(index, before, step="mid", color=style.BEFORE, lw=0, zorder=1)
            panel.step(index, after, where="mid", color=style.CHOSEN, lw=1.1, zorder=2)
            panel.plot(label, after.iloc[label], "v", color=style.REJECTED, ms=5, zorder=4)
        column[0].set_title(title, fontsize=8.5)
        best = before.drop(before.index[label]).idxmax()
        if before[best] > 0.1:
            column[0].annotate(
                f"{before[best]:.2f} → {after[best]:.2f}", (rows["class"][best], after[best]),
                xytext=(3, -1), textcoords="offset points", fontsize=7, va="top",
                color=style.CHOSEN,
            )  # fmt: skip
        column[1].set_yscale("log")
        column[2].set_yscale("log")
        column[2].plot(index, after / before, "o", color=style.CHOSEN, ms=3)
        column[2].plot(index, rows["predicted_ratio"], "-", color=style.GREEDY, lw=0.7)
        column[2].axhline(1, color="#999999", lw=0.6, ls=":")
        column[2].set_xlabel("class")
    axes[0, 0].set_ylabel("π")
    axes[1, 0].set_ylabel("π (log)")
    axes[1, 0].set_ylim(1e-6, 1.5)
    axes[2, 0].set_ylabel("after / before")
    axes[0, 0].text(0.03, 0.97, "before", color="#777777", transform=axes[0, 0].transAxes,
                    fontsize=7, va="top")  # fmt: skip
    axes[0, 0].text(0.03, 0.82, "after", color=style.CHOSEN, transform=axes[0, 0].transAxes,
                    fontsize=7, va="top")  # fmt: skip
    axes[0, 0].text(0.03, 0.67, "▾ label", color=style.REJECTED, transform=axes[0, 0].transAxes,
                    fontsize=7, va="top")  # fmt: skip
    axes[2, 0].text(0.03, 0.06, "dots: measured\nline: Lemma 1", fontsize=6.5, va="bottom",
                    transform=axes[2, 0].transAxes)  # fmt: skip
    style.heading(figure, "a", "One gradient step on a softmax: a negative step feeds the peak")


def _band(axes: Axes, runs: Trajectories, column: str, kind: str, colour: str, **line) -> float:  # noqa: ANN003
    """Mean over seeds of the change since the start, with the range of seeds; its end value."""
    curves = []
    for trajectory in runs.values():
        steps, values = series(trajectory, column, kind)
        curves.append(np.nanmean(values - values[0], axis=1))
    curves = np.array(curves)
    if len(curves) > 1 and line.get("lw", 1) > 1:
        axes.fill_between(steps, curves.min(0), curves.max(0), color=colour, lw=0,
                          alpha=0.2 * line.get("alpha", 1.0))  # fmt: skip
    axes.plot(steps, curves.mean(0), color=colour, **line)
    return float(curves.mean(0)[-1])


def _along(figure: SubFigure, runs: Mapping[str, Trajectories]) -> None:
    axes = figure.subplots(2, 3, sharex=True, sharey="row")
    figure.subplots_adjust(left=0.1, right=0.86, top=0.87, bottom=0.1, hspace=0.2, wspace=0.1)
    ends: dict[str, dict[str, float]] = {}
    for (role, title), (top, bottom) in zip(ROLES.items(), axes.T, strict=True):
        by_seed = runs[role]
        top.set_title(title)
        top.axhline(0, color="#999999", lw=0.6, ls=":")
        bottom.axhline(0, color="#999999", lw=0.6, ls=":")
        label = _band(top, by_seed, "logp", "rejected", style.REJECTED, lw=2)
        best = _band(top, by_seed, "logp_top_other", "rejected", style.GREEDY, lw=2)
        ends[role] = {"label": label, "best": best}
        some = next(iter(by_seed.values()))
        present = set(some["response_type"])
        for kind, (colour, alpha, _) in style.TYPES.items():
            if kind in present and kind not in ("chosen", "rejected"):
                ends[role][kind] = _band(bottom, by_seed, "logp", kind, colour, lw=0.8, alpha=alpha)
        ends[role]["rejected"] = _band(bottom, by_seed, "logp", "rejected", style.REJECTED, lw=2)
        ends[role]["chosen"] = _band(bottom, by_seed, "logp", "chosen", style.CHOSEN, lw=2)
        ends[role]["greedy"] = _band(bottom, by_seed, "logp_argmax", "chosen", style.GREEDY, lw=2)
        ends[role]["greedy0"] = _band(
            bottom, by_seed, "logp_greedy0", "chosen", style.GREEDY, lw=1.2, ls="--"
        )
        bottom.set_xlabel("updates")
    low, high = axes[0, 0].get_ylim()
    room = 0.18 * (high - low)  # for the numbers
    axes[0, 0].set_ylim(low - room, high + room)
    for role, panel in zip(ROLES, axes[0], strict=True):
        for key, colour, word, height in (("best", style.GREEDY, "best other", 0.93),
                                          ("label", style.REJECTED, "y⁻", 0.06)):  # fmt: skip
            panel.text(0.97, height, f"{word} {ends[role][key]:+.1f}", ha="right", color=colour,
                       fontsize=9, fontweight="bold", transform=panel.transAxes)  # fmt: skip
    last = ends["coinflip"]
    axes[0, 0].set_ylabel("at y⁻ prefixes:\nchange since start (nats)")
    axes[1, 0].set_ylabel("along each response:\nchange since start (nats)")
    labels = [(last["greedy"], "greedy along y⁺", style.GREEDY),
              (last["greedy0"], "greedy at start (- -)", "#555555"),
              (last["chosen"], "y⁺", style.CHOSEN),
              (last["rejected"], "y⁻", style.REJECTED)]  # fmt: skip
    derived = [k for k, v in style.TYPES.items() if v[0] == style.CHOSEN and k != "chosen"]
    groups = {
        "rephrases, initial": (derived, style.CHOSEN),
        "rephrases of y⁻": (["reject_gptsemantic", "reject_gptformat"], style.REJECTED),
        "irrelevant": (["irr_train", "irr_test", "irr_hum"], style.IRRELEVANT),
        "shuffled words": (["random_permute", "random_nonhum"], style.RANDOM),
    }  # fmt: skip
    for word, (kinds, colour) in groups.items():
        here = [last[k] for k in kinds if k in last]
        if here:
            labels.append((float(np.mean(here)), word, colour))
    style.direct_labels(axes[1, 2], labels)
    style.heading(figure, "b", "During DPO: y⁻ is pushed down — who gains, and is it DPO's doing?")


def _one_step(figure: SubFigure, one_step: Mapping[int, pd.DataFrame]) -> None:
    axes = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(left=0.1, right=0.86, top=0.77, bottom=0.22, wspace=0.1)
    table = pd.concat([t.assign(seed=seed) for seed, t in one_step.items()])
    table["bin"] = pd.cut(table["p_label"], DEPTHS, labels=DEPTH_LABELS, include_lowest=True)
    titles = {"dpo": "one DPO step", "coinflip": "one coin-flip DPO step",
              "sft": "one SFT step on y⁺"}  # fmt: skip
    for panel, (kind, title) in zip(axes, titles.items(), strict=True):
        rows = table[table["kind"] == kind]
        panel.set_title(f"{title} (same length)" if kind == "dpo" else title)
        panel.axhline(0, color="#999999", lw=0.6)
        for number, (part, (colour, _)) in enumerate(PARTS.items()):
            per_batch = (
                rows.groupby(["seed", "batch", "bin"], observed=False)[f"dp_{part}"].mean() * 100
            )
            by_bin = per_batch.groupby("bin", observed=False)
            mean, error = by_bin.mean(), 1.96 * by_bin.std() / np.sqrt(by_bin.count())
            at = np.arange(len(mean)) + (number - 1) * 0.27
            panel.bar(at, mean, 0.26, color=colour, yerr=error,
                      error_kw={"lw": 0.7, "ecolor": "#666666"})  # fmt: skip
        panel.set_xticks(range(len(DEPTH_LABELS)), DEPTH_LABELS)
        panel.set_xlabel("π(y⁻ token) before the step")
    axes[0].set_ylabel("change of mass\n(percentage points)")
    for number, (colour, word) in enumerate(PARTS.values()):
        axes[2].text(1.02, 0.85 - 0.17 * number, word, color=colour, fontsize=7.5,
                     fontweight="bold", transform=axes[2].transAxes)  # fmt: skip
    style.heading(figure, "c", "One step: mass at a y⁻ position, by how deep in the valley it lies")


def _extend(figure: SubFigure, runs: Mapping[str, Trajectories]) -> None:
    axes = figure.subplots(1, 2, sharey=True, sharex=True)
    figure.subplots_adjust(left=0.2, right=0.86, top=0.86, bottom=0.14, wspace=0.08)
    trio = {"dpo": ("after SFT", "o", "#000000"), "extend": ("after extend", "s", "#009E73"),
            "matched": ("after its twin\n(y⁺ only, as\nmany rows)", "D", "#AA4499")}  # fmt: skip
    present = set(next(iter(runs["dpo"].values()))["response_type"])
    kinds = [("logp", kind, style.TYPES[kind][2], style.TYPES[kind][0]) for kind in style.TYPES
             if kind in present]  # fmt: skip
    kinds.append(("logp_argmax", "chosen", "greedy along y⁺", style.GREEDY))
    same = dict(zip(trio, dynamics.equal_margin([runs[role] for role in trio]), strict=True))
    for panel, basis in zip(axes, ("updates", "margin"), strict=True):
        panel.set_title(f"at equal {basis}")
        panel.axvline(0, color="#999999", lw=0.6)
        for number, (role, (word, marker, colour)) in enumerate(trio.items()):
            at = same[role] if basis == "margin" else None
            found = [estimate(change(runs[role], name, [kind], at)) for name, kind, _, _ in kinds]
            value = np.array([e.value for e in found])
            error = [value - [e.low for e in found], [e.high for e in found] - value]
            heights = np.arange(len(kinds))[::-1] + (1 - number) * 0.24
            panel.errorbar(value, heights, xerr=error, fmt=marker, ms=3.2, lw=0.9, color=colour)
            if panel is axes[1]:
                panel.text(1.03, 0.9 - 0.16 * number, word, color=colour, fontsize=7.5, va="center",
                           fontweight="bold", transform=panel.transAxes)  # fmt: skip
        panel.set_xlabel("change of log-prob under DPO (nats)")
        panel.grid(axis="y", lw=0.3)
    axes[0].set_yticks(np.arange(len(kinds))[::-1], [word for *_, word, _ in kinds])
    for tick, (*_, colour) in zip(axes[0].get_yticklabels(), kinds, strict=True):
        tick.set_color(colour)
    style.heading(
        figure, "d", "What DPO does to each response after SFT, extend, and extend's twin"
    )
