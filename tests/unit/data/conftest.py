"""A small record of weather-like fields: H != W, latitude descending, two levels, one surface field, one constant field."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

PIPELINES = Path(__file__).resolve().parents[3] / "pipelines"
LATITUDE = np.linspace(75, -75, 6)
LONGITUDE = np.arange(9) * 40.0


@pytest.fixture(scope="session")
def make_record() -> Callable[..., xr.Dataset]:
    def make(times, seed: int = 3) -> xr.Dataset:
        random = np.random.default_rng(seed)
        n, shape = len(times), (len(LATITUDE), len(LONGITUDE))
        z = 50_000 + 300 * random.normal(size=(n, 2, *shape)).cumsum(0) * 0.3 + 500 * np.cos(np.deg2rad(LATITUDE))[:, None]
        t = 280 + 5 * random.normal(size=(n, *shape))
        return xr.Dataset(
            {"z": (("time", "level", "latitude", "longitude"), z.astype("f4"), {"units": "m2 s-2", "standard_name": "geopotential"}),
             "t2m": (("time", "latitude", "longitude"), t.astype("f4"), {"units": "K", "standard_name": "air_temperature"}),
             "orography": (("latitude", "longitude"), random.uniform(0, 900, shape).astype("f4"),
                           {"units": "m", "standard_name": "surface_altitude"})},
            {"time": times, "level": ("level", [850, 500], {"units": "hPa"}),
             "latitude": ("latitude", LATITUDE, {"units": "degrees_north"}), "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"})},
            {"title": "a record for tests", "institution": "simulated, not observed", "history": "made today on some host"})

    return make


@pytest.fixture
def write_record(tmp_path: Path, make_record) -> Callable[..., Path]:
    def write(times, name: str = "record.nc", seed: int = 3, change=None) -> Path:
        ds = make_record(times, seed)
        if change is not None:
            ds = change(ds)
        ds.to_netcdf(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def six_hourly() -> Callable[..., np.ndarray]:
    def times(n: int, start: str = "2001-02-20T00") -> np.ndarray:
        return np.datetime64(start, "ns") + np.arange(n) * np.timedelta64(6, "h")

    return times


@pytest.fixture
def run_pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a file of `pipelines/` as its command line does; gives the exit code."""
    monkeypatch.syspath_prepend(PIPELINES)

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PIPELINES / name), run_name="__main__")
        return int(ended.value.code)

    return run
