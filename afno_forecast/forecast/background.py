"""Writing beside computing: one thread, a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .output import ForecastWriter


class BackgroundWriter:
    """Hands states to a `ForecastWriter` on a thread of its own, in the order given.

    Args:
        writer: used by the thread alone while this is open.
        max_pending: states that may wait; a further one waits until there is room.

    An error of the writer is raised by the next call, and when this is closed; nothing is written after it. When closed, all that waits is
    written first.
    """

    def __init__(self, writer: ForecastWriter, max_pending: int) -> None:
        self._writer = writer
        self._room = max(1, max_pending)
        self._pending: deque[Future[None]] = deque()
        self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forecast writer")

    def write(self, forecast: int, lead_index: int, state: NDArray[np.float32]) -> None:
        """Queue one state; it must not be changed afterwards. Raises the writer's errors."""
        self._put(partial(self._writer.write, forecast, lead_index, state))

    def finish(self, forecast: int) -> None:
        """Queue the mark of a finished forecast. Raises the writer's errors."""
        self._put(partial(self._writer.finish, forecast))

    def flush(self) -> None:
        """Wait until all is written. Raises the writer's errors."""
        self._wait(0)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait(0)

    def _put(self, task: Callable[[], None]) -> None:
        self._wait(self._room)
        self._pending.append(self._thread.submit(self._work, task))

    def _wait(self, room: int) -> None:
        """Until no more than so many tasks wait; the first error is kept, and raised again by every later call."""
        while self._pending and (len(self._pending) > room or self._pending[0].done()):
            self._pending[0].result()
            self._pending.popleft()

    def _work(self, task: Callable[[], None]) -> None:
        if self._failed:
            return  # what follows an error is dropped
        self._failed = True
        task()
        self._failed = False
