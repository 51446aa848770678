"""FAULTS 22 for forecasting: on any calendar, and before 1678, leads, valid times and scores are counted as the calendar counts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.cli_open import score
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.errors import ForecastError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.forecast.produce import produce_forecast
from afno_forecast.times import parse_instant

CASES = {"noleap": ("2004-02-28T18", "2004-03-01T00"), "360_day": ("2001-02-30T18", "2001-03-01T00"), "julian": ("1500-02-28T18", "1500-02-29T00"),
         "proleptic_gregorian": ("1500-02-28T18", "1500-03-01T00")}
"""Of each calendar an init time, and what it has six hours later."""


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tiny_weather: Path, make_tiny_experiment: Callable[[Path], Path],
         tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path, Path]:
    """(calendar, files, store, model) of 6-hourly waves from 15 January, without a missing day."""
    calendar, folder = request.param, tmp_path_factory.mktemp(request.param)
    year = CASES[calendar][0][:4]
    with xr.open_dataset(tiny_weather) as ds:
        ds = ds.isel(time=np.arange(200) % 60).load()
    times = xr.date_range(f"{year}-01-15", periods=200, freq="6h", calendar=calendar, use_cftime=True)
    ds.assign_coords(time=times).to_netcdf(folder / "weather.nc", encoding={"time": {"units": f"hours since {year}-01-01", "calendar": calendar}})
    period = (f"data.train={{start: {year}-01-15, end: {year}-02-08}}", f"data.validation={{start: {year}-02-10, end: {year}-02-27}}")
    settings = (f"data.store={folder / 'store.zarr'}", *period, "training.budget.train_steps=1", "validation.count=1")
    train = tuple(parse_instant(f"{year}-{day}", calendar) for day in ("01-15", "02-08"))
    build_store(open_source(folder / "weather.nc"), folder / "store.zarr", StoreSettings(statistics_period=train))
    model = run_training(load_experiment(make_tiny_experiment(folder), settings), resume=False, echo=[].append)
    return calendar, folder / "weather.nc", folder / "store.zarr", model


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_forecasts_and_scores_count_time_as_their_data_do(made: tuple[str, Path, Path, Path], suffix: str, tmp_path: Path) -> None:
    calendar, files, store, model = made
    init, next_time = CASES[calendar]
    out = tmp_path / f"fc{suffix}"
    produce_forecast(model, files, init=init, lead_time=86400, out=out, echo=[].append)
    with xr.open_dataset(out, engine="zarr" if suffix == ".zarr" else None, chunks=None, decode_timedelta=True,
                         decode_times=xr.coders.CFDatetimeCoder(use_cftime=True)) as ds:
        assert ds["time"].dt.strftime("%Y-%m-%dT%H").values.tolist() == [init]
        assert (ds["prediction_timedelta"].values / np.timedelta64(1, "h")).tolist() == [6, 12, 18, 24]
        assert ds["valid_time"].dt.strftime("%Y-%m-%dT%H").values.ravel()[0] == next_time
        assert ds["time"].dt.calendar == calendar and np.isfinite(ds["2m_temperature"]).all()
    list(score(out, [store], tmp_path / "scores.nc"))
    with xr.open_dataset(tmp_path / "scores.nc", decode_timedelta=True) as scores:
        assert scores["num_inits"].values.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("made", ["noleap", "360_day", "julian"], indirect=True)
def test_data_of_another_calendar_are_refused(made: tuple[str, Path, Path, Path], tiny_weather: Path, tmp_path: Path) -> None:
    *_, model = made
    with pytest.raises(ForecastError, match="calendar") as refused:
        produce_forecast(model, tiny_weather, init="last", lead_time=21600, out=tmp_path / "fc.nc", echo=[].append)
    assert refused.value.exit_code in (3, 4) and list(tmp_path.iterdir()) == []
