"""Finetuning: one loop for every algorithm, in the paper's shape.

Summed token log-probs, RMSprop with linear warm-up, gradient clipping, dropout off; the probe set
is scored before the first update, every ``probe_every`` updates and after the last. A killed run
goes on where it stopped and ends with the same numbers, bit for bit (same device and number of
threads). Reads top to bottom.
"""

import logging
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from learning_dynamics import models, scoring, trajectory
from learning_dynamics.algorithms import ALGORITHMS, losses
from learning_dynamics.errors import InputError
from learning_dynamics.resume import Checkpoints
from learning_dynamics.scoring import Tree
from learning_dynamics.tokens import Codec
from learning_dynamics.trajectory import ProbeTrees

LOG = logging.getLogger(__name__)
OPTIMIZERS = {
    "rmsprop": torch.optim.RMSprop,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Rows:
    """A training set: per row a prompt with its responses, and their reference log-probs (nats,
    shape (rows, responses)) where the algorithm uses them."""

    trees: list[Tree]
    reference: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.trees)


def training_rows(
    pairs: pd.DataFrame,
    codec: Codec,
    spec: dict,
    seed: int,
    reference: pd.DataFrame | None,
    probes: pd.DataFrame | None = None,
) -> Rows:
    """The training rows of a run.

    One-response algorithms: any response type of the probe set (``rows: probes``), or of the pairs
    y⁺, y⁻, or ("extend") a row for each. Pair algorithms: y⁺ and y⁻, with labels as given or
    swapped by a fair coin per pair.

    Raises:
        InputError: when the reference table lacks a training pair, or the probe set the target.
    """
    algorithm = ALGORITHMS[spec["algorithm"]]
    if spec.get("rows") == "probes":
        table = probes[(probes["split"] == "train") & (probes["response_type"] == spec["target"])]
        if table.empty:
            raise InputError(
                f"runs: target = {spec['target']!r}: the probe set has no such response type; "
                f"expected one of {', '.join(probes['response_type'].unique())}"
            )
        columns = table["prompt"], table["response"], table["example_id"]
        return Rows([codec.row(p, [r], f"probe {e!r}") for p, r, e in zip(*columns, strict=True)])
    train = pairs[pairs["split"] == "train"]
    sides = ["chosen", "rejected"]
    texts = zip(train["prompt"], train["example_id"], *(train[side] for side in sides), strict=True)
    whole = [codec.row(prompt, both, f"pair {example!r}") for prompt, example, *both in texts]
    if len(algorithm.responses) == 1:
        used = [0, 1] if spec["target"] == "extend" else [sides.index(spec["target"])]
        return Rows([Tree(tree.prompt, [tree.responses[i]]) for tree in whole for i in used])
    swap = np.zeros(len(train), dtype=bool)
    if spec["labels"] == "coin":
        swap = np.random.default_rng([seed, 10]).random(len(train)) < 0.5
    known = reference.set_index("example_id") if reference is not None else None
    trees, values = [], []
    for tree, example, swapped in zip(whole, train["example_id"], swap, strict=True):
        order = [1, 0] if swapped else [0, 1]
        trees.append(Tree(tree.prompt, [tree.responses[i] for i in order]))
        if known is not None:
            if example not in known.index:
                raise InputError(f"reference log-probs: no row for pair {example!r}; rebuild them")
            values.append([known.at[example, sides[i]] for i in order])
    return Rows(trees, np.array(values) if known is not None else None)


def rows_of_update(update: int, total: int, batch_size: int, seed: int) -> list[int]:
    """Row numbers of an update. Rows are drawn without replacement, pass after pass; a batch may
    span two passes, so that none is dropped. A function of ``update`` and ``seed`` alone."""
    wanted = range(update * batch_size, (update + 1) * batch_size)
    passes = {p: np.random.default_rng([seed, 11, p]).permutation(total) for p in
              {i // total for i in wanted}}  # fmt: skip
    return [int(passes[i // total][i % total]) for i in wanted]


def update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    numbers: list[int],
    spec: dict,
    compute: dict,
) -> dict[str, float]:
    """One optimiser update on the rows called ``numbers``; what is recorded of it.

    Returns loss (nats), gradient norm before clipping, mean margin (nats; NaN without pairs) and
    mean residual norm ‖π − e‖₂ over the positions of each response.
    """
    device = torch.device(compute["device"])
    batch = scoring.pack([rows.trees[i] for i in numbers], device)
    with models.autocast(compute):
        logits = scoring.response_logits(model, batch)
    logp = scoring.sum_by_response(scoring.label_logp(logits, batch.target), batch)
    sides = len(rows.trees[0].responses)
    policy = list(logp.view(-1, sides).unbind(1))
    reference = []
    if rows.reference is not None:
        known = torch.as_tensor(rows.reference[numbers], dtype=logp.dtype, device=device)
        reference = list(known.unbind(1))
    loss = losses.row_loss(spec["algorithm"], policy, reference, spec).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), spec["clip"])
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        side = batch.owner % sides
        norms = scoring.residual_norms(logits.detach(), batch.target)
        residuals = [norms[side == s].mean().item() for s in range(sides)]
        margin = losses.margin(policy, reference).mean().item() if reference else float("nan")
    return {
        "loss": loss.item(),
        "grad_norm": norm.item(),
        "margin": margin,
        "residual_norm_chosen": residuals[0],
        "residual_norm_rejected": residuals[1] if sides > 1 else float("nan"),
    }


def finetune(
    model: torch.nn.Module,
    tokenizer: object,
    rows: Rows,
    probes: ProbeTrees,
    spec: dict,
    seed: int,
    compute: dict,
    checkpoints: Checkpoints,
    keep_epochs: list[str],
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Run one finetuning to its end.

    Args:
        rows: the training set.
        probes: the probe set.
        spec: the run's resolved configuration.
        compute: device, precision and scoring batch size.
        checkpoints: where resume checkpoints and the models of ``keep_epochs`` are kept.
        keep_epochs: epochs whose model other runs start from.

    Returns:
        ``{"trajectory": ..., "training": ...}`` and the counters for ``run.json``.

    Raises:
        InputError: when the loss is no longer finite.
        SystemExit: with code 143 after SIGTERM, once the state is saved.
    """
    device = torch.device(compute["device"])
    size, total = spec["batch_size"], len(rows)
    last = trajectory.update_of_epoch(spec["epochs"], total, size)
    keep = {epoch: trajectory.update_of_epoch(float(epoch), total, size) for epoch in keep_epochs}
    optimizer = OPTIMIZERS[spec["optimizer"]](model.parameters(), lr=spec["lr"])
    scorer = probes.scorer(compute["batch_tokens"], device)

    def probe(done: int) -> pd.DataFrame:
        with models.autocast(compute):
            metrics = scorer(model)
        return trajectory.evaluation(probes.identity, metrics, done, done * size, total)

    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    started = time.monotonic()
    resumed = checkpoints.load(model, optimizer)
    if resumed:
        state, tables, scorer.greedy0 = resumed
        state["attempts"] += 1
        history = tables["training"].to_dict("records")
        evaluations = [tables["trajectory"]]
        LOG.info("resuming after update %d of %d", state["update"], last)
    else:
        state = {"update": 0, "attempts": 1, "seconds": 0.0, "seconds_probing": 0.0}
        history, evaluations = [], [probe(0)]
        state["seconds_probing"] = time.monotonic() - started
    before = state["seconds"]
    first = state["update"]

    def save() -> None:
        tables = {"trajectory": pd.concat(evaluations), "training": pd.DataFrame(history)}
        checkpoints.save(model, optimizer, state, tables, scorer.greedy0)

    for done in range(first + 1, last + 1):
        tick = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = spec["lr"] * min(1.0, done / (spec["warmup"] + 1))
        numbers = rows_of_update(done - 1, total, size, seed)
        record = update(model, optimizer, rows, numbers, spec, compute)
        if not np.isfinite(record["loss"]):
            raise InputError(
                f"runs: lr = {spec['lr']}: the loss is {record['loss']} at update {done}; expected "
                "a finite loss (a smaller lr, or precision fp32)"
            )
        rate = size / (time.monotonic() - tick)
        counters = {"step": done, "examples": done * size, "epoch": done * size / total}
        history.append({**counters, "lr": group["lr"], **record, "rows_per_s": rate})
        if done % spec["probe_every"] == 0 or done == last:
            tick = time.monotonic()
            evaluations.append(probe(done))
            state["seconds_probing"] += time.monotonic() - tick
        for epoch in [epoch for epoch, at in keep.items() if at == done]:
            models.save(model, tokenizer, checkpoints.folder / f"epoch{epoch}")
        spent = time.monotonic() - started
        state.update(update=done, seconds=before + spent)
        if done % spec["probe_every"] == 0 or done == last:
            left = spent / (done - first) * (last - done)
            LOG.info("update %d/%d loss %.3f grad %.1f %.1f rows/s ETA %.0f s", done, last,
                     record["loss"], record["grad_norm"], rate, left)  # fmt: skip
        if stop:
            save()
            LOG.info("SIGTERM: saved after update %d; run again to go on", done)
            sys.exit(143)
        if done % spec["checkpoint_every"] == 0 and done < last:
            save()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tables = {
        "trajectory": pd.concat(evaluations, ignore_index=True),
        "training": pd.DataFrame(history),
    }
    return tables, {**state, "updates": last, "training_rows": total}


def reference_logps(
    model: torch.nn.Module, pairs: pd.DataFrame, codec: Codec, compute: dict
) -> pd.DataFrame:
    """Log-probs of y⁺ and y⁻ of every training pair under ``model``: ``example_id, chosen,
    rejected`` in nats. They depend on model and data alone, so all runs that start there share
    them."""
    train = pairs[pairs["split"] == "train"].reset_index(drop=True)
    spec = {"algorithm": "dpo", "labels": "given"}
    rows = training_rows(train, codec, spec, 0, None)
    device = torch.device(compute["device"])
    values = np.zeros((len(rows), 2))
    for group in scoring.batches_by_budget(rows.trees, compute["batch_tokens"]):
        batch = scoring.pack([rows.trees[i] for i in group], device)
        with models.autocast(compute):
            scored = scoring.score_batch(model, batch)
        lengths = [len(r) for i in group for r in rows.trees[i].responses]
        values[group] = scoring.aggregate(scored, lengths)["logp"].reshape(-1, 2)
    return train[["example_id"]].assign(chosen=values[:, 0], rejected=values[:, 1])
