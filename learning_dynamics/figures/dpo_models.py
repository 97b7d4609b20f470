"""figures/dpo_models: the curves of DPO, one row per model (Fig. 15)."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from learning_dynamics.figures import curves, dpo

TITLE = "DPO of different models: the same curves?"


def draw(study: dict, rows: Mapping[str, curves.Stages], title: str = TITLE) -> Figure:
    """Three panels of figures/dpo for every row."""
    return curves.table(rows, [dpo.CHOSEN, dpo.REJECTED, dpo.MASS], title, study)
