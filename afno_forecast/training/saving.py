"""Checkpoints of a training under way: every process writes its part, beside the training, one checkpoint at a time.

The tensors are copied to the memory of the host, which is all that the training waits for; a thread writes, hashes and flushes them. When
all processes have written, at the end of an update or when the next checkpoint is due, the first one seals the checkpoint. Until then it
has a temporary name, so that a kill at any moment leaves the one before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

from torch import Tensor

from ..distributed import Axis, divide, is_sharded, share_of
from ..errors import ForecastError, ResourceError
from .checkpoint import Part, Progress, is_saved, prepare, seal, write_part


class Checkpoints:
    """Writes checkpoints; all processes call each method, except `writing`, at the same point of the training.

    Args:
        folder: of all checkpoints.
        world: all processes of the training.
        beside: go on while a checkpoint is written; otherwise wait for it.

    As a context it ends with what is under way complete, unless the training ends in a way that the other processes do not know of.
    """

    def __init__(self, folder: Path, world: Axis | None = None, *, beside: bool = True) -> None:
        self.folder, self.beside = folder, beside
        self._world = world or Axis("world")
        self._writing: _Writing | None = None
        self.seconds = 0.0
        """That the last checkpoint took from the beginning to the end of its writing."""

    @property
    def writing(self) -> bool:
        """Whether this process is still writing its part."""
        return self._writing is not None and self._writing.is_alive()

    def save(self, progress: Progress, shared: Mapping[str, Tensor], own: Mapping[str, Tensor] | None = None) -> None:
        """Begin a checkpoint, after the one under way is complete.

        Args:
            progress: where the training stands.
            shared: tensors that are alike on all processes, or divided among them.
            own: those of this process alone, under names that no other one uses.

        Raises:
            ResourceError: on all processes: the disk is too small, or the checkpoint before could not be written.
        """
        self.complete()
        began, world = time.monotonic(), self._world
        progress = replace(progress, num_processes=world.size)
        rows, mine = _divide(shared, world)
        mine |= own or {}
        size = sum(t.numel() * t.element_size() for t in mine.values())
        saved, total = world.numbers([float(world.rank == 0 and is_saved(self.folder, progress.train_step)), float(size)])
        if saved:
            return
        world.together(lambda: prepare(self.folder, progress.train_step, int(total)) if world.rank == 0 else None)
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in mine.items()}
        self._writing = _Writing(self.folder, progress, (world.rank, world.size), copies, rows, began)
        if not self.beside:
            self.complete()

    def complete(self) -> bool:
        """Wait for what is under way and seal it; whether there was anything. Raises ResourceError on all processes when one could not write."""
        if self._writing is None:
            return False
        writing, self._writing, world = self._writing, None, self._world
        parts = [Part(**told) for told in world.together(lambda: asdict(writing.part()))]
        self.seconds = writing.ended - writing.began
        world.together(lambda: str(seal(self.folder, writing.progress, parts)) if world.rank == 0 else None)
        return True

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or (isinstance(error, ForecastError) and (error.everywhere or self._world.size == 1)):
            self.complete()


class _Writing(threading.Thread):
    """One process' part on its way to the disk; a second Ctrl-C does not wait for it."""

    def __init__(self, folder: Path, progress: Progress, place: tuple[int, int], tensors: Mapping[str, Tensor],
                 rows: Mapping[str, tuple[int, int]], began: float) -> None:
        super().__init__(name="checkpoint writer", daemon=True)
        self.progress, self.began, self.ended = progress, began, began
        self._work = (folder, progress.train_step, place, tensors, rows)
        self._part: Part | None = None
        self._error: ResourceError | None = None
        self.start()

    def run(self) -> None:
        """Write."""
        try:
            self._part = write_part(*self._work)
        except ResourceError as error:
            self._error = error
        self.ended = time.monotonic()

    def part(self) -> Part:
        """What was written, when it is. Raises ResourceError."""
        self.join()
        if self._error is not None:
            raise self._error
        if self._part is None:
            raise ResourceError("the thread that writes checkpoints has died", where=str(self._work[0]),
                                fix="see what it said above; go on from the last checkpoint with --resume")
        return self._part


def _divide(shared: Mapping[str, Tensor], world: Axis) -> tuple[dict[str, tuple[int, int]], dict[str, Tensor]]:
    """The rows that this process writes of tensors that are divided, and all the tensors that it writes; of the others, each process about
    as many bytes."""
    copies = sorted(name for name, tensor in shared.items() if not is_sharded(tensor))
    writers = divide([shared[name].numel() * shared[name].element_size() for name in copies], world.size)
    mine = {name: shared[name] for name, writer in zip(copies, writers, strict=True) if writer == world.rank}
    rows = {}
    for name in sorted(shared.keys() - set(copies)):
        share, first = share_of(shared[name])
        if first is not None and len(share):
            rows[name], mine[name] = (first, len(shared[name])), share
    return rows, mine
