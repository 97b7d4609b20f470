"""figures/hallucination: other prompts' facts, repetition and copying in what models write, from
the base model through SFT to DPO."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning_dynamics.figures import style

ROLES = {  # colour, mark and name of each run
    "sft": ("#777777", "v", "SFT"),
    "dpo": (style.GREEDY, "o", "DPO"),
    "extend": ("#009E73", "s", "extend, then DPO"),
    "matched": ("#AA4499", "D", "its twin, then DPO"),
    "continued": (style.CHOSEN, "^", "SFT continued"),
    "coinflip": (style.REJECTED, "P", "DPO, coin-flip labels"),
}
FACTS = {  # quantity → (title, quantity drawn dashed beside it)
    "true": ("states the true facts", None),
    "own_false": ("states its y⁻'s false facts", None),
    "leak_seen": ("states another training\nprompt's facts (- - by chance)", "chance"),
    "other_category": ("names a word of another\nkind of question", None),
}
TEXT = {
    "rep_3": ("repeats 3-grams (rep-3)", None),
    "distinct_2": ("distinct 2-grams (distinct-2)", None),
    "unfinished": ("is never finished", None),
    "copied_seen": ("longest run copied from\ntraining y⁺ (- - held-out y⁺)",
                    "copied_unseen"),
}  # fmt: skip
SPLIT = {"test": "held-out prompts", "train": "training prompts"}


def draw(study: dict, table: pd.DataFrame) -> Figure:
    """One row of panels for facts (where they are known), one for repetition and copying; training
    prompts below held-out ones (``learning_dynamics.hallucination.table``)."""
    style.apply()
    whole = table[table["seed"].astype(str) == "all"]
    rows = [
        (split, panels)
        for split in SPLIT
        for panels in (FACTS, TEXT)
        if ((whole["split"] == split) & whole["quantity"].isin(panels)).any()
    ]
    height = 1.15 + 1.8 * len(rows)
    figure = plt.figure(figsize=(8.6, height))
    axes = figure.subplots(len(rows), len(TEXT), squeeze=False)
    figure.subplots_adjust(left=0.105, right=0.985, top=1 - 1.1 / height, bottom=0.5 / height,
                           hspace=0.62, wspace=0.28)  # fmt: skip
    end = whole.loc[whole["role"] == "sft", "epoch"].max()
    for line, (split, panels) in zip(axes, rows, strict=True):
        part = whole[whole["split"] == split]
        for panel, (quantity, (title, beside)) in zip(line, panels.items(), strict=True):
            panel.set_title(title, fontsize=7.5)
            _panel(panel, _with_chance(part), quantity, beside, end)
        line[0].set_ylabel(f"{SPLIT[split]}\nshare")
    for panel in axes[-1]:
        panel.set_xlabel("epochs of SFT | after SFT")
    several = whole["interval"].eq("t over seeds").any()
    figure.text(0.012, 1 - 0.07 / height, "What models write: base model, SFT (left of the line), "
                "and what follows it", fontsize=10, va="top")  # fmt: skip
    _legend(figure, [role for role in ROLES if role in set(whole["role"])], height)
    interval = "t-interval over seeds" if several else "bootstrap over prompts (one seed)"
    figure.text(0.012, 1 - 0.5 / height, f"One sampled answer per prompt; mean and 95% {interval}. "
                "Extend has a longer SFT stage of its own, whose end is its point on the line.",
                fontsize=6.3, va="top", color="#444444")  # fmt: skip
    style.stamp(figure, study)
    return figure


def _with_chance(part: pd.DataFrame) -> pd.DataFrame:
    """With the quantity ``chance``: the leak that unseen facts let expect."""
    keys = ["role", "epoch"]
    seen, excess = (part[part["quantity"] == name].set_index(keys)["value"]
                    for name in ("leak_seen", "leak_excess"))  # fmt: skip
    chance = (seen - excess).reset_index().assign(quantity="chance")
    return pd.concat([part, chance], ignore_index=True)


def _panel(panel: Axes, part: pd.DataFrame, quantity: str, beside: str | None, end: float) -> None:
    """One quantity along every run; SFT ends at 0."""
    panel.axvline(0, color="#999999", lw=0.6)
    roles = [role for role in ROLES if role in set(part["role"])]
    for number, role in enumerate(roles):
        colour, mark, _ = ROLES[role]
        shift = 0.0 if role == "sft" else (number - (len(roles) - 1) / 2) * 0.05
        for name, dashes in ((quantity, "-"), (beside, "--")):
            rows = part[(part["role"] == role) & (part["quantity"] == name)].sort_values("epoch")
            at = rows["epoch"] - end if role == "sft" else rows["epoch"] + shift
            if name == quantity:
                panel.vlines(at, rows["low"], rows["high"], color=colour, lw=0.8, alpha=0.7)
                panel.plot(at, rows["value"], color=colour, lw=1.1, marker=mark, ms=3.2,
                           mec="white", mew=0.3)  # fmt: skip
            else:
                panel.plot(at, rows["value"], color=colour, lw=0.8, ls=dashes, alpha=0.8)
    shown = part[part["quantity"].isin([quantity, beside])]
    # Shares lie between 0 and 1; an interval over few seeds may not.
    most = shown[["value", "high"]].max().max().clip(0, 1)
    least = shown[["value", "low"]].min().min().clip(0, 1)
    room = max(0.08 * (most - least), 0.01)
    panel.set_ylim(least - room, most + room)
    panel.ticklabel_format(axis="y", useOffset=False)
    ticks = sorted({*(part.loc[part["role"] == "sft", "epoch"] - end),
                    *part.loc[part["role"] != "sft", "epoch"]})  # fmt: skip
    panel.set_xticks(ticks, ["base" if tick == -end else f"{abs(tick):g}" for tick in ticks])


def _legend(figure: Figure, roles: list[str], height: float) -> None:
    place = 0.03
    for role in roles:
        colour, mark, name = ROLES[role]
        spot = figure.add_artist(
            plt.Line2D([place - 0.012], [1 - 0.37 / height], marker=mark, color=colour, ms=4)
        )
        spot.set_transform(figure.transFigure)
        figure.text(place, 1 - 0.37 / height, name, color=colour, fontsize=8, fontweight="bold",
                    va="center")  # fmt: skip
        place += 0.05 + 0.0085 * len(name)
