"""What holds for every test: one thread, no network, no screen."""

import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch; subprocesses inherit it
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _refuse_network(address: object) -> None:
    """Fail the test unless the address is a local socket or on loopback."""
    if not isinstance(address, tuple):
        return
    host = str(address[0])
    try:
        is_local = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        is_local = host in ("localhost", "")
    if not is_local:
        pytest.fail(f"the network was tried: {host}")


def _guarded_connect(self: socket.socket, address):
    _refuse_network(address)
    return _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address):
    _refuse_network(address)
    return _connect_ex(self, address)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", _guarded_connect_ex)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch = sys.modules.get("torch")  # not imported here: many tests need no torch
    if torch is not None:
        torch.manual_seed(0)
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real and simulated data beside the checkout. Without it its tests are left out; a file that it lacks fails them."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"there are no shared data in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A netCDF of travelling waves on 7 x 12 cells, 6-hourly for 40 days, with one missing day."""
    import numpy as np
    import xarray as xr

    rows, columns, count = 7, 12, 160
    latitude, longitude = (np.arange(rows) + 0.5) * 180 / rows - 90, np.arange(columns) * 30.0
    phase = np.deg2rad(longitude)[None, None, :] - 0.12 * np.arange(count)[:, None, None]
    shape = np.cos(np.deg2rad(latitude))[None, :, None]
    noise = np.random.default_rng(7).normal(size=(count, rows, columns))
    fields = {
        "z500": (5.5e4 + 2000 * shape * np.sin(2 * phase) + 20 * noise, "m2 s-2", "geopotential"),
        "t2m": (285 + 15 * shape * np.cos(phase) + 0.2 * noise, "K", "air_temperature"),
        "u250": (20 * shape + 8 * shape * np.cos(3 * phase) + 0.1 * noise, "m s-1", "eastward_wind"),
    }
    time = np.datetime64("2001-01-01", "ns") + np.arange(count) * np.timedelta64(6, "h")
    dims = ("time", "latitude", "longitude")
    ds = xr.Dataset({name: (dims, values.astype("f4"), {"units": units, "standard_name": standard})
                     for name, (values, units, standard) in fields.items()},
                    coords={"time": time, "latitude": ("latitude", latitude, {"units": "degrees_north"}),
                            "longitude": ("longitude", longitude, {"units": "degrees_east"})},
                    attrs={"institution": "made for a test"})
    ds["orography"] = (dims[1:], (300 * shape[0] * np.ones(columns)).astype("f4"), {"units": "m", "standard_name": "surface_altitude"})
    path = tmp_path_factory.mktemp("tiny") / "weather.nc"
    ds.isel(time=[*range(60), *range(64, count)]).to_netcdf(path)
    return path


@pytest.fixture(scope="session")
def tiny_store(tiny_weather: Path) -> Path:
    """The training store of `tiny_weather`, statistics of its first 25 days."""
    from afno_forecast.data.build import build_store
    from afno_forecast.data.plan import StoreSettings
    from afno_forecast.data.sources import open_source
    from afno_forecast.times import parse_instant

    path = tiny_weather.with_name("store.zarr")
    build_store(open_source(tiny_weather), path, StoreSettings(statistics_period=(parse_instant("2001-01-01"), parse_instant("2001-01-25"))))
    return path


TINY_EXPERIMENT = """\
name: tiny
seed: 3
output: {output}
data:
  store: {store}
  channels: [z500, t2m, u250]
  time_step: 6h
  train: {{start: 2001-01-01, end: 2001-01-25}}
  validation: {{start: 2001-01-26, end: 2001-02-09T18}}
model:
  history: 1
  static: [orography]
  forcings: [sin_latitude, cos_day_of_year]
  backbone: {{kind: hierarchical, widths: [8, 8, 16], num_blocks: 2}}
training:
  budget: {{train_steps: 12}}
  batch_size: 3
  stages: [{{until: 0.5, rollout: 1}}, {{until: 1.0, rollout: 2}}]
  average: 0.9
  precision: float32
  threads: 1
validation: {{count: 3, inits: 3, lead_time: 2d}}
"""


@pytest.fixture(scope="session")
def make_tiny_experiment(tiny_store: Path) -> Callable[[Path], Path]:
    """Writes an experiment file into a folder; it trains a small network on `tiny_store` into `run` beside it."""

    def make(folder: Path) -> Path:
        path = folder / "tiny.yaml"
        path.write_text(TINY_EXPERIMENT.format(output=folder / "run", store=tiny_store))
        return path

    return make


@pytest.fixture
def tiny_experiment(make_tiny_experiment: Callable[[Path], Path], tmp_path: Path) -> Path:
    """`make_tiny_experiment` in the test's own folder."""
    return make_tiny_experiment(tmp_path)


@pytest.fixture(scope="session")
def tiny_model(make_tiny_experiment: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder trained for a few steps on `tiny_store`."""
    from afno_forecast.experiment import load_experiment, run_training

    return run_training(load_experiment(make_tiny_experiment(tmp_path_factory.mktemp("tiny-model"))), resume=False, echo=lambda text: None)
