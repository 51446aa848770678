import hashlib
import os
import signal
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from afno_forecast.data.blocks import round_mantissa
from afno_forecast.data.build import BuildRecipe, StatisticsPeriod, append_to_store, build_store, run_recipe
from afno_forecast.data.layout import Layout
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.provenance import describe_source, is_same_source
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import ConfigError, DataError, ResourceError, Stopped
from afno_forecast.times import parse_instant

SMALL = {"shard_bytes": 6 * 9 * 4 * 4 * 5, "chunk_bytes": 6 * 9 * 4 * 2}  # 5 times a shard, 2 channels a chunk


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def expected_statistics(states: np.ndarray, weights: np.ndarray, step: int = 1):
    def std(x):
        mean = (x * weights).mean((0, 2, 3), keepdims=True)
        return np.sqrt(((x - mean) ** 2 * weights).mean((0, 2, 3)))

    return (states * weights).mean((0, 2, 3)), std(states), std(states[step:] - states[:-step])


def test_statistics_are_area_weighted_and_do_not_depend_on_the_shards(write_record, six_hourly, tmp_path):
    source = open_source(write_record(six_hourly(92)[::4]))
    whole = build_store(source, tmp_path / "whole.zarr")
    cut = build_store(source, tmp_path / "cut.zarr", StoreSettings(**SMALL))
    states = np.stack([whole.read(i) for i in range(23)]).astype(np.float64)
    np.testing.assert_array_equal(states, np.stack([cut.read(i) for i in range(23)]))
    mean, std, tendency = expected_statistics(states, whole.grid.area_weights())
    for store in (whole, cut):
        np.testing.assert_allclose(store.statistics.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(store.statistics.std, std, rtol=1e-9)
        np.testing.assert_allclose(store.statistics.tendency_std, tendency, rtol=1e-5)  # differences of float32
        np.testing.assert_array_equal(store.statistics.minimum, states.min((0, 2, 3)))
    clim = [s.climatology().at(s.times.seconds, s.times.calendar) for s in (whole, cut)]
    np.testing.assert_array_equal(*clim)


def test_statistics_cover_their_period_only(write_record, six_hourly, tmp_path):
    period = (parse_instant("2001-02-21T00"), parse_instant("2001-02-23T00"))
    store = build_store(open_source(write_record(six_hourly(23))), tmp_path / "s.zarr",
                        StoreSettings(statistics_period=period, climatology=False, **SMALL))
    states = np.stack([store.read(i) for i in range(4, 13)]).astype(np.float64)
    mean, std, tendency = expected_statistics(states, store.grid.area_weights())
    np.testing.assert_allclose(store.statistics.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(store.statistics.std, std, rtol=1e-9)
    np.testing.assert_allclose(store.statistics.tendency_std, tendency, rtol=1e-5)
    assert store.statistics.period == period
    with pytest.raises(ConfigError, match="holds no time"):
        build_store(open_source(tmp_path / "record.nc"), tmp_path / "t.zarr", StoreSettings(statistics_period=(0, 1)))


def test_differences_are_over_exactly_one_time_step_and_never_across_a_gap(write_record, six_hourly, tmp_path):
    times = np.delete(six_hourly(23), [9, 10, 16])
    store = build_store(open_source(write_record(times)), tmp_path / "s.zarr", StoreSettings(time_step=43200, climatology=False, **SMALL))
    states = {int(s): store.read(i).astype(np.float64) for i, s in enumerate(store.times.seconds)}
    pairs = np.stack([states[s] - states[s - 43200] for s in states if s - 43200 in states])
    weights = store.grid.area_weights()
    mean = (pairs * weights).mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(store.statistics.tendency_std, np.sqrt(((pairs - mean) ** 2 * weights).mean((0, 2, 3))), rtol=1e-5)
    assert store.attrs["missing_times"]["count"] == 3  # at the record's own step


def test_missing_times_are_listed_at_the_most_common_step(write_record, six_hourly, tmp_path):
    store = build_store(open_source(write_record(np.delete(six_hourly(12), [3, 7]))), tmp_path / "s.zarr", StoreSettings(climatology=False))
    assert store.time_step == 21600
    assert store.attrs["missing_times"] == {"count": 2, "times": ["2001-02-20T18", "2001-02-21T18"]}
    assert any("2 times are missing" in note for note in store.attrs["provenance"]["notes"])


def test_built_twice_gives_the_same_bytes_and_says_where_from(write_record, six_hourly, tmp_path):
    path = write_record(six_hourly(33)[::4])
    first = build_store(open_source(path), tmp_path / "a.zarr", StoreSettings(**SMALL))
    path.touch()
    build_store(open_source(path), tmp_path / "b.zarr", StoreSettings(**SMALL))
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    origin = first.attrs["provenance"]
    assert origin["sources"] == [{"name": "record.nc", "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
    assert origin["source_attributes"]["institution"] == "simulated, not observed"
    assert first.attrs["simulated"] == "simulated, not observed"
    assert not list(tmp_path.glob("*.partial"))


def test_a_zarr_rewritten_in_place_is_another_source(make_record, six_hourly, tmp_path, monkeypatch):
    path, out = tmp_path / "raw.zarr", tmp_path / "s.zarr"
    ds = make_record(six_hourly(7))
    ds.to_zarr(path, consolidated=False, encoding={name: {"compressors": None} for name in ds.data_vars})
    recipe = BuildRecipe(sources=(str(path),), climatology=False)
    before = {key: run_recipe(recipe, out).attrs["recipe"]["sources"][0][key] for key in ("name", "bytes", "sha256_listing")}
    whole = describe_source(path)
    monkeypatch.setattr("afno_forecast.data.provenance._WHOLE_BYTES", 0)
    sampled = describe_source(path)
    (ds[["t2m"]] + np.float32(1)).drop_vars(["time", "latitude", "longitude"]).to_zarr(path, mode="r+", consolidated=False)
    assert not is_same_source(sampled, describe_source(path)) and is_same_source(before, describe_source(path))  # as older stores describe theirs
    monkeypatch.undo()
    assert not is_same_source(whole, describe_source(path))
    with pytest.raises(ConfigError, match=r"another recipe \(other sources\)"):
        run_recipe(recipe, out)


class InterruptedBuildError(Exception):
    pass


def test_a_build_interrupted_at_any_part_goes_on_and_ends_with_the_same_bytes(write_record, six_hourly, tmp_path):
    source = open_source(write_record(six_hourly(65)[::4]))  # daily: one hour of climatology
    build_store(source, tmp_path / "whole.zarr", StoreSettings(**SMALL))
    calls: list[str] = []
    stop_at = 0

    def progress(done: int, total: int, what: str) -> None:
        calls.append(what)
        if len(calls) == stop_at:
            raise InterruptedBuildError

    build_store(source, tmp_path / "count.zarr", StoreSettings(**SMALL), progress=progress)
    parts = len(calls)
    assert parts == 8  # four shards, two groups of channels, and the ends of both passes
    out = tmp_path / "cut.zarr"
    for stop_at in range(1, parts + 1):  # noqa: B007 - read by progress
        calls.clear()
        with pytest.raises(InterruptedBuildError):
            build_store(source, out, StoreSettings(**SMALL), progress=progress)
        assert not out.exists()
    stop_at = 0
    calls.clear()
    build_store(source, out, StoreSettings(**SMALL), progress=progress)
    assert digest(out) == digest(tmp_path / "whole.zarr")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_a_build_between_two_parts_and_the_same_call_goes_on(write_record, six_hourly, tmp_path, number):
    source = open_source(write_record(six_hourly(65)[::4]))
    build_store(source, tmp_path / "whole.zarr", StoreSettings(**SMALL))
    before = signal.getsignal(number)
    for stop_at in (2, 5):  # in the pass over the source, in that over the store
        with pytest.raises(Stopped, match=f"stopped by {signal.Signals(number).name} after {stop_at} of 6 parts") as stopped:
            build_store(source, tmp_path / "cut.zarr",
                        StoreSettings(**SMALL), progress=lambda done, *_, at=stop_at: done == at and os.kill(os.getpid(), number))
        assert stopped.value.exit_code == 75 and "run the same command again" in str(stopped.value)
        assert signal.getsignal(number) is before
    build_store(source, tmp_path / "cut.zarr", StoreSettings(**SMALL))
    assert digest(tmp_path / "cut.zarr") == digest(tmp_path / "whole.zarr")


def test_a_finished_store_is_left_alone_and_another_recipe_is_refused(write_record, six_hourly, tmp_path):
    source = open_source(write_record(six_hourly(9)))
    build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zarr").rglob("*")}
    assert isinstance(build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False)), Store)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zarr").rglob("*")}
    with pytest.raises(ConfigError, match=r"another recipe .*other channels"):
        build_store(source, tmp_path / "s.zarr", StoreSettings(channels=["t2m"], climatology=False))

    def stop(done: int, total: int, what: str) -> None:
        raise InterruptedBuildError

    with pytest.raises(InterruptedBuildError):
        build_store(source, tmp_path / "u.zarr", progress=stop)
    with pytest.raises(ConfigError, match=r"unfinished build of another recipe.*round_bits.*\n.*\n.*rm -r"):
        build_store(source, tmp_path / "u.zarr", StoreSettings(round_bits=10))


def test_a_recipe_chooses_channels_statics_and_period(write_record, six_hourly, tmp_path):
    path = write_record(six_hourly(13))
    recipe = BuildRecipe(sources=(str(path),), channels=("t2m", "z850"), static=(), time_step="12h", climatology=False,
                         statistics=StatisticsPeriod(start="2001-02-20", end="2001-02-22T18"), round_bits=8)
    store = run_recipe(recipe, tmp_path / "s.zarr")
    assert store.channels.names == ("2m_temperature", "geopotential@850")
    assert len(store.static_channels) == 0
    assert store.static().shape == (0, 6, 9)
    assert store.time_step == 43200
    assert store.climatology() is None
    assert store.attrs["statistics_period"]["text"] == "2001-02-20T00 to 2001-02-22T18"
    with xr.open_dataset(path) as raw:
        exact = raw.t2m.sortby("latitude").values
    stored = np.stack([store.read(i)[0] for i in range(13)])
    assert np.abs(stored / exact - 1).max() <= 2.0**-9
    assert (stored.view(np.uint32) & np.uint32((1 << 15) - 1)).max() == 0
    with pytest.raises(ValidationError, match="extra"):
        BuildRecipe.model_validate({"sources": ("a.nc",), "chanels": ("t2m",)})


def test_variables_that_are_not_wanted_are_neither_aligned_nor_compared(write_record, six_hourly, tmp_path):
    def sea(name, times, shift=0.0):
        def change(ds):
            sst = (ds.t2m + np.float32(shift)).assign_attrs(units="K", standard_name="sea_surface_temperature")
            lsm = (ds.orography / 900 + np.float32(shift)).assign_attrs(units="1", standard_name="land_binary_mask")
            return xr.Dataset({"sst": sst, "lsm": lsm})

        return str(write_record(times, name, change=change))

    air = str(write_record(six_hourly(12), "air.nc"))
    daily = six_hourly(12)[::4]
    wanted = {"channels": ("t2m",), "static": ("orography",), "climatology": False}
    for number, others in enumerate([(sea("daily.nc", daily),), (sea("later.nc", daily + np.timedelta64(750, "m")),),
                                     (sea("one.nc", daily), sea("two.nc", daily, shift=0.1))]):
        store = run_recipe(BuildRecipe(sources=(air, *others), **wanted), tmp_path / f"{number}.zarr")
        assert store.channels.names == ("2m_temperature",) and store.static_channels.names == ("orography",) and len(store.times) == 12
        assert len(store.attrs["provenance"]["sources"]) == 1 + len(others)
    later = str(write_record(six_hourly(8, "2001-02-23T00"), "more.nc"))
    assert len(append_to_store(tmp_path / "0.zarr", [later, sea("march.nc", six_hourly(8, "2001-03-23T00"))]).times) == 20
    for wrong, near in ({"channels": ("t2n",)}, "t2m"), ({"static": ("orograhpy",)}, "orog"):
        with pytest.raises(DataError, match="did you mean") as caught:
            run_recipe(BuildRecipe(sources=(air,), **wanted | wrong), tmp_path / "wrong.zarr")
        assert near in caught.value.fix


def test_a_store_in_the_folder_of_its_sources_is_none_of_them(write_record, six_hourly, tmp_path):
    write_record(six_hourly(7))
    out = tmp_path / "out.zarr"
    for sources in (str(tmp_path),), (f"{tmp_path}/*r*",):
        recipe = BuildRecipe(sources=sources, climatology=False)
        assert len(run_recipe(recipe, out).times) == len(run_recipe(recipe, out).times) == 7
    with pytest.raises(DataError, match="a training store, not a source"):
        run_recipe(BuildRecipe(sources=(str(out),)), out)
    (tmp_path / "record.nc").unlink()
    with pytest.raises(DataError, match="no gridded file in this folder"):
        run_recipe(BuildRecipe(sources=(str(tmp_path),)), out)


def test_rounding_is_to_nearest_ties_to_even():
    values = np.asarray([1.0, 1.25, 1.75, -1.25, 3.1, 0.0, 5e4], np.float32)
    round_mantissa(values, 1)
    np.testing.assert_array_equal(values, [1.0, 1.0, 2.0, -1.0, 3.0, 0.0, 49152.0])


def test_the_layout_follows_the_sizes():
    small = Layout(2919, 12, (32, 64))
    assert (small.channels_per_chunk, small.times_per_shard) == (12, 325)
    big = Layout(1000, 69, (721, 1440))
    assert (big.channels_per_chunk, big.num_groups, big.times_per_shard, big.days_per_shard) == (1, 69, 1, 7)
    assert Layout(10, 5, (300, 600), chunk_bytes=2_000_000).channels_per_chunk == 2


def test_fill_is_only_for_variables_that_are_there(write_record, six_hourly, tmp_path):
    source = open_source(write_record(six_hourly(5)))
    with pytest.raises(ConfigError, match="fill names 'sst'"):
        build_store(source, tmp_path / "s.zarr", StoreSettings(fill={"sst": 270.0}))
    with pytest.raises(ConfigError, match="no finite"):
        build_store(source, tmp_path / "s.zarr", StoreSettings(fill={"t2m": float("nan")}))


def test_a_single_time_needs_a_time_step(write_record, six_hourly, tmp_path):
    source = open_source(write_record(six_hourly(1)))
    with pytest.raises(DataError, match="single time"):
        build_store(source, tmp_path / "s.zarr")
    store = build_store(source, tmp_path / "s.zarr", StoreSettings(time_step=21600, climatology=False))
    assert np.isnan(store.statistics.tendency_std).all()


def test_two_builds_of_one_store_do_not_meet(write_record, six_hourly, tmp_path):
    source = open_source(write_record(six_hourly(5)))

    def second(done: int, total: int, what: str) -> None:
        with pytest.raises(ConfigError, match="another process"):
            build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False))

    build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False), progress=second)


def test_a_source_opened_by_hand_keeps_few_decoded_chunks(write_record, six_hourly, monkeypatch):
    sizes: list[int] = []
    real = xr.open_dataset
    monkeypatch.setattr(xr, "open_dataset", lambda *a, **k: sizes.append(netCDF4.get_chunk_cache()[0]) or real(*a, **k))
    before = netCDF4.get_chunk_cache()
    open_source(write_record(six_hourly(5)))
    assert sizes == [1 << 10] and netCDF4.get_chunk_cache() == before


def test_the_room_is_checked_first(write_record, six_hourly, tmp_path, monkeypatch):
    source = open_source(write_record(six_hourly(5)))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("afno_forecast.data.build.shutil.disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"needs up to .* MB, 0 MB are free"):
        build_store(source, tmp_path / "s.zarr")


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_other_calendars_keep_their_days_of_year(write_record, tmp_path, calendar):
    times = xr.date_range("1999-02-25", periods=12, freq="D", calendar=calendar, use_cftime=True)
    store = build_store(open_source(write_record(times)), tmp_path / "s.zarr")
    assert store.times.calendar == calendar
    assert store.times.format(4) == ("1999-03-01T00" if calendar == "noleap" else "1999-02-29T00")
    with xr.open_zarr(store.path) as ds:
        assert ds.time.values[4] == times[4]
    climatology = store.climatology()
    assert climatology is not None
    assert np.isfinite(climatology.at(store.times.seconds, calendar)).all()
    first, last = store.times.day_of_year()[[0, -1]]
    with xr.open_zarr(store.path) as ds:
        days = ds.climatology[:, 0, 0, 0, 0].values
    assert np.flatnonzero(np.isfinite(days)).tolist() == list(range(first - 30, last + 29))


def test_the_pipeline_of_a_folder_builds_its_files_and_says_when_it_has_none(tmp_path, write_record, run_pipeline, six_hourly, capsys):
    write_record(six_hourly(8))
    given = ("--statistics", "2001-01-01/2001-12-31", "--channels", "t2m")
    assert run_pipeline("netcdf_folder.py", tmp_path, tmp_path / "s.zarr", *given) == 0
    assert Store.open(tmp_path / "s.zarr").channels.names == ("2m_temperature",)
    (tmp_path / "empty").mkdir()
    assert run_pipeline("netcdf_folder.py", tmp_path / "empty", tmp_path / "none.zarr", *given) == 3
    assert "empty" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "arguments", "words"), [
    ("netcdf_folder.py", ("--statistics", "2000-01-01"), "'2000-01-01' is no period: write START/END"),
    ("netcdf_folder.py", ("--statistics", "/2000-01-01"), "'/2000-01-01' is no period: write START/END"),
    ("speedy.py", ("--statistics", "2000-01-01"), "build needs --statistics START/END"),
    ("weatherbench2.py", ("--years", "2000"), "'2000' is no range of years: write FIRST-LAST"),
    ("weatherbench2.py", ("--years", "2001-2000"), "'2001-2000' is no range of years"),
    ("era5_arco.py", ("--years", "2000-2001", "--regrid", "32"), "'32' is no grid: write ROWSxCOLUMNS"),
    ("weatherbench2.py", ("--years", "2000-2001", "--regrid", "1x64"), "'1x64' is no grid: write ROWSxCOLUMNS, each at least 2")])
def test_a_pipeline_says_how_its_options_are_written(tmp_path, run_pipeline, capsys, name, arguments, words):
    places = ("build", tmp_path) if name == "speedy.py" else (tmp_path, tmp_path / "s.zarr")
    assert run_pipeline(name, *places, *(("--variables", "t2m") if "--years" in arguments else ()), *arguments) == 2
    assert words in capsys.readouterr().err
