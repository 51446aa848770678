import numpy as np
import pytest
import xarray as xr

from afno_forecast.data.build import build_store
from afno_forecast.data.climatology import pool_days, smooth_days, year_length
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.errors import ConfigError, DataError
from afno_forecast.times import TimeAxis, parse_instant


def brute_force(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    days = len(counts)
    out = np.full(sums.shape, np.nan)
    for day in range(days):
        distance = np.abs(np.arange(days) - day)
        weight = np.maximum(0.0, 1 - np.minimum(distance, days - distance) / 30)
        if (weight * counts).sum() > 0:
            out[day] = np.tensordot(weight, sums, 1) / (weight * counts).sum()
    return out


@pytest.mark.parametrize("days", [360, 365, 366])
def test_the_window_is_triangular_and_circular(days):
    random = np.random.default_rng(days)
    counts = random.integers(0, 4, days)
    sums = 5e4 * counts[:, None, None] + random.normal(size=(days, 2, 3)) * (counts > 0)[:, None, None]
    smoothed = np.stack(list(smooth_days(lambda day: (sums[day], int(counts[day])), days)))
    assert smoothed.dtype == np.float32
    np.testing.assert_allclose(smoothed, brute_force(sums, counts), rtol=1e-7)


def weatherbench2(values: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """WeatherBench 2's definition on a table (year, day of year): missing days from day 365, a padded window, weights in two ramps."""
    years = dates.astype("datetime64[Y]")
    day = (dates - years.astype("datetime64[D]")).astype(int)
    table = np.full((len(np.unique(years)), day.max() + 1), np.nan)
    table[(years - years[0]).astype(int), day] = values
    table = np.where(np.isnan(table), table[:, 364:365], table)
    weights = np.concatenate([np.linspace(0, 1, 31), np.linspace(1, 0, 31)[1:]])
    padded = np.pad(table, ((0, 0), (30, 30)), mode="wrap")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 61, axis=1)
    return (windows * weights).sum(axis=(0, 2)) / (weights.sum() * len(table))


@pytest.mark.parametrize(("first", "last"), [("2002-01-01", "2005-01-01"), ("2001-01-01", "2003-01-01")])
def test_around_new_year_it_is_weatherbench2s(make_record, tmp_path, first, last):
    days = np.arange(first, last, dtype="datetime64[D]")
    make_record(days.astype("datetime64[ns]"))[["t2m"]].to_netcdf(tmp_path / "a.nc")
    store = build_store(open_source(tmp_path / "a.nc"), tmp_path / "s.zarr", StoreSettings(shard_bytes=4 * 54 * 100))
    cell = np.asarray([store.read(i)[0, 2, 3] for i in range(len(days))], dtype=float)
    expected = weatherbench2(cell, days)
    with xr.open_zarr(store.path, consolidated=False) as ds:
        values = ds.climatology[:, 0, 0, 2, 3].values
    np.testing.assert_allclose(values[:len(expected)], expected, rtol=1e-6)
    if len(expected) == 365:  # no leap year: WeatherBench 2 has no day 366, ours is that of the day before
        assert values[365] == values[364]


def test_a_leap_year_that_lacks_its_last_day_counts_the_day_before_it():
    spans = (("2000-12-20", "2001-01-01"), ("2004-12-20", "2004-12-31"))
    days = np.concatenate([np.arange(first, last, dtype="datetime64[D]") for first, last in spans])
    times = TimeAxis(days.astype("datetime64[s]").astype(np.int64))
    members, circle = pool_days(times)
    assert circle == 366 and members[366] == [11, 22] and members[365] == [10, 22]
    assert pool_days(times.at(slice(0, 3)))[1] == 365
    for calendar, length in (("noleap", 365), ("360_day", 360)):
        assert pool_days(TimeAxis(times.seconds, calendar))[1] == length


def test_days_without_data_in_their_window_are_nan():
    sums, counts = np.zeros((366, 1)), np.zeros(366, int)
    sums[100], counts[100] = 7.0, 1
    smoothed = np.stack(list(smooth_days(lambda day: (sums[day], int(counts[day])), 366)))[:, 0]
    assert np.flatnonzero(np.isfinite(smoothed)).tolist() == list(range(71, 130))
    np.testing.assert_allclose(smoothed[71:130], 7.0)


def test_the_climatology_of_a_store_is_the_weighted_mean_over_years_by_hour(write_record, tmp_path):
    times = np.concatenate([np.arange(f"{year}-01-20", f"{year}-03-10", dtype="datetime64[D]") for year in (2003, 2004)]).astype("datetime64[ns]")
    times = np.sort(np.concatenate([times, times + np.timedelta64(12, "h")]))
    source = open_source(write_record(times))
    store = build_store(source, tmp_path / "s.zarr", StoreSettings(time_step=43200, shard_bytes=9 * 6 * 9 * 4 * 3, chunk_bytes=6 * 9 * 4 * 2))
    climatology = store.climatology()
    assert climatology is not None
    assert climatology.hours.tolist() == [0, 12]
    valid = np.asarray([parse_instant(t) for t in ("2010-02-15T12", "2012-02-29T00", "2010-01-02T00")])
    values = climatology.at(valid, store.times.calendar)
    assert values.shape == (3, 3, 6, 9)
    states = np.stack([store.read(i) for i in range(len(store.times))]).astype(float)
    for n, (day, hour) in enumerate([(46, 12), (60, 0), (2, 0)]):
        mine = store.times.second_of_day() == hour * 3600
        distance = np.abs(store.times.day_of_year()[mine] - day)
        weight = np.maximum(0.0, 1 - np.minimum(distance, 366 - distance) / 30)
        np.testing.assert_allclose(values[n], np.tensordot(weight, states[mine], 1) / weight.sum(), rtol=2e-7)
    july = np.asarray([parse_instant("2010-07-01T00")])
    assert np.isnan(climatology.at(july, store.times.calendar)).all()
    with pytest.raises(DataError, match=r"hours \[0, 12\], not 6 UTC"):
        climatology.at(np.asarray([parse_instant("2010-02-15T06")]), store.times.calendar)
    with pytest.raises(DataError, match="calendar"):
        climatology.at(valid, "noleap")


def test_the_climatology_sees_the_statistics_period_only(write_record, six_hourly, tmp_path):
    path = write_record(six_hourly(40))
    period = (parse_instant("2001-02-20T00"), parse_instant("2001-02-23T18"))
    part = build_store(open_source(path), tmp_path / "part.zarr", StoreSettings(statistics_period=period))
    climatology = part.climatology()
    assert climatology is not None
    mean = np.stack([part.read(i) for i in range(16)])[::4].astype(float)
    weight = np.maximum(0.0, 1 - np.abs(np.arange(51, 55) - 52) / 30)
    expected = np.tensordot(weight, mean, 1) / weight.sum()
    np.testing.assert_allclose(climatology.at(np.asarray([parse_instant("2001-02-21T00")]), part.times.calendar)[0], expected, rtol=2e-7)


def test_a_record_off_the_hour_cannot_have_a_climatology(write_record, tmp_path):
    times = np.datetime64("2001-01-01T00:30", "ns") + np.arange(5) * np.timedelta64(6, "h")
    source = open_source(write_record(times))
    with pytest.raises(ConfigError, match="on the hour"):
        build_store(source, tmp_path / "s.zarr")
    assert build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False)).climatology() is None


def test_the_circle_is_the_calendars_year():
    assert [year_length(c) for c in ("standard", "noleap", "365_day", "360_day", "proleptic_gregorian")] == [366, 365, 365, 360, 366]
