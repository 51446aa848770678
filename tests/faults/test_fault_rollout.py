"""FAULTS 10, 15, 17, 20, 21, 23: forecasts from data that are ordered, gridded, named or filled otherwise."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

from afno_forecast import model_folder
from afno_forecast.data.states import open_states
from afno_forecast.data.store import Store
from afno_forecast.errors import ConfigError, DataError, DivergenceError, ForecastError, Stopped
from afno_forecast.forecast.initial import history_rows
from afno_forecast.forecast.output import ForecastWriter
from afno_forecast.forecast.produce import produce_forecast
from afno_forecast.times import format_duration, format_instant

INIT, LEAD = "2001-01-20T06", 3 * 86400


def forecast(model: Path, data: Path, out: Path, init: str = INIT, **options: int) -> xr.Dataset:
    path = produce_forecast(model, data, init=init, lead_time=LEAD, out=out, echo=[].append, **options)
    with xr.open_dataset(path) as ds:
        return ds.load()


@pytest.fixture(scope="module")
def weather(tiny_weather: Path) -> xr.Dataset:
    with xr.open_dataset(tiny_weather) as ds:
        return ds.load()


@pytest.fixture(scope="module")
def reference(tiny_model: Path, tiny_weather: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return forecast(tiny_model, tiny_weather, tmp_path_factory.mktemp("reference") / "fc.nc")


def test_store_and_file_give_the_same_forecast(tiny_model: Path, tiny_store: Path, reference: xr.Dataset, tmp_path: Path) -> None:
    xr.testing.assert_identical(forecast(tiny_model, tiny_store, tmp_path / "fc.nc").drop_attrs(), reference.drop_attrs())


@pytest.mark.parametrize("order", ["latitude reversed", "longitude from -180", "transposed", "all three"])
def test_the_same_forecast_in_the_users_own_order(order: str, tiny_model: Path, weather: xr.Dataset, reference: xr.Dataset, tmp_path: Path) -> None:
    ds = weather
    if order in ("latitude reversed", "all three"):
        ds = ds.isel(latitude=slice(None, None, -1))
    if order in ("longitude from -180", "all three"):
        ds = ds.assign_coords(longitude=(ds.longitude + 180) % 360 - 180).sortby("longitude")
        ds.longitude.attrs["units"] = "degrees_east"
    if order in ("transposed", "all three"):
        ds = ds.transpose("time", "longitude", "latitude")
    ds.to_netcdf(tmp_path / "users.nc")
    mine = forecast(tiny_model, tmp_path / "users.nc", tmp_path / "fc.nc")
    assert np.allclose(mine.latitude, ds.latitude) and np.allclose(mine.longitude, ds.longitude)
    assert mine["2m_temperature"].dims[-2:] == ds["t2m"].dims[-2:]
    for name in ("geopotential", "2m_temperature", "u_component_of_wind"):
        back = mine[name].assign_coords(longitude=mine.longitude % 360).sortby(["latitude", "longitude"]).transpose(*reference[name].dims)
        assert np.array_equal(back.values, reference[name].values, equal_nan=True)


def test_other_names_units_and_extra_variables_are_matched_by_what_they_are(tiny_model: Path, weather: xr.Dataset, reference: xr.Dataset,
                                                                             tmp_path: Path) -> None:
    ds = weather.rename(latitude="lat", longitude="lon", t2m="tas")[["u250", "tas", "z500"]]
    ds["tas"] = (ds["tas"].astype("f8") - 273.15).astype("f4").assign_attrs(units="degC", standard_name="air_temperature")
    ds["sp"] = ds["tas"].assign_attrs(units="Pa", standard_name="surface_air_pressure") * 0 + 1e5
    ds["sp"].attrs = {"units": "Pa", "standard_name": "surface_air_pressure"}
    ds.to_netcdf(tmp_path / "users.nc")
    mine = forecast(tiny_model, tmp_path / "users.nc", tmp_path / "fc.nc")
    assert np.allclose(mine["2m_temperature"], reference["2m_temperature"], atol=2e-3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_signal_stops_between_two_steps_and_the_same_command_goes_on(suffix: str, number: int, tiny_model: Path, tiny_store: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    inits = "2001-01-20T06/2001-01-22T06/1d"
    whole = forecast(tiny_model, tiny_store, tmp_path / f"whole.{suffix}", inits, batch_size=1)
    written: list[int] = []

    def write(writer: ForecastWriter, init_index: int, lead_index: int, state: np.ndarray) -> None:
        written.append(init_index)
        if written.count(1) == 2 and len(written) < 20:
            os.kill(os.getpid(), number)
        original(writer, init_index, lead_index, state)

    original = ForecastWriter.write
    monkeypatch.setattr(ForecastWriter, "write", write)
    with pytest.raises(Stopped, match="after 1 of 3 batches; what is finished is kept") as stopped:
        forecast(tiny_model, tiny_store, tmp_path / f"cut.{suffix}", inits, batch_size=1)
    assert stopped.value.exit_code == 75 and "run the same command again" in str(stopped.value)
    monkeypatch.setattr(ForecastWriter, "write", original)
    xr.testing.assert_identical(forecast(tiny_model, tiny_store, tmp_path / f"cut.{suffix}", inits, batch_size=1), whole)


def test_an_init_without_its_history_is_told_of_the_history_and_of_one_that_works(tiny_store: Path) -> None:
    states = open_states(tiny_store, Store.open(tiny_store).channels)
    step = Store.open(tiny_store).time_step
    first, last = (int(states.times.seconds[i]) for i in (0, -1))
    assert history_rows(states, np.asarray([first + step, last]), history=2, time_step=step).tolist() == [
        [0, 1], [len(states.times) - 2, len(states.times) - 1]]
    with pytest.raises(DataError) as refused:
        history_rows(states, np.asarray([first]), history=2, time_step=step)
    before, works = (format_instant(s, states.times.calendar) for s in (first - step, first + step))
    assert f"a forecast from {states.times.format(0)} needs {before} as well" in refused.value.what
    assert f"the model reads 2 states {format_duration(step)} apart" in refused.value.what
    assert refused.value.fix == f"the first init that works is {works}"
    with pytest.raises(DataError, match="no data for"):
        history_rows(states, np.asarray([first - step]), history=2, time_step=step)


def test_a_missing_channel_is_refused_with_both_lists(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    weather.drop_vars("u250").to_netcdf(tmp_path / "users.nc")
    with pytest.raises(ForecastError, match="u_component_of_wind") as error:
        forecast(tiny_model, tmp_path / "users.nc", tmp_path / "fc.nc")
    assert error.value.exit_code in (3, 4) and "there are z500, t2m" in str(error.value)


def test_another_grid_is_refused_and_both_are_named(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    weather.isel(latitude=slice(1, 6)).to_netcdf(tmp_path / "cut.nc")
    with pytest.raises(DataError, match=r"trained on 7x12 global.* the data are on 5x12"):
        forecast(tiny_model, tmp_path / "cut.nc", tmp_path / "fc.nc")


def test_on_another_grid_when_asked_the_network_steps_with_the_datas_own_fields(tiny_model: Path, weather: xr.Dataset, reference: xr.Dataset,
                                                                                  tmp_path: Path) -> None:
    from afno_forecast.forecast.produce import Options

    twice = weather.isel(longitude=np.repeat(np.arange(12), 2)).assign_coords(longitude=np.arange(24) * 15.0)
    cut = weather.isel(latitude=slice(1, 6), longitude=slice(2, 9))
    for name, ds, shape in (("twice", twice, (7, 24)), ("cut", cut, (5, 7))):
        ds["sp"] = (ds["t2m"] * 0 + 1e5).assign_attrs(units="Pa", standard_name="surface_air_pressure")
        for coordinate, units in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
            ds[coordinate].attrs["units"] = units
        ds.to_netcdf(tmp_path / f"{name}.nc")
        said: list[str] = []
        produce_forecast(tiny_model, tmp_path / f"{name}.nc", init=INIT, lead_time=LEAD, out=tmp_path / f"{name}.fc.nc",
                         options=Options(other_grid=True), echo=said.append)
        text = " ".join(said)
        assert "not used: surface_pressure" in text and "orography" not in text, "which the network reads"
        assert "trained on 7x12" in text and "nothing is known of its skill" in text and ("limited area" in text) == (name == "cut")
        with xr.open_dataset(tmp_path / f"{name}.fc.nc") as fc:
            assert fc["2m_temperature"].shape[-2:] == shape and np.isfinite(fc["2m_temperature"]).all()
    with pytest.raises(DataError, match="add --other-grid"):
        forecast(tiny_model, tmp_path / "cut.nc", tmp_path / "refused.nc")


def test_a_network_that_belongs_to_one_grid_is_told_before_anything_is_written(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    from afno_forecast.config import Strict, dump_config
    from afno_forecast.forecast.produce import Options
    from afno_forecast.forecaster import ModelConfig, build_forecaster
    from afno_forecast.nn.backbone import PlainConfig

    class Whole(Strict):
        model: ModelConfig

    config = ModelConfig(forcings=(), static=(), backbone=PlainConfig(patch=(1, 2), width=8, depth=1, mixer="gfn", tokens=(7, 6)))
    inputs = model_folder.read_inputs(tiny_model)
    model_folder.save(tmp_path / "gfn", config_text=dump_config(Whole(model=config)), inputs=inputs, card="# gfn\n",
                      weights=build_forecaster(config, inputs).state_dict())
    for name, part in (("cut", {"latitude": slice(1, 6)}), ("area", {"latitude": slice(1, 6), "longitude": slice(2, 9)})):
        weather.isel(part).to_netcdf(tmp_path / f"{name}.nc")
        with pytest.raises(ConfigError, match=r"gfn mixer belongs to 7 x 6|mixer gfn belongs to 7x12") as error:
            produce_forecast(tmp_path / "gfn", tmp_path / f"{name}.nc", init=INIT, lead_time=LEAD, out=tmp_path / "fc.nc",
                             options=Options(other_grid=True), echo=[].append)
        assert error.value.exit_code == 2 and not list(tmp_path.glob("fc.nc*"))


def test_static_fields_on_another_grid_are_standardised_as_the_trainings_were(tiny_model: Path) -> None:
    trained = model_folder.load(tiny_model)
    inputs = model_folder.read_inputs(tiny_model)
    half = {name: field[2:5] for name, field in inputs.static.items()}
    moved = model_folder.load(tiny_model, on=(type(inputs.grid)(inputs.grid.latitude[2:5], inputs.grid.longitude), half))
    assert torch.allclose(moved.forcing.static_SHW, trained.forcing.static_SHW[:, 2:5]) and moved.area_weights_HW.shape == (3, 12)


def test_a_first_state_that_cannot_be_the_same_quantity_is_refused(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    ds = weather.copy(deep=True)
    ds["t2m"].values[:] = weather["t2m"].values - 273.15  # still said to be in K
    ds.to_netcdf(tmp_path / "celsius.nc")
    with pytest.raises(DataError, match=r"t2m of 2001-01-20T06 lies \d+ standard deviations.*cannot be the same quantity") as error:
        forecast(tiny_model, tmp_path / "celsius.nc", tmp_path / "fc.nc")
    assert error.value.exit_code == 3 and sorted(p.name for p in tmp_path.iterdir()) == ["celsius.nc"]
    ds["t2m"].values[:] = weather["t2m"].values + 6 * weather["t2m"].values.std()
    ds.to_netcdf(tmp_path / "warm.nc")
    said: list[str] = []
    produce_forecast(tiny_model, tmp_path / "warm.nc", init=INIT, lead_time=21600, out=tmp_path / "fc.nc", echo=said.append)
    assert sum("t2m of 2001-01-20T06 lies" in line for line in said) == 1, said


def test_a_missing_value_in_the_first_state_is_refused(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    ds = weather.copy(deep=True)
    ds["t2m"].loc[{"time": "2001-01-20T06"}][2, 3] = np.nan
    ds.to_netcdf(tmp_path / "holes.nc")
    with pytest.raises(DataError, match="2m_temperature") as error:
        forecast(tiny_model, tmp_path / "holes.nc", tmp_path / "fc.nc")
    assert error.value.exit_code == 3
    forecast(tiny_model, tmp_path / "holes.nc", tmp_path / "other.nc", init="2001-01-21")


def test_a_date_that_is_not_there_is_refused_with_its_neighbours(tiny_model: Path, tiny_weather: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2001-01-16T06") as error:
        forecast(tiny_model, tiny_weather, tmp_path / "fc.nc", init="2001-01-16T06")
    assert "2001-01-15" in str(error.value) or "2001-01-17" in str(error.value)


@pytest.mark.parametrize("init", ["sometime", "2001-01-20/2001-01-10/6h", "2001-01-20/2001-01-21"])
def test_an_init_that_is_none_is_refused(init: str, tiny_model: Path, tiny_weather: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        forecast(tiny_model, tiny_weather, tmp_path / "fc.nc", init=init)


def test_a_forecast_of_data_that_were_replaced_under_their_name_is_another_forecast(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    weather.to_netcdf(tmp_path / "data.nc")
    forecast(tiny_model, tmp_path / "data.nc", tmp_path / "fc.nc")
    changed = weather.copy(deep=True)
    changed["t2m"].loc[{"time": INIT}] += 1
    changed.to_netcdf(tmp_path / "data.nc")
    with pytest.raises(ConfigError, match=r"forecast of another model, other data"):
        forecast(tiny_model, tmp_path / "data.nc", tmp_path / "fc.nc")


def test_the_same_data_from_another_folder_continue_the_forecast(tiny_model: Path, weather: xr.Dataset, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    weather.to_netcdf(tmp_path / "data.nc")
    monkeypatch.chdir(tmp_path)
    first = forecast(tiny_model, Path("data.nc"), tmp_path / "fc.nc")
    written = (tmp_path / "fc.nc").stat().st_mtime_ns
    monkeypatch.chdir(tmp_path / "folder")
    xr.testing.assert_identical(forecast(tiny_model, Path("../data.nc"), tmp_path / "fc.nc"), first)
    assert (tmp_path / "fc.nc").stat().st_mtime_ns == written


def test_a_missing_value_in_any_first_state_is_found_before_anything_is_written(tiny_model: Path, weather: xr.Dataset, tmp_path: Path) -> None:
    ds = weather.copy(deep=True)
    ds["t2m"].loc[{"time": "2001-01-21T06"}][2, 3] = np.nan
    ds.to_netcdf(tmp_path / "holes.nc")
    with pytest.raises(DataError, match="2m_temperature"):
        forecast(tiny_model, tmp_path / "holes.nc", tmp_path / "fc.zarr", init="2001-01-20T06/2001-01-21T06/6h", batch_size=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["holes.nc"]


def test_first_and_last(tiny_model: Path, tiny_weather: Path, tmp_path: Path) -> None:
    assert forecast(tiny_model, tiny_weather, tmp_path / "a.nc", init="first").time.values[0] == np.datetime64("2001-01-01")
    assert forecast(tiny_model, tiny_weather, tmp_path / "b.nc", init="last").time.values[0] == np.datetime64("2001-02-09T18")


def test_the_forecast_does_not_depend_on_the_batch_size(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    inits = "2001-01-20/2001-01-22T12/12h"
    one, many = (forecast(tiny_model, tiny_store, tmp_path / f"{n}.nc", init=inits, batch_size=n) for n in (1, 4))
    for name in one.data_vars:
        assert np.allclose(one[name], many[name], rtol=1e-6, atol=0, equal_nan=True), name


def test_a_rollout_that_diverges_names_lead_and_channel_and_keeps_what_was_before(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    weights = load_file(str(model / "model.safetensors"))
    head = next(k for k in weights if k.startswith("backbone.head") and k.endswith("bias"))
    weights[head] = torch.full_like(weights[head], 1e37)
    save_file(weights, str(model / "model.safetensors"))
    model_folder.write_manifest(model, model_folder.FILES)
    with pytest.raises(DivergenceError, match=r"is not finite at lead \d+") as error:
        produce_forecast(model, tiny_store, init=INIT, lead_time=LEAD, out=tmp_path / "fc.zarr", echo=[].append)
    assert error.value.exit_code == 6 and "2001-01-20T06" in str(error.value)


@pytest.mark.parametrize(("leads", "fix"), [((6, 12, 48), "kept before it is 12h: use --lead-time 12h, no later --leads, and another --out"),
                                            ((24, 48), "no lead before it is kept")])
def test_a_rollout_that_diverges_says_which_lead_is_kept(tiny_model: Path, tiny_store: Path, leads: tuple[int, ...], fix: str) -> None:
    from afno_forecast.forecast.session import Batch, open_session

    session = open_session(tiny_model, tiny_store, init=INIT, lead_time="2d")
    with pytest.raises(DivergenceError, match="not finite at lead 18h") as error:
        for state in session.roll(Batch(0, ((0, 0),)), [hours // 6 for hours in leads]):
            if state.lead_seconds == 12 * 3600:
                state.fields_BCHW[:] = torch.nan
    assert fix in error.value.fix


def test_the_forecast_does_not_depend_on_how_the_store_is_cut(tiny_model: Path, tiny_weather: Path, tiny_store: Path, tmp_path: Path) -> None:
    from afno_forecast.data.build import build_store
    from afno_forecast.data.plan import StoreSettings
    from afno_forecast.data.sources import open_source

    build_store(open_source(tiny_weather), tmp_path / "cut.zarr", StoreSettings(shard_bytes=5000, chunk_bytes=400))
    whole, cut = (forecast(tiny_model, store, tmp_path / f"{store.stem}.nc") for store in (tiny_store, tmp_path / "cut.zarr"))
    for name in whole.data_vars:
        assert np.array_equal(whole[name].values, cut[name].values, equal_nan=True), name


@pytest.mark.parametrize("backbone", ["{kind: hierarchical, widths: [8, 8, 16], num_blocks: 2}",
                                      "{kind: plain, patch: [2, 5], width: 16, depth: 1, num_blocks: 2}"])
def test_pole_rows_and_sizes_no_patch_divides_keep_every_row(backbone: str, make_tiny_experiment: Callable[[Path], Path], weather: xr.Dataset,
                                                           tmp_path: Path) -> None:
    """9 rows with both poles, 12 columns: the path from file to forecast gives 9 rows back, none of them copied or lost."""
    from afno_forecast.data.build import build_store
    from afno_forecast.data.plan import StoreSettings
    from afno_forecast.data.sources import open_source
    from afno_forecast.experiment import load_experiment, run_training
    from afno_forecast.times import parse_instant

    rows = np.linspace(-90, 90, 9)
    weights = xr.DataArray([np.interp(rows, weather.latitude.values, one) for one in np.eye(7)], dims=("latitude", "row"))
    poles = weather.map(lambda field: xr.dot(field, weights, dim="latitude")).rename(row="latitude").assign_coords(latitude=rows).astype("f4")
    poles = poles.transpose("time", "latitude", "longitude")
    for name in weather.data_vars:
        poles[name].attrs = weather[name].attrs
    poles.latitude.attrs["units"] = "degrees_north"
    poles.to_netcdf(tmp_path / "poles.nc")
    period = (parse_instant("2001-01-01"), parse_instant("2001-01-25"))
    build_store(open_source(tmp_path / "poles.nc"), tmp_path / "poles.zarr", StoreSettings(statistics_period=period))
    settings = (f"data.store={tmp_path / 'poles.zarr'}", "training.budget.train_steps=3", "validation.count=1", f"model.backbone={backbone}")
    model = run_training(load_experiment(make_tiny_experiment(tmp_path), settings), resume=False, echo=[].append)
    mine = forecast(model, tmp_path / "poles.nc", tmp_path / "fc.nc")
    assert mine.latitude.values[[0, -1]].tolist() == [-90, 90] and mine.sizes["latitude"] == 9
    last = mine["2m_temperature"].isel(prediction_timedelta=-1)[0].values
    assert np.isfinite(last).all() and np.abs(np.diff(last, axis=0)).max(axis=1).min() > 0


def test_a_patch_larger_than_the_grid_is_a_configuration_fault(make_tiny_experiment: Callable[[Path], Path], tmp_path: Path) -> None:
    from afno_forecast.experiment import load_experiment, run_training

    path = make_tiny_experiment(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.backbone") as error:
        run_training(load_experiment(path, ["model.backbone={kind: plain, patch: [32, 32], width: 16, depth: 1, num_blocks: 2}"]), resume=False,
                     echo=[].append)
    assert error.value.exit_code == 2
