"""What every forecast must beat: the initial state repeated, the expected state of the valid time, past states of the same season.

A rival gives, for an init and a lead time, a state or an ensemble of states to be scored beside the forecast on exactly the same cases.
"""

# E member, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..data.store import match_channels
from ..errors import DataError
from ..grid import Grid
from ..times import TimeAxis
from .derived import derive

if TYPE_CHECKING:
    from ..data.climatology import Climatology

_SEASON_DAYS = 10  # members of the probabilistic climatology lie within so many days of the day of year, as in WeatherBench 2
_APART_SECONDS = 180 * 86400  # and this far from the valid time: another year
_CACHE_BYTES = 1 << 28


class Analyses(Protocol):
    """A record of states: `data.states.States`, or anything alike."""

    @property
    def where(self) -> str:
        """The files, in words."""
        ...

    @property
    def times(self) -> TimeAxis:
        """Instants, ascending."""
        ...

    @property
    def grid(self) -> Grid:
        """Canonical grid."""
        ...

    @property
    def channels(self) -> ChannelSet:
        """Channels of the states, in order."""
        ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """States at positions in time; (N, C, H, W)."""
        ...

    def index_of(self, seconds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of instants."""
        ...


class Rival(Protocol):
    """A forecast to be scored beside the one in question."""

    @property
    def name(self) -> str:
        """Ending of its metrics' names: `rmse_<name>`."""
        ...

    @property
    def num_members(self) -> int:
        """Members of its ensemble; 1 for a single forecast."""
        ...

    def covers(self, init: int, lead: int) -> bool:
        """Whether it has a forecast of this init and lead time, in seconds."""
        ...

    def members(self, init: int, lead: int) -> NDArray[Any] | None:
        """Its states, (E, C, H, W); None where there are none although the case is scored."""
        ...


class Truth:
    """Analyses by instant, with derived channels, the latest ones kept in memory.

    Args:
        analyses: the record.
        channels: what `at` returns: any of `with_derived(analyses.channels)`.
    """

    def __init__(self, analyses: Analyses, channels: ChannelSet) -> None:
        self.analyses = analyses
        self.channels = channels
        self._available = set(analyses.times.seconds.tolist())
        self._recent: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        rows, columns = analyses.grid.shape
        self._keep = max(1, _CACHE_BYTES // (4 * len(channels) * rows * columns))

    def has(self, seconds: int) -> bool:
        """Whether the record has this instant."""
        return seconds in self._available

    def at(self, seconds: int) -> NDArray[np.float32]:
        """The state at an instant, read-only; (C, H, W). Raises DataError when it is not there."""
        if seconds not in self._recent:
            state = self.analyses.read(self.analyses.index_of(np.asarray([seconds], dtype=np.int64)))[0]
            self._recent[seconds] = np.ascontiguousarray(derive(state, self.analyses.channels, self.channels))
            self._recent[seconds].flags.writeable = False
            while len(self._recent) > self._keep:
                self._recent.popitem(last=False)
        self._recent.move_to_end(seconds)
        return self._recent[seconds]


class Persistence:
    """The analysis at the init time, for every lead time."""

    name = "persistence"
    num_members = 1

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def covers(self, init: int, lead: int) -> bool:
        """Whether the analysis at the init time is there."""
        return self._truth.has(init)

    def members(self, init: int, lead: int) -> NDArray[Any] | None:
        """One member."""
        return self._truth.at(init)[None]


class Expected:
    """The climatology of the valid time, NaN on days without and in channels without.

    Args:
        climatology: of the training period.
        channels: in this order; `wind_speed` and other derived channels have none of their own, so they are NaN.
        calendar: of the times asked for.
    """

    name = "climatology"
    num_members = 1

    def __init__(self, climatology: Climatology, channels: ChannelSet, calendar: str) -> None:
        self._climatology = climatology
        self._channels = channels
        self._calendar = calendar

    def covers(self, init: int, lead: int) -> bool:
        """Always: days without climatology are NaN."""
        return True

    def at(self, seconds: int) -> NDArray[np.float32]:
        """The expected state at an instant; (C, H, W)."""
        return np.asarray(climatology_states(self._climatology, self._channels, np.asarray([seconds], dtype=np.int64), self._calendar)[0])

    def members(self, init: int, lead: int) -> NDArray[Any] | None:
        """One member."""
        return self.at(init + lead)[None]


class OtherYears:
    """An ensemble of past states: of other years, the same hour and within ten days of the day of year; drawn by a stated seed.

    As WeatherBench 2's probabilistic climatology, without those days where the record has too few. A draw depends on the seed and the
    valid time alone.

    Args:
        record: past analyses.
        channels: what is scored.
        num_members: members drawn, without repetition.
        seed: of the draw.
    """

    name = "probabilistic_climatology"

    def __init__(self, record: Analyses, channels: ChannelSet, num_members: int, seed: int) -> None:
        self._truth = Truth(record, channels)
        self._times = record.times
        self._days, self._hours = record.times.day_of_year(), record.times.second_of_day()
        self._days_in_year = {"360_day": 360, "all_leap": 366}.get(record.times.calendar, 365)
        self.num_members = num_members
        self._seed = seed

    def covers(self, init: int, lead: int) -> bool:
        """Always: where too few states are found the case has none."""
        return True

    def candidates(self, seconds: int) -> NDArray[np.int64]:
        """Instants that may be members for a valid time."""
        valid = TimeAxis(np.asarray([seconds], dtype=np.int64), self._times.calendar)
        away = np.abs(self._days - int(valid.day_of_year()[0]))
        near = np.minimum(away, self._days_in_year - away) <= _SEASON_DAYS
        chosen = near & (self._hours == int(valid.second_of_day()[0])) & (np.abs(self._times.seconds - seconds) >= _APART_SECONDS)
        return np.asarray(self._times.seconds[chosen])

    def members(self, init: int, lead: int) -> NDArray[Any] | None:
        """The members, in the order of time; None where there are fewer candidates than members."""
        found = self.parts(init + lead, (0,))
        return None if found is None else found[0]

    def parts(self, seconds: int, before: Sequence[int], channels: slice = slice(None)) -> NDArray[Any] | None:
        """States so long before members of a valid time, drawn among those of which the record has them all.

        Args:
            seconds: valid time.
            before: durations in seconds, P of them.
            channels: which of them are wanted.

        Returns:
            (P, E, C, H, W); None as in `members`.
        """
        candidates = [s for s in self.candidates(seconds).tolist() if all(self._truth.has(s - k) for k in before)]
        if len(candidates) < self.num_members:
            return None
        drawn = np.sort(np.random.default_rng((self._seed, seconds % (1 << 63))).choice(candidates, self.num_members, replace=False))
        return np.array([[self._truth.at(s - k)[channels] for s in drawn.tolist()] for k in before])


def require_climatology_fits(climatology: Climatology, channels: ChannelSet, grid: Grid) -> None:
    """Raise DataError unless the climatology is on this grid, and has those of the channels that it has in the same units."""
    where = str(climatology.path)
    if not climatology.grid.matches(grid):
        raise DataError(f"the climatology is on {climatology.grid.describe()}; the truth on {grid.describe()}", where=where,
                        fix="give a climatology on the grid of the truth")
    names = climatology.channels.names
    match_channels(ChannelSet(tuple(c for c in channels if c.name in names)), climatology.channels, where)


def climatology_states(climatology: Climatology, channels: ChannelSet, valid_seconds: NDArray[np.int64], calendar: str) -> NDArray[np.float32]:
    """The climatology at the valid times, NaN on days without and in channels without; shape (N, C, H, W)."""
    states = climatology.at(valid_seconds, calendar)
    result = np.full((len(states), len(channels), *states.shape[2:]), np.nan, dtype=np.float32)
    for c, name in enumerate(channels.names):
        if name in climatology.channels.names:
            result[:, c] = states[:, climatology.channels.names.index(name)]
    return result
