"""A store built in parts, continued by appending, or by a cluster has the bytes of one built at once."""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from afno_forecast.data import build_append
from afno_forecast.data.build import BuildRecipe, Share, StatisticsPeriod, append_to_store, build_store, run_part, run_recipe
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import ConfigError, DataError
from afno_forecast.times import parse_instant

SMALL = {"shard_bytes": 6 * 9 * 4 * 4 * 5, "chunk_bytes": 6 * 9 * 4 * 2}  # 5 times a shard, 2 channels a chunk


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("afno_forecast.data.build.StoreSettings", partial(StoreSettings, **SMALL))


def digest(folder: Path, *, arrays_only: bool = False) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not (arrays_only and p == folder / "zarr.json")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_parts_in_any_order_and_a_finish_make_the_store_built_at_once(write_record, six_hourly, tmp_path):
    recipe = BuildRecipe(sources=(str(write_record(six_hourly(33)[::4])),), time_step="1d")
    run_recipe(recipe, tmp_path / "whole.zarr")
    out = tmp_path / "parts.zarr"
    for part in (2, 1):
        run_part(recipe, out, Share(part, 3))
        assert not out.exists()
    with pytest.raises(ConfigError, match=r"shards are not built, of parts 3") as caught:
        run_recipe(recipe, out, finish=True)
    assert "--part 3/3" in caught.value.fix
    with pytest.raises(ConfigError, match="divided into 3 parts, not 2"):
        run_part(recipe, out, Share(1, 2))
    run_part(recipe, out, Share(3, 3))
    run_recipe(recipe, out, finish=True)
    assert digest(out) == digest(tmp_path / "whole.zarr")
    assert not {"boundary", "absent_chunks"} & set(Store.open(out).attrs["recipe"])  # nor have they stores of before these were kept
    assert not list(tmp_path.glob("*.partial"))
    run_part(recipe, out, Share(3, 3))  # nothing to do


def test_a_part_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="part 4/3 is none of 3"):
        Share(4, 3)
    assert [n for p in range(1, 8) for n in Share(p, 7).shards(4)] == [0, 1, 2, 3]


# less than a shard, whole shards, whole shards and a part; the climatology, which takes most of the time, in one case
@pytest.mark.parametrize(("before", "climatology"), [(3, False), (10, False), (13, True)])
def test_appended_dates_give_the_arrays_of_a_store_built_at_once(write_record, six_hourly, tmp_path, before, climatology):
    times = six_hourly(17)
    first = write_record(times[:before], "first.nc")
    later = write_record(times[before:], "later.nc", seed=4, change=lambda ds: ds.drop_vars("orography"))
    period = (parse_instant("2001-02-20T00"), parse_instant("2001-02-20T12"))
    settings = StoreSettings(statistics_period=period, climatology=climatology, **SMALL)
    whole = build_store(open_source([first, later]), tmp_path / "whole.zarr", settings)
    out = tmp_path / "grown.zarr"
    build_store(open_source(first), out, settings)
    grown = append_to_store(out, [str(later)])
    assert digest(out, arrays_only=True) == digest(tmp_path / "whole.zarr", arrays_only=True)
    assert len(grown.times) == 17 and grown.attrs["recipe"] == whole.attrs["recipe"]
    assert [s["name"] for s in grown.attrs["provenance"]["sources"]] == ["first.nc", "later.nc"]
    assert grown.verify() == []
    assert append_to_store(out, [str(later)]).times.seconds.tolist() == grown.times.seconds.tolist()  # added before: nothing to do


def test_only_later_dates_on_the_same_grid_are_appended(write_record, six_hourly, tmp_path):
    out = tmp_path / "s.zarr"
    build_store(open_source(write_record(six_hourly(6), "a.nc")), out, StoreSettings(climatology=False))
    with pytest.raises(DataError, match="the store ends at 2001-02-21T06; the new files begin at 2001-02-21T06"):
        append_to_store(out, [str(write_record(six_hourly(3, "2001-02-21T06"), "b.nc"))])
    with pytest.raises(DataError, match="the store is on 6x9"):
        append_to_store(out, [str(write_record(six_hourly(3, "2001-03-21T06"), "c.nc", change=lambda ds: ds.isel(latitude=slice(1, None))))])


def test_dates_that_another_process_adds_meanwhile_are_not_lost(write_record, six_hourly, tmp_path, monkeypatch):
    times, out = six_hourly(13), tmp_path / "s.zarr"
    build_store(open_source(write_record(times[:6], "a.nc")), out, StoreSettings(climatology=False, **SMALL))
    second, third = str(write_record(times[6:9], "b.nc")), str(write_record(times[9:], "c.nc"))

    def slowly(*args, **kwargs):
        monkeypatch.undo()
        append_to_store(out, [second])
        return open_source(*args, **kwargs)

    monkeypatch.setattr("afno_forecast.data.build.open_source", slowly)
    with pytest.raises(ConfigError, match=r"changed meanwhile.*\n.*s\.zarr\n.*run the same command again"):
        append_to_store(out, [third])
    assert len(Store.open(out).times) == 9
    assert len(append_to_store(out, [third]).times) == 13
    assert not list(tmp_path.glob("*.partial"))


def test_a_store_remembers_how_its_box_continues_and_what_absent_chunks_hold(tmp_path):
    def box(start: str, name: str) -> str:
        times = np.datetime64(start, "ns") + np.arange(4) * np.timedelta64(6, "h")
        values = np.random.default_rng(5).normal(size=(4, 5, 7)).astype("f4")
        values[2] = 0
        axes = {"time": times, "y": ("y", np.arange(5) * 0.5), "x": ("x", np.arange(7) * 0.25)}
        xr.Dataset(coords=axes).to_zarr(tmp_path / name, consolidated=False)
        zarr.open_group(tmp_path / name).create_array("vorticity", data=values, chunks=(1, 5, 7), fill_value=0, attributes={"units": "s-1"},
                                                      dimension_names=("time", "y", "x"))
        assert not (tmp_path / name / "vorticity" / "c" / "2").exists()  # left out by the writer
        return str(tmp_path / name)

    out, first = tmp_path / "s.zarr", box("2001-02-20", "a.zarr")
    recipe = BuildRecipe(sources=(first,), climatology=False, absent_chunks="fill", boundary="periodic")
    run_recipe(recipe, out)
    assert run_recipe(recipe, out).grid.boundary == "periodic"
    with pytest.raises(ConfigError, match=r"another recipe \(other boundary\)"):
        run_recipe(recipe.model_copy(update={"boundary": "open"}), out)
    assert len(append_to_store(out, [box("2001-02-21", "b.zarr")]).times) == 8


def test_sums_over_six_hours_go_on_over_the_seam_or_are_refused(tmp_path):
    times = np.datetime64("2001-02-20", "ns") + np.arange(31) * np.timedelta64(1, "h")
    attrs = {"units": "m", "standard_name": "lwe_thickness_of_precipitation_amount"}
    values = np.random.default_rng(6).uniform(size=(31, 4, 7)).astype("f4")
    axes = {"time": times, "latitude": ("latitude", np.linspace(60, -60, 4), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(7) * 360 / 7, {"units": "degrees_east"})}
    hourly = xr.Dataset({"tp": (("time", "latitude", "longitude"), values, attrs)}, axes)

    def part(name: str, start: int, stop: int) -> str:
        hourly.isel(time=slice(start, stop)).to_netcdf(tmp_path / name)
        return str(tmp_path / name)

    first, later, before, after_gap = part("a.nc", 0, 17), part("b.nc", 17, 31), part("before.nc", 12, 17), part("gap.nc", 19, 31)
    recipe = {"channels": ("tp6h",), "derive": ("tp6h",), "climatology": False,
              "statistics": StatisticsPeriod(start="2001-02-20", end="2001-02-20T16")}
    whole = run_recipe(BuildRecipe(sources=(first, later), **recipe), tmp_path / "whole.zarr")
    run_recipe(BuildRecipe(sources=(first,), **recipe), tmp_path / "gap.zarr")
    out = tmp_path / "s.zarr"
    run_recipe(BuildRecipe(sources=(first,), **recipe), out)
    with pytest.raises(DataError, match="at 5 times, 2001-02-20T17 to 2001-02-20T21: 'total_precipitation' begins at 2001-02-20T17"):
        append_to_store(out, [later])
    assert append_to_store(out, [before, later]).times.seconds.tolist() == whole.times.seconds.tolist()
    assert digest(out / "state") == digest(tmp_path / "whole.zarr" / "state")
    assert append_to_store(tmp_path / "gap.zarr", [after_gap]).attrs["missing_times"]["count"] == 7  # as built at once: two hours are nowhere


def test_a_swap_interrupted_between_its_renames_is_finished(write_record, six_hourly, tmp_path, monkeypatch):
    times, out = six_hourly(12), tmp_path / "s.zarr"
    build_store(open_source(write_record(times[:7], "a.nc")), out, StoreSettings(climatology=False, **SMALL))
    later = str(write_record(times[7:], "b.nc"))

    def half(out: Path, work: Path) -> None:
        out.replace(work / "before")
        raise KeyboardInterrupt

    monkeypatch.setattr("afno_forecast.data.build.swap", half)
    with pytest.raises(KeyboardInterrupt):
        append_to_store(out, [later])
    assert not out.exists()
    monkeypatch.setattr("afno_forecast.data.build.swap", build_append.swap)
    assert len(append_to_store(out, [later]).times) == 12
    assert not list(tmp_path.glob("*.partial"))


def test_statistics_and_climatology_equal_numpy_in_float64(write_record, six_hourly, tmp_path):
    times = six_hourly(4 * 70)
    source = open_source(write_record(times))
    recipe = BuildRecipe(sources=(str(tmp_path / "record.nc"),), statistics=StatisticsPeriod(start="2001-02-20", end="2001-04-20T18"))
    store = run_recipe(recipe, tmp_path / "s.zarr")
    inside = times <= np.datetime64("2001-04-20T18")
    fields = np.concatenate([source.dataset["geopotential"].values, source.dataset["2m_temperature"].values[:, None]], axis=1)[inside].astype("f8")
    weights = store.grid.area_weights()[None, None]

    def std(x: np.ndarray) -> np.ndarray:
        return np.sqrt(((x - (x * weights).mean((0, 2, 3), keepdims=True)) ** 2 * weights).mean((0, 2, 3)))

    np.testing.assert_allclose(store.statistics.mean, (fields * weights).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(store.statistics.std, std(fields), rtol=1e-6)
    np.testing.assert_allclose(store.statistics.tendency_std, std(np.diff(fields, axis=0)), rtol=1e-6)
    day = np.datetime64("2001-03-10T06")
    hour = fields[(times[inside] - times[0]) % np.timedelta64(1, "D") == np.timedelta64(6, "h")]
    distance = np.abs(np.arange(len(hour)) - int((day - times[0]) / np.timedelta64(1, "D")))
    triangle = np.maximum(30 - distance, 0.0)
    expected = np.tensordot(triangle, hour, 1) / triangle.sum()
    got = store.climatology().at(np.asarray([int(day.astype("datetime64[s]").astype(int))]), store.times.calendar)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_recipe_of_a_grown_store_is_json_like_any_other(write_record, six_hourly, tmp_path):
    times, out = six_hourly(9), tmp_path / "s.zarr"
    build_store(open_source(write_record(times[:5], "a.nc")), out, StoreSettings(climatology=False))
    append_to_store(out, [str(write_record(times[5:], "b.nc"))])
    attrs = json.loads((out / "zarr.json").read_text())["attributes"]
    assert attrs == Store.open(out).attrs and attrs["complete"] is True
