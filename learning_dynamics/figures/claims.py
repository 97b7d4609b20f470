"""figures/claims: claims in words × data sets and models, a verdict in each cell."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.claims.imported import OWN
from learning_dynamics.claims.inference import CONTRADICTED, NOT_TESTABLE, SUPPORTED, UNDECIDED
from learning_dynamics.claims.report import number
from learning_dynamics.figures import style
from learning_dynamics.provenance import commit

# Verdict: colour of the cell, of the mark, the mark. Shape and lightness tell them apart in grey.
LOOKS = {
    SUPPORTED: ("#BFE3D5", "#00694F", "o"),
    CONTRADICTED: ("#F6CBB0", "#A33B00", "X"),
    UNDECIDED: ("#EEEEEE", "#666666", "o"),
    NOT_TESTABLE: ("white", "#BBBBBB", "_"),
}
ROW, LABEL, CELL = 0.235, 4.5, 1.05  # inches


def draw(study: dict, table: pd.DataFrame) -> Figure:
    """The whole matrix from the claims table. A cell shows the verdict by shape and colour, and the
    effect of the part that decides."""
    style.apply()
    keys = ["origin", "dataset", "model"]
    testable = table.groupby(keys)["verdict"].transform(lambda words: (words != NOT_TESTABLE).any())
    table = table[testable] if testable.any() else table  # columns of dashes say nothing
    columns = list(table[keys].drop_duplicates().itertuples(index=False, name=None))
    claims = table.drop_duplicates("claim")[["claim", "words"]]
    height = ROW * len(claims) + 1.4
    width = LABEL + CELL * len(columns) + 0.15
    figure = plt.figure(figsize=(max(width, 7.0), height))
    inner = LABEL / max(width, 7.0)
    axes = figure.add_axes((inner, 0.5 / height, CELL * len(columns) / max(width, 7.0),
                            ROW * len(claims) / height))  # fmt: skip
    cells = table.set_index(["claim", "origin", "dataset", "model"])
    for y, (claim, words) in enumerate(claims.itertuples(index=False)):
        axes.text(-0.08, y, _shorten(words), ha="right", va="center", fontsize=7)
        axes.text(-4.2, y, claim, ha="left", va="center", fontsize=6.5, color="#777777")
        for x, column in enumerate(columns):
            _cell(axes, x, y, cells.loc[(claim, *column)])
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(claims) - 0.5, -0.5)
    axes.set_axis_off()
    for x, (origin, dataset, model) in enumerate(columns):
        head = {"published": "published runs", OWN: OWN}.get(origin, f"study {origin}")
        axes.text(x + 0.5, -0.75, f"{head}\n{dataset}\n{_wrapped(model)}", ha="center",
                  va="bottom", fontsize=6.5)  # fmt: skip
    counts = [f"{word} {(table['verdict'] == word).sum()}" for word in LOOKS]
    title = f"Which claims hold: {', '.join(counts)}"
    figure.text(0.012, 1 - 0.08 / height, title, fontsize=10, va="top")
    _legend(figure, height)
    seeds = ", ".join(map(str, study["seeds"]))
    figure.text(0.995, 0.002, f"study {study['study']} · seed{'s' * (len(study['seeds']) > 1)} "
                f"{seeds} · commit {commit()}", ha="right", va="bottom", fontsize=5.5,
                color="#666666")  # fmt: skip
    return figure


def _cell(axes: Axes, x: int, y: int, row: pd.Series) -> None:
    face, ink, mark = LOOKS[row["verdict"]]
    axes.fill_between([x + 0.02, x + 0.98], y - 0.46, y + 0.46, color=face, lw=0)
    place, filled = (x + 0.16, y), row["verdict"] != UNDECIDED
    if row["verdict"] == NOT_TESTABLE:
        axes.plot(x + 0.5, y, mark, ms=5, color=ink)
        return
    if row["interval"] == "no interval":
        agrees = row["value"] / row["smallest"] > 0
        mark, filled = "^" if agrees else "v", False
    axes.plot(*place, mark, ms=5, mfc=ink if filled else "white", mec=ink, mew=0.9)
    axes.text(x + 0.29, y, number(row["value"], row["unit"]).replace(" points", " pt"),
              va="center", fontsize=6.5, color="black" if filled else "#444444")  # fmt: skip


def _legend(figure: Figure, height: float) -> None:
    axes = figure.add_axes((0.012, 0.16 / height, 0.97, 0.22 / height))
    axes.set_axis_off()
    axes.set_xlim(0, 10)
    axes.set_ylim(-0.5, 0.5)
    entries = [(SUPPORTED, "o", True, "supported"), (CONTRADICTED, "X", True, "contradicted"),
               (UNDECIDED, "o", False, "undecided"),
               (UNDECIDED, "^", False, "no interval: as predicted (▽ opposite)"),
               (NOT_TESTABLE, "_", True, "not testable")]  # fmt: skip
    x = 0.1
    for verdict, mark, filled, word in entries:
        ink = LOOKS[verdict][1]
        axes.plot(x, 0, mark, ms=5, mfc=ink if filled else "white", mec=ink, mew=0.9)
        axes.text(x + 0.12, 0, word, va="center", fontsize=6.5)
        x += 0.35 + 0.062 * len(word)
    axes.text(x, 0, "number: the part that decides", va="center", fontsize=6.5,
              color="#666666")  # fmt: skip


def _shorten(words: str, longest: int = 74) -> str:
    return words if len(words) <= longest else words[: longest - 1].rsplit(" ", 1)[0] + " …"


def _wrapped(model: str) -> str:
    return model if len(model) <= 14 else model.replace("-deduped", "\n-deduped")
