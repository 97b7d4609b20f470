"""Proposition 1 along a run: what windows of its own updates do to probed responses, predicted to
first order and measured (docs/statistics.md, section "Influence along a run"). Measuring changes
nothing of the run.

A window begins after warm-up, then every ``every`` updates, and lasts as many updates as the
largest of ``updates``; one that would not end within the run is not begun. What is known of a
window is part of a resume checkpoint, so that a run may be stopped within one.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learning_dynamics.errors import InputError
from learning_dynamics.finetune import Learner
from learning_dynamics.influence.baselines import mean_states, token_overlap
from learning_dynamics.influence.directions import (
    REST,
    Direction,
    optimizer_step,
    residual_weights,
    trainable,
)
from learning_dynamics.influence.predict import (
    Probes,
    finite_difference,
    line,
    log_probs,
    step_size,
)
from learning_dynamics.influence_table import COLUMNS
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Engine
from learning_dynamics.trajectory import ProbeTrees

# What a window in flight consists of, besides the weights that it began with.
FLIGHT = ["at", "first", "steps", "length", "states", "overlap", "hidden", "lr"]


class Meter:
    """Follows windows of a run's updates; every process measures the same.

    Attributes:
        tables: what was measured so far.
        seconds: what that took.
    """

    def __init__(self, learner: Learner, probes: ProbeTrees, last: int) -> None:
        """Choose the first probed training prompts, with all their responses; ``last`` is the
        run's last update.

        Raises:
            InputError: when no window fits into the run, nothing is probed on training prompts, or
                the run's steps cannot be done twice or divided among responses.
        """
        self._learner, self.tables, self.seconds = learner, [], 0.0
        self._wanted, self._last = learner.spec["influence"], last
        self._longest = max([1, *self._wanted["updates"]])
        self._end = probes.end_of_text
        first = learner.spec["warmup"] + self._longest
        if first > last:
            raise InputError(
                f"runs: influence.updates: a window of {self._longest} updates after "
                f"{learner.spec['warmup']} of warm-up does not end within the run's {last}; "
                "expected a shorter one (or influence: null)"
            )
        compute, direction = learner.compute, learner.spec["direction"]
        for name, value, wanted in (
            ("compute.sharding", compute["sharding"], ["none"]),
            ("compute.precision", compute["precision"], ["fp32", "bf16"]),
            ("runs: direction", direction, ["loss"]),
        ):
            if value not in wanted:
                raise InputError(
                    f"{name} = {value!r}: expected {' or '.join(wanted)} in runs with influence"
                )
        chosen, rows = probes.first(self._wanted["examples"])
        if not chosen:
            raise InputError("runs: influence: no probed training prompt; expected at least one")
        trees = [probes.trees[i] for i in chosen]
        self._probes = Probes(learner.engine, trees, compute["batch_tokens"])
        names = ["example_id", "response_type", "n_tokens"]
        self._identity = probes.identity.iloc[rows][names].reset_index(drop=True)
        self._window: dict[str, Tensor] = {}
        self._weights: Direction = {}  # that the window began with
        self._before: Direction = {}  # that the next update starts from
        self._first_order: dict[str, np.ndarray] = {}  # of the window's first update

    def before(self, step: int, rows: Rows, numbers: list[int]) -> None:
        """Look ahead at the update that follows ``step`` updates, on the rows called ``numbers``.
        The optimiser has its learning rate already."""
        tick, warmup = time.monotonic(), self._learner.spec["warmup"]
        starts = step >= warmup and (step - warmup) % self._wanted["every"] == 0
        if starts and step + self._longest <= self._last:
            self._begin(step, rows, numbers)
        if self._window:
            self._before = _copy(self._learner.engine)
            self._compare(rows, numbers)
        self.seconds += time.monotonic() - tick

    def after(self, step: int) -> None:
        """Look back at the update; ``step`` counts it."""
        if not self._window:
            return
        tick, window, engine = time.monotonic(), self._window, self._learner.engine
        done = step - int(window["at"])
        now = _copy(engine)
        if done > 1:
            move = _difference(now, self._before)
            with _placed(engine, self._before):
                length = float(window["length"]) / max(_norm(move), 1e-300)
                window["steps"] += torch.from_numpy(self._slope(move, length))
        if done in (1, *self._wanted["updates"]):
            found = {"steps": window["steps"].numpy()}
            if done == 1:
                found |= {"start": found["steps"], **self._first_order}
            else:
                with _placed(engine, self._weights):
                    found["start"] = self._slope(_difference(now, self._weights))
            found["measured"] = log_probs(engine, self._probes) - window["first"].numpy()
            self._add(done, 1.0, found)
        if done == self._longest:
            self._window, self._weights, self._before = {}, {}, {}
        self.seconds += time.monotonic() - tick

    def table(self) -> pd.DataFrame:
        """Everything measured: one row per window × L × factor × response
        (:data:`learning_dynamics.influence_table.SCHEMA`)."""
        empty = pd.DataFrame(columns=COLUMNS)
        return pd.concat(self.tables, ignore_index=True) if self.tables else empty

    def flight(self) -> dict[str, Tensor]:
        """The window in flight, as tensors by name; nothing between windows."""
        weights = {f"weights.{name}": value for name, value in self._weights.items()}
        return {f"influence.{name}": t for name, t in {**self._window, **weights}.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on with what :meth:`flight` gave."""
        mine = {k.removeprefix("influence."): v for k, v in tensors.items()
                if k.startswith("influence.")}  # fmt: skip
        device = self._learner.engine.device
        self._window = {name: mine[name] for name in FLIGHT if name in mine}
        self._weights = {
            name.removeprefix("weights."): value.to(device)
            for name, value in mine.items()
            if name.startswith("weights.")
        }

    def _begin(self, step: int, rows: Rows, numbers: list[int]) -> None:
        """Start a window: the one step that follows, its parts, and the step scaled."""
        engine, probes = self._learner.engine, self._probes
        taken = optimizer_step(self._learner, rows, numbers)
        moves = _norm(taken.total) > 0
        scale = step_size(engine, taken.total, probes) if moves else 0.0
        steps = self._slope(taken.total, scale)
        names = [REST if name == REST else f"through_{name}" for name in taken.parts]
        names = ["through_chosen" if name == "through_response" else name for name in names]
        self._first_order = {
            name: self._slope(part) for name, part in zip(names, taken.parts.values(), strict=True)
        }
        first = log_probs(engine, probes)
        states = mean_states(engine, probes.trees, self._learner.compute["batch_tokens"])
        nothing = np.zeros(len(probes.lengths))
        values = step, first, steps, scale * _norm(taken.total), states, nothing, nothing.copy()
        lr = self._learner.optimizer.param_groups[0]["lr"]
        named = zip(FLIGHT, (*values, lr), strict=True)
        self._window = {name: torch.from_numpy(np.asarray(value)) for name, value in named}
        self._weights = _copy(engine)
        with line(engine, taken.total) as move:
            for factor in self._wanted["factors"]:
                move(factor)
                changed = log_probs(engine, probes) - first
                predicted = {"steps": factor * steps, "start": factor * steps}
                self._add(1, factor, {**predicted, "measured": changed})

    def _compare(self, rows: Rows, numbers: list[int]) -> None:
        """How alike the observed responses are to those that the update trains on, signed and
        weighted by the loss, times the learning rate; added to the window's."""
        learner, window = self._learner, self._window
        trees = [rows.trees[i] for i in numbers]
        weights = np.array(residual_weights(learner, rows, numbers))
        weights = weights * learner.optimizer.param_groups[0]["lr"]
        with _placed(learner.engine, self._weights):
            states = mean_states(learner.engine, trees, learner.compute["batch_tokens"])
        alike = {
            "overlap": token_overlap(self._probes.trees, trees, [self._end]),
            "hidden": window["states"].numpy() @ states.T,
        }
        for name, values in alike.items():
            window[name] += torch.from_numpy(values @ weights)

    def _slope(self, direction: Direction, step: float | None = None) -> np.ndarray:
        """∇_θ log π(token) · Δθ at the present weights, (N,), nats; 0 where nothing moves."""
        if not _norm(direction) > 0:
            return np.zeros(int(self._probes.lengths.sum()))
        return finite_difference(self._learner.engine, direction, self._probes, step)

    def _add(self, updates: int, factor: float, found: dict[str, np.ndarray]) -> None:
        """Keep a row per response: sums over the tokens that a trajectory's sums count."""
        window, counted = self._window, self._identity["n_tokens"].to_numpy()
        sums = {name: self._probes.sums(values, counted) for name, values in found.items()}
        if factor == 1:
            sums |= {name: window[name].numpy().copy() for name in ("overlap", "hidden")}
        table = self._identity.assign(
            step=int(window["at"]), updates=updates, factor=float(factor),
            lr=float(window["lr"]), **sums,
        )  # fmt: skip
        self.tables.append(table.reindex(columns=COLUMNS))


def _copy(engine: Engine) -> Direction:
    return {name: p.detach().clone() for name, p in trainable(engine).items()}


def _difference(one: Direction, two: Direction) -> Direction:
    return {name: value - two[name] for name, value in one.items()}


def _norm(direction: Direction) -> float:
    return float(torch.nn.utils.get_total_norm(direction.values()))


@contextmanager
def _placed(engine: Engine, weights: Direction) -> Iterator[None]:
    """The engine at other weights; then at its own again, bit for bit."""
    with line(engine, weights), torch.no_grad():
        for name, p in trainable(engine).items():
            p.copy_(weights[name])
        yield
