"""A zarr in WeatherBench 2's layout, made of the shared simulated weather under its names, trains without conversion."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.config import load_config
from afno_forecast.data.build import build_store
from afno_forecast.data.direct import open_direct
from afno_forecast.data.sources import open_source
from afno_forecast.experiment import Experiment, run_training, try_out
from afno_forecast.times import parse_instant

ROOT = Path(__file__).resolve().parents[3]
WEATHER = ROOT.parent / "shared" / "data" / "speedy_2000-03_2001-02.nc"
PERIOD = ("2000-03-01T06", "2000-03-12T18")
CHANNELS = ("z500", "t850", "2m_temperature")


@pytest.fixture(scope="module")
def weatherbench(tmp_path_factory) -> Path:
    if not WEATHER.exists():
        pytest.skip("the shared data are not here")
    with xr.open_dataset(WEATHER) as ds:
        ds = ds.isel(time=slice(0, 64)).load()
    names = {"z": "geopotential", "t": "temperature"}
    units = {"geopotential": "m**2 s**-2", "temperature": "K"}
    dims = ("time", "level", "longitude", "latitude")
    levels = {name: np.stack([ds[f"{short}{level}"].transpose("time", "longitude", "latitude").values for level in (500, 850)], axis=1)
              for short, name in names.items()}
    out = xr.Dataset({name: (dims, values[..., ::-1], {"units": units[name]}) for name, values in levels.items()},
                     {"time": ds["time"].values, "level": [500, 850], "latitude": ds["latitude"].values[::-1], "longitude": ds["longitude"].values})
    t2m = ds["t2m"].sortby("latitude", ascending=False).transpose("time", "longitude", "latitude")
    out["2m_temperature"] = t2m.drop_attrs().assign_attrs(units="K")
    out["geopotential_at_surface"] = ("longitude", "latitude"), 9.80665 * ds["orography"].values[::-1].T, {"units": "m**2 s**-2"}
    path = tmp_path_factory.mktemp("wb2") / "64x32.zarr"
    for variable in (*out.data_vars.values(), *out.coords.values()):
        variable.encoding = {}
    out.chunk({"time": 16}).to_zarr(path, zarr_format=2, consolidated=True)
    return path


def test_its_statistics_and_states_are_those_of_a_store_built_of_it(weatherbench, tmp_path):
    period = tuple(parse_instant(text) for text in PERIOD)
    built = build_store(open_source(weatherbench), tmp_path / "s.zarr", channels=CHANNELS, statistics_period=period, climatology=False)
    told: list[str] = []
    direct = open_direct(weatherbench, channels=CHANNELS, static=["geopotential_at_surface"], period=PERIOD, time_step=21600, cache=tmp_path,
                         echo=told.append)
    for name in ("mean", "std", "minimum", "maximum", "tendency_std"):
        np.testing.assert_allclose(getattr(direct.statistics, name), getattr(built.statistics, name), rtol=1e-12)
    np.testing.assert_array_equal(direct.read(7), built.read(7))
    np.testing.assert_array_equal(direct.static(), built.static())
    assert direct.grid.matches(built.grid) and np.diff(direct.grid.latitude).min() > 0 and len(told) == 1
    again = open_direct(weatherbench, channels=CHANNELS, static=[], period=PERIOD, time_step=21600, cache=tmp_path, echo=told.append)
    assert len(told) == 1 and again.statistics.mean.tolist() == direct.statistics.mean.tolist()


def test_an_experiment_trains_on_it_as_on_a_store(weatherbench, tmp_path):
    config = load_config(ROOT / "configs" / "quickstart.yaml", Experiment, [
        f"data.store={weatherbench}", f"output={tmp_path / 'run'}", "data.channels=[z500,t850,t2m]", "model.static=[geopotential_at_surface]",
        f"data.train.start={PERIOD[0]}", f"data.train.end={PERIOD[1]}", "data.validation.start=2000-03-13", "data.validation.end=2000-03-16T18",
        "training.budget.minutes=0.01", "validation.count=1", "validation.inits=2", "validation.lead_time=12h", "model.backbone.widths=[8,16]",
        "training.batch_size=2"])
    try_out(config)
    told: list[str] = []
    model = run_training(config, resume=False, echo=told.append)
    assert (model / "model.safetensors").exists()
    assert any("measuring the statistics of 3 channels" in line for line in told)
