"""Inputs known for any time and place: solar radiation, calendar, coordinates, and the store's static fields."""

# B batch, F forcing, S static field, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import ConfigError, DataError
from .grid import Grid, LatLonGrid
from .times import TimeAxis

SOLAR_CONSTANT = 1361.0  # W m-2, Kopp and Lean 2011
_SUN_SAMPLE_SECONDS = 3600
_TROPICAL_YEAR = 365.2422  # days
_MEAN_LEAP_SHIFT = 0.25  # days by which the start of the year 2000 is behind its mean over the leap cycle
_EPOCH_TO_2000 = 10957.5  # days from 1970-01-01T00 to 2000-01-01T12
_JULIAN_SHIFT = 13.0  # days by which 1970-01-01 of the Julian calendar is later


def toa_radiation(times: TimeAxis, latitude_HW: NDArray[np.float64], longitude_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solar radiation on a horizontal surface at the top of the atmosphere, at each instant.

    Position and distance of the sun by the low-precision formulas of the Astronomical Almanac (within 0.01 degrees from 1950 to 2050).

    Args:
        times: instants; length N. On calendars without leap years the sun follows the calendar's own year.
        latitude_HW, longitude_HW: degrees.

    Returns:
        W m-2, shape (N, H, W), never negative.
    """
    days = _days_since_2000(times)
    mean_longitude = np.deg2rad(280.460 + 0.9856474 * days)
    anomaly = np.deg2rad(357.528 + 0.9856003 * days)
    ecliptic = mean_longitude + np.deg2rad(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.deg2rad(23.439 - 4e-7 * days)
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly)
    declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic))
    ascension = np.arctan2(np.cos(obliquity) * np.sin(ecliptic), np.cos(ecliptic))
    equation_of_time = np.angle(np.exp(1j * (mean_longitude - ascension)))
    hour_angle = (2 * np.pi * times.second_of_day() / 86400 - np.pi + equation_of_time)[:, None, None] + np.deg2rad(longitude_HW)
    latitude, tilt = np.deg2rad(latitude_HW), declination[:, None, None]
    zenith = np.sin(latitude) * np.sin(tilt) + np.cos(latitude) * np.cos(tilt) * np.cos(hour_angle)
    return np.asarray(SOLAR_CONSTANT / distance[:, None, None] ** 2 * np.maximum(zenith, 0))


def _days_since_2000(times: TimeAxis) -> NDArray[np.float64]:
    """Days since noon of 2000-01-01; on calendars whose years are not the sun's, the day of 2000 at the same part of the year."""
    if times.calendar in ("noleap", "all_leap", "360_day"):
        return np.asarray(times.year_fraction() * _TROPICAL_YEAR - 0.5 + _MEAN_LEAP_SHIFT)
    shift = _JULIAN_SHIFT if times.calendar == "julian" else 0
    return np.asarray(times.seconds / 86400 - _EPOCH_TO_2000 + shift)


def _mean_radiation(times: TimeAxis, latitude: NDArray[np.float64], longitude: NDArray[np.float64], time_step: int) -> NDArray[np.float64]:
    """Radiation averaged over the model step that begins at each instant, as a share of the solar constant; shape (N, H, W)."""
    samples = max(1, round(time_step / _SUN_SAMPLE_SECONDS))
    offsets = ((np.arange(samples) + 0.5) * time_step / samples).astype(np.int64)
    total = sum(toa_radiation(TimeAxis(times.seconds + offset, times.calendar), latitude, longitude) for offset in offsets)
    return np.asarray(total / samples / SOLAR_CONSTANT)


Field = Callable[[TimeAxis, NDArray[np.float64], NDArray[np.float64], int], NDArray[np.float64]]


def _place(function: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]) -> Field:
    return lambda times, lat, lon, step: np.broadcast_to(function(np.deg2rad(lat), np.deg2rad(lon)), (len(times), *lat.shape))


def _season(function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Field:
    return lambda times, lat, lon, step: np.broadcast_to(function(2 * np.pi * times.year_fraction())[:, None, None], (len(times), *lat.shape))


def _local_time(function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Field:
    return lambda times, lat, lon, step: function(2 * np.pi * times.second_of_day()[:, None, None] / 86400 + np.deg2rad(lon))


FORCINGS: dict[str, Field] = {
    "toa_radiation": _mean_radiation,
    "sin_latitude": _place(lambda lat, lon: np.sin(lat)),
    "cos_latitude": _place(lambda lat, lon: np.cos(lat)),
    "sin_longitude": _place(lambda lat, lon: np.sin(lon)),
    "cos_longitude": _place(lambda lat, lon: np.cos(lon)),
    "sin_day_of_year": _season(np.sin),
    "cos_day_of_year": _season(np.cos),
    "sin_local_time": _local_time(np.sin),
    "cos_local_time": _local_time(np.cos),
}


def static_scales(static: Mapping[str, NDArray[np.float32]], grid: Grid) -> dict[str, tuple[float, float]]:
    """Area mean and standard deviation of static fields (H, W); name -> (mean, std). Raises DataError for a field that is not finite."""
    area = grid.area_weights() / grid.area_weights().sum()
    scales = {}
    for name, values in static.items():
        field = np.asarray(values, dtype=np.float64)
        if field.shape != grid.shape or not np.isfinite(field).all():
            raise DataError(f"static field '{name}' has shape {field.shape} or missing values, wanted {grid.shape}")
        mean = (area * field).sum()
        scales[name] = (float(mean), float(np.sqrt((area * (field - mean) ** 2).sum())))
    return scales


class Forcing(nn.Module):
    """The forcing channels of a forecaster: static fields first, then the computed ones, in the order given.

    Args:
        names: keys of `FORCINGS`.
        static: standardised by area mean and standard deviation here; name -> array (H, W).
        grid: where.
        calendar: of the instants handed to `forward`.
        time_step: seconds, over which radiation is averaged unless `forward` is told otherwise.
        scales: mean and standard deviation to standardise static fields by, of the grid that a network was trained on; None takes this grid's.

    Raises ConfigError for an unknown name, or a name without meaning on a box; DataError for a static field that is not finite.
    """

    static_SHW: Tensor

    def __init__(self, names: Sequence[str], static: Mapping[str, NDArray[np.float32]], grid: Grid, *, calendar: str, time_step: int,
                 scales: Mapping[str, tuple[float, float]] | None = None) -> None:
        super().__init__()
        unknown = [n for n in names if n not in FORCINGS]
        if unknown:
            raise ConfigError(f"unknown forcing {', '.join(unknown)}", fix=f"use {', '.join(FORCINGS)}")
        if names and not isinstance(grid, LatLonGrid):
            raise ConfigError(f"forcing {', '.join(names)} has no meaning on a {grid.describe()}", fix="leave forcings empty for a box")
        self.names = tuple(names)
        self.static_names = tuple(static)
        self.grid = grid
        self.calendar = calendar
        self.time_step = time_step
        own = static_scales(static, grid)
        scales = own if scales is None else scales
        fields = [(values.astype(np.float64) - scales[name][0]) / (scales[name][1] or 1) for name, values in static.items()]
        stacked = np.stack(fields) if fields else np.zeros((0, *grid.shape))
        self.register_buffer("static_SHW", torch.from_numpy(stacked).float(), persistent=False)

    @property
    def num_channels(self) -> int:
        """F."""
        return len(self.names) + len(self.static_names)

    def forward(self, seconds: NDArray[np.int64], time_step: int | None = None) -> Tensor:
        """Forcing at each instant.

        Args:
            seconds: since 1970 in the calendar; shape (B,).
            time_step: seconds of the step that begins there, over which radiation is averaged; the module's own by default.

        Returns:
            float32 (B, F, H, W) on the module's device, of order one.
        """
        count = len(seconds)
        static_BSHW = self.static_SHW.expand(count, -1, -1, -1)
        if not self.names:
            return static_BSHW
        assert isinstance(self.grid, LatLonGrid)
        latitude, longitude = np.meshgrid(self.grid.latitude, self.grid.longitude, indexing="ij")
        times = TimeAxis(np.asarray(seconds, dtype=np.int64), self.calendar)
        computed = np.stack([FORCINGS[n](times, latitude, longitude, time_step or self.time_step) for n in self.names], axis=1)
        return torch.cat([static_BSHW, torch.from_numpy(computed.astype(np.float32)).to(static_BSHW.device)], dim=1)
