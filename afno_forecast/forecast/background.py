"""Writing beside computing: one thread, a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..errors import ForecastError
from .output import ForecastWriter


class BackgroundWriter:
    """Hands states to a `ForecastWriter` on a thread of its own, in the order given.

    Args:
        writer: used by the thread alone while this is open.
        max_pending: states that may wait; a further one waits until there is room.

    An error of the writer is raised by the next call, and when this is closed. When closed, all that waits is written first.
    """

    def __init__(self, writer: ForecastWriter, max_pending: int) -> None:
        self._writer = writer
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(max(1, max_pending))
        self._error: ForecastError | AssertionError | None = None
        self._thread = threading.Thread(target=self._work, name="forecast writer", daemon=True)
        self._thread.start()

    def write(self, forecast: int, lead_index: int, state: NDArray[np.float32]) -> None:
        """Queue one state; it must not be changed afterwards. Raises the writer's errors."""
        self._put(partial(self._writer.write, forecast, lead_index, state))

    def finish(self, forecast: int) -> None:
        """Queue the mark of a finished forecast. Raises the writer's errors."""
        self._put(partial(self._writer.finish, forecast))

    def flush(self) -> None:
        """Wait until all is written. Raises the writer's errors."""
        self._queue.join()
        self._raise()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _put(self, task: Callable[[], None]) -> None:
        self._raise()
        self._queue.put(task)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if self._error is None:
                    task()
            except (ForecastError, AssertionError) as error:
                self._error = error  # what follows is dropped, so that nobody waits for a queue that is not emptied
            finally:
                self._queue.task_done()
