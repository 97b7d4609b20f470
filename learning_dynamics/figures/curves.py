"""What the trajectory figures share: curves with their bands, panels of curves, and their words.

A curve is the mean over train probes of a column's change since the start, in nats, against epochs.
Nothing is smoothed. Its label gives the level where it starts and ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from learning_dynamics.dynamics import (
    DRAWS,
    Trajectories,
    interval,
    mean_over_kinds,
    series,
    t_quantile,
)
from learning_dynamics.errors import InputError
from learning_dynamics.figures import style

Stages = Sequence[Trajectories]  # runs that follow each other, e.g. SFT and the DPO from its end
WIDTH = 12.0  # inches
MISSING = "not recorded"
CHANGE, LEVEL = "change of log π (nats)", "log π (nats)"


@dataclass(frozen=True)
class Line:
    """One curve of a panel: a response type (or the mean of several) and a column; colour, dash and
    label are the type's own unless given."""

    kinds: str | tuple[str, ...]
    column: str = "logp"
    colour: str | None = None
    dash: object = None
    label: str | None = None
    width: float | None = None

    @property
    def first(self) -> str:
        """The type that gives the curve its look."""
        return self.kinds if isinstance(self.kinds, str) else self.kinds[0]

    def look(self) -> dict:
        """Keyword arguments of ``Axes.plot``."""
        colour, alpha, _ = style.TYPES.get(self.first, (style.GREEDY, 1.0, ""))
        strong = self.first in ("chosen", "rejected")
        return {
            "color": self.colour or colour,
            "alpha": 1.0 if self.colour else max(alpha, 0.55),
            "ls": self.dash or style.DASHES.get(self.first, "-"),
            "lw": self.width or (2.0 if strong else 1.3),
        }

    def name(self) -> str:
        """The label, in the paper's notation where the type has one; empty: no label."""
        return style.SYMBOLS.get(self.first, self.first) if self.label is None else self.label


GREEDY = Line("chosen", "logp_argmax", style.GREEDY, "-", "greedy, $y_u^+$")
# The published argmax is, by mistake, along shuffled words; panels that show it say so.
GREEDY_PUBLISHED = Line(
    "random_nonhum", "logp_argmax", "#666666", (0, (4, 1.5)), "greedy, $y_{rnd}$"
)


@dataclass(frozen=True)
class Curve:
    """A curve of ``evaluations`` points.

    Attributes:
        x: epochs since the first stage's start; evaluations where the run's epochs are not known.
        level: mean over seeds and probes (nats, or the column's unit).
        low, high: 95% interval of the change since the first point, around ``level``; NaN where
            there is one seed and one number per evaluation (published means).
        turns: where on ``x`` each later stage begins.
        by_epoch: whether ``x`` is in epochs.
    """

    x: np.ndarray
    level: np.ndarray
    low: np.ndarray
    high: np.ndarray
    turns: tuple[float, ...]
    by_epoch: bool

    @property
    def change(self) -> np.ndarray:
        """Change of the level since the first point."""
        return self.level - self.level[0]


def values(runs: Trajectories, column: str, kinds: str | Sequence[str]) -> np.ndarray | None:
    """A column at every evaluation, mean over those of ``kinds`` that are probed, shape (seeds,
    evaluations, examples); None where none is.

    Raises:
        InputError: when the seeds of a run were not evaluated at the same updates.
    """
    kinds = [kinds] if isinstance(kinds, str) else kinds
    out = []
    for trajectory in runs.values():
        present = [k for k in kinds if (trajectory["response_type"] == k).any()]
        if not present or column not in trajectory:
            return None
        out.append(mean_over_kinds(np.array([series(trajectory, column, k)[1] for k in present])))
    if len({one.shape[0] for one in out}) > 1:
        raise InputError("trajectories: the seeds of a run differ in their evaluations; rebuild it")
    return np.array(out)


def curve(stages: Stages, column: str, kinds: str | Sequence[str]) -> Curve | None:
    """A column along runs that follow each other; None where a stage does not know it.

    The band is of the change since the first point: a t-interval over seeds, and with a single seed
    a bootstrap over examples, which says nothing about training noise. Levels differ between seeds
    whose base models differ; the paper's sentences are about changes.

    Raises:
        InputError: when the seeds of a run were not evaluated at the same updates.
    """
    parts = [values(runs, column, kinds) for runs in stages]
    if any(part is None or np.isnan(part).all() for part in parts):
        return None
    x, turns, by_epoch = _axis(stages)
    whole = np.concatenate(parts, axis=1)
    whole = whole[:, :, ~np.isnan(whole).all((0, 1))]
    level = np.nanmean(whole, axis=2).mean(0)
    low, high = band(whole - whole[:, :1])
    return Curve(x, level, level[0] + low, level[0] + high, turns, by_epoch)


def band(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of the mean at every evaluation, from (seeds, evaluations, examples)."""
    seeds, evaluations, examples = moved.shape
    if seeds > 1:
        means = np.nanmean(moved, axis=2)
        half = t_quantile(seeds - 1) * means.std(0, ddof=1) / np.sqrt(seeds)
        return means.mean(0) - half, means.mean(0) + half
    one = moved[0][:, ~np.isnan(moved[0]).any(0)]
    if examples < 2 or one.shape[1] < 2:
        return np.full(evaluations, np.nan), np.full(evaluations, np.nan)
    count = one.shape[1]
    shares = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS) / count
    return tuple(np.array([interval(draws) for draws in (shares @ one.T).T]).T)


def _axis(stages: Stages) -> tuple[np.ndarray, tuple[float, ...], bool]:
    """Where the evaluations of all stages lie, in rows consumed per row of the last stage's
    training set: a pass of SFT on two rows per pair is two epochs of the pairs."""
    heads = [next(iter(runs.values())).groupby("step", sort=True).first() for runs in stages]
    known = all({"examples", "epoch"} <= set(h) and h["epoch"].notna().all() for h in heads)
    if known:
        last = heads[-1].iloc[-1]
        rows = last["examples"] / last["epoch"] if last["epoch"] else 1.0
        parts = [head["examples"].to_numpy(dtype=float) / rows for head in heads]
    else:
        parts = [np.arange(len(head), dtype=float) for head in heads]
    x, turns = parts[0], []
    for part in parts[1:]:
        turns.append(float(x[-1]))
        x = np.concatenate([x, x[-1] + part])
    return x, tuple(turns), known


@dataclass(frozen=True)
class Panel:
    """What a panel draws.

    Attributes:
        title: what it shows.
        lines: its curves.
        peaks: mark every curve's own best point.
        levels: draw levels instead of changes since the start.
        digits: of the numbers in the labels.
    """

    title: str
    lines: tuple[Line, ...]
    peaks: bool = False
    levels: bool = False
    digits: int = 1

    def draw(self, axes: Axes, stages: Stages) -> list[Curve]:
        """Draw the panel's lines along one chain of runs."""
        axes.set_title(self.title)
        return draw_lines(axes, [(stages, line) for line in self.lines], self)


def draw_lines(
    axes: Axes, items: Sequence[tuple[Stages, Line]], panel: Panel, from_turn: bool = False
) -> list[Curve]:
    """Draw curves with their bands and direct labels; those whose column is known.

    Args:
        from_turn: x counts from the beginning of the last stage, and the labels give the change
            since then; else they give the level at the start and the end.
    """
    drawn, labels = [], []
    for stages, line in items:
        found = curve(stages, line.column, line.kinds)
        if found is None:
            continue
        look, end = line.look(), found.level[-1]
        turned = from_turn and bool(found.turns)
        start = int(np.searchsorted(found.x, found.turns[-1], "right")) - 1 if turned else 0
        x, shift = found.x - found.x[start], 0.0 if panel.levels else found.level[0]
        axes.plot(x, found.level - shift, **look)
        if look["lw"] >= 1:
            axes.fill_between(x, found.low - shift, found.high - shift, color=look["color"], lw=0,
                              alpha=0.15 * look["alpha"])  # fmt: skip
        if panel.peaks and np.isfinite(found.level).all():
            best = int(found.level.argmax())
            axes.plot(x[best], found.level[best] - shift, "v", color=look["color"], ms=5,
                      mec="white", mew=0.5)  # fmt: skip
        if from_turn:
            labels.append((end - shift, f"{end - found.level[start]:+.{panel.digits}f}", look))
        elif line.name():
            digits = [max(0, panel.digits - (abs(v) >= 100)) for v in (found.level[0], end)]
            ends = f"{found.level[0]:.{digits[0]}f}→{end:.{digits[1]}f}"
            labels.append((end - shift, f"{line.name()} {ends}", look))
        drawn.append(found)
    if not drawn:
        axes.text(0.5, 0.5, MISSING, ha="center", va="center", color="#888888", fontsize=7,
                  transform=axes.transAxes)  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        return drawn
    if not panel.levels:
        axes.axhline(0, color="#999999", lw=0.6, ls=":", zorder=0)
    for turn in drawn[0].turns:
        axes.axvline(0 if from_turn else turn, color="#777777", lw=0.8, ls="-.", zorder=0)
    words = [(y, text.replace("-", "−"), look["color"]) for y, text, look in labels]
    style.direct_labels(axes, words, gap=0.085)
    axes.set_xlabel("epochs" if drawn[0].by_epoch else "evaluations")
    return drawn


def grid(
    rows: int, columns: int, title: str, right: float = 1.2, top: float = 0.66
) -> tuple[Figure, np.ndarray]:
    """A figure of panels with room for their labels, ``right`` inches each, and a title line; the
    panels begin ``top`` inches below its upper edge."""
    width, height = WIDTH, top + 0.1 + 2.45 * rows
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    each = (width - 0.62) / columns
    plot = each - right - 0.5
    figure.subplots_adjust(left=0.62 / width, right=1 - right / width, top=1 - top / height,
                           bottom=0.55 / height, wspace=(right + 0.5) / plot,
                           hspace=0.5)  # fmt: skip
    figure.text(0.005, 1 - 0.07 / height, title, fontsize=11, va="top")
    return figure, axes


def names(figure: Figure, words: Sequence[tuple[str, str, object]]) -> None:
    """A line of coloured names below the title: (name, colour, dash); an empty dash: no line."""
    height, left = figure.get_figheight(), 0.06
    for name, colour, dash in words:
        y = 1 - 0.43 / height
        if dash:
            x = [left / WIDTH, (left + 0.3) / WIDTH]
            figure.add_artist(Line2D(x, [y, y], color=colour, ls=dash, lw=1.6))
            left += 0.36
        figure.text(left / WIDTH, y, name, color=colour, fontsize=8, va="center", fontweight="bold")
        left += 0.075 * len(name) + 0.25


def table(rows: Mapping[str, Stages], panels: Sequence[Panel], title: str, study: dict) -> Figure:
    """A figure with a row per chain of runs (a model, a data set, a published run) and a column per
    panel."""
    style.apply()
    figure, axes = grid(len(rows), len(panels), title, 1.45 if len(panels) < 4 else 1.25, top=0.85)
    for line, (name, stages) in zip(axes, rows.items(), strict=True):
        for axis, panel in zip(line, panels, strict=True):
            panel.draw(axis, stages)
        line[0].set_ylabel(LEVEL if panels[0].levels else CHANGE)
        figure.text(0.005, line[0].get_position().y1 + 0.3 / figure.get_figheight(), name,
                    fontsize=9, fontweight="bold", va="bottom")  # fmt: skip
    finish(figure, study, [runs for stages in rows.values() for runs in stages])
    return figure


def finish(
    figure: Figure, study: dict, runs: Sequence[Trajectories], labels: str = "first→last level"
) -> None:
    """The stamp, and at the bottom left what labels and bands are; nothing is smoothed."""
    kinds = []
    for one in runs:
        if len(one) > 1:
            kinds.append(f"95% t-interval over {len(one)} seeds")
        elif next(iter(one.values()))["example_id"].notna().any():
            kinds.append("95% bootstrap over examples (one seed: no training noise)")
        else:
            kinds.append("none where the file holds means alone")
    kinds = list(dict.fromkeys(kinds))
    above = 0.1 / figure.get_figheight() if len(kinds) > 1 else 0.0  # clear of the stamp
    figure.text(0.005, 0.002 + above, "Means over train probes, sums of log-probs in nats, not "
                f"smoothed; labels: {labels}. Bands, of the change since the start: "
                f"{'; '.join(kinds)}.", fontsize=5.5, color="#666666", va="bottom")  # fmt: skip
    style.stamp(figure, study)
