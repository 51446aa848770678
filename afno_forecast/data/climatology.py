"""Climatology: the expected state for a day of year and an hour, smoothed over 61 days with triangular weights.

The definition is WeatherBench 2's: for each hour, all years' days pooled with weights that fall linearly from 1 on the day to 0
thirty days away, circular over the year. Where the record holds a day 366, a year without one counts its day 365 as day 366 too.
"""

# N time, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import DataError
from ..grid import Grid
from ..times import TimeAxis, canonical_calendar
from .reader import BadChunk, ChunkedArray

Float = NDArray[np.float64]
HALF_WINDOW = 30
NUM_DAYS = 366
_YEAR_LENGTH = {"noleap": 365, "360_day": 360}


def year_length(calendar: str) -> int:
    """Days in the longest year of a calendar: the circle over which the window wraps."""
    return _YEAR_LENGTH.get(canonical_calendar(calendar), NUM_DAYS)


def pool_days(times: TimeAxis) -> tuple[dict[int, list[int]], int]:
    """The states that each day of the year pools, and the days of the circle over which the window wraps.

    As in WeatherBench 2, the circle is of 366 days when any year holds day 366; the other years then give their day 365 once more
    for it. Without such a year it is of 365 days.

    Args:
        times: instants of one hour of the day.

    Returns:
        positions on `times` by day of year, from 1; number of days in the circle.
    """
    members: dict[int, list[int]] = {}
    ends: dict[int, dict[int, list[int]]] = {}
    for index, (date, day) in enumerate(zip(times.dates(), times.day_of_year(), strict=True)):
        members.setdefault(int(day), []).append(index)
        if day >= NUM_DAYS - 1:
            ends.setdefault(date.year, {}).setdefault(int(day), []).append(index)
    longest = year_length(times.calendar)
    if longest < NUM_DAYS or NUM_DAYS not in members:
        return members, min(longest, NUM_DAYS - 1)
    for end in ends.values():
        if NUM_DAYS not in end:
            members[NUM_DAYS] += end[NUM_DAYS - 1]
    return members, NUM_DAYS


def smooth_days(day_sum: Callable[[int], tuple[Float, int]], days: int) -> Iterator[NDArray[np.float32]]:
    """Climatology of each day in turn, holding 61 daily sums at a time.

    The triangle is carried from one day to the next by what enters before and leaves behind: a few additions a day in float64,
    whose rounding stays far below that of float32.

    Args:
        day_sum: for a day from 0, the sum of its states over all years, any shape, and how many states there were.
        days: days in the circle, more than 60.

    Yields:
        float32 of the states' shape, for day 0, 1, ...; NaN where no day inside the window holds data.
    """
    reach = HALF_WINDOW
    if days <= 2 * reach:
        raise ValueError(f"a year of {days} days is shorter than the window")
    ring = {day: day_sum(day % days) for day in range(-reach + 1, reach + 1)}
    first = next(iter(ring.values()))[0]
    behind, ahead, triangle = (_weighted(ring, w, first) for w in (
        dict.fromkeys(range(-reach + 1, 1), 1), dict.fromkeys(range(1, reach + 1), 1), {d: reach - abs(d) for d in range(-reach + 1, reach)}))
    norm = sum((reach - abs(d)) * ring[d][1] for d in range(-reach + 1, reach))
    for day in range(days):
        yield (triangle / norm).astype(np.float32) if norm else np.full(first.shape, np.nan, np.float32)
        if day == days - 1:
            return
        triangle += ahead
        triangle -= behind
        norm += sum(ring[day + d][1] for d in range(1, reach + 1)) - sum(ring[day + d][1] for d in range(-reach + 1, 1))
        entering, (middle, _), (leaving, _) = day_sum((day + reach + 1) % days), ring[day + 1], ring.pop(day - reach + 1)
        ring[day + reach + 1] = entering
        ahead += entering[0]
        ahead -= middle
        behind += middle
        behind -= leaving


def _weighted(ring: dict[int, tuple[Float, int]], weights: dict[int, int], like: Float) -> Float:
    total = np.zeros_like(like)
    for day, weight in weights.items():
        total += weight * ring[day][0]
    return total


class Climatology:
    """The climatology inside a store.

    Args:
        path: folder of the array (dayofyear 366, hour, channel, latitude, longitude).
        hours: hours of the day it holds; int64, shape (K,).
        channels: its channels in order.
        calendar: the calendar its days of year are counted in.
        grid: canonical grid of its fields.
    """

    def __init__(self, path: Path, hours: NDArray[np.int64], channels: ChannelSet, calendar: str, grid: Grid) -> None:
        self._array = ChunkedArray(path)
        self.path = path
        self.hours = hours
        self.channels = channels
        self.calendar = calendar
        self.grid = grid
        if self._array.shape != (NUM_DAYS, len(hours), len(channels), *grid.shape):
            raise DataError(f"a climatology of shape {self._array.shape} for {len(hours)} hours, {len(channels)} channels and "
                            f"{grid.shape[0]}x{grid.shape[1]} cells", where=str(path), fix="build the store again")

    def at(self, seconds: NDArray[np.int64], calendar: str) -> NDArray[np.float32]:
        """Expected states at valid times.

        Args:
            seconds: instants, seconds since 1970 in `calendar`; shape (N,).
            calendar: must be the store's.

        Returns:
            float32 in physical units, shape (N, C, H, W); NaN on days whose window held no data.

        Raises:
            DataError: another calendar, an hour it does not hold, or a damaged chunk.
        """
        days, hours = self._place(seconds, calendar)
        size, (rows, columns) = self._array.chunk[2], self._array.shape[3:]
        out = np.empty((len(days), len(self.channels), rows, columns), np.float32)
        for n, (day, hour) in enumerate(zip(days, hours, strict=True)):
            for group in range(self._array.num_chunks[2]):
                part = out[n, group * size:(group + 1) * size]
                part[...] = self._chunk((int(day), int(hour), group, 0, 0))[0, 0, :len(part)]
        return out

    def _place(self, seconds: NDArray[np.int64], calendar: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions along day of year and hour; each of shape (N,)."""
        if canonical_calendar(calendar) != self.calendar:
            raise DataError(f"the climatology counts days on the {self.calendar} calendar, asked for {calendar}", where=str(self.path),
                            fix="use truth and store of one calendar")
        times = TimeAxis(np.atleast_1d(np.asarray(seconds, dtype=np.int64)), self.calendar)
        hours = times.second_of_day() / 3600
        absent = sorted({float(h) for h in hours if h not in self.hours})
        if absent:
            raise DataError(f"the climatology holds the hours {self.hours.tolist()}, not {', '.join(f'{h:g}' for h in absent)} UTC",
                            where=str(self.path), fix="choose init and lead times that fall on these hours")
        return times.day_of_year() - 1, np.searchsorted(self.hours, hours)

    def _chunk(self, index: tuple[int, ...]) -> NDArray[np.float32]:
        try:
            return self._array.read_chunk(index)
        except BadChunk as bad:
            raise DataError(f"a chunk of the climatology {bad.reason}: day of year {index[0] + 1}, {self.hours[index[1]]} UTC", where=str(bad.file),
                            fix="restore the store from a copy, or delete it and build it again") from bad
