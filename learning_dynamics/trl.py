"""The learning dynamics of anyone's training: a callback for ``transformers.Trainer`` and TRL's
trainers that scores a probing set along it, with the engine and into the schema of this package.

What it does not do: it scores the weights that one process holds, so it refuses a model whose
weights are divided among processes (FSDP, ZeRO-3, tensor parallelism); such runs are scored from
their saved checkpoints, by ``python -m learning_dynamics score``. Under DDP, and ZeRO-1 or 2, the
main process scores and the others wait for it at their next exchange of gradients, at most
``ddp_timeout`` seconds.
"""

import json
import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from learning_dynamics import models, trajectory
from learning_dynamics.borrowed import causal_of, undisturbed, whole
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table, sweep, write_json, write_table
from learning_dynamics.known import FACTS, TRAJECTORY
from learning_dynamics.observe import BATCH_TOKENS, codec_of, digest, facts, read_probes
from learning_dynamics.provenance import commit
from learning_dynamics.scoring import Engine, attention

GREEDY0 = ".greedy0.parquet"  # the greedy tokens of step 0: what a resumed run goes on with
LOG = logging.getLogger(__name__)


class DynamicsCallback(TrainerCallback):
    """Scores a probing set before the first update, every ``probe_every`` updates and after the
    last, and leaves the training as it would be without, bit for bit.

    In ``out`` it writes ``trajectory.parquet`` (docs/architecture.md; log-probs are sums in nats)
    and ``dynamics.json`` (whose it is, what it cost), at every save of the trainer and at the end.
    A training that is resumed from a checkpoint goes on with its rows. ``examples`` are
    rows of the trainer's training set, ``epoch`` is that by their number: GRPO's are prompts. The
    trainer's logs tell the cost: ``dynamics_seconds``, and ``dynamics_share`` of all time spent.

    The model is scored in evaluation mode (dropout off), in the precision it is trained in: under
    autocast where the trainer has bf16 or fp16, in the weights' own type otherwise.

    Args:
        probes: the probing set: a Parquet file or a table with the columns ``split`` (train or
            test), ``example_id, prompt, response_type, response``.
        probe_every: updates between two evaluations.
        out: folder; default: the trainer's output folder.
        tokenizer: default: the trainer's ``processing_class``.
        role: the run's part in the claims (``sft``, ``dpo``, ... as in config.yaml, section
            claims); default: that of an SFT or a DPO trainer, else none.
        model, data: names of the model and the data in figures and claims. Runs that are to be
            judged together have the same two; default: the model's own name, and ``probes``.
        batch_tokens: tokens per scoring batch.
        texts: how probes become tokens: the options of :func:`observe.codec_of`.

    Raises:
        InputError: here, or when the training begins: for a probing set that cannot be read or
            scored, divided weights, or a trajectory in ``out`` that the resumed training cannot go
            on with.
    """

    def __init__(
        self,
        probes: str | Path | pd.DataFrame,
        probe_every: int = 50,
        out: str | Path | None = None,
        *,
        tokenizer: Any = None,
        role: str | None = None,
        model: str | None = None,
        data: str = "probes",
        batch_tokens: int = BATCH_TOKENS,
        **texts: Any,
    ) -> None:
        if not isinstance(probe_every, int) or probe_every < 1:
            raise InputError(f"probe_every = {probe_every!r}: expected a whole number of updates")
        self._probes = read_probes(probes)
        self._every, self._out, self._tokenizer = probe_every, out, tokenizer
        self._role, self._name, self._data = role, model, data
        self._batch_tokens, self._texts = batch_tokens, texts
        self._engine: Engine | None = None  # in the main process, while it trains

    # -- the trainer's events --------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prepare, and score the model as it is before the first update."""
        model = whole(kwargs["model"])
        if not state.is_world_process_zero:
            return
        self._started, self._spent, self._before = time.monotonic(), 0.0, {}
        tokenizer = self._tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise InputError("DynamicsCallback: the trainer has no tokenizer; expected tokenizer=")
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        self._codec = codec_of(tokenizer, causal_of(model).config, **self._texts)
        self._trees = trajectory.probe_trees(self._probes, self._codec)
        self._scorer = self._trees.scorer(self._batch_tokens)
        self._folder = Path(self._out or args.output_dir)
        self._tables: list[pd.DataFrame] = []
        self._last = self._written = None  # updates: scored, and on the disk
        self._knows_start = True
        sweep(self._folder)
        tick = time.monotonic()
        with undisturbed(model):
            self._engine = Engine(model)
        self._spent += time.monotonic() - tick
        if state.global_step:
            self._go_on(state.global_step)
        if self._last is None:
            self._score(args, state, kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score where an evaluation is due; write before the trainer saves a checkpoint, so that no
        checkpoint is ahead of its trajectory."""
        if self._engine is None:
            return
        # The last update is scored here: when training ends the trainer may have put its best model
        # in the place of its last one.
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._score(args, state, kwargs)
        if control.should_save:
            self._write(args)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write before the trainer saves a checkpoint."""
        if self._engine is not None and control.should_save:
            self._write(args)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what is not written yet: another callback may have asked for the save."""
        if self._engine is not None:
            self._write(args)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say what scoring has cost so far."""
        if self._engine is not None and kwargs.get("logs") is not None:
            cost = self._cost()
            kwargs["logs"]["dynamics_seconds"] = round(cost["seconds_probing"], 3)
            kwargs["logs"]["dynamics_share"] = round(cost["share_probing"], 4)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the last update where the training ended early, and write."""
        if self._engine is None:
            return
        if self._last != state.global_step:
            if args.load_best_model_at_end:
                LOG.warning("the trainer has loaded its best model: the last update, %d, is not in "
                            "the trajectory", state.global_step)  # fmt: skip
            else:
                self._score(args, state, kwargs)
        self._write(args)
        cost = self._cost()
        LOG.info("%s: probe set scored in %.1f s, %.1f%% of training", self._folder,
                 cost["seconds_probing"], 100 * cost["share_probing"])  # fmt: skip
        self._engine = None

    # -- scoring ---------------------------------------------------------------------------------

    def _score(self, args: TrainingArguments, state: TrainerState, kwargs: dict) -> None:
        """Add the evaluation of the model as it is now."""
        if self._last == state.global_step:
            return
        engine = self._engine
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)  # else the update would count as ours
        tick = time.monotonic()
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
        with undisturbed(engine.model) as causal:
            if engine.shares_prompts:
                causal.set_attn_implementation(attention.NAME)
            with models.autocast({"device": engine.device.type, "precision": precision}):
                metrics = self._scorer(engine)
        if not self._knows_start:
            metrics["logp_greedy0"] = np.full_like(metrics["logp_greedy0"], np.nan)
        self._last = step = state.global_step
        loader = kwargs.get("train_dataloader")
        rows = _length(getattr(loader, "dataset", None)) or np.nan
        known = self._trees.identity
        now = trajectory.evaluation(known, metrics, step, _consumed(args, state, loader), rows)
        self._tables.append(now)
        self._spent += time.monotonic() - tick

    def _cost(self) -> dict[str, float]:
        """Seconds of scoring and of training with it, earlier attempts included."""
        whole = self._before.get("seconds", 0.0) + time.monotonic() - self._started
        probing = self._before.get("seconds_probing", 0.0) + self._spent
        share = probing / whole if whole else 0.0
        return {"seconds": whole, "seconds_probing": probing, "share_probing": share}

    # -- files -----------------------------------------------------------------------------------

    def _write(self, args: TrainingArguments) -> None:
        """Write table, tokens and facts, each whole or not at all."""
        if self._written == self._last:
            return
        if self._knows_start:
            greedy0 = pd.DataFrame({"token": self._scorer.greedy0})
            write_table(self._folder / GREEDY0, greedy0)
        table = pd.concat(self._tables, ignore_index=True)
        write_table(self._folder / TRAJECTORY, table, trajectory.SCHEMA)
        algorithm = _algorithm(args)
        config = causal_of(self._engine.model).config
        name = self._name or Path(config.name_or_path).name or config.model_type
        role = self._role or (algorithm if algorithm in ("sft", "dpo") else None)
        write_json(
            self._folder / FACTS,
            {
                **facts(self._probes, role, name, self._data, args.learning_rate, args.seed),
                "algorithm": algorithm,
                "probes": digest(self._probes, self._codec),
                "probe_every": self._every,
                "updates": self._last,
                **self._cost(),
                "attempts": self._before.get("attempts", 0) + 1,
                "evaluations": int(table["step"].nunique()),
                "cut_prompts": self._codec.cut_prompts,
                "cut_responses": self._codec.cut_responses,
                "commit": commit(),
                "versions": {name: version(name) for name in ("torch", "transformers")},
            },
        )
        self._written = self._last

    def _go_on(self, step: int) -> None:
        """Take up the trajectory of a training that is resumed after update ``step``."""
        place = self._folder / TRAJECTORY
        table = pd.DataFrame({"step": []})
        if place.exists():
            table = read_table(place, trajectory.COLUMNS)
            table = table[table["step"] <= step]
        if table.empty:
            LOG.warning("%s: nothing up to update %d: the trajectory begins there, and "
                        "logp_greedy0 is not known", place, step)  # fmt: skip
            self._knows_start = False
            return
        path = self._folder / FACTS
        try:
            self._before = json.loads(path.read_bytes())
            mark = self._before["probes"]
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(f"{path}: cannot be read; expected what belongs to {place}") from None
        if mark != digest(self._probes, self._codec):
            raise InputError(
                f"{place}: of other probes, or other limits of length; expected those that the "
                "training began with, or another folder (out)"
            )
        self._tables = [table]
        self._last = self._written = int(table["step"].max())
        self._knows_start = bool(table["logp_greedy0"].notna().all())
        if self._knows_start:
            tokens = read_table(self._folder / GREEDY0, ["token"])["token"].to_numpy(copy=True)
            expected = sum(len(r) for tree in self._trees.trees for r in tree.responses)
            if len(tokens) != expected:
                raise InputError(
                    f"{self._folder / GREEDY0}: {len(tokens)} tokens; expected {expected}"
                )
            self._scorer.greedy0 = tokens


def _length(sized: Any) -> int | None:
    """Rows of a data set, or batches of its loader, where it has a length."""
    try:
        return len(sized) or None
    except (TypeError, AttributeError):
        return None


def _consumed(args: TrainingArguments, state: TrainerState, loader: Any) -> int:
    """Training rows consumed: whole passes, and of the last one its batches so far (the trainer
    counts ``epoch`` in batches, of which the last may hold fewer rows). A trainer that repeats its
    rows, as GRPO answers each prompt several times, has consumed that share of them."""
    rows, batches = _length(getattr(loader, "dataset", None)), _length(loader)
    batch = args.train_batch_size * args.world_size
    if rows is None or batches is None:
        return state.global_step * batch * args.gradient_accumulation_steps
    cut = args.dataloader_drop_last and rows >= batch
    of_pass = rows // batch * batch if cut else rows
    passes, done = divmod(round((state.epoch or 0.0) * batches), batches)
    if batches != -(-of_pass // batch):
        return passes * rows + round(done / batches * rows)
    return passes * of_pass + min(done * batch, of_pass)


def _algorithm(args: TrainingArguments) -> str | None:
    """``sft``, ``dpo``, ``kto``, ``grpo``, ... by TRL's configuration; None elsewhere."""
    for kind in type(args).__mro__:
        if kind.__module__.startswith("trl.") and kind.__name__.endswith("Config"):
            return kind.__name__.removesuffix("Config").lower().lstrip("_") or None
    return None
