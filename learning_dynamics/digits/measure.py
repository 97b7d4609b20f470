"""What is measured on the digits networks, as tables (docs/architecture.md, "Digits")."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from learning_dynamics.digits import CLASSES, ENTK_COLUMNS, STEP_COLUMNS, TRAINING_COLUMNS
from learning_dynamics.digits.images import Digits
from learning_dynamics.digits.kernel import entk, first_order
from learning_dynamics.digits.networks import build, fitting
from learning_dynamics.digits.training import cosine, tested, train


def learn(
    name: str, data: dict[str, Digits], spec: dict, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Train a network as the paper's notebook does and measure it: the tables ``training``,
    ``predictions`` (before the first update and at the end) and ``one-step`` (from the end).

    Args:
        name: ``mlp`` or ``lenet``.
        data: images of the splits ``train`` and ``test``.
        spec: section ``digits`` of the config; ``lr`` is this network's.
        seed: of the initial weights and of the order of the images.
    """
    data = {split: fitting(name, part) for split, part in data.items()}
    network = build(name, data["train"].images.shape[-1], seed)
    epochs = spec["epochs"]
    lrs = [cosine(e, epochs, spec["lr"], spec["lr_end"]) for e in range(epochs)]
    rows, seen = [], []
    for row in train(network, data["train"], spec, lrs, seed):
        rows.append({**row, **tested(network, data["test"])})
        if row["epoch"] in (0, epochs):
            seen += [
                predictions(network, part, split, row["epoch"]) for split, part in data.items()
            ]
    steps = one_steps(network, data, spec["one_step"]["images"], spec["one_step"]["lr"])
    return pd.DataFrame(rows)[TRAINING_COLUMNS], pd.concat(seen, ignore_index=True), steps


@torch.no_grad()
def predictions(network: nn.Module, digits: Digits, split: str, epoch: int) -> pd.DataFrame:
    """Mean softmax per true class: ``epoch, split, true_class, class, probability, images``."""
    found = network(digits.images).softmax(1)
    rows = []
    for label in range(CLASSES):
        here = found[digits.labels == label]
        rows += [
            {"epoch": epoch, "split": split, "true_class": label, "class": k,
             "probability": float(here[:, k].mean()), "images": len(here)}
            for k in range(CLASSES)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def one_steps(network: nn.Module, data: dict[str, Digits], each: int, lr: float) -> pd.DataFrame:
    """Single gradient steps (no momentum, no decay) from the network as it is, which stays so.

    One step on each of ``each`` training images per class; log π is read before and after on that
    image itself (split ``train``) and on ``each`` test images per class.

    Returns:
        ``update_id, update_class, split, observed_id, observed_class, class``, and in nats
        ``logp_before``, ``logp_after`` and ``predicted``, the change −η A K G (eq. 3).
    """
    updates, others = data["train"].of_classes(each), data["test"].of_classes(each)
    weights = {name: value.detach() for name, value in network.named_parameters()}

    def loss(parameters: dict, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(network, parameters, (image,)), label)

    predicted = first_order(network, others.images, updates.images, updates.labels, lr)
    places = len(others.labels) + 1
    tables = []
    for n in range(len(updates.labels)):
        image, label = updates.images[n : n + 1], updates.labels[n : n + 1]
        gradient = grad(loss)(weights, image, label)
        moved = {name: value - lr * gradient[name] for name, value in weights.items()}
        seen = torch.cat([image, others.images])
        with torch.no_grad():
            before, after = (
                functional_call(network, parameters, (seen,)).log_softmax(1)
                for parameters in (weights, moved)
            )
        itself = first_order(network, image, image, label, lr)[0]
        columns = {
            "update_id": updates.ids[n].expand(places),
            "update_class": label.expand(places),
            "observed_id": torch.cat([updates.ids[n : n + 1], others.ids]),
            "observed_class": torch.cat([label, others.labels]),
        }
        table = pd.DataFrame({k: v.repeat_interleave(CLASSES).numpy() for k, v in columns.items()})
        table["split"] = np.repeat(["train", *["test"] * (places - 1)], CLASSES)
        table["class"] = np.tile(np.arange(CLASSES), places)
        table["logp_before"] = before.flatten().numpy()
        table["logp_after"] = after.flatten().numpy()
        table["predicted"] = torch.cat([itself, predicted[:, n]]).flatten().numpy()
        tables.append(table)
    return pd.concat(tables, ignore_index=True)[STEP_COLUMNS]


def measured_epochs(epochs: int, dense: int, every: int) -> list[int]:
    """The epochs after which the kernel is computed: all up to ``dense``, then pairs of neighbours
    ``every`` so many epochs, and the last two. Change is always that of one epoch."""
    late = [*range(dense + every, epochs + 1, every), epochs]
    found = {*range(min(dense, epochs) + 1), *late, *(epoch - 1 for epoch in late)}
    return sorted(epoch for epoch in found if 0 <= epoch <= epochs)


def track(
    name: str, data: dict[str, Digits], spec: dict, seed: int, log: Callable[[str], None] = print
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train for long at a constant learning rate and follow the kernel: the tables ``entk`` and
    ``entk-training``.

    The rate is constant so that a kernel that comes to rest does so by itself, not because the
    schedule ends. x_u are the first training images of every class, x_o the first test images.

    Args:
        name, data, seed: as for :func:`learn`.
        spec: section ``digits`` of the config; ``lr`` and ``entk.epochs`` are this network's.
        log: receives a line at every measured epoch.

    Returns:
        ``epoch, update_class, observed_class, norm, change``: mean over the pairs of images of two
        classes of ‖K(x_o, x_u)‖_F, and of ‖K − K′‖_F / ‖K′‖_F with K′ one epoch earlier (NaN where
        that epoch was not measured); and the training table, at the same epochs.
    """
    data = {split: fitting(name, part) for split, part in data.items()}
    network = build(name, data["train"].images.shape[-1], seed)
    settings = spec["entk"]
    wanted = set(measured_epochs(settings["epochs"], settings["dense"], settings["every"]))
    updated = data["train"].of_classes(settings["images"])
    observed = data["test"].of_classes(settings["images"])
    lrs = [spec["lr"]] * settings["epochs"]
    previous, previous_epoch, rows, tables = None, -1, [], []
    for row in train(network, data["train"], spec, lrs, seed):
        if row["epoch"] not in wanted:
            continue
        rows.append({**row, **tested(network, data["test"])})
        kernel = entk(network, observed.images, updated.images)
        near = previous if previous_epoch == row["epoch"] - 1 else None
        tables.append(_class_pairs(kernel, near, observed, updated).assign(epoch=row["epoch"]))
        previous, previous_epoch = kernel, row["epoch"]
        log(f"epoch {row['epoch']}: train loss {row['train_loss']:.4f}, "
            f"test accuracy {rows[-1]['test_accuracy']:.3f}")  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    return table[ENTK_COLUMNS], pd.DataFrame(rows)[TRAINING_COLUMNS]


def _class_pairs(
    kernel: torch.Tensor, previous: torch.Tensor | None, observed: Digits, updated: Digits
) -> pd.DataFrame:
    """Mean norm and relative change of the kernels (O, U, 10, 10) per pair of classes."""
    norm = torch.linalg.matrix_norm(kernel)
    change = torch.full_like(norm, torch.nan)
    if previous is not None:
        change = torch.linalg.matrix_norm(kernel - previous) / torch.linalg.matrix_norm(previous)
    pairs = pd.DataFrame(
        {
            "observed_class": observed.labels.repeat_interleave(len(updated.labels)).numpy(),
            "update_class": updated.labels.repeat(len(observed.labels)).numpy(),
            "norm": norm.flatten().numpy(),
            "change": change.flatten().numpy(),
        }
    )
    return pairs.groupby(["update_class", "observed_class"], as_index=False).mean()
