"""SEEPS: how well dry, light and heavy days of precipitation are told apart (Rodwell et al. 2010), as in WeatherBench.

Of 24 h sums. A day is dry up to 0.25 mm; a wet one is heavy from the threshold on that, of the climate's wet days at the cell, two thirds
stay below. With p the climate's part of dry days there, a forecast of category f (dry, light, heavy) when o came costs 1/2 of

    f \\ o     dry                light       heavy
    dry       0                  1/(1-p)     4/(1-p)
    light     1/p                0           3/(1-p)
    heavy     1/p + 3/(2+p)      3/(2+p)     0

Cells with p below 0.1 or above 0.85 do not count. 0: perfect; 1: a forecast without skill. An ensemble's is the mean over its members.
Climate: the whole record of the training period, without seasons.
"""

# E member, H latitude row, W longitude column, R region

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..channels import Channel, ChannelSet
from .baselines import Analyses
from .regions import AreaMeans
from .sample import Float, Rows, Sample, Table

DAILY = Channel("total_precipitation_24hr", None, "m", "diagnostic")
SIX_HOURLY = "total_precipitation_6hr"
_SIX_HOURS = 21600
DAY_PARTS = tuple(k * _SIX_HOURS for k in range(4))  # before its end a day's sum has these
_DRY_METRES = 0.25e-3
_DRY_FRACTIONS = (0.1, 0.85)


@dataclass(frozen=True, eq=False)
class RainClimate:
    """What is usual at each cell.

    Args:
        dry_fraction: part of the days that are dry; shape (H, W).
        heavy_threshold: metres in 24 h that two thirds of the wet days stay below, infinite without wet days; shape (H, W).
        num_days: 24 h sums they come from.
    """

    dry_fraction: Float
    heavy_threshold: Float
    num_days: int


def six_hourly(channels: ChannelSet) -> int | None:
    """Position of the 6 h precipitation in metres; None where there is none."""
    return next((i for i, c in enumerate(channels) if c.variable == SIX_HOURLY and c.units == "m"), None)


def rain_climate(record: Analyses) -> RainClimate | None:
    """Dry fraction and heavy threshold of a record's 24 h sums, one ending at every sixth hour; None without 6 h precipitation or whole days."""
    at = six_hourly(record.channels)
    if at is None:
        return None
    there = {int(s): i for i, s in enumerate(record.times.seconds)}
    ends = [s for s in there if all(s - k in there for k in DAY_PARTS)]
    if not ends:
        return None
    six = {s: record.read(np.asarray([i]))[0, at].copy() for s, i in there.items()}  # a view would keep every channel of the record
    sums = np.stack([daily_sum([six[s - k] for k in DAY_PARTS]) for s in ends])
    wet = np.where(sums > _DRY_METRES, sums, np.nan)
    heavy = np.full(sums.shape[1:], np.inf)
    some = np.isfinite(wet).any(axis=0)
    heavy[some] = np.nanquantile(wet[:, some], 2 / 3, axis=0)
    return RainClimate(np.asarray((sums <= _DRY_METRES).mean(axis=0)), heavy, len(ends))


def daily_sum(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sum of the four 6 h amounts of a day, added in float64, latest first."""
    return np.asarray(np.sum(np.asarray(parts, dtype=np.float64), axis=0)).astype(np.float32)


class DailySums:
    """24 h sums of a forecast's 6 h amounts as they come, in any order of lead times.

    Args:
        lead_seconds: lead times that will come.
        comes: whether one of them, of an init time, will; seconds. A day of which a part will not come is not waited for.
    """

    def __init__(self, lead_seconds: Sequence[int], comes: Callable[[int, int], bool] = lambda init, lead: True) -> None:
        leads = set(lead_seconds)
        self._comes = comes
        self._days = {end: tuple(end - k for k in DAY_PARTS) for end in leads if all(end - k in leads for k in DAY_PARTS)}
        self._waiting: dict[int, dict[int, NDArray[np.float32]]] = {}
        self._whole: dict[int, set[int]] = {}

    def add(self, init: int, lead: int, amount_EHW: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Add the 6 h amount that ends at a lead time; yields (lead, 24 h sum) of each day that is whole now."""
        days = {end: parts for end, parts in sorted(self._days.items()) if all(self._comes(init, p) for p in parts)}
        ends = [end for end, parts in days.items() if lead in parts]
        if not ends:
            return
        waiting, whole = self._waiting.setdefault(init, {}), self._whole.setdefault(init, set())
        waiting[lead] = np.array(amount_EHW)
        for end in ends:
            if all(p in waiting for p in days[end]):
                yield end, daily_sum([waiting[p] for p in days[end]])
                whole.add(end)
        for part in [p for p in waiting if all(end in whole for end, parts in days.items() if p in parts)]:
            del waiting[part]


class Seeps:
    """SEEPS of the one channel `total_precipitation_24hr`, in metres."""

    def __init__(self, climate: RainClimate) -> None:
        low, high = _DRY_FRACTIONS
        p = climate.dry_fraction
        self._counts_HW = ((p >= low) & (p <= high)).astype(np.float64)
        p = np.clip(p, low, high)
        zero = np.zeros_like(p)
        self._cost = 0.5 * np.asarray([[zero, 1 / (1 - p), 4 / (1 - p)], [1 / p, zero, 3 / (1 - p)], [1 / p + 3 / (2 + p), 3 / (2 + p), zero]])
        self._heavy = climate.heavy_threshold
        self.num_days = climate.num_days

    def _category(self, amount_HW: NDArray[np.floating]) -> NDArray[np.int64]:
        amount = np.asarray(amount_HW, dtype=np.float64)
        return np.asarray((amount > _DRY_METRES).astype(np.int64) + ((amount > _DRY_METRES) & (amount >= self._heavy)))

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """The cost's mean over the cells that count; (R, 1)."""
        truth = self._category(sample.truth_CHW[0])
        rows, columns = np.indices(truth.shape)
        costs = [self._cost[self._category(m[0]), truth, rows, columns] for m in sample.members_ECHW]
        return {"seeps": areas(np.mean(costs, axis=0)[None], self._counts_HW[None])}

    def scores(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """`seeps`."""
        return {"seeps": mean["seeps"]}

    def tables(self, mean: Mapping[str, Float]) -> tuple[Table, ...]:
        """None."""
        return ()
