"""Batches for training: shuffled windows, each delivered once an epoch, in an order that can be resumed at the exact sample.

Threads read ahead into memory that is used again. Order and content depend on no cache, thread, chunk or rank: ranks share out each batch.
"""

# B batch, T history and target steps, C channel, F forcing, H latitude row, W longitude column

from __future__ import annotations

import logging
import threading
import time as clock
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..channels import ChannelSet
from ..errors import ResourceError
from .cache import Buffers, Kept, StateCache
from .order import Shuffle, draw_step, sample_order
from .records import Record
from .samples import Windows, find_windows
from .store import Scaling

_LOOK_SECONDS = 1.0
_STALL_SECONDS = 10.0
_RESUME = "run the same command with --resume; if it happens again, look at the memory and the disk"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
Forced = Callable[[NDArray[np.int64], int], Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of states.

    Args:
        states: latitude ascending; physical units unless a scaling was asked for; float32 (B, history + num_steps, C, H, W). The loader uses
            the memory again when nobody holds this tensor or a view of it.
        seconds: their instants, seconds since 1970 in the record's calendar; int64 (B, history + num_steps).
        forcing: what `Delivery.forcing` gives for the instants from which the targets are predicted; (B, num_steps, F, H, W) or None.
    """

    states: Tensor
    seconds: NDArray[np.int64]
    forcing: Tensor | None = None

    @property
    def time_step(self) -> int:
        """Seconds between neighbours of a window, the same in the whole batch."""
        return int(self.seconds[0, 1] - self.seconds[0, 0])


@dataclass(frozen=True)
class Delivery:
    """How batches are prepared. Only `shuffle` changes the order, only `rows`, `scaling` and the rank what is in a batch.

    Args:
        cache_bytes: bytes of decoded states kept in memory.
        prefetch: batches prepared ahead; `prefetch + 2` are in memory at most, counting the two that the consumer may hold.
        threads: that read and decode.
        shuffle: how samples are mixed.
        rank, world: this process' equal share of each batch, and among how many it is shared.
        rows: rows of the grid to deliver, for a rank that holds a part of the map; all by default.
        scaling: normalises each state in place while it is decoded; physical units by default.
        forcing: called in a thread with instants (N,) and the seconds of a step from each, gives inputs (N, F, H, W) known for any time.
        pin: page-locked memory, from which copies to a GPU overlap with computing; by default where there is a GPU.
    """

    cache_bytes: int = 1 << 30
    prefetch: int = 2
    threads: int = 1
    shuffle: Shuffle = field(default_factory=Shuffle)
    rank: int = 0
    world: int = 1
    rows: slice | None = None
    scaling: Scaling | None = None
    forcing: Forced | None = None
    pin: bool | None = None


class Loader:
    """Shuffled batches of one period of a record.

    Args:
        store: an open training store, or another record.
        channels: channels of the states, matched by variable, level and units, in this order.
        time_step: seconds between neighbours of a window, unless batches of other steps are asked for.
        history: past states the model reads.
        batch_size: windows in a batch of all ranks together; every batch has this many.
        seed: of the order.
        period: first and last instant, both inclusive; the whole record by default.
        delivery: how batches are prepared.

    Raises:
        DataError: a channel is missing.
    """

    def __init__(self, store: Record, channels: ChannelSet, *, time_step: int, history: int, batch_size: int, seed: int,
                 period: tuple[int, int] | None = None, delivery: Delivery | None = None) -> None:
        self.delivery = delivery or Delivery()
        if batch_size < 1 or batch_size % self.delivery.world or not 0 <= self.delivery.rank < self.delivery.world:
            raise ValueError(f"batch_size {batch_size} is not shared out to rank {self.delivery.rank} of {self.delivery.world}")
        if self.delivery.threads < 1 or self.delivery.prefetch < 1:
            raise ValueError("threads and prefetch must be at least 1")
        self._store = store
        self._channel_index = store.channel_index(channels)
        self._time_step = time_step
        self._history = history
        self._period: tuple[int | None, int | None] = period or (None, None)
        self._batch_size = batch_size
        self.seed = seed
        height, width = store.grid.shape
        rows = self.delivery.rows or slice(0, height)
        if not 0 <= rows.start < rows.stop <= height or rows.step not in (None, 1):
            raise ValueError(f"rows {rows} are not rows of a grid of {height}")
        self._rows = rows
        self._shape = (len(channels), rows.stop - rows.start, width)
        self._cache = StateCache(self.delivery.cache_bytes, self._shape)
        self._pin = torch.cuda.is_available() if self.delivery.pin is None else self.delivery.pin
        self._buffers: dict[tuple[int, ...], Buffers] = {}
        self.wait_seconds = 0.0
        """Seconds that consumers have waited for batches so far."""

    def windows(self, num_steps: int, time_step: int | None = None) -> Windows:
        """The windows of the period, in time order. Raises DataError when there are none."""
        return find_windows(self._store.times, time_step=time_step or self._time_step, history=self._history, num_steps=num_steps,
                            start=self._period[0], end=self._period[1])

    def num_samples(self, num_steps: int, time_step: int | None = None) -> int:
        """Windows in an epoch. Raises DataError when there are none."""
        return len(self.windows(num_steps, time_step))

    def forget(self) -> None:
        """Drop every state that is kept, and keep the memory; between two calls of `batches`."""
        self._cache.clear()

    def batches(self, num_steps: int, *, stage: int, position: int = 0, time_steps: Sequence[int] = (),
                batch_size: int | None = None) -> Generator[Batch, None, None]:
        """Batches without end; a batch at the end of an epoch goes on into the next.

        Args:
            num_steps: steps to predict.
            stage: number of the training stage; each has its own order.
            position: samples of the stage already delivered, to all ranks together: the next batch starts with the sample after them.
            time_steps: seconds between neighbours of a window; each batch draws one (see `draw_step`), the windows of each in epochs of
                their own. By default the loader's own.
            batch_size: windows in a batch of all ranks together; the loader's own by default.

        Yields:
            Batches, prepared in threads, at most `prefetch` ahead. Close the iterator to stop them.

        Raises:
            DataError: no windows, or a damaged chunk, from the batch that needs it.
            ResourceError: a thread has died.
        """
        if position < 0:
            raise ValueError(f"position {position} is negative")
        plan = self._plan(num_steps, stage, position, tuple(time_steps) or (self._time_step,), batch_size or self._batch_size)
        threads: list[threading.Thread] = []
        pool = ThreadPoolExecutor(self.delivery.threads, thread_name_prefix="loader", initializer=lambda: threads.append(threading.current_thread()))
        ahead: deque[_Pending] = deque()
        try:
            while True:
                while len(ahead) < self.delivery.prefetch:
                    ahead.append(self._submit(pool, plan.next()))
                batch = self._wait(ahead.popleft(), threads)
                ahead.append(self._submit(pool, plan.next()))
                yield batch
                del batch  # its memory may be used again as soon as the consumer lets go
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _plan(self, num_steps: int, stage: int, position: int, steps: tuple[int, ...], batch_size: int) -> _Plan:
        windows = {step: self.windows(num_steps, step).index for step in steps}
        share = batch_size // self.delivery.world
        mine = slice(self.delivery.rank * share, (self.delivery.rank + 1) * share)

        def draw(number: int) -> NDArray[np.int64]:
            count, offset = divmod(position + number * batch_size, batch_size)
            step, before = draw_step(steps, count, seed=self.seed, stage=stage)
            order = sample_order(len(windows[step]), batch_size, seed=self.seed, stage=stage, position=before * batch_size + offset,
                                 shuffle=self.delivery.shuffle)
            return windows[step][order[mine]]

        return _Plan(self._store, self._cache, draw, depth=self.delivery.shuffle.pool // batch_size)

    def _submit(self, pool: ThreadPoolExecutor, planned: tuple[NDArray[np.int64], dict[int, Kept | None]]) -> _Pending:
        rows, kept = planned
        shape = (*rows.shape, *self._shape)
        if self._pin:
            states = torch.empty(shape, dtype=torch.float32, pin_memory=True)  # torch's allocator waits for copies under way before it lends again
        else:
            states = torch.from_numpy(self._buffers.setdefault(shape, Buffers(shape)).lend())
        seconds = self._store.times.seconds[rows]
        places: dict[int, list[tuple[int, int]]] = {}
        for b, window in enumerate(rows.tolist()):
            for t, time in enumerate(window):
                places.setdefault(time, []).append((b, t))
        work = [(time, kept[time], where) for time, where in places.items()]
        parts = min(len(work), self.delivery.threads)
        tasks = [pool.submit(self._deliver, states, work[n::parts]) for n in range(parts)]
        forcing = None
        if self.delivery.forcing is not None:
            forcing = pool.submit(self._force, seconds[:, self._history - 1:], self.delivery.forcing)
        return _Pending(states, seconds, tasks, forcing, list(kept))

    def _deliver(self, states: Tensor, work: Sequence[tuple[int, Kept | None, list[tuple[int, int]]]]) -> None:
        """Put states, each given with its position in time and where it is kept, wherever the batch has them."""
        view = states.numpy()
        for time, kept, places in work:
            if kept is None:
                state = view[places[0]]
                self._read([time], [state])
                rest = places[1:]
            else:
                state, rest = kept.get(self._read), places
            for place in rest:
                view[place] = state

    def _read(self, times: Sequence[int], outs: Sequence[NDArray[np.float32]]) -> None:
        self._store.read_into(times, outs, channel_index=self._channel_index, rows=self._rows, scaling=self.delivery.scaling)

    @staticmethod
    def _force(seconds: NDArray[np.int64], forcing: Forced) -> Tensor:
        with torch.no_grad():
            values_NFHW = forcing(seconds[:, :-1].ravel(), int(seconds[0, 1] - seconds[0, 0]))
            return values_NFHW.reshape(len(seconds), seconds.shape[1] - 1, *values_NFHW.shape[1:])

    def _wait(self, pending: _Pending, threads: Sequence[threading.Thread]) -> Batch:
        began = clock.monotonic()
        for task in pending.tasks:
            self._finish(task, pending, threads)
        forcing = None if pending.forcing is None else self._finish(pending.forcing, pending, threads)
        self.wait_seconds += clock.monotonic() - began
        return Batch(pending.states, pending.seconds, forcing)

    def _finish(self, task: Future[_T], pending: _Pending, threads: Sequence[threading.Thread]) -> _T:
        """The result of a task. Raises its error, or ResourceError when no thread is left that would bring one."""
        waited = 0.0
        while True:
            try:
                error = task.exception(timeout=_LOOK_SECONDS)
            except TimeoutError:
                dead = ", ".join(thread.name for thread in threads if not thread.is_alive())
                if dead:
                    raise ResourceError(f"loader thread {dead} has died", where=self._dates(pending), fix=_RESUME) from None
                waited += _LOOK_SECONDS
                if waited % _STALL_SECONDS < _LOOK_SECONDS:
                    _log.warning("waiting for the loader since %.0f s; it reads %s", waited, self._dates(pending))
                continue
            if isinstance(error, SystemExit | KeyboardInterrupt):
                names = ", ".join(thread.name for thread in threads)
                raise ResourceError(f"loader thread {names} was ended by {type(error).__name__}", where=self._dates(pending), fix=_RESUME) from error
            return task.result()

    def _dates(self, pending: _Pending) -> str:
        return f"{self._store.where}, batch of {self._store.times.format(min(pending.times))} to {self._store.times.format(max(pending.times))}"


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch under way."""

    states: Tensor
    seconds: NDArray[np.int64]
    tasks: list[Future[None]]
    forcing: Future[Tensor] | None
    times: list[int]


class _Plan:
    """The batches of a stage as positions in time, and which of their states are kept; asked by one thread, in order.

    It looks as many samples ahead as are mixed, to know which states will be used again.
    """

    def __init__(self, record: Record, cache: StateCache, draw: Callable[[int], NDArray[np.int64]], depth: int) -> None:
        self._record = record
        self._cache = cache
        self._draw = draw
        self._depth = depth
        self._number = 0
        self._ahead: deque[NDArray[np.int64]] = deque()
        self._uses: Counter[int] = Counter()

    def next(self) -> tuple[NDArray[np.int64], dict[int, Kept | None]]:
        """(positions in time (B, T), where each state is kept)."""
        while len(self._ahead) <= self._depth:
            rows = self._draw(self._number)
            self._uses.update(rows.ravel().tolist())
            self._ahead.append(rows)
            self._number += 1
        rows = self._ahead.popleft()
        times = rows.ravel().tolist()
        self._uses.subtract(times)
        return rows, {t: self._cache.plan(t, range(*self._record.run_of(t)), self._uses) for t in dict.fromkeys(times)}
