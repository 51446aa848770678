"""What goes wrong with input: each fault is named with its file, or mended with a note; nothing passes in silence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr

from afno_forecast.data.build import BuildRecipe, run_recipe
from afno_forecast.data.inspect import format_inspection, inspect
from afno_forecast.data.sources import Source, open_source
from afno_forecast.errors import CheckpointError, DataError, ResourceError

START = np.datetime64("2010-03-01T00", "ns")
STEP = np.timedelta64(6, "h")


def series(first: int, last: int, seed: int = 3) -> xr.Dataset:
    """2 m temperature and an orography on 5 x 8, times `first`..`last - 1` of one longer series."""
    random = np.random.default_rng(seed)
    t2m = random.normal(280, 9, (40, 5, 8)).astype("f4")[first:last]
    orography = np.random.default_rng(9).normal(300, 90, (5, 8)).astype("f4")
    return xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), t2m, {"units": "K"}), "orography": (("latitude", "longitude"), orography, {"units": "m"})},
        {"time": START + np.arange(first, last) * STEP, "latitude": ("latitude", np.linspace(-60, 60, 5), {"units": "degrees_north"}),
         "longitude": ("longitude", np.arange(0, 360, 45.0), {"units": "degrees_east"})})


Save = Callable[[xr.Dataset, str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(ds: xr.Dataset, name: str) -> Path:
        ds.to_netcdf(tmp_path / name, engine="netcdf4")
        return tmp_path / name
    return write


def check(source: Source, first: int, last: int) -> None:
    np.testing.assert_array_equal(source.dataset["2m_temperature"].values, series(first, last)["t2m"].values)
    np.testing.assert_array_equal(source.dataset["time"].values, series(first, last)["time"].values)


def notes(source: Source) -> str:
    return "\n".join(f"{n.message} [{n.where}]" for n in source.notes)


def test_repeated_times_identical(save: Save) -> None:
    ds = xr.concat([series(0, 5), series(3, 9)], "time", data_vars="minimal", coords="minimal", compat="override", join="override")
    source = open_source(save(ds, "a.nc"))
    check(source, 0, 9)
    assert "2 repeated times of '2m_temperature' with identical data: dropped" in notes(source)


def test_repeated_times_conflicting(save: Save) -> None:
    ds = xr.concat([series(0, 5), series(4, 9)], "time", data_vars="minimal", coords="minimal", compat="override", join="override")
    ds["t2m"][5, 2, 3] += 0.5
    with pytest.raises(DataError, match=r"time 2010-03-02T00 twice with different data \(by up to 0\.5 K"):
        open_source(save(ds, "a.nc"))


def test_files_that_overlap_identically(save: Save) -> None:
    source = open_source([save(series(0, 12), "a.nc"), save(series(8, 20), "b.nc")])
    check(source, 0, 20)
    assert "4 repeated times" in notes(source) and "b.nc" in notes(source)


def test_files_that_overlap_and_differ_are_both_named(save: Save) -> None:
    other = series(8, 20)
    other["t2m"][2] += 1
    with pytest.raises(DataError, match=r"2010-03-03T12 twice(.|\n)*a\.nc and .*b\.nc"):
        open_source([save(series(0, 12), "a.nc"), save(other, "b.nc")])


def test_missing_values_at_repeated_times_are_equal(save: Save) -> None:
    one, two = series(0, 6), series(4, 9)
    one["t2m"][4, 1] = np.nan
    two["t2m"][0, 1] = np.nan
    assert len(open_source([save(one, "a.nc"), save(two, "b.nc")]).times) == 9


def test_unsorted_times(save: Save) -> None:
    source = open_source(save(series(0, 9).isel(time=[3, 0, 1, 8, 2, 7, 4, 6, 5]), "a.nc"))
    check(source, 0, 9)
    assert "are not in order: sorted" in notes(source)


def test_mixed_calendars(save: Save) -> None:
    other = series(12, 20)
    other = other.assign_coords(time=xr.date_range(cftime.datetime(2010, 3, 4, calendar="noleap"), periods=8, freq="6h", use_cftime=True))
    paths = [save(series(0, 12), "a.nc"), save(other, "b.nc")]
    with pytest.raises(DataError, match=r"mixed calendars: proleptic_gregorian and noleap(.|\n)*a\.nc and .*b\.nc"):
        open_source(paths)
    report = inspect(paths)
    assert not report.ready and any("mixed calendars" in line for line in report.refused)


def test_irregular_step_and_gap_are_noted(save: Save) -> None:
    path = save(series(0, 12).isel(time=[0, 1, 2, 5, 6, 7, 8, 10, 11]), "a.nc")
    assert "irregular step: 2 of 8 are not 6 h" in notes(open_source(path))
    times = inspect(path).times
    assert times is not None and times.num_missing == 3
    assert times.missing == ("2010-03-01T18", "2010-03-02T00", "2010-03-03T06")


def test_longitude_conventions_mix(save: Save) -> None:
    west = series(6, 12).assign_coords(longitude=("longitude", (np.arange(0, 360, 45.0) + 180) % 360 - 180, {"units": "degrees_east"}))
    check(open_source([save(series(0, 6), "a.nc"), save(west.sortby("longitude"), "b.nc")]), 0, 12)


def test_latitudes_off_by_a_millionth_are_the_same(save: Save) -> None:
    other = series(6, 12)
    other = other.assign_coords(latitude=("latitude", other["latitude"].values + 1e-6, {"units": "degrees_north"}))
    source = open_source([save(series(0, 6), "a.nc"), save(other, "b.nc")])
    check(source, 0, 12)
    np.testing.assert_array_equal(source.dataset["latitude"].values, series(0, 1)["latitude"].values)


def test_another_grid_names_both_files(save: Save) -> None:
    other = series(6, 12).assign_coords(latitude=("latitude", np.linspace(-60.5, 60, 5), {"units": "degrees_north"}))
    with pytest.raises(DataError, match=r"two grids(.|\n)*a\.nc and .*b\.nc"):
        open_source([save(series(0, 6), "a.nc"), save(other, "b.nc")])


def test_constants_must_agree(save: Save) -> None:
    other = series(6, 12)
    other["orography"][1, 1] += 5
    with pytest.raises(DataError, match=r"'orography' does not change with time but differs(.|\n)*a\.nc and .*b\.nc"):
        open_source([save(series(0, 6), "a.nc"), save(other, "b.nc")])


def test_no_common_times(save: Save) -> None:
    other = series(20, 25).rename(t2m="sp").assign_attrs()
    other["sp"].attrs["units"] = "Pa"
    with pytest.raises(DataError, match="no time is common"):
        open_source([save(series(0, 6), "a.nc"), save(other, "b.nc")])


def test_missing_units_are_refused(save: Save) -> None:
    ds = series(0, 6)
    ds["msl"] = ds["t2m"].copy()
    ds["msl"].attrs = {}
    path = save(ds, "a.nc")
    with pytest.raises(DataError, match=r"'mean_sea_level_pressure' has no units"):
        open_source(path, channels=["msl"])
    source = open_source(path)
    assert source.channels.shorts == ("t2m",)
    assert any(n.severity == "refused" and "units = 'Pa'" in n.message and "msl" in n.where for n in source.notes)


def test_what_cannot_be_used_is_refused_and_listed(save: Save) -> None:
    ds = series(0, 6)
    ds["members"] = ds["t2m"].expand_dims(number=3)
    ds["sigma"] = ds["t2m"].expand_dims(hybrid=4)
    ds["text"] = (("latitude", "longitude"), np.full((5, 8), "x", dtype=object))
    ds["index"] = ("time", np.arange(6.0))
    source = open_source(save(ds, "a.nc"))
    refused = {n.where.split(", ")[-1]: n.message for n in source.notes if n.severity == "refused"}
    assert set(refused) == {"members", "sigma", "text", "index"}
    assert "ensemble of 3 members" in refused["members"] and "hybrid" in refused["sigma"]


@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_truncated_netcdf(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / "whole.nc"
    series(0, 12).to_netcdf(path, format=form, engine="netcdf4", unlimited_dims=["time"])
    open_source(path)
    content = path.read_bytes()
    cut = tmp_path / "cut.nc"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"truncated(.|\n)*cut\.nc"):
        open_source(cut)
    report = inspect([path, cut])
    assert not report.ready and any("cut.nc" in line and "truncated" in line for line in report.refused)
    assert {r.variable for r in report.variables} == {"2m_temperature", "orography"}


@pytest.mark.parametrize("num_bytes", [0, 3, 60, 150])
def test_a_stub_of_a_file(tmp_path: Path, num_bytes: int) -> None:
    series(0, 3).to_netcdf(tmp_path / "whole.nc", format="NETCDF3_CLASSIC", engine="netcdf4")
    stub = tmp_path / "stub.nc"
    stub.write_bytes((tmp_path / "whole.nc").read_bytes()[:num_bytes])
    with pytest.raises(DataError, match=r"stub\.nc"):
        open_source(stub)
    assert not inspect(stub).ready


def test_truncated_grib(shared_data: Path, tmp_path: Path) -> None:
    content = (shared_data / "real" / "earthkit_test4.grib").read_bytes()
    cut = tmp_path / "cut.grib"
    cut.write_bytes(content[:-1000])
    with pytest.raises(DataError, match=r"GRIB message 4 has no end(.|\n)*cut\.grib"):
        open_source(cut)


def test_unwritten_netcdf_values_are_missing_not_huge(tmp_path: Path) -> None:
    ds = series(0, 4)
    ds["t2m"][1, 2, 3] = np.float32(9.969209968386869e36)  # the library's default fill, without an attribute that says so
    ds.to_netcdf(tmp_path / "a.nc", engine="netcdf4", encoding={"t2m": {"_FillValue": None}})
    assert int(np.isnan(open_source(tmp_path / "a.nc").dataset["2m_temperature"].values).sum()) == 1


@pytest.mark.parametrize("kind", ["i2", "u2", "i4"])
@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_64BIT_DATA"])
def test_unwritten_values_of_packed_netcdf_are_missing(tmp_path: Path, form: str, kind: str) -> None:
    ds = series(0, 4).assign(flags=(("latitude", "longitude"), np.arange(40, dtype="i1").reshape(5, 8) - 127, {"units": "1"}))
    ds.to_netcdf(tmp_path / "a.nc", format=form, engine="netcdf4")
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        packed = file.createVariable("msl", kind, file["t2m"].dimensions)
        packed.setncatts({"units": "Pa", "scale_factor": 0.25, "add_offset": 100_000.0})
        if kind == "u2":
            packed.missing_value = np.uint16(9999)
        packed[:3] = 100_000 + np.arange(120).reshape(3, 5, 8) * 0.25
    source = open_source(tmp_path / "a.nc").dataset
    pressure = source["mean_sea_level_pressure"].values
    np.testing.assert_array_equal(pressure[:3].ravel(), 100_000 + np.arange(120) * 0.25)
    assert np.isnan(pressure[3]).all() and source["flags"].values.min() == -127


def test_absent_zarr_chunks_that_read_as_missing_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    series(0, 12).to_zarr(path, encoding={"t2m": {"chunks": (3, 5, 8)}}, zarr_format=2, consolidated=False)
    assert not [n for n in inspect(path).notes if "absent" in n]
    (path / "t2m" / "1.0.0").unlink()
    report = inspect(path)
    words = "1 of 4 chunks of 't2m' absent, read as missing values: 2010-03-01T18 to 2010-03-02T06, first chunk 1.0.0"
    assert any(n.endswith(f"a.zarr, t2m: {words}") for n in report.notes)
    row = next(r for r in report.variables if r.variable == "2m_temperature")
    assert row.num_missing == 3 * 5 * 8


def write_zarr(path: Path, ds: xr.Dataset, fill_value: float) -> None:
    """As programs other than xarray do: a number as the fill value, and chunks that hold only it left out."""
    group = zarr.create_group(path, zarr_format=3)
    for name, item in ds.variables.items():
        attrs = {"units": "hours since 2010-03-01"} if name == "time" else dict(item.attrs)
        values = np.arange(ds.sizes["time"]) * 6 if name == "time" else item.values
        group.create_array(name, data=values, chunks=(3, 5, 8) if name == "t2m" else values.shape, fill_value=fill_value if name == "t2m" else 0,
                           dimension_names=item.dims, attributes=attrs)


@pytest.mark.parametrize("fill_value", [0.0, -7.0])
def test_absent_zarr_chunks_that_read_as_a_number_are_refused(tmp_path: Path, fill_value: float) -> None:
    path = tmp_path / "a.zarr"
    write_zarr(path, series(0, 12), fill_value)
    check(open_source(path), 0, 12)
    for index in (1, 2):
        (path / "t2m" / "c" / str(index) / "0" / "0").unlink()
    words = f"2 of 4 chunks of 't2m' absent, which would be read as {fill_value:g}: 2010-03-01T18 to 2010-03-03T00, first chunk 1.0.0"
    with pytest.raises(DataError) as caught:
        open_source(path)
    assert caught.value.what == words and caught.value.where == f"{path}, t2m" and "`absent_chunks: fill`" in caught.value.fix
    report = inspect(path)
    assert not report.ready and any(words in line for line in report.refused)
    assert words.replace("which would be read", "taken") in notes(filled := open_source(path, fill_absent=True))
    assert (filled.dataset["2m_temperature"].values[3:9] == fill_value).all()
    assert open_source(path, channels=["orography"]).static.names == ("orography",)  # what is not asked for is not in the way
    (path / "time" / "c" / "0").unlink()
    with pytest.raises(DataError, match="1 of 1 chunks of the coordinate 'time' are absent"):
        open_source(path, fill_absent=True)


@pytest.mark.parametrize("use_cftime", [False, True])
@pytest.mark.parametrize("index", [0, 3, 5])
def test_one_lost_entry_of_an_axis_is_refused_unless_its_fill_value_stands_in_its_place(tmp_path: Path, index: int, use_cftime: bool) -> None:
    ds = series(0, 6).sel(latitude=slice(-30, 60))
    if use_cftime:
        ds = ds.assign_coords(time=xr.date_range("2010-03-01", periods=6, freq="6h", calendar="noleap", use_cftime=True))
    for since in ("1900-01-01", "2010-03-01"):
        path = tmp_path / f"{since}.zarr"
        ds.to_zarr(path, zarr_format=2, consolidated=False, encoding={
            "time": {"units": f"hours since {since}", "chunks": (1,), "dtype": "i4"}, "latitude": {"chunks": (1,), "_FillValue": None}})
    for left_out in ("time/0", "latitude/1"):  # they hold 0, the fill value
        (path / left_out).unlink(missing_ok=True)
    np.testing.assert_array_equal(open_source(path).dataset["time"].values, ds["time"].values)
    lost = tmp_path / "1900-01-01.zarr"
    assert len(open_source(lost).times) == 6
    (lost / "time" / str(index)).unlink()
    with pytest.raises(DataError, match="1 of 6 chunks of the coordinate 'time' are absent"):
        open_source(lost)


def test_a_store_whose_writer_left_out_zeros_can_be_built_when_told_so(tmp_path: Path) -> None:
    ds = series(0, 12)
    ds["t2m"][3:6] = 0
    write_zarr(tmp_path / "a.zarr", ds, 0.0)
    recipe = {"sources": (str(tmp_path / "a.zarr"),), "climatology": False}
    with pytest.raises(DataError, match="1 of 4 chunks of 't2m' absent, which would be read as 0"):
        run_recipe(BuildRecipe(**recipe), tmp_path / "s.zarr")
    store = run_recipe(BuildRecipe(**recipe, absent_chunks="fill"), tmp_path / "s.zarr")
    assert (store.read(4) == 0).all() and any("taken as 0" in note for note in store.attrs["provenance"]["notes"])


def test_a_damaged_chunk_is_named_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    series(0, 12).to_zarr(path, encoding={"t2m": {"chunks": (3, 5, 8)}}, zarr_format=3, consolidated=False)
    chunk = path / "t2m" / "c" / "2" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    report = inspect(path)
    row = next(r for r in report.variables if r.variable == "2m_temperature")
    assert row.unreadable and not report.ready
    assert "UNREADABLE" in format_inspection(report)


def test_pickled_zarr_objects_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    series(0, 3).to_zarr(path, zarr_format=2, consolidated=False)
    meta = path / "time" / ".zarray"
    document = json.loads(meta.read_text())
    document.update(dtype="|O", filters=[{"id": "pickle", "protocol": 4}], fill_value=None)
    meta.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="pickled"):
        open_source(path)
    assert not inspect(path).ready


def test_a_training_store_is_not_a_source(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    series(0, 3).assign_attrs(afno_forecast_store=1).to_zarr(path, zarr_format=3, consolidated=False)
    with pytest.raises(DataError, match="training store"):
        open_source(path)


def test_an_empty_folder_and_damaged_metadata(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no gridded file"):
        open_source(tmp_path / "empty")
    path = tmp_path / "a.zarr"
    series(0, 3).to_zarr(path, zarr_format=3, consolidated=False)
    (path / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata cannot be read(.|\n)*zarr\.json"):
        open_source(path)
    shutil.rmtree(path)


def test_names_and_attributes_cannot_command_the_terminal(tmp_path: Path) -> None:
    ds = series(0, 3).assign_attrs(title="harmless\x1b[2J\x1b]0;owned\x07 \u202egnp.exe\nready   yes", institution="<script>alert(1)</script>")
    ds = ds.rename({"t2m": "evil\u202e\x1b[31mname"})
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    text = format_inspection(inspect(tmp_path / "a.zarr"))
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert "\u202e" not in text and "\\x1b[2J" in text and "\\u202e" in text
    assert sum(line.strip().startswith("ready") for line in text.splitlines()) == 1


def test_paths_with_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = tmp_path / "années été 年"
    folder.mkdir()
    series(0, 3).to_netcdf(folder / "a [1].nc", engine="netcdf4")
    check(open_source(folder / "a [1].nc"), 0, 3)
    check(open_source(folder), 0, 3)


def test_grib_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.grib").write_bytes(b"GRIB\x00\x00\x18\x01" + bytes(12) + b"7777")
    monkeypatch.setitem(sys.modules, "cfgrib", None)
    with pytest.raises(ResourceError, match=r"pip install 'afno-forecast\[grib\]'"):
        open_source(tmp_path / "a.grib")
    assert any("pip install" in line for line in inspect(tmp_path / "a.grib").refused)
