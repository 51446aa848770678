"""Small forecasts, analyses and scores for pictures: odd sizes, latitude and longitude that differ in length."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

LEADS = np.array([6, 24, 48], "timedelta64[h]").astype("timedelta64[ns]")
ATTRS = {"title": "A test", "institution": "simulated, not observed", "source": "waves"}


def _waves(latitude: np.ndarray, longitude: np.ndarray, phase: float) -> np.ndarray:
    lat, lon = np.deg2rad(latitude)[:, None], np.deg2rad(longitude)[None, :]
    return np.cos(lat) ** 2 * np.sin(3 * lon + phase) + 0.4 * np.sin(lat) + 0.2 * np.cos(lat) * np.cos(lon - 2 * phase)


def _dataset(times: np.ndarray, leads: np.ndarray | None, shift: float) -> xr.Dataset:
    latitude, longitude = np.linspace(-85, 85, 18), np.arange(0, 360, 15.0)
    hours = (times - times[0]) / np.timedelta64(1, "h")
    phases = hours if leads is None else hours[:, None] + (leads / np.timedelta64(1, "h"))[None, :]
    field = np.array([_waves(latitude, longitude, float(p) / 40 + shift) for p in phases.ravel()]).reshape(*phases.shape, 18, 24)
    dims = ("time", "latitude", "longitude") if leads is None else ("time", "prediction_timedelta", "latitude", "longitude")
    levelled = (*dims[:-2], "level", *dims[-2:])
    coords = {"time": times, "latitude": latitude, "longitude": longitude, "level": [500, 850]}
    coords |= {} if leads is None else {"prediction_timedelta": leads}
    stack = np.stack([field, 0.7 * field], axis=-3)
    return xr.Dataset({
        "geopotential": (levelled, 54000 + 3000 * stack, {"units": "m2 s-2"}),
        "u_component_of_wind": (levelled, 12 * stack, {"units": "m s-1"}),
        "v_component_of_wind": (levelled, -9 * stack, {"units": "m s-1"}),
        "2m_temperature": (dims, 280 + 15 * field, {"units": "K"}),
    }, coords=coords, attrs=ATTRS)


@pytest.fixture(scope="session")
def forecast() -> xr.Dataset:
    return _dataset(np.array(["2001-12-01T00", "2001-12-01T12"], "datetime64[ns]"), LEADS, 0.2)


@pytest.fixture(scope="session")
def truth() -> xr.Dataset:
    return _dataset(np.arange("2001-12-01", "2001-12-05", 6, dtype="datetime64[h]").astype("datetime64[ns]"), None, 0.0)


@pytest.fixture(scope="session")
def scores() -> xr.Dataset:
    metrics = ["rmse", "rmse_persistence", "rmse_climatology", "bias", "acc", "acc_persistence", "acc_climatology"]
    table = np.array([[98.0665, 196.133, 294.1995], [150, 400, 650], [500, 500, 500], [-9.80665, 0, 9.80665], [0.99, 0.8, 0.55], [0.9, 0.5, 0.2],
                      [np.nan] * 3])
    values = np.full((len(metrics), 2, 3, 2), np.nan)
    values[:, :, :, 0] = table[:, None, :]
    surface = np.repeat(table[:, None, :], 2, axis=1)
    return xr.Dataset({"geopotential": (("metric", "region", "lead_time", "level"), values, {"units": "m2 s-2"}),
                       "2m_temperature": (("metric", "region", "lead_time"), surface, {"units": "K"}), "num_inits": ("lead_time", [7, 7, 7])},
                      coords={"metric": metrics, "region": ["global", "tropics"], "lead_time": LEADS, "level": [500, 850]},
                      attrs=ATTRS)
