"""One process or several: what the loop must know of it, over accelerate.

Sharding uses torch's own ``fully_shard`` rather than accelerate's wrapper, which has no CPU path:
the same code is tested without GPUs.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from learning_dynamics.errors import InputError
from learning_dynamics.scoring import Engine
from learning_dynamics.trajectory import ProbeTrees

LOG = logging.getLogger(__name__)
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def accelerator_of(compute: dict, folder: Path | None = None) -> Accelerator:
    """The processes that this one belongs to, their precision and the tracker, if one is asked for
    (its files go to ``folder``).

    Raises:
        InputError: when the number of processes, or the precision, is not to be had.
    """
    cpu = compute["device"] == "cpu"
    if cpu and compute["precision"] == "fp16":
        raise InputError("compute.precision = 'fp16': needs device cuda; expected fp32 or bf16")
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=PRECISIONS[compute["precision"]],
            log_with=compute.get("tracker"),
            project_dir=folder,
        )
    except ValueError as error:
        raise InputError(f"compute: {str(error).splitlines()[0]}") from None
    wanted = compute.get("processes", 1)
    if accelerator.num_processes != wanted:
        raise InputError(
            f"compute.processes = {wanted}: {accelerator.num_processes} are running; expected a "
            "launch by the workflow, or by torchrun --nproc-per-node"
        )
    torch.set_num_threads(compute["threads"])  # accelerate sets its own
    return accelerator


def spread(engine: Engine, accelerator: Accelerator, sharding: str) -> torch.nn.Module:
    """The engine as the processes train it together: itself, replicated (``none``: DDP), or its
    weights and optimiser state divided among them (``fsdp``: one unit per layer)."""
    if sharding == "none" or accelerator.num_processes == 1:
        return accelerator.prepare(engine)
    from torch.distributed.fsdp import fully_shard

    layers = set(getattr(engine.model, "_no_split_modules", None) or [])
    for module in engine.model.modules():
        if type(module).__name__ in layers:
            fully_shard(module)
    return fully_shard(engine)


class Prober:
    """Scores the probe set; with several processes, each its share of the trees. ``by_token``
    goes to the scorer."""

    def __init__(
        self,
        probes: ProbeTrees,
        engine: Engine,
        accelerator: Accelerator,
        compute: dict,
        by_token: bool = False,
    ) -> None:
        rank, count = accelerator.process_index, accelerator.num_processes
        owner = [i for i, tree in enumerate(probes.trees) for _ in tree.responses]
        self._rows = [n for n, tree in enumerate(owner) if tree % count == rank]
        self._engine, self._accelerator = engine, accelerator
        self.scorer = probes.scorer(compute["batch_tokens"], rank, count, by_token)
        # Where weights are sharded, every forward pass is a meeting of all processes.
        self._passes = max(gather_object([len(self.scorer)]) if count > 1 else [0])
        self._filler = probes.trees[:1]

    def __call__(self) -> dict[str, np.ndarray]:
        """Metrics of every probe response, in the probe set's order."""
        with self._accelerator.autocast():
            metrics = self.scorer(self._engine)
            for _ in range(self._passes - len(self.scorer)):
                with torch.no_grad():
                    self._engine(self._engine.pack(self._filler))
        table = pd.DataFrame(metrics, index=self._rows)
        if self._accelerator.num_processes > 1:
            table = pd.concat(gather_object([table]))
        return {name: column.to_numpy() for name, column in table.sort_index().items()}


def total(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over processes."""
    return accelerator.reduce(values, "sum") if accelerator.num_processes > 1 else values


def anyone(asked: bool, accelerator: Accelerator) -> bool:
    """Whether this is true of any process."""
    return bool(total(torch.tensor(float(asked), device=accelerator.device), accelerator) > 0)


def by_process(value: object, accelerator: Accelerator) -> list:
    """The values of all processes, in their order."""
    return gather_object([value]) if accelerator.num_processes > 1 else [value]
