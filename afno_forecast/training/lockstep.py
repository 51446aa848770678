"""What all processes must know alike after each update, told in one small sum: the loss, the time spent, a wish to stop, the time to save."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..distributed import Axis
from ..signals import STOP_SIGNALS, StopFlag
from .saving import Checkpoints

TIME_LIMIT = "the time limit"


@dataclass(frozen=True)
class Beat:
    """The same on every process.

    Args:
        loss: of the whole batch.
        seconds: wall-clock seconds since the beat before, on the first process.
        core_seconds: CPU seconds since then, of all processes.
        stop: the signal that any process received, or the time limit; None to go on.
        save: whether a checkpoint is due.
        written: whether no process is writing one.
    """

    loss: float
    seconds: float
    core_seconds: float
    stop: str | None
    save: bool
    written: bool


class Lockstep:
    """Keeps the processes of a training at the same step; the first one's clock counts.

    Args:
        world: all processes.
        stop: this process' signals.
        checkpoints: of the training; how long they take decides when it has to stop.
        save_seconds: between checkpoints.
        end: `time.monotonic()` at which everything must be saved; None for no limit.
    """

    def __init__(self, world: Axis, stop: StopFlag, checkpoints: Checkpoints, *, save_seconds: float, end: float | None) -> None:
        self._world, self._stop, self._checkpoints, self._save_seconds, self._end = world, stop, checkpoints, save_seconds, end
        self._last_save = time.monotonic()
        self._longest = self._longest_validation = 0.0
        self.restart()

    def restart(self) -> None:
        """Leave out of the time spent what has passed since the last beat: validation, saving."""
        self._began, self._core_began = time.monotonic(), time.process_time()

    def beat(self, loss: float) -> Beat:
        """Agree; every process calls it once an update.

        Args:
            loss: this process' part; the mean over all is the loss.
        """
        first, now = self._world.rank == 0, time.monotonic()
        seconds, core_seconds = now - self._began, time.process_time() - self._core_began
        self.restart()
        self._longest = max(self._longest, seconds)
        writing = self._checkpoints.writing
        longest = self._longest + self._longest_validation
        over = self._end is not None and now + (2 + writing) * self._checkpoints.seconds + longest >= self._end
        due = now - self._last_save > self._save_seconds
        mine = [loss / self._world.size, seconds * first, core_seconds, float(over and first), float(due and first), float(writing)]
        total = self._world.numbers(mine + [float(self._stop.name == s.name) for s in STOP_SIGNALS])
        signals = [s.name for s, count in zip(STOP_SIGNALS, total[6:], strict=True) if count]
        return Beat(total[0], total[1], total[2], signals[0] if signals else TIME_LIMIT if total[3] else None, bool(total[4]), not total[5])

    def validated(self) -> None:
        """A validation is over; no other as long is begun that would not end in time."""
        self._longest_validation = max(self._longest_validation, time.monotonic() - self._began)
        self.restart()

    def saved(self) -> None:
        """A checkpoint was begun."""
        self._last_save = time.monotonic()
