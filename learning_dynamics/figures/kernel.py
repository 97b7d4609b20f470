"""figures/kernel: the mutual kernel of response types along training. Is it frozen, as the paper's
reading of accumulated changes assumes, and do the paper's proxies see it?"""

import textwrap
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.figures import style

SCOPES = {"within": "responses to one prompt", "between": "responses to different prompts"}
PROXIES = {"lbk": (style.CHOSEN, "LBK"), "sign_delta": (style.REJECTED, "SignΔ")}
STATISTIC, UNIT = "each_update", "influence"  # drawn; the tables have the others


def draw(
    study: dict,
    kernel: pd.DataFrame,
    stability: pd.DataFrame,
    proxies: pd.DataFrame,
    agreement: pd.DataFrame | None,
) -> Figure:
    """The whole figure from its tables (``learning_dynamics.stability``); ``agreement``: how LBK
    ranks with ‖K‖ on a tiny model, where the study computes that."""
    style.apply()
    stages = list(dict.fromkeys(kernel["stage"]))
    figure = plt.figure(figsize=(8.2, 7.2))
    maps = figure.subplots(1, 2, gridspec_kw={"left": 0.155, "right": 0.9, "top": 0.845,
                                              "bottom": 0.44, "wspace": 0.06})  # fmt: skip
    _heat_maps(figure, maps, kernel, stages)
    panels = figure.subplots(1, 3, gridspec_kw={"left": 0.07, "right": 0.985, "top": 0.315,
                                                "bottom": 0.085, "wspace": 0.12})  # fmt: skip
    for panel, (scope, title) in zip(panels, SCOPES.items(), strict=False):
        _stability(panel, stability, scope, stages)
        panel.set_title(f"({'bc'[panel is panels[1]]}) frozen? {title}", fontsize=8)
    _proxies(panels[2], proxies, agreement, study, stages)
    low = min(-0.05, *(np.nanmin(line.get_ydata()) for p in panels for line in p.get_lines()))
    for panel in panels:
        panel.set_ylim(low - 0.3 * (1 - low), 1.09)  # room for the legends below
        panel.set_yticks([y for y in np.arange(-1, 1.01, 0.25 if low > -0.5 else 0.5) if y >= low])
    for panel in panels[1:]:
        panel.set_yticklabels([])
    panels[0].set_ylabel("rank correlation (Spearman’s ρ)")
    figure.text(0.012, 0.988, _headline(stability, stages), fontsize=9.5, fontweight="bold",
                va="top")  # fmt: skip
    words = (
        "Influence of u on o: what a small SFT step on response u does to log π(o), ⟨∇ log π(u), "
        f"∇ log π(o)⟩, all responses of {study['examples']} prompts on each other. ρ is taken over "
        "the response types o for each u, then averaged; 1 = frozen, the paper’s assumption. "
        "Grey: another seed’s network at the same stage. Bars: 95% t-intervals over seeds."
    )
    figure.text(0.012, 0.955, textwrap.fill(words, 142), fontsize=7, va="top", color="#444444")
    style.stamp(figure, study)
    return figure


def _headline(table: pd.DataFrame, stages: list[str]) -> str:
    first, last = stages[0], stages[-1]
    of = {"compared": "stages", "from": first, "to": last, "scope": "within", "unit": UNIT}
    kept = _rows(table, {**of, "statistic": STATISTIC}).iloc[0]
    norm = _rows(table, {**of, "scope": "all", "statistic": "norm_change"}).iloc[0]
    between = _rows(table, {"compared": "seeds", "from": first, "scope": "within", "unit": UNIT,
                            "statistic": STATISTIC})  # fmt: skip
    apart = between["value"].dropna()
    ends = f" [{kept['low']:.2f}, {min(kept['high'], 1):.2f}]" * bool(pd.notna(kept["low"]))
    return style.plain(
        f"Is the kernel frozen (ρ = 1)? {first} → {last}: ρ = {kept['value']:.2f}{ends}"
        + (f", between seeds {apart.iloc[0]:.2f}" if len(apart) else "")
        + f"; its norm {norm['value']:+.0%}"
    )


def _rows(table: pd.DataFrame, of: dict[str, str]) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[key] == value for key, value in of.items()])]


def _heat_maps(figure: Figure, panels: list[Axes], table: pd.DataFrame, stages: list[str]) -> None:
    """Cosines at the first and the last stage: below the diagonal within prompts, on and above it
    between prompts; both are symmetric."""
    found = set(table["update"])
    kinds = [kind for kind in style.TYPES if kind in found]
    kinds += [kind for kind in dict.fromkeys(table["update"]) if kind not in kinds]
    below = np.tri(len(kinds), k=-1, dtype=bool)
    grids = []
    for stage in (stages[0], stages[-1]):
        wide = {
            scope: _rows(table, {"stage": stage, "scope": scope})
            .pivot(index="update", columns="observed", values="cosine")
            .reindex(index=kinds, columns=kinds)
            for scope in SCOPES
        }
        grids.append(np.where(below, wide["within"], wide["between"]).astype(float))
    reach = np.nanmax(np.abs(grids))
    names = [style.TYPES[k][2] if k in style.TYPES else style.plain(k) for k in kinds]
    for panel, stage, grid in zip(panels, (stages[0], stages[-1]), grids, strict=True):
        image = panel.imshow(grid, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        panel.plot(*_staircase(len(kinds)), color="black", lw=1)
        panel.set_xticks(range(len(kinds)), names, rotation=60, ha="right", fontsize=6,
                         rotation_mode="anchor")  # fmt: skip
        panel.set_yticks(range(len(kinds)), names if panel is panels[0] else [], fontsize=6.5)
        panel.tick_params(length=0)
        panel.set_title(f"{'(a) ' * (panel is panels[0])}{style.plain(stage)}: cosine of the "
                        "responses’ gradients", fontsize=8)  # fmt: skip
        for place, words in (((0.03, 0.03), "one prompt"), ((0.97, 0.97), "different prompts")):
            at = "right" if place[0] > 0.5 else "left"
            panel.text(*place, words, transform=panel.transAxes, ha=at, fontsize=7,
                       va="top" if place[1] > 0.5 else "bottom",
                       bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 1.5})  # fmt: skip
    bar = figure.colorbar(image, cax=figure.add_axes((0.915, 0.44, 0.014, 0.405)))
    bar.ax.tick_params(labelsize=6.5)
    bar.outline.set_visible(False)


def _staircase(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The line below the diagonal's cells."""
    corners = np.arange(count + 1) - 0.5
    return np.repeat(corners, 2)[:-1], np.repeat(corners, 2)[1:]


def _stability(panel: Axes, table: pd.DataFrame, scope: str, stages: list[str]) -> None:
    here = _rows(table, {"scope": scope, "unit": UNIT, "statistic": STATISTIC})
    along = here[here["compared"] == "stages"].set_index(["from", "to"])
    seeds = here[here["compared"] == "seeds"].set_index("from")["value"]
    panel.axhline(1, color="black", lw=0.9, ls="--")
    if seeds.notna().any():
        panel.plot(range(len(stages)), seeds[stages], color="#888888", lw=1.2, label="other seed")
    ends = [along.loc[(stage, stages[-1])] for stage in stages[:-1]]
    _points(panel, range(len(ends)), ends, style.CHOSEN, "o-", "with last stage")
    if len(stages) > 2:
        steps = [along.loc[pair] for pair in pairwise(stages)]
        places = np.arange(len(steps)) + 0.5
        _points(panel, places, steps, style.REJECTED, "D:", "with next stage")
    panel.set_xticks(range(len(stages)), [style.plain(stage) for stage in stages])
    panel.set_xlim(-0.3, len(stages) - 0.7)
    if scope == "within":
        panel.legend(fontsize=6.5, frameon=False, loc="lower left", ncols=2)
        panel.text(len(stages) - 0.75, 1.01, "frozen (assumed)", fontsize=6.5, ha="right",
                   va="bottom")  # fmt: skip


def _points(panel: Axes, places, rows: list[pd.Series], colour: str, look: str, name: str) -> None:  # noqa: ANN001
    values = np.array([row["value"] for row in rows])
    panel.plot(places, values, look, color=colour, ms=4, lw=1.2, label=name)
    for place, row in zip(places, rows, strict=True):
        if pd.notna(row["low"]):
            ends = np.clip([row["low"], row["high"]], -1, 1)
            panel.plot([place, place], ends, color=colour, lw=0.9)


def _proxies(
    panel: Axes, table: pd.DataFrame, agreement: pd.DataFrame | None, study: dict,
    stages: list[str],
) -> None:  # fmt: skip
    """Rank correlation of the proxies with the kernel at every stage; at the right, LBK with ‖K‖²
    on a tiny model."""
    panel.set_title("(d) do the proxies see the kernel?", fontsize=8)
    panel.axhline(1, color="black", lw=0.9, ls="--")
    panel.axhline(0, color="#999999", lw=0.6)
    for shift, (proxy, (colour, name)) in zip((-0.05, 0.05), PROXIES.items(), strict=True):
        for scope, look, words in (("within", "o-", "one prompt"), ("between", "s:", "different")):
            of = {"proxy": proxy, "scope": scope, "statistic": STATISTIC}
            rows = _rows(table, of).set_index("stage").loc[stages]
            places = np.arange(len(stages)) + shift
            _points(panel, places, [r for _, r in rows.iterrows()], colour, look,
                    f"{name}, {words}")  # fmt: skip
    names = [style.plain(stage) for stage in stages]
    if agreement is not None:
        of = {"setting": "one_step", "proxy": "lbk", "kernel": "total", "over": "within"}
        row = _rows(agreement, of).iloc[0].rename({"spearman": "value"})
        _points(panel, [len(stages)], [row], "black", "*", "")
        names.append(f"‖K‖² of\n{style.plain(study['tiny']['model'])}")
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.3, len(names) - 0.7)
    panel.legend(fontsize=6, frameon=False, loc="lower left", ncols=2)
