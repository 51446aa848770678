"""Instants and durations in any calendar."""

import cftime
import numpy as np
import pytest
import xarray as xr

from afno_forecast.errors import ConfigError, DataError
from afno_forecast.times import (
    TimeAxis,
    any_date,
    common_step,
    format_duration,
    format_instant,
    missing_instants,
    parse_duration,
    parse_instant,
    thinned,
)


@pytest.mark.parametrize(("text", "seconds"), [("6h", 21600), ("10d", 864000), ("90min", 5400), ("1d12h", 129600), ("45s", 45), ("1.5h", 5400),
                                                ("1.1h", 3960), ("0.7d", 60480), ("2.3d", 198720)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "6 hours", "-6h", "0h", "6h6", "1e3s", "0.5s", f"{'9' * 400}h",
                                  "999999999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@pytest.mark.parametrize("calendar", ["proleptic_gregorian", "standard", "julian", "noleap", "all_leap", "360_day"])
@pytest.mark.parametrize("text", ["2000-03-01T06", "1600-01-01T00", "2101-12-30T23:30"])
def test_instants_round_trip_in_every_calendar(calendar: str, text: str) -> None:
    assert format_instant(parse_instant(text, calendar), calendar) == text


def test_dates_that_a_calendar_lacks_are_refused() -> None:
    assert parse_instant("2001-02-30", "360_day") - parse_instant("2001-02-29", "360_day") == 86400
    with pytest.raises(ConfigError):
        parse_instant("2001-02-29", "noleap")
    with pytest.raises(ConfigError):
        parse_instant("tomorrow")


@pytest.mark.parametrize(("text", "calendar"), [("999999-01-01", "proleptic_gregorian"), ("10000-01-01", "noleap"), ("-0001-01-01", "noleap"),
                                                ("0000-01-01", "standard")])
def test_years_out_of_range_are_refused(text: str, calendar: str) -> None:
    with pytest.raises(ConfigError, match=r"not in the years [01] to 9999"):
        parse_instant(text, calendar)
    assert format_instant(parse_instant("0000-03-01", "noleap"), "noleap") == "0000-03-01T00"


def test_dates_of_all_calendars_are_read_and_ordered_before_the_calendar_is_known():
    dates = ["1999-12-31", "2001-02-28T18", "2001-02-29", "2001-02-30", "2001-03-01T00", "2001-03-01T06:30"]
    assert sorted(dates, key=any_date) == dates
    for wrong in ("2001-02-31", "2001-04-31", "2001-13-01", "2001-02-30T25", "tomorrow"):
        with pytest.raises(ConfigError):
            any_date(wrong)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "proleptic_gregorian"])
def test_axis_round_trips_through_xarray(calendar: str) -> None:
    start = parse_instant("1670-02-27T18", calendar)
    axis = TimeAxis(start + 21600 * np.arange(13), calendar)
    again = TimeAxis.from_xarray(xr.DataArray(axis.values(), dims="time", name="time"))
    assert np.array_equal(again.seconds, axis.seconds) and again.calendar == calendar


def test_day_of_year_and_year_fraction_follow_the_calendar() -> None:
    for calendar, last_day in (("noleap", 365), ("360_day", 360), ("proleptic_gregorian", 366)):
        end = parse_instant("2000-12-30T12" if calendar == "360_day" else "2000-12-31T12", calendar)
        axis = TimeAxis(np.asarray([parse_instant("2000-01-01", calendar), end]), calendar)
        assert axis.day_of_year().tolist() == [1, last_day]
        assert axis.year_fraction() == pytest.approx([0, 1 - 0.5 / last_day])


def test_old_standard_dates_keep_their_calendar() -> None:
    dates = [cftime.datetime(1500, 3, 1, calendar="standard"), cftime.datetime(1500, 3, 2, calendar="standard")]
    assert TimeAxis.from_xarray(xr.DataArray(dates, dims="time", name="time")).calendar == "standard"


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(DataError, match="not real datetimes"):
        TimeAxis.from_xarray(xr.DataArray([0, 6, 12], dims="time", name="time"))
    with pytest.raises(DataError, match="NaT"):
        TimeAxis.from_xarray(xr.DataArray(np.asarray(["2000-01-01", "NaT"], "datetime64[ns]"), dims="time", name="time"))


def test_step_and_gaps() -> None:
    seconds = np.asarray([0, 6, 12, 24, 30, 48]) * 3600
    assert common_step(seconds) == 6 * 3600
    assert (missing_instants(seconds, 6 * 3600) / 3600).tolist() == [18, 36, 42]


def test_many_leads_are_thinned_to_days() -> None:
    leads = [6 * 3600 * k for k in range(1, 61)]
    kept = thinned(leads, 24)
    assert len(kept) <= 24 and kept[-1] == leads[-1] and all(lead % 86400 == 0 for lead in kept)
    assert thinned([7, 9], 24) == [7, 9]
    uneven = [h * 3600 for h in range(6, 247, 6)]
    assert thinned(uneven, 24)[-1] == uneven[-1] == 246 * 3600, "the last lead is no whole day and stays"


@pytest.mark.parametrize(("minutes", "count", "shown"), [
    (360, 40, [1440 * day for day in range(1, 11)]), (360, 7, [360 * k for k in range(1, 8)]), (60, 13, [60 * k for k in range(1, 14, 2)]),
    (30, 40, [120 * k for k in range(1, 11)]), (1440, 46, [1440 * k for k in range(2, 47, 4)]), (7, 25, [7 * k for k in range(1, 26, 3)])], ids=str)
def test_a_dozen_of_many_leads_stay_and_the_last(minutes: int, count: int, shown: list[int]) -> None:
    leads = [60 * minutes * k for k in range(1, count + 1)]
    assert thinned(leads, 12) == [60 * m for m in shown]
