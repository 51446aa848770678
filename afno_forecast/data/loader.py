"""Batches for training: shuffled windows, each delivered once an epoch, in an order that can be resumed at the exact sample."""

# B batch, T history and target steps, C channel, H latitude row, W longitude column

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..channels import ChannelSet
from .samples import Windows, find_windows
from .store import Store

_DEPTH = 2


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of states.

    Args:
        states: physical units, latitude ascending; float32 (B, history + num_steps, C, H, W).
        seconds: their instants, seconds since 1970 in the store's calendar; int64 (B, history + num_steps).
    """

    states: Tensor
    seconds: NDArray[np.int64]

    @property
    def time_step(self) -> int:
        """Seconds between neighbours of a window, the same in the whole batch."""
        return int(self.seconds[0, 1] - self.seconds[0, 0])


class Loader:
    """Shuffled batches of one period of a store.

    Args:
        store: an open store.
        channels: channels of the states, matched by variable, level and units, in this order.
        time_step: seconds between neighbours of a window, unless batches of other steps are asked for.
        history: past states the model reads.
        start: first instant of the period, inclusive; None for the record's first.
        end: last instant of the period, inclusive; None for the record's last.
        batch_size: windows in a batch; every batch has this many.
        seed: of the order.
        cache_bytes: bytes of decoded states kept in memory.

    Raises:
        DataError: a channel is missing.
    """

    def __init__(self, store: Store, channels: ChannelSet, *, time_step: int, history: int, start: int | None, end: int | None,
                 batch_size: int, seed: int, cache_bytes: int = 1 << 30) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is not positive")
        self._store = store
        self._channel_index = store.channel_index(channels)
        self._time_step = time_step
        self._history = history
        self._period = (start, end)
        self._batch_size = batch_size
        self._seed = seed
        self._cache: dict[int, NDArray[np.float32]] = {}
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def windows(self, num_steps: int, time_step: int | None = None) -> Windows:
        """The windows of the period, in time order. Raises DataError when there are none."""
        return find_windows(self._store.times, time_step=time_step or self._time_step, history=self._history, num_steps=num_steps,
                            start=self._period[0], end=self._period[1])

    def num_samples(self, num_steps: int, time_step: int | None = None) -> int:
        """Windows in an epoch. Raises DataError when there are none."""
        return len(self.windows(num_steps, time_step))

    def batches(self, num_steps: int, *, stage: int, position: int = 0, time_steps: Sequence[int] = ()) -> Iterator[Batch]:
        """Batches without end; a batch at the end of an epoch goes on into the next.

        Args:
            num_steps: steps to predict.
            stage: number of the training stage; each has its own order.
            time_steps: seconds between neighbours of a window; each batch draws one (see `draw_step`), the windows of each in epochs of their own.
                By default the loader's own.
            position: samples of the stage already delivered: the next batch starts with the sample after them.

        Yields:
            Batches, prepared in one thread, at most two ahead. Close the iterator to stop it.

        Raises:
            DataError: no windows, or a damaged chunk, from the batch that needs it.
        """
        if position < 0:
            raise ValueError(f"position {position} is negative")
        steps = tuple(time_steps) or (self._time_step,)
        index = {step: self.windows(num_steps, step).index for step in steps}
        pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        ahead: deque[Future[Batch]] = deque()
        try:
            while True:
                while len(ahead) <= _DEPTH:
                    ahead.append(pool.submit(self._batch, index, steps, stage, position))
                    position += self._batch_size
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, windows: Mapping[int, NDArray[np.int64]], steps: Sequence[int], stage: int, position: int) -> Batch:
        number, offset = divmod(position, self._batch_size)
        step, before = draw_step(steps, number, seed=self._seed, stage=stage)
        index = windows[step]
        rows = index[sample_order(len(index), self._batch_size, seed=self._seed, stage=stage, position=before * self._batch_size + offset)]
        states = torch.empty((*rows.shape, len(self._channel_index), *self._store.grid.shape), dtype=torch.float32)
        view = states.numpy()
        for place, time in np.ndenumerate(rows):
            view[place] = self._state(int(time))
        return Batch(states, self._store.times.seconds[rows])

    def _state(self, time: int) -> NDArray[np.float32]:
        state = self._cache.get(time)
        if state is None:
            state = self._store.read(time, self._channel_index)
            with self._lock:
                if state.nbytes <= self._cache_left and time not in self._cache:
                    self._cache[time] = state
                    self._cache_left -= state.nbytes
        return state


def draw_step(time_steps: Sequence[int], number: int, *, seed: int, stage: int) -> tuple[int, int]:
    """The step of a batch, and how many batches of the stage before it had the same step: a pure function of its arguments.

    Every `len(time_steps)` batches in a row have each entry once, in a random order; a step that is named twice comes twice as often.
    """
    if len(time_steps) == 1:
        return time_steps[0], number
    turn, place = divmod(number, len(time_steps))
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stage, turn, len(time_steps)])))
    order = [time_steps[entry] for entry in generator.permutation(len(time_steps))]
    step = order[place]
    return step, turn * order.count(step) + order[:place].count(step)


def sample_order(num_samples: int, count: int, *, seed: int, stage: int, position: int) -> NDArray[np.int64]:
    """The samples at positions `position .. position + count - 1` of a stage: each epoch is a permutation of its own.

    A pure function of its arguments; shape (count,).
    """
    parts: list[NDArray[np.int64]] = []
    while count > 0:
        epoch, offset = divmod(position, num_samples)
        order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stage, epoch]))).permutation(num_samples)
        part = order[offset:offset + count]
        parts.append(part)
        position += len(part)
        count -= len(part)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
