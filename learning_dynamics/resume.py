"""Resume checkpoints: safetensors and JSON in an undeclared folder, whole or absent.

A checkpoint is a folder ``update-<n>`` that appears by one rename, with a checksum of every file in
it. The two newest are kept: should one turn out damaged, the run goes on from the one before. It is
used only by a run with the same fingerprint (settings, inputs, code). Beside them lies
``progress.json``: the last update done, so that a run that was killed can say what it repeats.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from learning_dynamics.files import atomic, sweep, write_table

LOG = logging.getLogger(__name__)
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it


def fingerprint(settings: dict, files: Iterable[str | Path]) -> str:
    """SHA-256 over settings and the content of files (folders: every file in them)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for item in map(Path, files):
        for path in sorted(item.rglob("*")) if item.is_dir() else [item]:
            if path.is_file():
                digest.update(path.name.encode())
                digest.update(bytes.fromhex(_sum(path)))
    return digest.hexdigest()


def _sum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Checkpoints:
    """The resume checkpoints of one run, in ``folder``.

    In a run of several processes, every process calls :meth:`save` and :meth:`load`, since the
    parts of a sharded model come together there; ``writes`` says which one writes, and ``check``
    raises when it must not any more.
    """

    def __init__(
        self,
        folder: str | Path,
        mark: str,
        writes: bool = True,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self._mark, self._writes, self._check = Path(folder), mark, writes, check
        self._progress = {"fingerprint": mark, "update": 0, "attempts": 0, "repeated": 0}

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
        if self._check:
            self._check()
        for old in self._all()[:-1]:
            shutil.rmtree(old)
        target = self.folder / f"update-{state['update']:08d}"
        with atomic(target) as temporary:
            temporary.mkdir()
            save_file(_unshared(tensors), temporary / "state.safetensors")
            for name, table in tables.items():
                write_table(temporary / f"{name}.parquet", table)
            text = json.dumps({**state, "fingerprint": self._mark})
            (temporary / "state.json").write_text(text, encoding="utf-8")
            sums = [f"{_sum(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
            (temporary / SUMS).write_text("".join(sums), encoding="utf-8")

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict, dict[str, pd.DataFrame], dict[str, Tensor]] | None:
        """Put the newest valid checkpoint into model and optimizer; ``(state, tables, extra)``, or
        None when there is none.

        One that is damaged, or of other settings, inputs or code, is discarded, with a line in the
        log.
        """
        chosen = [self._choose() if self._writes else None]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(chosen)
        if chosen[0] is None:
            return None
        path = self.folder / chosen[0]
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        del state["fingerprint"]
        tensors = load_file(path / "state.safetensors")
        put_state(model, optimizer, tensors)
        tables = {p.stem: pd.read_parquet(p) for p in path.glob("*.parquet")}
        return state, tables, _part(tensors, "extra.")

    def _choose(self) -> str | None:
        """The name of the newest checkpoint to go on from; what cannot be used is removed."""
        sweep(self.folder)
        for path in reversed(self._all()):
            if damaged := _damaged(path):
                LOG.warning("discarding %s: %s; what came before it is used", path, damaged)
            elif json.loads((path / "state.json").read_bytes())["fingerprint"] != self._mark:
                LOG.info("discarding %s: settings, inputs or code have changed", path.name)
            else:
                return path.name
            shutil.rmtree(path)
        return None

    def begin(self, update: int) -> dict[str, int]:
        """Count an attempt that goes on after ``update``: ``attempts``, and ``repeated``, the
        updates that attempts did and lost, so far."""
        progress, path = self._progress, self.folder / "progress.json"
        try:
            old = json.loads(path.read_bytes())
            if old["fingerprint"] == self._mark:
                lost = max(old["update"] - update, 0)
                progress.update(attempts=old["attempts"], repeated=old["repeated"] + lost)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a first attempt, or a torn file: counting starts here
        progress["attempts"] += 1
        if progress["attempts"] > 1:
            LOG.info("resuming after update %d (attempt %d; updates repeated so far: %d)", update,
                     progress["attempts"], progress["repeated"])  # fmt: skip
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        self.reached(update)
        return {name: progress[name] for name in ("attempts", "repeated")}

    def reached(self, update: int) -> None:
        """Note that this update is done."""
        self._progress["update"] = update
        if self._writes:
            # In place, without a flush: a loss of power may cost the counts and nothing else.
            os.pwrite(self._file, json.dumps(self._progress).ljust(160).encode(), 0)

    def remove(self) -> None:
        """Delete the folder: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("update-*"))


def _damaged(path: Path) -> str:
    """What is wrong with a checkpoint's files; "" when nothing is."""
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
        told = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if set(told) | {SUMS} != {inner.name for inner in path.iterdir()} or not told:
            return f"its files are not those of {SUMS}"
        wrong = [name for name, digest in told.items() if _sum(path / name) != digest]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{wrong[0]} does not have its checksum" if wrong else ""


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
