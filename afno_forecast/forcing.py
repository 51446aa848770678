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


def toa_radiation(times: TimeAxis, latitude_HW: NDArray[np.float64], longitude_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solar radiation on a horizontal surface at the top of the atmosphere, at each instant.

    Declination, equation of time and distance from the Fourier series of Spencer (1971), as in Iqbal (1983), with the year angle
    taken from the calendar's own year; good to about 0.05 degrees of declination.

    Args:
        times: instants; length N.
        latitude_HW, longitude_HW: degrees.

    Returns:
        W m-2, shape (N, H, W), never negative.
    """
    angle = 2 * np.pi * times.year_fraction()
    sine, cosine = [np.sin(k * angle) for k in (1, 2, 3)], [np.cos(k * angle) for k in (1, 2, 3)]
    declination = (0.006918 - 0.399912 * cosine[0] + 0.070257 * sine[0] - 0.006758 * cosine[1] + 0.000907 * sine[1]
                   - 0.002697 * cosine[2] + 0.00148 * sine[2])
    distance = 1.00011 + 0.034221 * cosine[0] + 0.00128 * sine[0] + 0.000719 * cosine[1] + 0.000077 * sine[1]
    equation_of_time = 0.000075 + 0.001868 * cosine[0] - 0.032077 * sine[0] - 0.014615 * cosine[1] - 0.04089 * sine[1]
    hour_angle = (2 * np.pi * times.second_of_day() / 86400 - np.pi + equation_of_time)[:, None, None] + np.deg2rad(longitude_HW)
    latitude = np.deg2rad(latitude_HW)
    tilt = declination[:, None, None]
    zenith = np.sin(latitude) * np.sin(tilt) + np.cos(latitude) * np.cos(tilt) * np.cos(hour_angle)
    return np.asarray(SOLAR_CONSTANT * distance[:, None, None] * np.maximum(zenith, 0))


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


class Forcing(nn.Module):
    """The forcing channels of a forecaster: static fields first, then the computed ones, in the order given.

    Args:
        names: keys of `FORCINGS`.
        static: standardised by area mean and standard deviation here; name -> array (H, W).
        grid: where.
        calendar: of the instants handed to `forward`.
        time_step: seconds, over which radiation is averaged.

    Raises ConfigError for an unknown name, or a name without meaning on a box; DataError for a static field that is not finite.
    """

    static_SHW: Tensor

    def __init__(self, names: Sequence[str], static: Mapping[str, NDArray[np.float32]], grid: Grid, *, calendar: str, time_step: int) -> None:
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
        area = grid.area_weights() / grid.area_weights().sum()
        fields = []
        for name, values in static.items():
            field = np.asarray(values, dtype=np.float64)
            if field.shape != grid.shape or not np.isfinite(field).all():
                raise DataError(f"static field '{name}' has shape {field.shape} or missing values, wanted {grid.shape}")
            mean = (area * field).sum()
            spread = np.sqrt((area * (field - mean) ** 2).sum())
            fields.append((field - mean) / spread if spread > 0 else field - mean)
        stacked = np.stack(fields) if fields else np.zeros((0, *grid.shape))
        self.register_buffer("static_SHW", torch.from_numpy(stacked).float(), persistent=False)

    @property
    def num_channels(self) -> int:
        """F."""
        return len(self.names) + len(self.static_names)

    def forward(self, seconds: NDArray[np.int64]) -> Tensor:
        """Forcing at each instant.

        Args:
            seconds: since 1970 in the calendar; shape (B,).

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
        computed = np.stack([FORCINGS[n](times, latitude, longitude, self.time_step) for n in self.names], axis=1)
        return torch.cat([static_BSHW, torch.from_numpy(computed.astype(np.float32)).to(static_BSHW.device)], dim=1)
