"""figures/rephrase: rephrases that keep the meaning or the format, under SFT (Fig. 13)."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from learning_dynamics.figures import curves
from learning_dynamics.figures.curves import Line, Panel

TITLE = "SFT: is a response closer to its rephrase in meaning (gpts) or in format (gptf)?"
OF = {
    "$y_u^+$": ("chosen", "chosen_gptsemantic", "chosen_gptformat"),
    "$y_u^-$": ("rejected", "reject_gptsemantic", "reject_gptformat"),
}


def _panel(word: str, kinds: tuple[str, ...], column: str) -> Panel:
    unit = "per token" if column == "logp_token" else "per response"
    lines = tuple(Line(kind, column) for kind in (*kinds, "irr_train"))
    return Panel(
        f"{word} and rephrases, {unit}",
        lines,
        levels=True,
        digits=2 if column == "logp_token" else 1,
    )


PANELS = [
    _panel(word, kinds, column) for column in ("logp", "logp_token") for word, kinds in OF.items()
]


def draw(study: dict, rows: Mapping[str, curves.Stages], title: str = TITLE) -> Figure:
    """Levels per response, and per token because rephrases differ in length; a row per data set."""
    return curves.table(rows, PANELS, title, study)
