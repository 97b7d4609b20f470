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

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

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
    """The resume checkpoints of one run, in ``folder``."""

    def __init__(self, folder: str | Path, mark: str) -> None:
        self.folder, self._mark = Path(folder), mark

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict,
        tables: dict[str, pd.DataFrame],
        greedy0: np.ndarray,
    ) -> None:
        """Write everything needed to go on after update ``state["update"]``."""
        tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
        for index, slots in optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
        tensors["greedy0"] = torch.from_numpy(greedy0)
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
    ) -> tuple[dict, dict[str, pd.DataFrame], np.ndarray] | None:
        """Put the newest valid checkpoint into model and optimizer; None when there is none.

        A checkpoint of other settings, inputs or code is discarded, with a line in the log.
        """
        for path in reversed(self._all()):
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if state.pop("fingerprint") != self._mark:
                LOG.info("discarding %s: settings, inputs or code have changed", path.name)
                shutil.rmtree(path)
                continue
            tensors = load_file(path / "state.safetensors")
            weights = {k.removeprefix("model."): v for k, v in tensors.items() if k[:6] == "model."}
            model.load_state_dict(weights, strict=False)  # tied weights are stored once
            slots: dict[int, dict] = {}
            for key, value in tensors.items():
                if key.startswith("optimizer."):
                    _, index, name = key.split(".")
                    slots.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
            tables = {p.stem: pd.read_parquet(p) for p in path.glob("*.parquet")}
            return state, tables, tensors["greedy0"].numpy()
        return None

    def remove(self) -> None:
        """Delete the folder: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("update-*"))


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the second name of a tensor that two modules share (tied embeddings)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel() > 1:
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor
    return kept
