"""Checkpoints that survive anything: written under a temporary name, hashed, flushed, renamed; no pickle.

`checkpoints/step-N/` holds `state.safetensors`, `state.json` and `manifest.json`; `checkpoints/latest` names the newest and is
moved last. Older ones are removed only afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError, ResourceError
from ..model_folder import check_manifest, fsync_folder, write_manifest
from .schedule import Budget

TENSORS, PROGRESS, LATEST = "state.safetensors", "state.json", "latest"
_KEEP = 2
_YOUNGER = ("num_processes", "reductions", "without_best")  # absent from checkpoints of earlier versions


@dataclass
class Progress:
    """Where a training stands.

    Args:
        train_step: optimiser updates done.
        stage: index of the stage of the last update.
        position: samples consumed in that stage.
        seconds, core_seconds: wall-clock and CPU seconds of training.
        num_validations: validations done.
        best_score: lowest validation score so far.
        precision: resolved compute precision, kept over a resume.
        num_processes: processes of the training that wrote it.
        reductions: how often the learning rate was lowered on a plateau.
        without_best: validations since the last best one or reduction.
    """

    train_step: int = 0
    stage: int = 0
    position: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    num_validations: int = 0
    best_score: float = float("inf")
    precision: str = "float32"
    num_processes: int = 1
    reductions: int = 0
    without_best: int = 0

    def add(self, *, samples: int, seconds: float, core_seconds: float) -> None:
        """One update more."""
        self.train_step += 1
        self.position += samples
        self.seconds += seconds
        self.core_seconds += core_seconds

    def judge(self, better: bool, patience: int) -> None:
        """Count a validation; after more than `patience` without a new best, one reduction more."""
        self.without_best = 0 if better else self.without_best + 1
        if self.without_best > patience:
            self.reductions, self.without_best = self.reductions + 1, 0

    def spent(self, budget: Budget) -> float:
        """Share of the budget, 0 at the start, 1 or more at the end."""
        return budget.spent(self.train_step, self.seconds, self.core_seconds)


def save_checkpoint(folder: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> Path:
    """Save the whole state of a training. Raises ResourceError with the bytes needed and free when the disk is too small."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(t.numel() * t.element_size() for t in tensors.values()) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(f"a checkpoint needs {needed:,} bytes, {free:,} are free", where=str(folder),
                            fix="free some space; the last checkpoint is intact")
    target = folder / f"step-{progress.train_step}"
    if target.exists() and _is_sound(target):
        return target  # the same step of the same run is the same state
    temporary = folder / f"{target.name}.partial"
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, str(temporary / TENSORS))
    (temporary / PROGRESS).write_text(json.dumps(asdict(progress), indent=1) + "\n")
    write_manifest(temporary, (TENSORS, PROGRESS))
    fsync_folder(temporary)
    if target.exists():
        shutil.rmtree(target)  # damaged
    temporary.rename(target)
    marker = folder / f"{LATEST}.partial"
    marker.write_text(target.name + "\n")
    marker.replace(folder / LATEST)
    fsync_folder(folder)
    for _, old in _numbered(folder)[_KEEP:]:
        shutil.rmtree(old)
    return target


def _is_sound(path: Path) -> bool:
    try:
        check_manifest(path, (TENSORS, PROGRESS))
    except CheckpointError:
        return False
    return True


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, newest first."""
    found = [(int(p.name[5:]), p) for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdigit()]
    return sorted(found, reverse=True)


def load_newest(folder: Path, echo: Callable[[str], None]) -> tuple[Progress, dict[str, Tensor]] | None:
    """The newest valid checkpoint, with every damaged one named on the way; None when there is none at all.

    Raises CheckpointError when there are, or were, checkpoints and none of them is valid.
    """
    candidates = _numbered(folder) if folder.is_dir() else []
    damaged: list[str] = []
    for _, path in candidates:
        try:
            return _load(path)
        except CheckpointError as error:
            damaged.append(path.name)
            echo(f"checkpoint {path.name} is not used: {error.what} ({error.where})")
    if damaged or (folder / LATEST).exists():
        which = ", ".join(damaged) or f"{(folder / LATEST).read_text().strip()} is gone"
        raise CheckpointError(f"none of the checkpoints is valid: {which}", where=str(folder), fix="start again in a new output folder")
    return None


def _load(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    check_manifest(path, (TENSORS, PROGRESS))
    try:
        values = json.loads((path / PROGRESS).read_text())
        progress = Progress(**{f.name: values[f.name] for f in fields(Progress) if f.name in values or f.name not in _YOUNGER})
        tensors = load_file(str(path / TENSORS))
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), fix="an older checkpoint is tried next") from error
    return progress, tensors


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
