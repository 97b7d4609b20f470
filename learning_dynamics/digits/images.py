"""Images of digits: scikit-learn's 8×8 ones, which need no download, or a data set of the hub."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import interpolate

from learning_dynamics.digits import CLASSES, EMBEDDED_ROWS
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table

IMAGE_COLUMNS = ["split", "image_id", "label", "pixels"]
DRAW = 0  # of the draw of images, which is the same for all seeds


@dataclass(frozen=True)
class Digits:
    """The images of one split, in the order of the draw.

    ``images`` (N, 1, side, side), float32 in [0, 1]; ``labels`` (N,), 0 to 9; ``ids`` (N,), the
    row of each image in its source.
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor

    def of_classes(self, each: int) -> "Digits":
        """The first ``each`` images of every class, class by class.

        Raises:
            InputError: when a class has fewer.
        """
        found = [torch.nonzero(self.labels == label)[:, 0][:each] for label in range(CLASSES)]
        for label, rows in enumerate(found):
            if len(rows) < each:
                raise InputError(
                    f"digits: {each} images of every class asked for, {len(rows)} of class {label} "
                    "drawn; expected more train_rows and test_rows, or fewer images"
                )
        rows = torch.cat(found)
        return Digits(self.images[rows], self.labels[rows], self.ids[rows])


def draw(spec: dict) -> pd.DataFrame:
    """A fixed random draw of training and test images, as a table of :data:`IMAGE_COLUMNS`.

    Args:
        spec: section ``digits`` of the config. From scikit-learn both splits are drawn from one
            set, without replacement; from the hub each from the split of its name, whose columns
            are ``image`` (square, grey) and ``label``.

    Raises:
        InputError: when the source has too few images, cannot be reached, or holds other things.
    """
    rows = {"train": spec["train_rows"], "test": spec["test_rows"]}
    parts = _embedded(rows) if spec["source"] == "sklearn" else _of_hub(spec, rows)
    tables = [
        pd.DataFrame(
            {
                "split": split,
                "image_id": ids,
                "label": labels,
                "pixels": list(images.reshape(len(images), -1).astype(np.float32)),
            }
        )
        for split, (images, labels, ids) in parts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _embedded(rows: dict[str, int]) -> dict[str, tuple]:
    from sklearn.datasets import load_digits

    if sum(rows.values()) > EMBEDDED_ROWS:
        raise InputError(
            f"digits.train_rows: {rows['train']} with test_rows {rows['test']}: expected at most "
            f"{EMBEDDED_ROWS} together, what scikit-learn ships"
        )
    source = load_digits()
    order = np.random.default_rng(DRAW).permutation(EMBEDDED_ROWS)
    picked = {"train": order[: rows["train"]], "test": order[rows["train"] :][: rows["test"]]}
    return {s: (source.images[ids] / 16, source.target[ids], ids) for s, ids in picked.items()}


def _of_hub(spec: dict, rows: dict[str, int]) -> dict[str, tuple]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    place = f"data set {spec['hub']} at revision {spec['revision']}"
    out = {}
    for split, count in rows.items():
        try:
            data = load_dataset(spec["hub"], revision=spec["revision"], split=split)
        except (OSError, ValueError, DatasetsError) as error:
            raise InputError(
                f"{place}: split {split} cannot be loaded ({str(error).splitlines()[0]}); expected "
                "a reachable hub or a filled cache"
            ) from None
        if count > len(data):
            raise InputError(
                f"digits.{split}_rows: {count}: expected at most {len(data)}, the {split} split of "
                f"{spec['hub']}"
            )
        ids = np.random.default_rng(DRAW).permutation(len(data))[:count]
        picked = data.select(ids)
        missing = {"image", "label"} - set(picked.column_names)
        if missing:
            raise InputError(f"{place}: no column {min(missing)!r}; expected image and label")
        try:
            images = np.stack([np.asarray(image, dtype=float) for image in picked["image"]])
            labels = np.asarray(picked["label"], dtype=int)
        except (TypeError, ValueError) as error:
            raise InputError(f"{place}: {error}; expected images of one size and labels") from None
        if images.ndim != 3 or images.shape[1] != images.shape[2]:
            raise InputError(
                f"{place}: images of shape {images.shape[1:]}; expected square grey ones"
            )
        out[split] = (images / 255, labels, ids)
    return out


def load(path: str | Path) -> dict[str, Digits]:
    """The images that :func:`draw` wrote, by split.

    Raises:
        InputError: when the file is missing or broken, or a label is no digit.
    """
    table = read_table(path, IMAGE_COLUMNS)
    if not table["label"].between(0, CLASSES - 1).all():
        bad = table.loc[~table["label"].between(0, CLASSES - 1), "label"].iloc[0]
        raise InputError(f"{path}: label {bad}; expected 0 to {CLASSES - 1}")
    out = {}
    for split, rows in table.groupby("split", sort=False):
        pixels = np.stack(rows["pixels"].to_list())
        side = round(pixels.shape[1] ** 0.5)
        out[split] = Digits(
            torch.from_numpy(pixels).float().reshape(-1, 1, side, side),
            torch.from_numpy(rows["label"].to_numpy(copy=True)).long(),
            torch.from_numpy(rows["image_id"].to_numpy(copy=True)).long(),
        )
    return out


def enlarged(digits: Digits, side: int) -> Digits:
    """The same images at ``side`` × ``side`` pixels, bilinear; as they are where that is so."""
    if digits.images.shape[-1] == side:
        return digits
    images = interpolate(digits.images, size=(side, side), mode="bilinear", align_corners=False)
    return Digits(images, digits.labels, digits.ids)
