"""Finetuning: one loop for every algorithm, in the paper's shape.

Summed token log-probs, RMSprop with linear warm-up, gradient clipping, dropout off; the probe set
is scored before the first update, every ``probe_every`` updates and after the last. A killed run
goes on where it stopped and ends with the same numbers, bit for bit (same device and number of
threads). One process or several, weights whole or sharded; reads top to bottom.
"""

import logging
import math
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from learning_dynamics import one_update, parallel, trajectory
from learning_dynamics.algorithms import Algorithm, algorithm, residuals
from learning_dynamics.errors import InputError
from learning_dynamics.loss_values import loss_values, reference_values
from learning_dynamics.policy_rows import PolicyRows
from learning_dynamics.reference import token_logps
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import Rows, rows_of_update
from learning_dynamics.scoring import (
    Batch,
    Engine,
    Scored,
    label_logp,
    residual_norms,
    sum_by_response,
)
from learning_dynamics.token_trajectory import TokenTrajectory
from learning_dynamics.trained import Trained
from learning_dynamics.trajectory import ProbeTrees

LOG = logging.getLogger(__name__)
OPTIMIZERS = {
    "rmsprop": torch.optim.RMSprop,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@dataclass
class Learner:
    """A run's model with its optimiser and processes.

    Attributes:
        trained: the model, and how it is written.
        engine: what scores it.
        together: the engine as the processes train it together.
        optimizer, accelerator, spec, compute: its optimiser, processes and settings.
        algorithm: its loss.
    """

    trained: Trained
    engine: Engine
    together: torch.nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    spec: dict
    compute: dict
    algorithm: Algorithm

    @classmethod
    def of(cls, trained: Trained, spec: dict, compute: dict, accelerator: Accelerator) -> "Learner":
        """The learner of a run at its start."""
        engine = Engine(trained.model)
        together = parallel.spread(engine, accelerator, compute["sharding"])
        weights = [p for p in together.parameters() if p.requires_grad]
        optimizer = accelerator.prepare(OPTIMIZERS[spec["optimizer"]](weights, lr=spec["lr"]))
        used = algorithm(spec["algorithm"])
        return cls(trained, engine, together, optimizer, accelerator, spec, compute, used)

    def save(self, folder: Path) -> None:
        """Write the model to ``folder``, loadable by ``from_pretrained``."""
        self.trained.save(self.together, folder, self.accelerator)


def update(
    learner: Learner, rows: Rows, numbers: list[int], draw: tuple[int, ...] = (0,)
) -> dict[str, float]:
    """One optimiser update on the rows called ``numbers``, in as many pieces as processes and
    accumulation ask for; what is recorded of it. ``draw`` fixes the step's direction where that is
    random.

    Returns loss (nats), gradient norm before clipping, mean margin (nats; NaN without pairs and
    reference) and mean residual norm ‖π − e‖₂ over the positions of each response.
    """
    accelerator, spec = learner.accelerator, learner.spec
    mine = numbers[accelerator.process_index :: accelerator.num_processes]
    pieces = [mine[i :: spec["accumulate"]] for i in range(spec["accumulate"])]
    other = _mismatched(learner, rows, numbers)
    sums = 0
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        with nullcontext() if last else accelerator.no_sync(learner.together):
            loss, facts = _piece(learner, rows, piece, other)
            # The processes' gradients are averaged; the batch's loss is the mean over its rows.
            accelerator.backward(loss * accelerator.num_processes / len(numbers))
            sums = sums + facts
    norm = accelerator.clip_grad_norm_(learner.together.parameters(), spec["clip"])
    if spec["direction"] == "random":
        _step_at_random(learner, draw)
    else:
        learner.optimizer.step()
    learner.optimizer.zero_grad()
    sums = parallel.total(sums, accelerator).tolist()
    residual = [s / n if n else float("nan") for s, n in zip(sums[2::2], sums[3::2], strict=True)]
    return {
        "loss": sums[0] / len(numbers),
        "grad_norm": float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm),
        "margin": sums[1] / len(numbers),
        "residual_norm_chosen": residual[0],
        "residual_norm_rejected": residual[1],
    }


@torch.no_grad()
def _step_at_random(learner: Learner, draw: tuple[int, ...]) -> None:
    """A step as long as the optimiser's in every tensor, in a direction that is drawn: what remains
    of an update without what it has learnt."""
    if learner.compute["sharding"] != "none":
        raise InputError(
            "runs: direction = 'random': weights are divided among the processes; expected "
            "compute.sharding: none"
        )
    numbers = np.random.default_rng(draw).integers(2**63)
    generator = torch.Generator().manual_seed(int(numbers))
    weights = [p for group in learner.optimizer.param_groups for p in group["params"]]
    before = [weight.clone() for weight in weights]
    learner.optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        direction = torch.randn(weight.shape, generator=generator).to(weight)
        length = (weight - old).norm() / direction.norm()
        weight.copy_(old + length * direction)


def _piece(
    learner: Learner, rows: Rows, numbers: list[int], other: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Summed loss of some rows, with gradient; and the sums of what is recorded: loss, margin, then
    residual norm and positions of each of two responses."""
    used, engine = learner.algorithm, learner.engine
    batch = engine.pack([rows.trees[i] for i in numbers])
    with learner.accelerator.autocast():
        scored = learner.together(batch, want="logits" if used.logits else "logp")
    if used.logits:
        scored = Scored(
            label_logp(scored.logits, batch.target),
            residual_norms(scored.logits.detach(), batch.target),
            scored.logits,
        )
    reference = reference_values(used, rows, numbers, scored.logp)
    logp = _heard(scored.logp, batch, learner.spec)
    values = loss_values(used, batch, logp, reference, scored.logits)
    loss = residuals.row_loss(used, {**values, **other}, learner.spec).sum()
    with torch.no_grad():
        facts = torch.zeros(6, dtype=torch.float64, device=loss.device)
        facts[0] = loss
        facts[1] = _margin(values)
        sides = len(used.responses)
        for side in range(sides):
            here = batch.owner % sides == side
            facts[2 + 2 * side] = scored.residual_norm[here].sum()
            facts[3 + 2 * side] = here.sum()
    return loss, facts


def _heard(logp: Tensor, batch: Batch, spec: dict) -> Tensor:
    """The same log-probs (N,), without gradient at those tokens of y⁻ that the run leaves out."""
    if spec.get("negative", "all") == "all":
        return logp
    left_out = batch.owner % 2 == 1
    if spec["negative"] == "valley":
        left_out &= logp.detach() >= np.log(spec["valley"])
    return torch.where(left_out, logp.detach(), logp)


def _margin(values: dict[str, Tensor]) -> Tensor | float:
    """Sum over rows of the log-ratio of y⁺ minus that of y⁻, nats."""
    if "ref_chosen" not in values:
        return float("nan")
    chosen = values["chosen"] - values["ref_chosen"]
    return (chosen - (values["rejected"] - values["ref_rejected"])).sum()


@torch.no_grad()
def _mismatched(learner: Learner, rows: Rows, numbers: list[int]) -> dict[str, Tensor]:
    """Log-probs of the whole batch's mismatched responses, where the algorithm asks for them. Every
    process scores all: a batch statistic must not depend on how the batch is divided."""
    if rows.mismatched is None:
        return {}
    batch = learner.engine.pack([rows.mismatched[i] for i in numbers])
    with learner.accelerator.autocast():
        logp = sum_by_response(learner.together(batch).logp, batch)
    return {"mismatched": logp, "ref_mismatched": logp.new_tensor(rows.ref_mismatched[numbers])}


def finetune(
    learner: Learner,
    rows: Rows,
    probes: ProbeTrees,
    seed: int,
    checkpoints: Checkpoints,
    keep_epochs: list[str],
    written: PolicyRows | None = None,
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Run one finetuning to its end.

    Args:
        learner: the model at its start, with optimiser, processes and settings.
        rows: the training set.
        probes: the probe set.
        checkpoints: where resume checkpoints and the models of ``keep_epochs`` are kept.
        keep_epochs: epochs whose model other runs start from.
        written: the source of rows that the policy itself writes, where the run asks for it.

    Returns:
        ``{"trajectory": ..., "training": ...}`` (and ``written``, ``proxies``, ``tokens``,
        ``influence``, where the run has them) and the counters for ``run.json``.

    Raises:
        InputError: when the loss is no longer finite, or a batch has fewer rows than pieces.
        SystemExit: with code 143 after SIGTERM, once the state is saved.
    """
    spec, compute, accelerator = learner.spec, learner.compute, learner.accelerator
    together, optimizer = learner.together, learner.optimizer
    size, count = spec["batch_size"], len(rows)
    if size < accelerator.num_processes * spec["accumulate"]:
        raise InputError(
            f"runs: batch_size = {size}: fewer rows than processes × accumulate = "
            f"{accelerator.num_processes * spec['accumulate']}; expected at least one row for each"
        )
    if written is not None and together is not learner.engine and compute["sharding"] == "fsdp":
        raise InputError(
            "compute.sharding = 'fsdp': a sharded policy cannot write its own rows here; expected "
            "none for runs with rows: self-play or on-policy"
        )
    last = trajectory.update_of_epoch(spec["epochs"], count, size)
    keep = {epoch: trajectory.update_of_epoch(float(epoch), count, size) for epoch in keep_epochs}
    if rows.reference is None and written is None and learner.algorithm.reference:
        # Rows of the probe set are no pairs, so no table holds their reference log-probs.
        rows = replace(rows, reference=token_logps(learner.engine, rows.trees, compute))
    tokens = None
    if spec.get("tokens"):
        evaluations_ahead = 1 + math.ceil(last / spec["probe_every"])
        tokens = TokenTrajectory(probes, spec["tokens"]["examples"], learner.trained.tokenizer,
                                 evaluations_ahead)  # fmt: skip
    prober = parallel.Prober(probes, learner.engine, accelerator, compute, tokens is not None)
    meter = one_update.Meter(learner, probes) if spec.get("proxies") else None
    along = None
    if spec.get("influence"):
        from learning_dynamics.influence.meter import Meter  # which needs this module

        along = Meter(learner, probes, last)

    def probe(done: int) -> pd.DataFrame:
        scores = prober()
        if tokens:
            tokens.add(done, scores)
        return trajectory.evaluation(probes.identity, scores, done, done * size, count)

    stop = []
    before_us = signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    started = time.monotonic()
    resumed = checkpoints.load(together, optimizer)
    if resumed:
        state, tables, extra = resumed
        prober.scorer.greedy0 = extra[f"greedy0.{accelerator.process_index}"].numpy()
        history = tables["training"].to_dict("records")
        for record in history:
            record["rows"] = record["rows"].tolist()
        evaluations = [tables["trajectory"]]
        if written and "written" in tables:
            written.restore(tables["written"])
        if meter and "proxies" in tables:
            meter.tables = [tables["proxies"]]
        if tokens:
            tokens.tables = [tables["tokens"]]
        if along:
            along.tables = [tables["influence"]] if "influence" in tables else []
            along.seconds = state["seconds_influence"]
            along.restore(extra)
    else:
        state = {"update": 0, "seconds": 0.0, "seconds_probing": 0.0}
        history, evaluations = [], [probe(0)]
        state["seconds_probing"] = time.monotonic() - started
    before = state["seconds"]
    first = state["update"]
    counts = checkpoints.begin(first)

    def save() -> None:
        tables = {"trajectory": pd.concat(evaluations), "training": pd.DataFrame(history)}
        if written is not None:
            tables["written"] = written.written
        if meter is not None and meter.tables:
            tables["proxies"] = meter.table()
        if tokens:
            tables["tokens"] = tokens.table()
        if along and along.tables:
            tables["influence"] = along.table()
        greedy0 = parallel.by_process(prober.scorer.greedy0, accelerator)
        extra = {f"greedy0.{rank}": torch.from_numpy(g) for rank, g in enumerate(greedy0)}
        extra |= along.flight() if along else {}
        checkpoints.save(together, optimizer, state, tables, extra)

    for done in range(first + 1, last + 1):
        for group in optimizer.param_groups:
            group["lr"] = spec["lr"] * min(1.0, done / (spec["warmup"] + 1))
        if written is not None:
            rows = written.at(done - 1, learner.engine, compute)
        numbers = rows_of_update(done - 1, rows, size, seed, spec["length_buckets"])
        measured = meter is not None and (done - 1) % spec["probe_every"] == 0
        if measured:
            meter.before(rows, numbers, _mismatched(learner, rows, numbers))
        if along:
            along.before(done - 1, rows, numbers)
        tick = time.monotonic()
        record = update(learner, rows, numbers, (seed, done))
        if not np.isfinite(record["loss"]):
            raise InputError(
                f"runs: lr = {spec['lr']}: the loss is {record['loss']} at update {done}; expected "
                "a finite loss (a smaller lr, or precision fp32)"
            )
        rate = size / (time.monotonic() - tick)
        if measured:
            meter.after(done - 1, group["lr"])
        if along:
            along.after(done)
            state["seconds_influence"] = along.seconds
        counters = {"step": done, "examples": done * size, "epoch": done * size / count}
        history.append(
            {**counters, "lr": group["lr"], **record, "rows": numbers, "rows_per_s": rate}
        )
        accelerator.log(record, step=done)
        if done % spec["probe_every"] == 0 or done == last:
            tick = time.monotonic()
            evaluations.append(probe(done))
            state["seconds_probing"] += time.monotonic() - tick
        for epoch in [epoch for epoch, at in keep.items() if at == done]:
            learner.save(checkpoints.folder / f"epoch{epoch}")
        spent = time.monotonic() - started
        state.update(update=done, seconds=before + spent)
        checkpoints.reached(done)
        if done % spec["probe_every"] == 0 or done == last:
            left = spent / (done - first) * (last - done)
            LOG.info("update %d/%d loss %.3f grad %.1f %.1f rows/s ETA %.0f s", done, last,
                     record["loss"], record["grad_norm"], rate, left)  # fmt: skip
        if parallel.anyone(bool(stop), accelerator):
            save()
            LOG.info("SIGTERM: saved after update %d; run again to go on", done)
            sys.exit(143)
        if done % spec["checkpoint_every"] == 0 and done < last:
            save()
    signal.signal(signal.SIGTERM, before_us)
    tables = {
        "trajectory": pd.concat(evaluations, ignore_index=True),
        "training": pd.DataFrame(history),
    }
    if written is not None:
        tables["written"] = written.written
    if meter is not None:
        tables["proxies"] = meter.table()
    if tokens:
        tables["tokens"] = tokens.table()
    if along:
        tables["influence"] = along.table()
        LOG.info("influence.parquet: %.1f of %.1f s", along.seconds, state["seconds"])
    return tables, {**state, **counts, "updates": last, "training_rows": count}
