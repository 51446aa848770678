"""`data verify`: a sound store is sound; each thing that can be wrong is found, named, and nothing else with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from afno_forecast.cli import cli
from afno_forecast.data import layout as disk
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.data.verify import verify

SHAPE = (5, 8)
NUM_TIMES = 40


def record(path: Path, change=None, drop: tuple[int, ...] = ()) -> Path:
    """A slow wave with a little noise: neighbours in time are alike, as they are in weather."""
    time = np.arange(NUM_TIMES)[:, None, None]
    wave = np.sin(0.3 * time + np.arange(8) * np.pi / 4) + 0.02 * np.random.default_rng(1).normal(size=(NUM_TIMES, *SHAPE))
    ds = xr.Dataset({"t2m": (("time", "latitude", "longitude"), (280 + 8 * wave).astype("f4"), {"units": "K", "standard_name": "air_temperature"}),
                     "sp": (("time", "latitude", "longitude"), (1e5 + 500 * wave).astype("f4"),
                            {"units": "Pa", "standard_name": "surface_air_pressure"})},
                    {"time": np.datetime64("2003-05-01", "ns") + np.arange(NUM_TIMES) * np.timedelta64(6, "h"),
                     "latitude": ("latitude", np.linspace(-72, 72, 5), {"units": "degrees_north"}),
                     "longitude": ("longitude", np.arange(8) * 45.0, {"units": "degrees_east"})})
    if change is not None:
        change(ds)
    ds.isel(time=[t for t in range(NUM_TIMES) if t not in drop]).to_netcdf(path)
    return path


def build(folder: Path, change=None, drop: tuple[int, ...] = ()) -> Store:
    return build_store(open_source(record(folder / "a.nc", change, drop)), folder / "s.zarr",
                       StoreSettings(climatology=False, shard_bytes=4 * 2 * 40 * 6, chunk_bytes=4 * 40))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build(tmp_path)


def test_a_sound_store_is_sound(store):
    found = verify(store)
    assert found.sound, found.findings
    assert (found.num_states, found.num_chunks, found.notes) == (NUM_TIMES, 2 * NUM_TIMES, ())


def test_missing_and_damaged_chunks_are_named_with_file_variable_chunk_and_dates(store):
    folder = store.path / "state" / "c"
    shutil.rmtree(folder / "2")
    shard = folder / "4" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[10] ^= 4
    shard.write_bytes(bytes(content))
    found = verify(Store.open(store.path))
    chunks = [f for f in found.findings if f.kind == "chunk"]
    assert len(chunks) == 2 * 6 + 1
    assert {f.kind for f in found.findings} == {"chunk"}  # what could not be read is not called missing values as well
    assert {f.file for f in chunks} == {"state/c/2/0/0/0", "state/c/4/0/0/0"}
    assert all("is missing" in f.text for f in chunks[:-1])
    assert "checksum" in chunks[-1].text
    assert (chunks[-1].channels, chunks[-1].chunk, chunks[-1].dates) == (("2m_temperature",), "24.0.0.0", ("2003-05-07T00",))


def test_a_state_unlike_its_neighbours_is_an_outlier_at_its_own_date_only(tmp_path):
    def spoil(ds):
        ds.sp[17] = ds.sp[17] * 1.02

    found = verify(build(tmp_path, spoil))
    assert [(f.kind, f.channels, f.dates) for f in found.findings] == [("outlier", ("surface_pressure",), ("2003-05-05T06",))]


def test_a_repeated_state_is_found(tmp_path):
    def spoil(ds):
        ds.t2m[9] = ds.t2m[8]

    found = [f for f in verify(build(tmp_path, spoil)).findings if f.kind == "repeated"]
    assert [(f.channels, f.dates) for f in found] == [(("2m_temperature",), ("2003-05-03T06",))]


def test_rain_in_a_dry_area_and_fields_renewed_once_a_day_are_notes(tmp_path):
    def spoil(ds):
        rain = np.zeros((NUM_TIMES, *SHAPE), "f4")
        rain[[7, 23]] = np.random.default_rng(2).uniform(1e-4, 1e-2, (2, *SHAPE))
        ds["tp"] = (ds.sp.dims, rain, {"units": "m", "long_name": "total precipitation"})
        ds["sst"] = (ds.sp.dims, ds.sp.values[np.arange(NUM_TIMES) // 4 * 4] / 400, {"units": "K", "standard_name": "sea_surface_temperature"})
        ds.t2m[30] = ds.t2m[29]

    found = verify(build(tmp_path, spoil))
    assert {(f.channels, f.dates) for f in found.findings} == {(("2m_temperature",), ("2003-05-08T12",))}
    assert "repeated" in {f.kind for f in found.findings}
    assert set(found.notes) == {"total_precipitation is the same as at the time before at 35 of 40 times",
                                "sea_surface_temperature is the same as at the time before at 30 of 40 times"}


def test_gaps_the_store_knows_are_noted_and_others_are_wrong(tmp_path):
    store = build(tmp_path, drop=(5, 6))
    found = verify(store)
    assert found.sound
    assert found.notes == ("2 times are missing, as the store says: 2003-05-02T06, 2003-05-02T12",)
    group = json.loads((store.path / "zarr.json").read_text())
    group["attributes"]["missing_times"]["count"] = 0
    (store.path / "zarr.json").write_text(json.dumps(group))
    gap = verify(Store.open(store.path)).findings
    assert [(f.kind, f.dates) for f in gap] == [("gap", ("2003-05-02T06", "2003-05-02T12"))]


@pytest.mark.parametrize(("hours", "notes"), [((0, 7, 14, 21, 28), ()), ((0, 7, 14, 28, 35), (
    "3 times are missing, as the store says: 2000-01-01T21, 2001-01-01T21, 2002-01-01T21",))])
def test_nothing_is_missing_between_trajectories(tmp_path, hours, notes):
    periodic = {"boundary": "periodic"}
    values = np.random.default_rng(4).normal(size=(3, 5, 3, 4)).astype("f4")
    xr.Dataset({"field": (("trajectory", "time", "y", "x"), values, {"units": "1"})},
               {"trajectory": np.arange(3), "time": ("time", list(hours), {"units": "hours"}), "y": ("y", np.arange(3.0), periodic),
                "x": ("x", np.arange(4.0), periodic)}).to_netcdf(tmp_path / "a.nc")
    found = verify(build_store(open_source(tmp_path / "a.nc"), tmp_path / "s.zarr", StoreSettings()))
    assert found.sound, found.findings
    assert found.notes == notes


def test_missing_values_that_came_after_the_build_are_counted(store):
    array = disk.open_array(store.path, "state")
    array[3, 1, 2, 4:6] = np.nan
    array[30, 0, 0, 0] = np.inf
    found = [f for f in verify(Store.open(store.path)).findings if f.kind == "missing values"]
    assert [(f.channels, f.dates, f.text) for f in found] == [
        (("surface_pressure",), ("2003-05-01T18",), "2 of 40 cells are missing or infinite"),
        (("2m_temperature",), ("2003-05-08T12",), "1 of 40 cells are missing or infinite")]


@pytest.mark.parametrize("sample", [10, 1000])
@pytest.mark.parametrize("name", ["mean", "std", "maximum"])
def test_wrong_statistics_are_found_with_any_sample(store, name, sample):
    wrong = getattr(store.statistics, name).copy()
    wrong[1] *= 0.9
    shutil.rmtree(store.path / name)
    disk.write_small(store.path, name, wrong, ("channel",))
    found = verify(Store.open(store.path), sample=sample).findings
    assert {(f.kind, f.channels) for f in found} == {("statistics", ("surface_pressure",))}
    assert verify(build_again(store), sample=sample).sound


def build_again(store: Store) -> Store:
    shutil.rmtree(store.path)
    return build(store.path.parent)


def test_the_command_lists_everything_and_exits_with_3(store):
    result = CliRunner().invoke(cli, ["data", "verify", str(store.path)])
    assert result.exit_code == 0
    assert result.output.endswith("sound\n")
    shutil.rmtree(store.path / "state" / "c" / "1")
    result = CliRunner().invoke(cli, ["data", "verify", str(store.path), "--json"])
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert not told["sound"]
    assert len(told["findings"]) == 12
    assert told["findings"][0]["file"] == "state/c/1/0/0/0"
    result = CliRunner().invoke(cli, ["data", "verify", str(store.path)])
    assert result.exit_code == 3
    assert result.output.count("BAD") == 12
