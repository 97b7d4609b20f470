"""Resume checkpoints: safetensors and JSON in an undeclared folder, whole or absent.

A checkpoint is a folder ``update-<n>`` that appears by one rename; the previous one is kept until
then. It is used only by a run with the same fingerprint (settings, inputs, code).
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from learning_dynamics.files import atomic, write_table

LOG = logging.getLogger(__name__)


def fingerprint(settings: dict, files: Iterable[str | Path]) -> str:
    """SHA-256 over settings and the content of files (folders: every file in them)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for item in map(Path, files):
        for path in sorted(item.rglob("*")) if item.is_dir() else [item]:
            if path.is_file():
                digest.update(path.name.encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class Checkpoints:
    """The resume checkpoints of one run, in ``folder``.

    In a run of several processes, every process calls :meth:`save`, since the parts of a sharded
    model come together there; ``writes`` says which one writes.
    """

    def __init__(self, folder: str | Path, mark: str, writes: bool = True) -> None:
        self.folder, self._mark, self._writes = Path(folder), mark, writes

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict,
        tables: dict[str, pd.DataFrame],
        extra: dict[str, Tensor],
    ) -> None:
        """Write everything needed to go on after update ``state["update"]``; ``extra`` are further
        tensors by name."""
        tensors = {**whole_state(model, optimizer), **{f"extra.{k}": v for k, v in extra.items()}}
        if not self._writes:
            return
        target = self.folder / f"update-{state['update']:08d}"
        with atomic(target) as temporary:
            temporary.mkdir()
            save_file(_unshared(tensors), temporary / "state.safetensors")
            for name, table in tables.items():
                write_table(temporary / f"{name}.parquet", table)
            text = json.dumps({**state, "fingerprint": self._mark})
            (temporary / "state.json").write_text(text, encoding="utf-8")
        for old in self._all():
            if old != target:
                shutil.rmtree(old)

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict, dict[str, pd.DataFrame], dict[str, Tensor]] | None:
        """Put the newest valid checkpoint into model and optimizer; ``(state, tables, extra)``, or
        None when there is none.

        A checkpoint of other settings, inputs or code is discarded, with a line in the log.
        """
        for path in reversed(self._all()):
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if state.pop("fingerprint") != self._mark:
                LOG.info("discarding %s: settings, inputs or code have changed", path.name)
                if self._writes:
                    shutil.rmtree(path)
                continue
            tensors = load_file(path / "state.safetensors")
            put_state(model, optimizer, tensors)
            tables = {p.stem: pd.read_parquet(p) for p in path.glob("*.parquet")}
            return state, tables, _part(tensors, "extra.")
        return None

    def remove(self) -> None:
        """Delete the folder: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("update-*"))


def whole_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights (``model.<name>``) and optimiser slots (``optimizer.<parameter>.<slot>``), on the CPU
    where the model is sharded. A collective call there."""
    if _sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights, slots = get_state_dict(model, optimizer, options=options)
        slots = slots.get("state", {})  # the first process alone has it
    else:
        weights, slots = model.state_dict(), optimizer.state_dict()["state"]
    tensors = {f"model.{name}": value.contiguous() for name, value in weights.items()}
    for parameter, values in slots.items():
        for slot, value in values.items():
            tensors[f"optimizer.{parameter}|{slot}"] = torch.as_tensor(value).contiguous()
    return tensors


def model_state(model: torch.nn.Module) -> dict[str, Tensor] | None:
    """The weights of a sharded engine's causal LM, whole, on the CPU of the first process; None for
    a model that is whole already. A collective call."""
    if not _sharded(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return _part(get_model_state_dict(model, options=options), "model.")


def put_state(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put what :func:`whole_state` gave back into model and optimiser."""
    weights = _part(tensors, "model.")
    slots: dict[str, dict] = {}
    for key, value in _part(tensors, "optimizer.").items():
        parameter, _, slot = key.partition("|")
        slots.setdefault(parameter, {})[slot] = value
    if not _sharded(model):
        model.load_state_dict(weights, strict=False)  # tied weights are stored once
        states = {int(parameter): values for parameter, values in slots.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        return
    from torch.distributed.checkpoint import state_dict as sharding

    options = sharding.StateDictOptions(full_state_dict=True, strict=False)
    sharding.set_model_state_dict(model, weights, options=options)
    groups = sharding.get_optimizer_state_dict(model, optimizer, options=options)["param_groups"]
    state = {"state": slots, "param_groups": groups}
    sharding.set_optimizer_state_dict(model, optimizer, state, options=options)


def _sharded(model: torch.nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the second name of a tensor that two modules share (tied embeddings)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel() > 1:
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor
    return kept
