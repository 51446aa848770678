"""Windows of consecutive states for training and validation, formed by exact time difference, never across a gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..times import TimeAxis, format_duration, format_instant


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of equally spaced states.

    Args:
        index: positions on the time axis, oldest first, the target steps last; int64, shape (N, history + num_steps).
        dropped: how many existing states start a window that meets a gap before the period ends.
        reason: the same in words, with the first of those states.
    """

    index: NDArray[np.int64]
    dropped: int
    reason: str

    def __len__(self) -> int:
        return len(self.index)

    def evenly(self, times: TimeAxis, count: int) -> NDArray[np.int64]:
        """At most `count` of the windows, spread over all of them and over the hours of the day at which they begin.

        Equal spacing alone would let all of them begin at one hour where it happens to be a number of whole days.

        Args:
            times: the axis of `index`.
            count: how many, at least 1.

        Returns:
            rows of `index`, in order; shape (min(count, N), history + num_steps).
        """
        count = min(count, len(self))
        hours, hour_N = np.unique(times.at(self.index[:, 0]).second_of_day(), return_inverse=True)
        free = np.ones(len(self), dtype=bool)
        for number, place in enumerate(np.linspace(0, len(self) - 1, count)):
            hour = number % len(hours) if count >= len(hours) else number * len(hours) // count
            wanted = free & (hour_N == hour)
            rows = np.flatnonzero(wanted if wanted.any() else free)
            free[rows[np.abs(rows - place).argmin()]] = False
        return self.index[~free]


def find_windows(times: TimeAxis, *, time_step: int, history: int, num_steps: int, start: int | None = None, end: int | None = None) -> Windows:
    """Every window of `history + num_steps` states exactly `time_step` apart, all of them inside [start, end].

    Args:
        times: strictly ascending instants.
        time_step: seconds between neighbours of a window.
        history: past states the model reads, at least 1.
        num_steps: states to predict, at least 0.
        start: first instant allowed, seconds in the axis' calendar, inclusive; None for the record's first.
        end: last instant allowed, inclusive; None for the record's last.

    Raises:
        DataError: no window is complete; the text says why.
    """
    if history < 1 or num_steps < 0 or time_step < 1:
        raise ValueError(f"history {history}, num_steps {num_steps} and time_step {time_step} do not form a window")
    length = history + num_steps
    low = times.seconds[0] if start is None and len(times) else start
    high = times.seconds[-1] if end is None and len(times) else end
    inside = np.asarray([], dtype=np.int64) if low is None or high is None else np.flatnonzero((times.seconds >= low) & (times.seconds <= high))
    seconds = times.seconds[inside]
    if len(seconds) == 0:
        raise DataError(_period_text(times, start, end) + " holds no time", where=_record(times), fix="choose a period inside the record")
    wanted = seconds[:, None] + np.arange(length, dtype=np.int64) * time_step
    found = np.minimum(np.searchsorted(seconds, wanted), len(seconds) - 1)
    complete = (seconds[found] == wanted).all(axis=1)
    broken = ~complete & (wanted[:, -1] <= seconds[-1])
    reason = _reason(seconds[broken], times.calendar, time_step)
    if not complete.any():
        raise DataError(f"no {length} states follow each other every {format_duration(time_step)} in {_period_text(times, start, end)} "
                        f"({len(seconds)} times; {reason})", where=_record(times), fix="choose a longer period, fewer states or another time step")
    return Windows(inside[found[complete]].astype(np.int64), int(broken.sum()), reason)


def _reason(starts: NDArray[np.int64], calendar: str, time_step: int) -> str:
    if len(starts) == 0:
        return "no window meets a gap"
    first = ", ".join(format_instant(int(s), calendar) for s in starts[:3]) + (", ..." if len(starts) > 3 else "")
    return f"{len(starts)} windows meet a missing time or a step other than {format_duration(time_step)}: those starting {first}"


def _period_text(times: TimeAxis, start: int | None, end: int | None) -> str:
    low = "the first time" if start is None else format_instant(start, times.calendar)
    high = "the last" if end is None else format_instant(end, times.calendar)
    return f"the period from {low} to {high}"


def _record(times: TimeAxis) -> str:
    return f"the record runs from {times.format(0)} to {times.format(-1)}" if len(times) else "the record is empty"
