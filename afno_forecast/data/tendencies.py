"""Standard deviation of the change over steps that a store's own statistics do not cover, measured on its states."""

# N time, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..times import format_duration, format_instant
from .direct import DirectStore
from .statistics import Float, Moments
from .store import Store

_BLOCK_BYTES = 32 << 20


def tendency_std(store: Store | DirectStore, channel_index: NDArray[np.int64], time_steps: Sequence[int], *,
                 block_bytes: int = _BLOCK_BYTES) -> dict[int, Float]:
    """Area-weighted standard deviation of the difference over each step, in one pass over the period of the store's statistics.

    As in the build of a store: differences of float32, sums in float64, pairs by exact difference of instants, so that no gap is bridged.
    Any block size gives the same answer. Memory: the states of a block and of the longest step.

    Args:
        store: an open store.
        channel_index: channels wanted, positions in the store; C of them.
        time_steps: seconds.
        block_bytes: bytes of states read at once.

    Returns:
        time step -> standard deviation, physical units, shape (C,).

    Raises:
        DataError: the period holds no two states so far apart, or a chunk is damaged.
    """
    start, end = store.statistics.period
    rows = np.flatnonzero((store.times.seconds >= start) & (store.times.seconds <= end))
    seconds = store.times.seconds[rows]
    areas = store.grid.area_weights()
    moments = {step: Moments.empty(len(channel_index)) for step in time_steps}
    count = max(1, block_bytes // max(1, 4 * len(channel_index) * int(np.prod(store.grid.shape))))
    kept = 0
    states_NCHW = np.empty((0, len(channel_index), *store.grid.shape), np.float32)
    for first in range(0, len(rows), count):
        last = min(first + count, len(rows))
        oldest = max(kept, int(np.searchsorted(seconds, seconds[first] - max(time_steps))))
        read = [store.read(int(row), channel_index) for row in rows[first:last]]
        states_NCHW = np.concatenate([states_NCHW[oldest - kept:], np.stack(read)])
        kept = oldest
        for step in time_steps:
            now = np.arange(first, last)
            earlier = np.searchsorted(seconds, seconds[now] - step)
            paired = seconds[earlier] == seconds[now] - step
            difference = states_NCHW[now[paired] - kept] - states_NCHW[earlier[paired] - kept]
            moments[step] = moments[step].merge(Moments.of(difference, areas))
    lacking = [format_duration(step) for step in time_steps if not (moments[step].weight > 0).all()]
    if lacking:
        period = " to ".join(format_instant(s, store.times.calendar) for s in (start, end))
        raise DataError(f"no two states are {' or '.join(lacking)} apart in the period of the statistics, {period}", where=str(store.path),
                        fix="use other time steps, or a longer period")
    return {step: moments[step].std() for step in time_steps}
