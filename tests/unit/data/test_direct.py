"""A zarr in WeatherBench 2's layout, made of the shared simulated weather under its names, trains without conversion."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from safetensors.torch import load_file

from afno_forecast.cli import cli
from afno_forecast.config import load_config
from afno_forecast.data.build import build_store
from afno_forecast.data.direct import open_direct
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sample_data import sample_path
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError
from afno_forecast.experiment import Experiment, run_training
from afno_forecast.experiment.trial import try_out
from afno_forecast.forecast.produce import produce_forecast
from afno_forecast.times import parse_instant

ROOT = Path(__file__).resolve().parents[3]
WEATHER = ROOT.parent / "shared" / "data" / "speedy_2000-03_2001-02.nc"
CHANNELS = ("z500", "t850", "2m_temperature")
NUM_TRAINING = 46


@pytest.fixture(scope="module")
def weatherbench(tmp_path_factory) -> Path:
    """64 times of simulated weather as WeatherBench 2 lays out a reanalysis; of the embedded sample where there is no more."""
    with xr.open_dataset(WEATHER if WEATHER.exists() else sample_path()) as ds:
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


def date(source: Path, number: int) -> str:
    return str(xr.open_zarr(source)["time"].values[number].astype("datetime64[h]"))


@pytest.fixture(scope="module")
def period(weatherbench) -> tuple[str, str]:
    """Of training."""
    return date(weatherbench, 0), date(weatherbench, NUM_TRAINING)


@pytest.fixture(scope="module")
def built(weatherbench, period, tmp_path_factory) -> Store:
    """A training store of the same."""
    start, end = map(parse_instant, period)
    return build_store(open_source(weatherbench), tmp_path_factory.mktemp("built") / "s.zarr",
                       StoreSettings(channels=CHANNELS, statistics_period=(start, end), climatology=False))


def train(source: Path, period: tuple[str, str], folder: Path, told: list[str], *, resume: bool = False, train_steps: int = 4) -> Path:
    """The model folder of a small network."""
    first = period[0]
    config = load_config(ROOT / "configs" / "quickstart.yaml", Experiment, [
        f"data.store={source}", f"output={folder}", "data.channels=[z500,t850,t2m]", "model.static=[geopotential_at_surface]",
        f"data.train.start={first}", f"data.train.end={period[1]}", f"data.validation.start={later(first, 12)}",
        f"data.validation.end={later(first, 15.5)}", f"training.budget={{train_steps: {train_steps}}}", "training.precision=float32",
        "validation.count=1", "validation.inits=2", "validation.lead_time=12h", "model.backbone.widths=[8,16]", "training.batch_size=2",
        "training.threads=1"])
    if not resume:
        try_out(config)
    return run_training(config, resume=resume, echo=told.append)


def later(day: str, days: float) -> str:
    return str(np.datetime64(day, "h") + int(24 * days))


def test_its_statistics_and_states_are_those_of_a_store_built_of_it(weatherbench, built, period, tmp_path):
    told: list[str] = []
    direct = open_direct(weatherbench, channels=CHANNELS, static=["geopotential_at_surface"], period=period, time_step=21600, cache=tmp_path,
                         echo=told.append)
    for name in ("mean", "std", "minimum", "maximum", "tendency_std"):
        np.testing.assert_allclose(getattr(direct.statistics, name), getattr(built.statistics, name), rtol=1e-12)
    np.testing.assert_array_equal(direct.read(7), built.read(7))
    np.testing.assert_array_equal(direct.static(), built.static())
    assert direct.grid.matches(built.grid) and np.diff(direct.grid.latitude).min() > 0 and len(told) == 1


def test_statistics_are_measured_once_for_a_source_and_a_period(weatherbench, period, tmp_path):
    told: list[str] = []

    def opened(source: Path, end: str):
        return open_direct(source, channels=CHANNELS, static=[], period=(period[0], end), time_step=21600, cache=tmp_path, echo=told.append)

    first = opened(weatherbench, period[1])
    again = opened(weatherbench, period[1])
    assert len(told) == 1 and again.statistics.mean.tolist() == first.statistics.mean.tolist()
    shorter = opened(weatherbench, later(period[0], 5))
    assert len(told) == 2 and shorter.statistics.mean.tolist() != first.statistics.mean.tolist()
    changed = shutil.copytree(weatherbench, tmp_path / "changed.zarr")
    with xr.open_zarr(weatherbench) as ds:
        (ds["geopotential"] + 1000).to_dataset(name="geopotential").drop_vars(list(ds.coords)).to_zarr(changed, mode="r+")
    assert opened(changed, period[1]).statistics.mean[0] == pytest.approx(first.statistics.mean[0] + 1000)


def test_an_experiment_trains_rolls_out_and_scores_on_it_as_on_a_store(weatherbench, built, period, tmp_path):
    told: list[str] = []
    models = [train(source, period, tmp_path / name, told) for name, source in (("direct", weatherbench), ("store", built.path))]
    assert [line for line in told if "measuring the statistics of 3 channels" in line] == told[:1]
    one, other = (load_file(str(model / "model.safetensors")) for model in models)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)

    init = f"{later(period[0], 12)}/{later(period[0], 13)}/12h"
    forecasts = [produce_forecast(models[0], source, init=init, lead_time=43200, out=tmp_path / f"{n}.nc", echo=lambda text: None)
                 for n, source in enumerate((weatherbench, built.path))]
    scores = [tmp_path / f"scores-{n}.nc" for n in range(2)]
    for forecast, truth, out in zip(forecasts, (weatherbench, built.path), scores, strict=True):
        done = CliRunner().invoke(cli, ["evaluate", str(forecast), "--truth", str(truth), "--out", str(out)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    with xr.open_dataset(forecasts[0]) as mine, xr.open_dataset(forecasts[1]) as theirs:
        names = ["geopotential", "temperature", "2m_temperature"]
        assert mine["2m_temperature"].dims[-2:] == ("longitude", "latitude")  # each in the order of its source
        xr.testing.assert_allclose(mine[names].sortby("latitude").transpose(..., "latitude", "longitude"), theirs[names], rtol=1e-6)
        assert mine.sizes["time"] == 3 and np.isfinite(mine["2m_temperature"].values).all()
    with xr.open_dataset(scores[0]) as mine, xr.open_dataset(scores[1]) as theirs:
        xr.testing.assert_allclose(mine[names], theirs[names], rtol=1e-5)


def test_a_static_field_that_it_lacks_is_named(weatherbench, period, tmp_path):
    config = load_config(ROOT / "configs" / "quickstart.yaml", Experiment, [
        f"data.store={weatherbench}", f"output={tmp_path / 'run'}", "data.channels=[z500]", "model.static=[land_sea_mask]",
        f"data.train.start={period[0]}", f"data.train.end={period[1]}", f"data.validation.start={later(period[0], 12)}",
        f"data.validation.end={later(period[0], 15)}"])
    with pytest.raises(DataError, match=r"static fields: no channel land_sea_mask; there are \w+"):
        try_out(config)


def test_the_pipelines_build_a_store_of_it_on_its_own_grid_and_on_a_coarser_one(weatherbench, tmp_path, run_pipeline):
    year = date(weatherbench, 0)[:4]
    wanted = ("--years", f"{year}-{year}", "--variables", "z500,t850,t2m")
    assert run_pipeline("weatherbench2.py", weatherbench, tmp_path / "own.zarr", *wanted, "--static", "geopotential_at_surface") == 0
    own, source = Store.open(tmp_path / "own.zarr"), open_source(weatherbench)
    assert own.channels.names == ("geopotential@500", "temperature@850", "2m_temperature") and own.static().shape[0] == 1
    np.testing.assert_array_equal(own.read(5)[2], source.dataset["2m_temperature"][5])
    kept = f"{date(weatherbench, 0)}/{date(weatherbench, 20)}"
    assert run_pipeline("era5_arco.py", weatherbench, tmp_path / "coarse.zarr", *wanted, "--period", kept, "--regrid", "8x16") == 0
    coarse = Store.open(tmp_path / "coarse.zarr")
    assert coarse.grid.shape == (8, 16) and len(coarse.times) == 21 and not len(coarse.static_channels)
    means = [np.average(store.read(5)[2].mean(axis=1), weights=store.grid.area_weights()[:, 0]) for store in (own, coarse)]
    assert means[1] == pytest.approx(means[0], abs=0.01)
