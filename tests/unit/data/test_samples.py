import numpy as np
import pytest

from afno_forecast.data.samples import find_windows
from afno_forecast.errors import DataError
from afno_forecast.times import TimeAxis

H = 3600


def axis(*hours: float) -> TimeAxis:
    return TimeAxis(np.asarray([int(h * H) for h in hours], np.int64))


def test_windows_are_formed_by_time_difference_and_hold_history_then_targets():
    windows = find_windows(axis(0, 3, 6, 9, 12, 15), time_step=6 * H, history=2, num_steps=1)
    np.testing.assert_array_equal(windows.index, [[0, 2, 4], [1, 3, 5]])
    assert windows.index.dtype == np.int64
    assert windows.dropped == 0


def test_a_window_never_crosses_a_gap_and_the_dropped_are_counted_and_listed():
    times = axis(0, 6, 12, 24, 30, 36)
    windows = find_windows(times, time_step=6 * H, history=1, num_steps=2)
    np.testing.assert_array_equal(windows.index, [[0, 1, 2], [3, 4, 5]])
    assert windows.dropped == 2
    assert "2 windows" in windows.reason
    assert "1970-01-01T06, 1970-01-01T12" in windows.reason


def test_an_irregular_time_belongs_to_no_window():
    windows = find_windows(axis(0, 6, 11, 12, 18), time_step=6 * H, history=1, num_steps=1)
    np.testing.assert_array_equal(windows.index, [[0, 1], [1, 3], [3, 4]])
    assert windows.dropped == 1


def test_all_members_lie_inside_the_period_inclusively():
    windows = find_windows(axis(*range(0, 60, 6)), time_step=6 * H, history=1, num_steps=2, start=12 * H, end=36 * H)
    assert windows.index.min() == 2
    assert windows.index.max() == 6
    assert len(windows) == 3
    assert windows.dropped == 0  # a window that the period ends is no gap


def test_no_window_left_is_an_error_that_says_why():
    with pytest.raises(DataError, match=r"no 3 states follow each other every 6h.*2 times.*\n.*record runs from 1970-01-01T00") as caught:
        find_windows(axis(0, 6), time_step=6 * H, history=1, num_steps=2)
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="holds no time"):
        find_windows(axis(0, 6), time_step=6 * H, history=1, num_steps=1, start=100 * H)
    with pytest.raises(DataError, match="the record is empty"):
        find_windows(axis(), time_step=6 * H, history=1, num_steps=1)


def chosen(hours: list[int], count: int) -> list[int]:
    times = axis(*hours)
    windows = find_windows(times, time_step=H * (hours[1] - hours[0]), history=1, num_steps=0)
    return [int(times.seconds[row[0]]) // H for row in windows.evenly(times, count)]


@pytest.mark.parametrize(("spacing", "days", "count"), [(6, 40, 11), (6, 41, 5), (6, 33, 4), (3, 50, 9), (1, 30, 24), (24, 30, 7), (6, 100, 25)])
def test_chosen_windows_begin_at_all_hours_of_the_day_equally_often_and_cover_the_period(spacing: int, days: int, count: int) -> None:
    hours = list(range(0, 24 * days, spacing))
    found = chosen(hours, count)
    assert len(set(found)) == count and found == sorted(found)
    of_day = np.unique([hour % 24 for hour in found], return_counts=True)
    assert len(of_day[0]) == min(24 // spacing, count) and np.ptp(of_day[1]) <= 1
    assert np.abs(np.array(found) - np.linspace(0, hours[-1], count)).max() < 24, "less than a day from equal spacing"


def test_fewer_hours_than_asked_for_are_spread_and_more_windows_than_there_are_give_all() -> None:
    assert {hour % 24 for hour in chosen(list(range(0, 24 * 30)), 4)} == {0, 6, 12, 18}
    assert chosen([0, 6, 12, 18, 24, 30], 9) == [0, 6, 12, 18, 24, 30]
    assert len(chosen([0, 6, 12, 18, 24, 30], 5)) == 5 and len(chosen([0, 6, 12], 1)) == 1
