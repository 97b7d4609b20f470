"""From the digits' tables to numbers: what the two figures draw and ``tables/digits.csv`` lists.

Torch-free. Every function that returns one value per seed returns an array whose first axis is the
seeds; intervals are t-intervals over them (``frontier.seeds_interval``).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from learning_dynamics.digits import (
    CLASSES,
    ENTK_COLUMNS,
    PREDICTION_COLUMNS,
    STEP_COLUMNS,
    TRAINING_COLUMNS,
)
from learning_dynamics.files import read_table
from learning_dynamics.frontier import seeds_interval

SHOWN = 4  # the class of the paper's example
LATE = 0.8  # of a long run: what comes after is called late
COLUMNS = {"training": TRAINING_COLUMNS, "predictions": PREDICTION_COLUMNS,
           "one-step": STEP_COLUMNS, "entk": ENTK_COLUMNS,
           "entk-training": TRAINING_COLUMNS}  # fmt: skip
# MNIST, 2,000 training images; read from the saved output of the paper's notebook.
PUBLISHED = {"test accuracy": 0.84, "train loss (nats)": 0.6, "mean π(4) on 4s": 0.72,
             "mean π(9) on 4s": 0.19, "mean π(9) on 9s": 0.62, "mean π(4) on 9s": 0.17,
             "mean π(7) on 9s": 0.10, "mean π(0) on 0s": 0.90, "mean π(5) on 0s": 0.05,
             "mean π(3) on 5s": 0.1, "mean π(8) on 5s": 0.1}  # fmt: skip
Seeds = dict[int, pd.DataFrame]


def read(results: str, network: str, seeds: list[int], name: str) -> Seeds:
    """One table of a network, by seed; ``name`` is one of :data:`COLUMNS`.

    Raises:
        InputError: when a file is missing, broken or lacks a column.
    """
    folder = Path(results) / "digits" / network
    return {s: read_table(folder / f"seed{s}" / f"{name}.parquet", COLUMNS[name]) for s in seeds}


def matrix(tables: Seeds, split: str = "test", first: bool = False) -> np.ndarray:
    """Mean softmax, (seeds, true class, predicted class), at the end or before the first update."""
    out = []
    for table in tables.values():
        epoch = table["epoch"].min() if first else table["epoch"].max()
        rows = table[(table["epoch"] == epoch) & (table["split"] == split)]
        out.append(rows.pivot(index="true_class", columns="class", values="probability"))
    return np.stack(out)


def relatives(predictions: Seeds, label: int) -> tuple[int, int]:
    """``(similar, dissimilar)``: the other class that the network takes images of ``label`` for
    most, and least: mean softmax on the *training* images, mean over seeds, so that it is not
    chosen on the test images that it is then shown on."""
    row = matrix(predictions, "train").mean(0)[label].copy()
    others = [k for k in range(CLASSES) if k != label]
    return max(others, key=lambda k: row[k]), min(others, key=lambda k: row[k])


def step_probabilities(
    steps: Seeds, update: int, observed: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean π before a step on an image of class ``update``, after it, and after it as predicted to
    first order; each (seeds, 10). On test images of class ``observed``; None: on the image of the
    step itself."""
    out = []
    for table in steps.values():
        rows = table[table["update_class"] == update]
        rows = rows[rows["split"] == "train"] if observed is None else rows[
            (rows["split"] == "test") & (rows["observed_class"] == observed)
        ]  # fmt: skip
        logs = [rows["logp_before"], rows["logp_after"], rows["logp_before"] + rows["predicted"]]
        out.append([np.exp(column).groupby(rows["class"]).mean() for column in logs])
    before, after, predicted = np.stack(out).transpose(1, 0, 2)
    return before, after, predicted


def pull(steps: Seeds, chosen: dict[int, int]) -> np.ndarray:
    """Mean change of log π(u | x_o), nats, by one step on an image of class u, over all u and test
    images x_o of class ``chosen[u]``: one value per seed."""
    out = []
    for table in steps.values():
        rows = table[(table["split"] == "test") & (table["class"] == table["update_class"])]
        rows = rows[rows["observed_class"] == rows["update_class"].map(chosen)]
        out.append((rows["logp_after"] - rows["logp_before"]).mean())
    return np.array(out)


def first_order_error(steps: Seeds) -> np.ndarray:
    """‖Δ log π − (−η A K G)‖ / ‖Δ log π‖ over all steps, images and classes: one value per seed."""
    out = []
    for table in steps.values():
        moved = table["logp_after"] - table["logp_before"]
        out.append(np.linalg.norm(moved - table["predicted"]) / np.linalg.norm(moved))
    return np.array(out)


def curves(entk: Seeds, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and ``norm`` or ``change`` as (seeds, epochs, update class, observed class)."""
    out = []
    for table in entk.values():
        wide = table.pivot(index="epoch", columns=["update_class", "observed_class"], values=column)
        out.append(wide.sort_index(axis=1).to_numpy().reshape(len(wide), CLASSES, CLASSES))
        epochs = wide.index.to_numpy()
    return epochs, np.stack(out)


def likeness_to_end(norms: np.ndarray) -> np.ndarray:
    """Rank correlation of the kernel's norms over the 100 pairs of classes with those at the end,
    (seeds, epochs), from (seeds, epochs, 10, 10): is the *relative* influence settled?"""
    flat = norms.reshape(*norms.shape[:2], -1)
    ranks = np.apply_along_axis(lambda v: pd.Series(v).rank().to_numpy(), 2, flat)
    ranks -= ranks.mean(2, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=2, keepdims=True)
    return (ranks * ranks[:, -1:]).sum(2)


def phases(epochs: np.ndarray, dense: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the early epochs (1 to ``dense``) and of the late ones (the last fifth)."""
    return (epochs > 0) & (epochs <= dense), epochs > LATE * epochs.max()


def learnt(network: str, training: Seeds, predictions: Seeds, steps: Seeds) -> pd.DataFrame:
    """Rows of ``tables/digits.csv`` about the short run and its single steps."""
    last = {seed: table.iloc[-1] for seed, table in training.items()}
    rows = {
        "test accuracy": [row["test_accuracy"] for row in last.values()],
        "train loss (nats)": [row["train_loss"] for row in last.values()],
    }
    seen = matrix(predictions)
    for name in PUBLISHED:
        if name.startswith("mean π"):
            predicted, true = int(name[7]), int(name[-2])
            rows[name] = seen[:, true, predicted]
    similar, dissimilar = relatives(predictions, SHOWN)
    rows[f"class that {SHOWN}s are taken for most (train)"] = [similar]
    rows[f"class that {SHOWN}s are taken for least (train)"] = [dissimilar]
    rows[f"mean π({similar}) on {SHOWN}s, the most"] = seen[:, SHOWN, similar]
    pairs = {u: relatives(predictions, u) for u in range(CLASSES)}
    rows["one step on u: Δ log π(u), same class (nats)"] = pull(steps, {u: u for u in pairs})
    rows["one step on u: Δ log π(u), similar class (nats)"] = pull(
        steps, {u: pair[0] for u, pair in pairs.items()}
    )
    rows["one step on u: Δ log π(u), dissimilar class (nats)"] = pull(
        steps, {u: pair[1] for u, pair in pairs.items()}
    )
    for name, observed in (("same class", SHOWN), ("similar class", similar),
                           ("dissimilar class", dissimilar)):  # fmt: skip
        before, after, _ = step_probabilities(steps, SHOWN, observed)
        rows[f"one step on a {SHOWN}: change of π({SHOWN}), {name}"] = (after - before)[:, SHOWN]
    rows["relative error of −ηAKG"] = first_order_error(steps)
    return _listed(network, rows)


def tracked(network: str, entk: Seeds, training: Seeds, dense: int) -> pd.DataFrame:
    """Rows of ``tables/digits.csv`` about the kernel along the long run."""
    epochs, norms = curves(entk, "norm")
    _, changes = curves(entk, "change")
    early, late = phases(epochs, dense)
    overall, moving = norms.mean((2, 3)), changes.mean((2, 3))
    likeness = likeness_to_end(norms)
    moved = np.stack([table["moved"].to_numpy() for table in training.values()])
    own = norms[:, -1].argmax(2) == np.arange(CLASSES)
    rows = {
        "long run: train loss at the end (nats)": [
            table["train_loss"].iloc[-1] for table in training.values()
        ],
        "mean ‖K‖ at the start": overall[:, 0],
        "mean ‖K‖ at the end": overall[:, -1],
        f"change of K per epoch, epochs 1 to {dense}": np.nanmean(moving[:, early], 1),
        "change of K per epoch, last fifth": np.nanmean(moving[:, late], 1),
        f"change of the weights per epoch, epochs 1 to {dense}": moved[:, early].mean(1),
        "change of the weights per epoch, last fifth": np.nanmean(
            np.where(np.isnan(moving), np.nan, moved)[:, late], 1
        ),
        "rank correlation with the end, at the start": likeness[:, 0],
        f"rank correlation with the end, epoch {dense}": likeness[:, epochs <= dense][:, -1],
        "lowest rank correlation with the end, last fifth": likeness[:, late].min(1),
        "share of classes whose own kernel is the largest": own.mean(1),
    }
    return _listed(network, rows)


def _listed(network: str, rows: dict) -> pd.DataFrame:
    out = []
    for name, values in rows.items():
        found = seeds_interval(values)
        out.append(
            {"network": network, "statistic": name, "value": found.value, "low": found.low,
             "high": found.high, "seeds": len(found.seeds),
             "published": PUBLISHED.get(name) if network == "mlp" else None}
        )  # fmt: skip
    return pd.DataFrame(out)
