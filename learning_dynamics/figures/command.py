"""The arguments of the scripts that draw trajectory figures."""

import argparse
import json


def arguments(description: str, *, heatmap: bool = False) -> argparse.Namespace:
    """``study`` (what the figure must know of the study), ``results``, ``out``; with ``heatmap``
    also the table of accumulated influence, if there is one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--study", type=json.loads, required=True, help="the figure, as JSON")
    parser.add_argument("--results", required=True, help="the study's results folder")
    if heatmap:
        parser.add_argument("--heatmap", help="heatmap.csv, where the study has one")
    parser.add_argument("--out", required=True, nargs="+", help="outputs: .pdf, .png")
    return parser.parse_args()
