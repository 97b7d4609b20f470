"""figures/sft_models: the curves of SFT, one row per model (Fig. 14)."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from learning_dynamics.figures import curves, sft

TITLE = "SFT of different models: the same curves?"


def draw(study: dict, rows: Mapping[str, curves.Stages], title: str = TITLE) -> Figure:
    """The panels of figures/sft for every row."""
    return curves.table(rows, sft.PANELS, title, study)
