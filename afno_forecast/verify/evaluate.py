"""A forecast file against the truth, with persistence, climatology and other forecasts beside it."""

# L lead time, E member, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import DataError
from ..times import TimeAxis, format_duration
from .baselines import Analyses
from .derived import derive, with_derived
from .forecasts import forecast_channels, forecast_grid, num_members, open_forecast, read_members
from .online import OnlineScorer
from .settings import References, ScoreSettings
from .truth import require_truth_fits

_BLOCK_BYTES = 1 << 27  # of float32 read at once from each forecast


def evaluate(forecast: xr.Dataset | Path, truth: Analyses, *, references: References | None = None, settings: ScoreSettings | None = None,
             against: Sequence[Path] = (), leads: Sequence[int] | None = None) -> xr.Dataset:
    """Score every channel common to forecast and truth, at every init and valid time the truth has.

    Args:
        forecast: a file in WeatherBench 2's layout, or what `open_forecast` gave; an ensemble along `number`.
        truth: the analyses.
        references: climatology and more to compare with; without them persistence alone.
        settings: what is computed; None for everything the data allow.
        against: other forecast files, scored on exactly the same init and lead times; cases that one of them lacks are counted and left out.
        leads: lead times in seconds; None for all of the forecast.

    Returns:
        Dataset (metric, region, lead_time, [level]) and tables: see the README of the package, "Score files".

    Raises:
        DataError: another grid or calendar, a climatology of another grid or in other units, no common channel, a lead the
            forecast lacks, nothing the truth covers, or another forecast that lacks a channel or is not finite.
        DivergenceError: a forecast that is not finite.
    """
    ours = ForecastFile(forecast, truth)
    references = references or References()
    rivals = tuple(ForecastFile(path, truth) for path in against)
    _name_apart(rivals, references)
    lead_seconds = ours.choose(leads)
    references = replace(references, rivals=(*references.rivals, *rivals))
    scorer = OnlineScorer(truth, ours.channels, ours.init_seconds, lead_seconds, num_members=ours.num_members, references=references,
                          settings=settings)
    for rival in rivals:
        rival.want(scorer.channels)
    for init in ours.init_seconds.tolist():
        wanted = [lead for lead in lead_seconds.tolist() if scorer.wants(init, lead)]
        for lead, members_ECHW in ours.states(init, wanted, scorer.channels):
            scorer.score(init, lead, members_ECHW)
    return scorer.finalize(ours.attrs)


class ForecastFile:
    """A forecast file as the scorer reads it.

    Args:
        forecast: the file, or what `open_forecast` gave.
        truth: whose grid, calendar and units it must have.

    Raises:
        DataError: it cannot be read, or another grid or calendar.
    """

    def __init__(self, forecast: xr.Dataset | Path, truth: Analyses) -> None:
        self._ds = forecast if isinstance(forecast, xr.Dataset) else open_forecast(forecast)
        self.name = "forecast" if isinstance(forecast, xr.Dataset) else _metric_ending(forecast.stem)
        self._where = self.name if isinstance(forecast, xr.Dataset) else str(forecast)
        axis = TimeAxis.from_xarray(self._ds["time"])
        require_truth_fits(truth, forecast_grid(self._ds, like=truth.grid), axis)
        self.init_seconds: NDArray[np.int64] = axis.seconds
        self.lead_seconds: NDArray[np.int64] = self._ds["prediction_timedelta"].values.astype("timedelta64[s]").astype(np.int64)
        self._inits = {int(s): i for i, s in enumerate(self.init_seconds)}
        self._leads = {int(s): i for i, s in enumerate(self.lead_seconds)}
        self.channels = self._channels(truth.channels)
        self._wanted = self.channels

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file."""
        return dict(self._ds.attrs)

    @property
    def num_members(self) -> int:
        """Members of the ensemble; 1 for a single forecast."""
        return num_members(self._ds)

    def _channels(self, truth: ChannelSet) -> ChannelSet:
        """What the file offers; in the truth's units where the truth has it, to which it is converted when it is read."""
        known = {c.name: c for c in truth}
        offered = (c for c in forecast_channels(self._ds) if not _is_blank(self._ds, c.variable, c.level))
        return ChannelSet(tuple(known.get(c.name, c) for c in offered))

    def choose(self, leads: Sequence[int] | None) -> NDArray[np.int64]:
        """Lead times asked for, in seconds; all of the file for None. Raises DataError for one it lacks."""
        wanted = self.lead_seconds if leads is None else np.unique(np.asarray(leads, dtype=np.int64))
        absent = [format_duration(int(s)) for s in wanted if int(s) not in self._leads]
        if absent:
            raise DataError(f"the forecast has no lead {', '.join(absent)}; it has {format_duration(int(self.lead_seconds[0]))} to "
                            f"{format_duration(int(self.lead_seconds[-1]))}, {len(self.lead_seconds)} of them", fix="ask for leads it has")
        return wanted

    def states(self, init: int, leads: Sequence[int], channels: ChannelSet) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (lead, members (E, C, H, W)) of an init time, leads ascending, read in blocks that bound memory."""
        needed = self._needed(channels)
        size = 4 * max(1, len(needed)) * self.num_members * int(np.prod(forecast_grid(self._ds).shape))
        block = max(1, _BLOCK_BYTES // size)
        for _, group in groupby(leads, key=lambda lead: self._leads[lead] // block):  # what lies between two wanted leads is read as well
            together = list(group)
            where = np.asarray([self._leads[lead] for lead in together])
            read = read_members(self._ds, needed, self._inits[init], slice(int(where[0]), int(where[-1]) + 1))
            for lead, position in zip(together, where - where[0], strict=True):
                yield lead, derive(read[position], needed, channels)

    def _needed(self, channels: ChannelSet) -> ChannelSet:
        """What must be read for these channels: themselves, or the components they are derived of."""
        names = self.channels.names
        if all(c.name in names for c in channels):
            return ChannelSet(tuple(channels))
        return ChannelSet((*(c for c in channels if c.name in names), *(c for c in self.channels if c.name not in channels.names)))

    def want(self, channels: ChannelSet) -> None:
        """Give these channels as members. Raises DataError for some that it lacks."""
        absent = [c.short for c in channels if c.name not in with_derived(self.channels).names]
        if absent:
            raise DataError(f"a forecast to compare with lacks {', '.join(absent)}, which the forecast and the truth have", where=self._where,
                            fix="give a file with all of them, or leave it out of --against")
        self._wanted = channels

    def covers(self, init: int, lead: int) -> bool:
        """Whether it has this init and lead time."""
        return init in self._inits and lead in self._leads

    def members(self, init: int, lead: int) -> NDArray[Any] | None:
        """Its states at a lead time, (E, C, H, W), in the channels of `want`."""
        return next(iter(self.states(init, [lead], self._wanted)))[1]


def _metric_ending(text: str) -> str:
    """A file's name as the ending of metrics' names; what these say themselves of an interval and a test is no ending of it."""
    name = "".join(ch if ch.isascii() and ch.isalnum() else "_" for ch in text).strip("_") or "other"
    return f"{name}_file" if f"_{name}".endswith(("_low", "_high", "_p")) or "_vs_" in f"_{name}_" else name


def _name_apart(rivals: Sequence[ForecastFile], references: References) -> None:
    """Give rivals with equal file names different names, and none a baseline's."""
    taken = {"persistence", "climatology", "probabilistic_climatology", *(r.name for r in references.rivals)}
    for rival in rivals:
        name, count = rival.name, 2
        while rival.name in taken:
            rival.name, count = f"{name}_{count}", count + 1
        taken.add(rival.name)


def _is_blank(ds: xr.Dataset, variable: str, level: int | None) -> bool:
    """Whether a level of a variable that does not list its levels is one it lacks: missing in the whole first map."""
    item = ds[variable]
    if level is None or "available_levels" in item.attrs:
        return False
    first = {d: 0 for d in ("time", "number", "prediction_timedelta") if d in item.dims}
    return bool(np.isnan(item.isel(first).sel(level=level).values).all())
