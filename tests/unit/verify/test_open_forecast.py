"""Other people's forecasts in WeatherBench 2's layout read as ours do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import DataError
from afno_forecast.verify.forecasts import forecast_channels, num_members, open_forecast, read_channels, read_members

INITS = np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]")
LEADS = np.array([6, 12, 18], dtype="timedelta64[h]").astype("timedelta64[ns]")
LATITUDE, LONGITUDE = np.linspace(60, -60, 4), np.arange(6) * 60.0 - 180
RNG = np.random.default_rng(5)
Z = RNG.normal(size=(2, 3, 2, 4, 6)).astype(np.float32)  # levels 850, 500
T2M = RNG.normal(280, 5, size=(2, 3, 4, 6)).astype(np.float32)
ROLL = 3  # canonical longitudes start at 0


def canonical(x: np.ndarray) -> np.ndarray:
    return np.roll(x[..., ::-1, :], -ROLL, axis=-1)


def weatherbench() -> xr.Dataset:
    dims = ("time", "prediction_timedelta", "level", "latitude", "longitude")
    return xr.Dataset({"geopotential": (dims, Z, {"units": "m**2 s**-2"}), "2m_temperature": (dims[:2] + dims[3:], T2M)},
                      coords={"time": INITS, "prediction_timedelta": LEADS, "level": [850, 500], "latitude": LATITUDE, "longitude": LONGITUDE})


def check(path: Path) -> None:
    ds = open_forecast(path)
    assert ds["geopotential"].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    assert ds["level"].values.tolist() == [500, 850] and ds["latitude"].values.tolist() == LATITUDE[::-1].tolist()
    assert ds["longitude"].values.tolist() == [0, 60, 120, 180, 240, 300]
    channels = ChannelSet((Channel("geopotential", 850, "m2 s-2"), Channel("2m_temperature", None, "K"), Channel("geopotential", 500, "m2 s-2")))
    values = read_channels(ds, channels, 1, slice(1, 3))
    assert values.dtype == np.float32 and values.shape == (2, 3, 4, 6)
    np.testing.assert_array_equal(values[:, 0], canonical(Z[1, 1:, 0]))
    np.testing.assert_array_equal(values[:, 1], canonical(T2M[1, 1:]))
    np.testing.assert_array_equal(values[:, 2], canonical(Z[1, 1:, 1]))


def test_long_names_with_levels(tmp_path: Path) -> None:
    weatherbench().to_netcdf(tmp_path / "fc.nc")
    check(tmp_path / "fc.nc")


def test_zarr_with_longitude_before_latitude(tmp_path: Path) -> None:
    weatherbench().transpose(..., "longitude", "latitude").to_zarr(tmp_path / "fc.zarr", zarr_format=2, consolidated=True)
    check(tmp_path / "fc.zarr")


def test_short_names_a_level_each_and_short_dimensions(tmp_path: Path) -> None:
    ds = weatherbench()
    short = xr.Dataset({"z850": ds["geopotential"].sel(level=850, drop=True), "z500": ds["geopotential"].sel(level=500, drop=True),
                        "2t": ds["2m_temperature"]})
    short.rename(latitude="lat", longitude="lon", prediction_timedelta="step").to_netcdf(tmp_path / "fc.nc")
    check(tmp_path / "fc.nc")
    opened = open_forecast(tmp_path / "fc.nc")
    assert opened["geopotential"].chunks is not None, "stacking must not read the file"
    assert sorted(forecast_channels(opened).shorts) == ["t2m", "z500", "z850"]


def test_lead_times_as_plain_hours_and_levels_in_pascal(tmp_path: Path) -> None:
    ds = weatherbench().assign_coords(prediction_timedelta=("prediction_timedelta", [6, 12, 18], {"units": "hours"}),
                                      level=("level", [85000.0, 50000.0], {"units": "Pa"}))
    ds.to_netcdf(tmp_path / "fc.nc")
    check(tmp_path / "fc.nc")
    assert open_forecast(tmp_path / "fc.nc")["prediction_timedelta"].values.tolist() == LEADS.tolist()


def test_units_are_converted_or_refused(tmp_path: Path) -> None:
    ds = weatherbench()
    ds["2m_temperature"] = (ds["2m_temperature"] - 273.15).assign_attrs(units="degC")
    ds.to_netcdf(tmp_path / "fc.nc")
    opened = open_forecast(tmp_path / "fc.nc")
    values = read_channels(opened, ChannelSet((Channel("2m_temperature", None, "K"),)), 0, slice(0, 3))
    np.testing.assert_allclose(values[:, 0], canonical(T2M[0]), rtol=1e-6)
    with pytest.raises(DataError, match="in 'degC', the truth in 'Pa'"):
        read_channels(opened, ChannelSet((Channel("2m_temperature", None, "Pa"),)), 0, slice(0, 3))


def refuse(tmp_path: Path, ds: xr.Dataset, message: str) -> None:
    ds.to_netcdf(tmp_path / "fc.nc")
    with pytest.raises(DataError, match=message):
        open_forecast(tmp_path / "fc.nc")


@pytest.mark.parametrize("codec", [numcodecs.Zlib(), numcodecs.LZMA(), numcodecs.GZip()], ids=lambda codec: codec.codec_id)
def test_a_forecast_with_a_damaged_chunk_is_refused_whatever_compressed_it(tmp_path: Path, codec: Any) -> None:
    weatherbench()[["2m_temperature"]].to_zarr(tmp_path / "fc.zarr", zarr_format=2, encoding={"2m_temperature": {"compressors": [codec]}})
    chunk = next(p for p in (tmp_path / "fc.zarr" / "2m_temperature").iterdir() if not p.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:-30])
    with pytest.raises(DataError, match="'2m_temperature' cannot be read"):
        read_channels(open_forecast(tmp_path / "fc.zarr"), ChannelSet((Channel("2m_temperature", None, "K"),)), 0, slice(0, 2))


def test_an_ensemble_has_its_members_after_the_init_time(tmp_path: Path) -> None:
    ds = weatherbench()
    xr.concat([ds, ds + 1], dim="number").transpose("time", "prediction_timedelta", "number", ...).to_netcdf(tmp_path / "fc.nc")
    opened = open_forecast(tmp_path / "fc.nc")
    assert opened["geopotential"].dims == ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
    channels = ChannelSet((Channel("geopotential", 850, "m2 s-2"), Channel("2m_temperature", None, "K")))
    members = read_members(opened, channels, 1, slice(1, 3))
    assert members.shape == (2, 2, 2, 4, 6) and num_members(opened) == 2
    np.testing.assert_array_equal(members[:, 0, 0], canonical(Z[1, 1:, 0]))
    np.testing.assert_array_equal(members[:, 1, 1], canonical(T2M[1, 1:] + 1))
    with pytest.raises(DataError, match="an ensemble of 2 members where a single forecast is wanted"):
        read_channels(opened, channels, 0, slice(0, 1))


def test_an_ensemble_of_one_is_a_single_forecast(tmp_path: Path) -> None:
    weatherbench().expand_dims(number=[1]).to_netcdf(tmp_path / "fc.nc")
    check(tmp_path / "fc.nc")


def test_a_further_dimension_of_size_one_is_dropped_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    ds = weatherbench()
    ds.assign({"2m_temperature": ds["2m_temperature"].expand_dims(height=[2.0])}).to_netcdf(tmp_path / "one.nc")
    check(tmp_path / "one.nc")
    refuse(tmp_path, ds.assign({"2m_temperature": ds["2m_temperature"].expand_dims(height=[2.0, 10.0])}),
           "'2m_temperature' has 2 values along 'height'")


def test_members_of_some_variables_only_are_refused(tmp_path: Path) -> None:
    ds = weatherbench()
    refuse(tmp_path, ds.assign(geopotential=ds["geopotential"].expand_dims(number=[1, 2])), "'2m_temperature' has no members where other .* have 2")


def test_an_analysis_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, weatherbench().isel(prediction_timedelta=0, drop=True), "no dimension prediction_timedelta")


def test_lead_times_without_units_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, weatherbench().assign_coords(prediction_timedelta=[6, 12, 18]), "prediction_timedelta has no units")


def test_times_out_of_order_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, weatherbench().isel(time=[1, 0]), "init times do not ascend")


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, weatherbench().assign(t2m=weatherbench()["2m_temperature"]), "2m_temperature comes under two names")


def test_what_is_not_there_or_not_a_forecast(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no forecast"):
        open_forecast(tmp_path / "none.zarr")
    (tmp_path / "text.nc").write_text("not a netCDF file, but long enough to be looked at" * 20)
    with pytest.raises(DataError, match="not a readable forecast"):
        open_forecast(tmp_path / "text.nc")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match="not a readable forecast"):
        open_forecast(tmp_path / "empty.zarr")
