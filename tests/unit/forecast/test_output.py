"""A forecast file has WeatherBench 2's form in the user's own order, and any reader opens it without a warning."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError
from afno_forecast.forecast.metadata import make_layout
from afno_forecast.forecast.output import ForecastWriter
from afno_forecast.forecast.progress import Share
from afno_forecast.grid import BoxGrid, Orientation
from afno_forecast.times import TimeAxis, parse_instant
from afno_forecast.verify.forecasts import forecast_channels, forecast_grid, open_forecast, read_channels

CHANNELS = ChannelSet((
    Channel("geopotential", 850, "m2 s-2"), Channel("2m_temperature", None, "K"), Channel("geopotential", 500, "m2 s-2"),
    Channel("u_component_of_wind", 850, "m s-1"), Channel("v_component_of_wind", 850, "m s-1"), Channel("u_component_of_wind", 500, "m s-1"),
    Channel("10m_u_component_of_wind", None, "m s-1"), Channel("10m_v_component_of_wind", None, "m s-1"),
    Channel("total_precipitation_6hr", None, "m", "diagnostic"), Channel("precipitation_flux", None, "kg m-2 s-1", "diagnostic")))
CANONICAL = Orientation(np.linspace(-80, 80, 5), np.arange(8) * 45.0)
INITS = np.array([0, 86400, 3 * 86400], dtype=np.int64) + 1_577_836_800
LEADS = np.array([6, 12], dtype=np.int64) * 3600
ATTRS = {"title": "Forecast of a test", "source": "test", "institution": "none", "history": "made by a test"}
FORMS = [("fc.zarr", None, 2), ("fc3.zarr", "zarr3", 3), ("fc.nc", None, 0)]

CHECK = """
import sys
from compliance_checker.runner import CheckSuite, ComplianceChecker
CheckSuite.load_all_available_checkers()
ComplianceChecker.run_checker(sys.argv[1], ["cf:1.8"], 0, "normal", output_filename=sys.argv[2], output_format="json")
"""


def states(inits: int = 3, leads: int = 2, shape: tuple[int, int] = (5, 8), channels: ChannelSet = CHANNELS) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(inits, leads, len(channels), *shape)).astype(np.float32)


def write(path: Path, data: np.ndarray, *, orientation: Orientation | BoxGrid = CANONICAL, inits: np.ndarray = INITS, leads: np.ndarray = LEADS,
          calendar: str = "proleptic_gregorian", channels: ChannelSet = CHANNELS, form: Any = None) -> Path:
    with ForecastWriter(path, make_layout(channels, orientation, inits, leads, calendar, ATTRS), identity="a", format=form) as writer:
        for i in range(len(inits)):
            for k in range(len(leads)):
                writer.write(i, k, data[i, k])
            writer.finish(i)
    return path


@pytest.mark.parametrize(("name", "form", "version"), FORMS)
def test_form_of_the_file(tmp_path: Path, name: str, form: str | None, version: int) -> None:
    data = states()
    path = write(tmp_path / name, data, form=form)
    with xr.open_dataset(path) as ds:
        assert dict(ds.sizes) == {"time": 3, "prediction_timedelta": 2, "level": 2, "latitude": 5, "longitude": 8}
        assert ds["geopotential"].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
        assert ds["2m_temperature"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
        assert all(v.dtype == np.float32 for v in ds.data_vars.values())
        assert ds["level"].dtype.kind == "i" and ds["level"].values.tolist() == [500, 850] and ds["level"].attrs["units"] == "hPa"
        assert ds["time"].dtype == "datetime64[ns]" and ds["time"].values[1] == np.datetime64("2020-01-02")
        assert ds["prediction_timedelta"].dtype == "timedelta64[ns]"
        assert (ds["prediction_timedelta"].values / np.timedelta64(1, "h")).tolist() == [6, 12]
        assert (ds["valid_time"] == ds["time"] + ds["prediction_timedelta"]).all()
        assert (ds["forecast_reference_time"] == ds["time"]).all() and (ds["forecast_period"] == ds["prediction_timedelta"]).all()
        assert {"valid_time", "forecast_reference_time", "forecast_period"} <= set(ds["geopotential"].coords)
        assert ds["2m_temperature"].attrs == {"standard_name": "air_temperature", "units": "K", "long_name": "2m temperature"}
        assert ds.attrs["Conventions"] == "CF-1.8" and ds.attrs["title"] == ATTRS["title"] and ds.attrs["afno_forecast_complete"] == "yes"
        np.testing.assert_array_equal(ds["geopotential"].sel(level=500).values, data[:, :, 2])
        np.testing.assert_array_equal(ds["geopotential"].sel(level=850).values, data[:, :, 0])
        np.testing.assert_array_equal(ds["2m_temperature"].values, data[:, :, 1])
        np.testing.assert_allclose(ds["10m_wind_speed"].values, np.sqrt(data[:, :, 6]**2 + data[:, :, 7]**2), rtol=1e-6)
        np.testing.assert_allclose(ds["wind_speed"].sel(level=850).values, np.sqrt(data[:, :, 3]**2 + data[:, :, 4]**2), rtol=1e-6)
        assert np.isnan(ds["wind_speed"].sel(level=500).values).all() and ds["wind_speed"].attrs["available_levels"] in (850, [850])
        sizes = ds["geopotential"].encoding
        assert tuple(sizes.get("chunks", sizes.get("chunksizes"))) == (1, 1, 2, 5, 8)
    if version:
        assert zarr.open_group(str(path), mode="r").metadata.zarr_format == version
        with xr.open_zarr(path, chunks=None) as ds:
            assert ds.sizes["time"] == 3
    assert (path / ".zmetadata").exists() == (version == 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_lead_times_carry_the_attribute_that_benchmarks_need(tmp_path: Path) -> None:
    path = write(tmp_path / "fc.zarr", states())
    attrs = json.loads((path / "prediction_timedelta" / ".zattrs").read_text())
    assert attrs["dtype"] == "timedelta64[ns]" and attrs["units"] == "hours" and attrs["standard_name"] == "forecast_period"


@pytest.mark.parametrize("name", ["fc.zarr", "fc.nc"])
@pytest.mark.parametrize("user", [
    Orientation(np.linspace(80, -80, 5), np.arange(8) * 45.0),
    Orientation(np.linspace(-80, 80, 5), np.arange(8) * 45.0 - 180),
    Orientation(np.linspace(80, -80, 5), np.arange(8) * 45.0 - 180, transposed=True),
], ids=["north first", "from -180", "transposed too"])
def test_the_users_order_comes_back_and_reads_as_the_canonical_forecast(tmp_path: Path, user: Orientation, name: str) -> None:
    data = states()
    with xr.open_dataset(write(tmp_path / name, data, orientation=user)) as ds:
        np.testing.assert_array_equal(ds["latitude"].values, user.latitude)
        np.testing.assert_array_equal(ds["longitude"].values, user.longitude)
        assert ds["2m_temperature"].dims[2:] == (("longitude", "latitude") if user.transposed else ("latitude", "longitude"))
        np.testing.assert_array_equal(ds["2m_temperature"].values, user.from_canonical(data[:, :, 1]))
    canonical = open_forecast(tmp_path / name)
    assert forecast_grid(canonical).matches(CANONICAL.grid())
    names = ChannelSet(tuple(c for c in CHANNELS if c.variable != "wind_speed"))
    np.testing.assert_array_equal(read_channels(canonical, names, 1, slice(0, 2)), data[1])


@pytest.mark.parametrize("name", ["fc.zarr", "fc.nc"])
def test_a_box_has_y_and_x(tmp_path: Path, name: str) -> None:
    channels = ChannelSet((Channel("vorticity", None, "s-1"), Channel("dye", None, "1")))
    grid = BoxGrid(np.arange(3.0), np.arange(7) * 0.5)
    data = states(shape=(3, 7), channels=channels)
    path = write(tmp_path / name, data, orientation=grid, channels=channels)
    ds = open_forecast(path)
    assert ds["dye"].dims == ("time", "prediction_timedelta", "y", "x")
    np.testing.assert_array_equal(ds["dye"].values, data[:, :, 1])
    assert forecast_grid(ds).matches(grid) and sorted(forecast_channels(ds).names) == ["dye", "vorticity"]


@pytest.mark.parametrize("name", ["fc.zarr", "fc.nc"])
@pytest.mark.parametrize(("calendar", "start"), [("noleap", "2001-02-28"), ("360_day", "2001-02-30T06"), ("proleptic_gregorian", "1066-10-14T06"),
                                                 ("standard", "1500-02-28"), ("proleptic_gregorian", "2020-01-01T00:20"),
                                                 ("proleptic_gregorian", "2300-01-01T00:00:07")])
def test_any_calendar_and_date(tmp_path: Path, calendar: str, start: str, name: str) -> None:
    inits = np.array([0, 86400], dtype=np.int64) + parse_instant(start, calendar)
    leads = np.array([1, 90], dtype=np.int64) * 60 * 20
    path = write(tmp_path / name, states(2), inits=inits, leads=leads, calendar=calendar)
    ds = open_forecast(path)
    times = TimeAxis.from_xarray(ds["time"])
    assert times.calendar == calendar and times.seconds.tolist() == inits.tolist()
    assert ds["prediction_timedelta"].values.astype("timedelta64[s]").astype(int).tolist() == leads.tolist()


@pytest.mark.parametrize("version", [None, "zarr3"])
def test_every_chunk_has_a_checksum(tmp_path: Path, version: str | None) -> None:
    path = write(tmp_path / "fc.zarr", states(), form=version)
    chunk = path / "geopotential" / ("c/1/0/0/0/0" if version else "1.0.0.0.0")
    whole = chunk.read_bytes()
    array = zarr.open_group(str(path), mode="r")["geopotential"]
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        chunk.write_bytes(damaged)
        with pytest.raises((RuntimeError, ValueError)):
            array[1, 0]
    chunk.write_bytes(whole)
    assert array[1, 0].shape == (2, 5, 8)


def test_zarr_attributes_are_deterministic(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        path = write(tmp_path / f"{name}.zarr", states())
        files.append({p.relative_to(path): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()})
    assert files[0] == files[1]


def test_netcdf_passes_the_compliance_checker(tmp_path: Path) -> None:
    if importlib.util.find_spec("compliance_checker") is None:
        pytest.skip("compliance-checker is not installed")
    path = write(tmp_path / "fc.nc", states())
    report = tmp_path / "report.json"
    subprocess.run([sys.executable, "-c", CHECK, str(path), str(report)], check=True, capture_output=True)
    found = json.loads(report.read_text())["cf:1.8"]
    assert found["scored_points"] > 50
    assert [r["msgs"] for r in found["high_priorities"] if r["msgs"]] == []


@pytest.mark.parametrize(("name", "message"), [("fc.grib", "does not say which format"), ("fc", "does not say which format")])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / name, states())


def test_impossible_layouts_are_refused(tmp_path: Path) -> None:
    both = ChannelSet((Channel("temperature", 850, "K"), Channel("temperature", None, "K")))
    with pytest.raises(ConfigError, match="with and without a level"):
        write(tmp_path / "a.zarr", states(channels=both), channels=both)
    with pytest.raises(ConfigError, match="init times must ascend"):
        write(tmp_path / "b.zarr", states(), inits=INITS[::-1])
    with pytest.raises(ConfigError, match="lead times must ascend"):
        write(tmp_path / "c.zarr", states(), leads=np.array([6, 6]) * 3600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "form", "version"), FORMS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_whichever_process_of_a_group_closes_last_nothing_is_left_beside_the_file(tmp_path: Path, name: str, form: Any, version: int,
                                                                                   order: tuple[int, int]) -> None:
    """Both have finished their forecasts before either closes: the first to close completes the file, the second finds it complete."""
    data, layout = states(), make_layout(CHANNELS, CANONICAL, INITS, LEADS, "proleptic_gregorian", ATTRS)
    writers = [ForecastWriter(tmp_path / name, layout, identity="a", format=form, share=Share(rank, 2)) for rank in (0, 1)]
    for i in range(len(INITS)):
        for k in range(len(LEADS)):
            writers[i % 2].write(i, k, data[i, k])
        writers[i % 2].finish(i)
    for rank in order:
        writers[rank].close()
        assert writers[rank].complete
    assert [p.name for p in tmp_path.iterdir()] == [name]
    one = write(tmp_path / f"one{Path(name).suffix}", data, form=form)
    with xr.open_dataset(tmp_path / name) as found, xr.open_dataset(one) as whole:
        xr.testing.assert_identical(found, whole)


@pytest.mark.parametrize(("name", "form", "version"), FORMS)
def test_a_forecast_lost_with_the_power_is_not_done_for_the_other_processes(tmp_path: Path, name: str, form: Any, version: int) -> None:
    data, layout = states(2), make_layout(CHANNELS, CANONICAL, INITS[:2], LEADS, "proleptic_gregorian", ATTRS)

    def begin(rank: int) -> ForecastWriter:
        return ForecastWriter(tmp_path / name, layout, identity="a", format=form, share=Share(rank, 2))

    def make(writer: ForecastWriter, i: int) -> None:
        for k in range(len(LEADS)):
            writer.write(i, k, data[i, k])
        writer.finish(i)

    stopped = begin(0)
    make(stopped, 0)
    stopped._release()
    next(tmp_path.glob("*/geopotential/" + ("c/0/0/0/0/0" if version == 3 else "0.0.0.0.0"))).write_bytes(b"")
    first, second = begin(0), begin(1)
    assert not first.is_done(0)
    make(second, 1)
    second.close()
    assert not second.complete
    make(first, 0)
    first.close()
    assert first.complete and [p.name for p in tmp_path.iterdir()] == [name]
    with xr.open_dataset(tmp_path / name) as ds:
        np.testing.assert_array_equal(ds["2m_temperature"].values, data[:, :, 1])
        np.testing.assert_array_equal(ds["geopotential"].sel(level=500).values, data[:, :, 2])


def test_missing_values_of_a_masked_variable_are_kept(tmp_path: Path) -> None:
    channels = ChannelSet((Channel("sea_surface_temperature", None, "K"),))
    data = states(channels=channels)
    data[:, :, 0, :2] = np.nan
    data[1, 1] = np.nan
    for name in ("fc.zarr", "fc.nc"):
        with xr.open_dataset(write(tmp_path / name, data, channels=channels)) as ds:
            np.testing.assert_array_equal(ds["sea_surface_temperature"].values, data[:, :, 0])
        assert open_forecast(tmp_path / name)["sea_surface_temperature"].shape == (3, 2, 5, 8)


@pytest.mark.parametrize(("name", "form", "ending"), [("fc.zarr", "netcdf", ".nc"), ("fc.nc", "zarr2", ".zarr"), ("fc.nc4", "zarr3", ".zarr")])
def test_a_format_that_contradicts_the_name_is_refused(tmp_path: Path, name: str, form: str, ending: str) -> None:
    with pytest.raises(ConfigError, match="contradict") as refused:
        write(tmp_path / name, states(), form=form)
    assert refused.value.fix.endswith(ending) and not list(tmp_path.iterdir())
