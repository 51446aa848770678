"""Regridding keeps what it must: area means, constants, and linear fields; and derived channels are what they say."""

import numpy as np
import pytest
import xarray as xr

from afno_forecast.data.build import BuildRecipe, run_recipe
from afno_forecast.data.regrid import RegridConfig, apply_weights, bilinear_weights, conservative_weights, regrid
from afno_forecast.data.sources import open_source
from afno_forecast.errors import ConfigError, DataError
from afno_forecast.grid import LatLonGrid

FINE = LatLonGrid(np.linspace(-90, 90, 19), np.arange(28) * 360 / 28)
TARGETS = [RegridConfig(rows=7, columns=10), RegridConfig(rows=9, columns=16, latitudes="poles"),
           RegridConfig(rows=12, columns=9, latitudes="gaussian")]


@pytest.mark.parametrize("config", TARGETS)
def test_conservative_weights_keep_the_area_mean_and_constants(config):
    field = np.random.default_rng(0).normal(size=(3, *FINE.shape)) + 280
    made = apply_weights(field, *conservative_weights(FINE, config.grid())).astype(np.float64)
    before, after = ((f * g.area_weights()).mean((-2, -1)) for f, g in ((field, FINE), (made, config.grid())))
    np.testing.assert_allclose(after, before, rtol=1e-7)
    np.testing.assert_array_equal(apply_weights(np.full(FINE.shape, 5.0), *conservative_weights(FINE, config.grid())), 5.0)


def test_a_target_cell_is_the_mean_over_its_exact_overlaps():
    old, new = LatLonGrid(np.asarray([-45.0, 45.0]), np.asarray([0.0, 90, 180, 270])), RegridConfig(rows=3, columns=3).grid()
    field = np.arange(8.0).reshape(2, 4)
    made = apply_weights(field, *conservative_weights(old, new))
    assert made[0, 0] == pytest.approx((field[0, 0] * 90 + field[0, 1] * 15 + field[0, 3] * 15) / 120)  # -60..60 degrees east
    assert made[1, 0] == pytest.approx((made[0, 0] + made[2, 0]) / 2)


@pytest.mark.parametrize("config", TARGETS)
def test_bilinear_is_exact_for_what_is_linear_and_goes_round(config):
    rows, columns = bilinear_weights(FINE, config.grid())
    np.testing.assert_allclose(rows @ FINE.latitude, config.grid().latitude, atol=1e-9)
    np.testing.assert_allclose(columns.sum(axis=1), 1)
    wave = np.cos(np.deg2rad(FINE.longitude))
    np.testing.assert_allclose(columns @ wave, np.cos(np.deg2rad(config.grid().longitude)), atol=0.01)


def test_missing_values_spread_to_the_cells_that_need_them_only():
    field = np.ones((4, 8))
    field[1, 3] = np.nan
    made = apply_weights(field, *conservative_weights(LatLonGrid(np.asarray([-67.5, -22.5, 22.5, 67.5]), np.arange(8) * 45.0),
                                                      RegridConfig(rows=2, columns=4).grid()))
    assert np.isnan(made).sum() in (1, 2) and np.nanmin(made) == np.nanmax(made) == 1


def test_a_store_is_built_on_another_grid_with_derived_channels(tmp_path):
    random = np.random.default_rng(1)
    times = np.datetime64("2001-01-01", "ns") + np.arange(30) * np.timedelta64(1, "h")
    dims = ("time", "latitude", "longitude")
    values = {name: (dims, random.normal(size=(30, *FINE.shape)).astype("f4"), {"units": units, "standard_name": standard}) for name, units, standard
              in (("u10", "m s-1", "eastward_wind"), ("v10", "m s-1", "northward_wind"),
                  ("tp", "m", "lwe_thickness_of_precipitation_amount"))}
    ds = xr.Dataset(values, {"time": times, "latitude": ("latitude", FINE.latitude[::-1], {"units": "degrees_north"}),
                             "longitude": ("longitude", FINE.longitude, {"units": "degrees_east"})})
    ds.to_netcdf(tmp_path / "a.nc")
    recipe = BuildRecipe(sources=(str(tmp_path / "a.nc"),), derive=("10m_wind_speed", "tp6h"), climatology=False,
                         regrid=RegridConfig(rows=7, columns=10))
    store = run_recipe(recipe, tmp_path / "s.zarr")
    assert store.channels.shorts == ("u10", "v10", "tp", "ws10", "tp6h") and store.grid.shape == (7, 10) and len(store.times) == 25
    weights = conservative_weights(FINE, store.grid)
    first = ds.isel(time=slice(0, 6)).sortby("latitude")
    speed = apply_weights(np.hypot(first["u10"][5].values, first["v10"][5].values), *weights)
    np.testing.assert_allclose(store.read(0)[3], speed, rtol=1e-5)
    np.testing.assert_allclose(store.read(0)[4], apply_weights(first["tp"].values.sum(0), *weights), rtol=1e-4, atol=1e-6)
    assert any("regridded (conservative) from 19x28" in note for note in store.notes)
    assert any("sum of 6 accumulations over 1h" in note and "5 times" in note for note in store.notes)
    with pytest.raises(ConfigError, match="did you mean"):
        open_source(tmp_path / "a.nc", derive=["10m_wind_spead"])
    with pytest.raises(DataError, match="is not here"):
        open_source(tmp_path / "a.nc", derive=["wind_speed"])
    part = open_source(tmp_path / "a.nc")
    ds.isel(latitude=slice(3, 12)).to_netcdf(tmp_path / "band.nc")
    assert part.grid.is_global
    with pytest.raises(DataError, match="does not cover"):
        regrid(open_source(tmp_path / "band.nc"), RegridConfig(rows=7, columns=10))


def test_six_hours_of_precipitation_are_summed_on_its_own_times(tmp_path):
    times = np.datetime64("2001-01-01", "ns") + np.arange(31) * np.timedelta64(1, "h")
    coords = {"time": times, "latitude": ("latitude", [60.0, 0, -60], {"units": "degrees_north"}),
              "longitude": ("longitude", np.arange(4) * 90.0, {"units": "degrees_east"})}
    dims, shape = ("time", "latitude", "longitude"), (31, 3, 4)
    hourly = np.random.default_rng(2).uniform(size=shape).astype("f4")
    tp = xr.Dataset({"tp": (dims, hourly, {"units": "m", "standard_name": "lwe_thickness_of_precipitation_amount"})}, coords)
    t2m = xr.Dataset({"t2m": (dims, 280 + hourly, {"units": "K", "standard_name": "air_temperature"})}, coords).isel(time=slice(None, None, 6))
    tp.to_netcdf(tmp_path / "tp.nc")
    t2m.to_netcdf(tmp_path / "t2m.nc")
    source = open_source([tmp_path / "tp.nc", tmp_path / "t2m.nc"], derive=["tp6h"])
    assert source.times.format(0) == "2001-01-01T06" and len(source.times) == 5
    expected = [hourly[n - 5 : n + 1, ::-1].sum(0) for n in range(6, 31, 6)]
    np.testing.assert_allclose(source.dataset["total_precipitation_6hr"].values, expected, rtol=1e-6)
