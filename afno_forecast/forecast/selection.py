"""What of a forecast is kept: variables, levels, lead times and a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import vocabulary
from ..documents import nearest
from ..errors import ConfigError
from ..grid import BoxGrid, Orientation
from ..times import format_duration

_EDGE = 1e-6  # degrees; coordinates kept as float32 are that far off


@dataclass(frozen=True)
class Selection:
    """Part of a forecast to write; None keeps everything.

    Args:
        variables: names as people type them, with or without a level (`z500`, `temperature`, `10m_wind_speed`).
        levels: hPa; for variables named without a level. Variables without levels are not affected.
        region: west, east, south, north in degrees, edges included; may cross Greenwich or the date line.
    """

    variables: tuple[str, ...] | None = None
    levels: tuple[int, ...] | None = None
    region: tuple[float, float, float, float] | None = None

    def keeps(self, variable: str, level: int | None) -> bool:
        """Whether a map of this variable at this level is written."""
        if self.variables is not None:
            pairs = {vocabulary.split_name(name) for name in self.variables}
            if (variable, level) in pairs and level is not None:
                return True
            if (variable, None) not in pairs:
                return False
        return level is None or self.levels is None or level in self.levels

    def require_known(self, available: Sequence[tuple[str, int | None]]) -> None:
        """Raise ConfigError for a variable or level that no map of the forecast has; every one is named."""
        names = {variable for variable, _ in available}
        shorts = [vocabulary.short_name(*pair) for pair in available]
        wrong = [name for name in self.variables or () if (pair := vocabulary.split_name(name)) not in available
                 and not (pair[1] is None and pair[0] in names)]
        if wrong:
            near = nearest(wrong[0], [*shorts, *names], 0.5)
            raise ConfigError(f"the forecast has no {', '.join(wrong)}; it has {', '.join(shorts)}", where="--variables",
                              fix=f"did you mean '{near}'?" if near else "use names from this list")
        levels = sorted({level for _, level in available if level is not None})
        absent = [str(level) for level in self.levels or () if level not in levels]
        if absent:
            raise ConfigError(f"no variable is at {', '.join(absent)} hPa; there are {', '.join(map(str, levels)) or 'none'}", where="--levels",
                              fix="use levels from this list")

    def crop(self, geometry: Orientation | BoxGrid) -> Crop | None:
        """The cells of the region on the user's grid; None for the whole grid. Raises ConfigError when fewer than 2 x 2 cells lie in it."""
        if self.region is None:
            return None
        if isinstance(geometry, BoxGrid):
            raise ConfigError("a region in degrees has no meaning on a box", where="--region", fix="leave --region out")
        west, east, south, north = self.region
        if not (-90 <= south < north <= 90) or east == west:
            raise ConfigError(f"{west:g}/{east:g}/{south:g}/{north:g} is not a region", where="--region",
                              fix="write W/E/S/N in degrees, for example -30/60/30/75")
        rows = np.flatnonzero((geometry.latitude >= south - _EDGE) & (geometry.latitude <= north + _EDGE))
        width = 360.0 if east - west >= 360 else (east - west) % 360
        offset = np.mod(geometry.longitude - west + _EDGE, 360) - _EDGE
        columns = np.flatnonzero(offset <= width + _EDGE)
        if len(rows) < 2 or len(columns) < 2:
            raise ConfigError(f"the region has {len(rows)} x {len(columns)} cells of the grid; at least 2 x 2 are needed", where="--region",
                              fix="widen --region")
        whole = len(columns) == len(geometry.longitude)
        longitude = geometry.longitude[columns]
        if not whole:
            westward = bool(np.median((np.diff(geometry.longitude) + 180) % 360) < 180)
            order = np.argsort(offset[columns], kind="stable")[::-1 if westward else 1]
            columns, longitude = columns[order], longitude[order]
            beyond = longitude > longitude[0 if westward else -1]  # across the edge of the user's convention
            longitude = np.where(beyond, longitude - 360, longitude)
        return Crop(rows, columns, Orientation(geometry.latitude[rows], longitude, geometry.transposed))


@dataclass(frozen=True, eq=False)
class Crop:
    """A region of a user's grid.

    Args:
        rows, columns: positions of the kept cells in the user's order.
        orientation: the coordinates that are left, longitudes without a jump.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    orientation: Orientation

    def apply(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The kept cells of maps in the user's order; (..., H, W) or, transposed, (..., W, H)."""
        first, second = (self.columns, self.rows) if self.orientation.transposed else (self.rows, self.columns)
        return maps[..., first[:, None], second[None, :]]


def select_leads(lead_time: int, time_step: int, *, leads: Sequence[int] = (), every: int | None = None) -> tuple[int, ...]:
    """Model steps whose states are kept, ascending.

    Args:
        lead_time: how far, seconds.
        time_step: of the model, seconds.
        leads: lead times to keep, seconds; none for all.
        every: keep one state every so many seconds; None for every step.

    Raises:
        ConfigError: a lead time that is not a multiple of the time step, one beyond the last, or a last one that `every` does not reach.
    """
    if leads and every is not None:
        raise ConfigError("--leads and --output-every contradict each other", fix="leave one of them out")
    for option, values in (("--lead-time", [lead_time]), ("--leads", list(leads)), ("--output-every", [] if every is None else [every])):
        for seconds in values:
            require_whole_steps(seconds, time_step, option)
    farthest = max((every or 0, *leads))
    if lead_time < farthest:
        raise ConfigError(f"the forecast ends at {format_duration(lead_time)}, before {format_duration(farthest)}", where="--lead-time",
                          fix=f"use --lead-time {format_duration(farthest)}")
    step = time_step if every is None else every
    if not leads and lead_time % step:
        last = lead_time // step * step
        raise ConfigError(f"the last lead, {format_duration(lead_time)}, is none of those every {format_duration(step)}", where="--lead-time",
                          fix=f"use --lead-time {format_duration(last)} or {format_duration(last + step)}, or another --output-every")
    wanted = sorted(set(leads)) if leads else range(step, lead_time + 1, step)
    return tuple(seconds // time_step for seconds in wanted)


def require_whole_steps(seconds: int, time_step: int, option: str) -> None:
    """Raise ConfigError naming the option and the nearest whole number of steps."""
    if seconds <= 0 or seconds % time_step:
        nearest_seconds = max(1, seconds // time_step) * time_step
        raise ConfigError(f"a lead time of {format_duration(seconds)} is not a multiple of the model's step of {format_duration(time_step)}",
                          where=option, fix=f"use {option} {format_duration(nearest_seconds)}")
