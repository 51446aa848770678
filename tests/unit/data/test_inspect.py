"""`data inspect` tells what is in a file, right to the last digit shown, and whether a store can be built from it."""

from __future__ import annotations

from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr

from afno_forecast.data import inspect_values
from afno_forecast.data.build import build_store
from afno_forecast.data.inspect import format_inspection, inspect
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.errors import DataError, printable


def make(num_times: int = 9) -> xr.Dataset:
    """Temperature in degC on two levels, pressure that never changes, a field with holes; Gaussian rows, north to south."""
    random = np.random.default_rng(1)
    latitude = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(6)[0]))[::-1]
    level = ("time", "level", "lat", "lon")
    holes = random.normal(290, 3, (num_times, 6, 7)).astype("f4")
    holes[:, 2, 3] = np.nan
    return xr.Dataset(
        {"ta": (level, random.normal(0, 20, (num_times, 2, 6, 7)).astype("f4"), {"units": "degC", "standard_name": "air_temperature"}),
         "sp": (("time", "lat", "lon"), np.full((num_times, 6, 7), 1e5, "f4"), {"units": "Pa"}),
         "sst": (("time", "lat", "lon"), holes, {"units": "K"}),
         "salinity": (("time", "depth", "lat", "lon"), np.ones((num_times, 3, 6, 7), "f4"), {"units": "g/kg"})},
        {"time": np.datetime64("2003-12-30", "ns") + np.arange(num_times) * np.timedelta64(12, "h"),
         "level": ("level", [850, 500], {"units": "hPa"}),
         "lat": ("lat", latitude, {"units": "degrees_north"}), "lon": ("lon", np.arange(7) * 360 / 7 - 180, {"units": "degrees_east"})})


def test_a_full_account(tmp_path: Path) -> None:
    ds = make()
    ds.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    report = inspect(tmp_path / "a.nc")
    assert report.ready and report.kind == "netCDF-4 / HDF5" and report.sampled == ""
    assert "6x7 global" in report.grid and "Gaussian" in report.grid and "north to south" in report.grid and "longitude -180" in report.grid
    assert report.times is not None
    assert (report.times.first, report.times.last, report.times.count) == ("2003-12-30T00", "2004-01-03T00", 9)
    assert report.times.step_seconds == 43200 and report.times.num_missing == 0
    rows = {(r.variable or r.file_name, r.level): r for r in report.variables}
    assert set(rows) == {("temperature", 500), ("temperature", 850), ("surface_pressure", None), ("sea_surface_temperature", None),
                         ("salinity", None)}
    t500, kelvin = rows["temperature", 500], ds["ta"].sel(level=500).astype("f8") + 273.15
    assert (t500.file_name, t500.units_from, t500.units_to) == ("ta", "degC", "K")
    assert t500.minimum == pytest.approx(float(kelvin.min()), rel=1e-6)
    assert t500.maximum == pytest.approx(float(kelvin.max()), rel=1e-6)
    assert t500.mean == pytest.approx(float(kelvin.mean()), rel=1e-6)
    assert rows["surface_pressure", None].constant and not t500.constant
    assert rows["sea_surface_temperature", None].num_missing == 9
    assert "depth" in rows["salinity", None].problem and any("salinity" in line for line in report.refused)


def test_the_text_says_it_all(tmp_path: Path) -> None:
    make().to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    text = format_inspection(inspect(tmp_path / "a.nc"))
    for words in ("Gaussian", "2003-12-30T00..2004-01-03T00, 9 times", "12h, none missing", "degC -> K", "500 hPa", "9 of 378", "REFUSED", "constant",
                  "would be refused:", "ready   yes"):
        assert words in text


def test_large_sources_are_sampled_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(40).drop_vars("salinity").to_netcdf(tmp_path / "a.nc", engine="netcdf4", encoding={v: {"chunksizes": (1, *s)} for v, s in
                                             (("ta", (2, 6, 7)), ("sp", (6, 7)), ("sst", (6, 7)))})
    monkeypatch.setattr(inspect_values, "BUDGET_BYTES", 10_000)
    monkeypatch.setattr(inspect_values, "_BLOCK_BYTES", 200)
    monkeypatch.setattr("afno_forecast.data.sources_files._CHUNK_BYTES", 200)
    report = inspect(tmp_path / "a.nc")
    assert "of the times" in report.sampled
    assert all(0 < r.num_values < 40 * 42 for r in report.variables)


def test_one_time_and_no_time_are_not_ready(tmp_path: Path) -> None:
    make(1)[["sp"]].to_netcdf(tmp_path / "one.nc", engine="netcdf4")
    make(3)[["sp"]].isel(time=0, drop=True).to_netcdf(tmp_path / "none.nc", engine="netcdf4")
    assert not inspect(tmp_path / "one.nc").ready and "one time" in inspect(tmp_path / "one.nc").why_not
    report = inspect(tmp_path / "none.nc")
    assert report.times is None and not report.ready and any("no time" in n for n in report.notes)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("GRIB is a word here\n")
    (tmp_path / "b.bin").write_bytes(bytes(range(256)))
    for name, kind in (("a.txt", "text"), ("b.bin", "unknown binary file")):
        report = inspect(tmp_path / name)
        assert report.kind == kind and not report.ready
    (tmp_path / "c.nc").write_bytes(b"")
    assert "empty" in inspect(tmp_path / "c.nc").kind
    xr.Dataset({"u": (("y", "x"), np.ones((3, 4)))}).to_netcdf(tmp_path / "box.nc", engine="netcdf4")
    assert any("no latitude and longitude" in line for line in inspect(tmp_path / "box.nc").refused)
    with pytest.raises(DataError, match="no such file"):
        inspect(tmp_path / "nothing.nc")


def test_times_that_are_not_dates_are_told(tmp_path: Path) -> None:
    ds = make(4)[["sp"]].assign_coords(time=("time", np.arange(4.0), {"units": "months since 2000-01-15"}))
    ds.to_netcdf(tmp_path / "months.nc", engine="netcdf4")
    report = inspect(tmp_path / "months.nc")
    assert not report.ready and any("months since 2000-01-15" in line for line in report.refused)
    assert report.variables[0].minimum == 1e5


@pytest.mark.parametrize("codec", ["zlib", "lzma", "gzip"])
def test_a_damaged_chunk_is_told_by_inspect_and_refused_by_a_build_whatever_compressed_it(tmp_path: Path, codec: str) -> None:
    compressor = {"zlib": numcodecs.Zlib(), "lzma": numcodecs.LZMA(), "gzip": numcodecs.GZip()}[codec]
    encoding = {"compressors": [compressor], "chunks": (3, 6, 7)}
    make()[["sp", "sst"]].fillna(290).to_zarr(tmp_path / "a.zarr", zarr_format=2, encoding={"sp": encoding, "sst": encoding})
    chunk = tmp_path / "a.zarr" / "sst" / "1.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-40])
    report = inspect(tmp_path / "a.zarr")
    assert not report.ready and report.why_not == "some values cannot be read"
    assert [r.variable for r in report.variables if r.unreadable] == ["sea_surface_temperature"]
    with pytest.raises(DataError, match="the source cannot be read") as caught:
        build_store(open_source(tmp_path / "a.zarr"), tmp_path / "s.zarr", StoreSettings(climatology=False))
    assert caught.value.exit_code == 3 and "a.zarr" in caught.value.where


def test_files_that_do_not_number_their_trajectories_are_numbered_on_as_a_build_does(tmp_path: Path) -> None:
    periodic = {"boundary": "periodic"}
    for seed, name in enumerate(("a.nc", "b.nc")):
        values = np.random.default_rng(seed).normal(size=(2, 5, 3, 4)).astype("f4")
        xr.Dataset({"field": (("trajectory", "time", "y", "x"), values, {"units": "1"})},
                   {"time": np.arange(5.0), "y": ("y", np.arange(3.0), periodic), "x": ("x", np.arange(4.0), periodic)}).to_netcdf(tmp_path / name)
    report = inspect(tmp_path)
    assert report.ready, (report.why_not, report.refused)
    assert report.times is not None
    assert (report.times.first, report.times.last, report.times.count) == ("2000-01-01T00", "2003-01-01T04", 20)
    assert open_source(tmp_path).times.format(-1) == report.times.last


def test_printable() -> None:
    assert printable("été 年 °C") == "été 年 °C"
    assert printable("a\x1b[31m\n\u202e\u2028") == "a\\x1b[31m\\n\\u202e\\u2028"


def test_every_shared_file_gets_a_correct_account(shared_data: Path) -> None:
    pytest.importorskip("cfgrib")
    navy = inspect(shared_data / "real" / "navy_winds_monthly_2p5deg_1982_1992.nc")
    assert navy.ready and any("monthly means" in n for n in navy.notes) and navy.times is not None
    assert (navy.times.count, navy.times.shortest_seconds, navy.times.longest_seconds) == (132, 730 * 3600, 731 * 3600)
    forecast = inspect(shared_data / "real" / "earthkit_pl_regular_ll.grib")
    assert not forecast.ready and "forecast of 2 steps from 4 starts" in forecast.why_not
    assert {r.file_name for r in forecast.variables} == set("ztuvr") and all(r.problem and np.isfinite(r.mean) for r in forecast.variables)
    for name in ("earthkit_test4.grib", "earthkit_test4.nc"):
        twin = inspect(shared_data / "real" / name)
        assert {(r.variable, r.level) for r in twin.variables} == {(v, lev) for v in ("geopotential", "temperature") for lev in (500, 850)}
        assert "181x360 global" in twin.grid and twin.times is not None and twin.times.first == "2007-01-01T12"
    era5 = inspect(shared_data / "real" / "era5_msl_2025120100_2.5deg.nc")
    assert era5.times is None and "pole rows" in era5.grid and era5.variables[0].variable == "mean_sea_level_pressure"
    shapes = inspect(shared_data / "natural_earth")
    assert not shapes.ready and all("shapefile" in line for line in shapes.refused)


def test_the_simulated_years(shared_data: Path) -> None:
    years = inspect([shared_data / "speedy_2000-03_2001-02.nc", shared_data / "speedy_2001-03_2002-02.nc"])
    assert years.ready and years.times is not None and years.times.count == 2919 and years.times.num_missing == 0
    assert len(years.variables) == 14 and not years.refused and not any(r.num_missing for r in years.variables)
    assert any("precipitation_flux" in n for n in years.notes)
