"""Checkpoints that survive anything: written under a temporary name, hashed, flushed, renamed; no pickle.

`checkpoints/step-N/` holds the tensors, `state.json` and `manifest.json`; `checkpoints/latest` names the newest and is moved last. Older
ones are removed only afterwards. The tensors are in `state.safetensors`, or, of a training by several processes, in a part of each of them,
`state-2-of-4.safetensors`: every tensor is whole in one part or, where the processes divide it, in rows of the same name in several; the
part's header says under `rows` where they begin and how many the whole has. So every layout, and one process alone, reads every checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, ResourceError
from ..model_folder import check_manifest, fsync_file, fsync_folder, seal_manifest, sha256
from .schedule import Budget

TENSORS, PROGRESS, LATEST = "state.safetensors", "state.json", "latest"
FORMAT = 2
"""Of checkpoints in parts; whole ones are of format 1, which earlier versions read too."""
KEPT = 2
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


@dataclass(frozen=True)
class Part:
    """The file of one process.

    Args:
        name: of the file.
        bytes: its size.
        sha256: its digest.
    """

    name: str
    bytes: int
    sha256: str


def is_saved(folder: Path, train_step: int) -> bool:
    """Whether the checkpoint of this step is there and sound; the same step of the same run is the same state."""
    path = folder / f"step-{train_step}"
    if not path.exists():
        return False
    try:
        check_manifest(path, (PROGRESS,), newest=FORMAT)
    except CheckpointError:
        return False
    return True


def require_space(folder: Path, size: int) -> None:
    """Raise ResourceError unless the disk has room for the checkpoints that a training keeps, and one more while it is written.

    Args:
        folder: of all checkpoints; those that are there already need no more room.
        size: bytes of one.
    """
    present = len(_numbered(folder)) if folder.is_dir() else 0
    needed = (max(KEPT - present, 0) + 1) * size
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    if free < needed:
        raise ResourceError(f"the checkpoints of this training need {needed:,} bytes, {free:,} are free", where=str(folder),
                            fix="free some space, or choose another folder with output=PATH")


def prepare(folder: Path, train_step: int, size: int) -> None:
    """Make room for a checkpoint. Raises ResourceError with the bytes needed and free when the disk is too small, or cannot be written.

    Args:
        folder: of all checkpoints; what was left unfinished in it is removed.
        train_step: of the checkpoint.
        size: bytes of all its tensors.
    """
    path, needed = _partial(folder, train_step), size + (1 << 20)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob("step-*.partial"):
            shutil.rmtree(unfinished)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ResourceError(f"a checkpoint needs {needed:,} bytes, {free:,} are free", where=str(folder),
                                fix="free some space; the last checkpoint is intact, go on from it with --resume")
        path.mkdir()
    except OSError as error:
        raise _not_written(path, error) from error


def write_part(folder: Path, train_step: int, place: tuple[int, int], tensors: Mapping[str, Tensor], rows: Mapping[str, tuple[int, int]]) -> Part:
    """Write the tensors of one process, flushed to the disk; hashed meanwhile.

    Args:
        folder, train_step: as given to `prepare`, which comes first.
        place: number of the process, number of processes.
        tensors: on the CPU, contiguous.
        rows: of those that are divided, the first row held here and the number of rows of the whole.

    Raises:
        ResourceError: it cannot be written, as on a full disk.
    """
    path = _partial(folder, train_step) / (TENSORS if place[1] == 1 else f"state-{place[0] + 1}-of-{place[1]}.safetensors")
    try:
        save_file(dict(tensors), str(path), metadata={"rows": json.dumps(rows)})
        with ThreadPoolExecutor(1) as pool:
            flushed = pool.submit(fsync_file, path)
            digest = sha256(path)
            flushed.result()
        return Part(path.name, path.stat().st_size, digest)
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error


def seal(folder: Path, progress: Progress, parts: Sequence[Part]) -> Path:
    """Make a checkpoint of the parts that all processes have written; one process does it.

    Raises:
        ResourceError: a part is not there, because the processes do not share the folder, or the disk is full.
    """
    temporary, target = _partial(folder, progress.train_step), folder / f"step-{progress.train_step}"
    for part in parts:
        if not (temporary / part.name).is_file() or (temporary / part.name).stat().st_size != part.bytes:
            raise ResourceError(f"{part.name}, which another process has written, is not there", where=str(temporary),
                                fix="put the run folder on a file system that all processes share: output=PATH")
    try:
        (temporary / PROGRESS).write_text(json.dumps(asdict(progress), indent=1) + "\n")
        files = {part.name: (part.bytes, part.sha256) for part in parts}
        files[PROGRESS] = ((temporary / PROGRESS).stat().st_size, sha256(temporary / PROGRESS))
        seal_manifest(temporary, files, form=1 if len(parts) == 1 else FORMAT)
        fsync_folder(temporary)
        if target.exists():
            shutil.rmtree(target)  # damaged
        temporary.rename(target)
        marker = folder / f"{LATEST}.partial"
        marker.write_text(target.name + "\n")
        marker.replace(folder / LATEST)
        fsync_folder(folder)
        for _, old in _numbered(folder)[KEPT:]:
            shutil.rmtree(old)
    except OSError as error:
        raise _not_written(temporary, error) from error
    return target


def _partial(folder: Path, train_step: int) -> Path:
    return folder / f"step-{train_step}.partial"


def _not_written(path: Path, error: OSError | SafetensorError) -> ResourceError:
    there = next(folder for folder in path.parents if folder.exists())
    return ResourceError(f"a checkpoint could not be written: {error}; {shutil.disk_usage(there).free:,} bytes are free", where=str(path),
                         fix="free some space, or choose another folder; the last checkpoint is intact, go on from it with --resume")


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, newest first."""
    found = [(int(p.name[5:]), p) for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdigit()]
    return sorted(found, reverse=True)


def any_saved(folder: Path) -> bool:
    """Whether there are, or were, checkpoints, from one of which a training can only go on."""
    return (folder / LATEST).exists() or bool(_numbered(folder))


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
    if any_saved(folder):
        which = ", ".join(damaged) or f"{(folder / LATEST).read_text().strip()} is gone"
        raise CheckpointError(f"none of the checkpoints is valid: {which}", where=str(folder), fix="start again in a new output folder")
    return None


def _load(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    names = [name for name in check_manifest(path, (PROGRESS,), newest=FORMAT) if name.endswith(".safetensors")]
    wanted = [TENSORS] if len(names) == 1 else [f"state-{rank + 1}-of-{len(names)}.safetensors" for rank in range(len(names))]
    if sorted(names) != sorted(wanted):
        raise CheckpointError(f"the parts {', '.join(sorted(names)) or 'of the state'} are not all of a checkpoint", where=str(path),
                              fix="an older checkpoint is tried next")
    try:
        values = json.loads((path / PROGRESS).read_text())
        progress = Progress(**{f.name: values[f.name] for f in fields(Progress) if f.name in values or f.name not in _YOUNGER})
        tensors = _joined([path / name for name in wanted])
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path), fix="an older checkpoint is tried next") from error
    return progress, tensors


def _joined(parts: Sequence[Path]) -> dict[str, Tensor]:
    """The whole tensors of all parts. Raises ValueError where rows are missing."""
    tensors: dict[str, Tensor] = {}
    divided: dict[str, list[tuple[int, int, Tensor]]] = {}
    for path in parts:
        with safe_open(str(path), "pt") as file:
            rows = json.loads((file.metadata() or {}).get("rows", "{}"))
            for name in file.keys():  # noqa: SIM118 (it has no other iterator)
                if name in rows:
                    divided.setdefault(name, []).append((*rows[name], file.get_tensor(name)))
                else:
                    tensors[name] = file.get_tensor(name)
    for name, pieces in divided.items():
        pieces.sort(key=lambda piece: piece[0])
        ends = [first + len(tensor) for first, _, tensor in pieces]
        if [first for first, _, _ in pieces] != [0, *ends[:-1]] or {total for _, total, _ in pieces} != {ends[-1]}:
            raise ValueError(f"rows of {name} are missing")
        tensors[name] = torch.cat([tensor for _, _, tensor in pieces])
    return tensors


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
