"""What forecasts are compared with: the record of the training period alone, and states of the same season on any calendar."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError
from afno_forecast.grid import LatLonGrid
from afno_forecast.times import TimeAxis, parse_instant
from afno_forecast.verify.baselines import OtherYears
from afno_forecast.verify.truth import open_truth

sys.path.insert(0, str(Path(__file__).parent))
from in_memory import Record

DAY = 86400
CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"),))
GRID = LatLonGrid(np.array([-45.0, 45.0]), np.arange(3) * 120.0)


def test_thresholds_and_members_come_from_the_period_of_the_climatology(tiny_store: Path) -> None:
    store = Store.open(tiny_store)
    truth, references = open_truth([tiny_store], store.channels)
    record, (first, last) = references.record, store.statistics.period
    assert record is not None
    assert truth.times.seconds[-1] > last, "the store reaches beyond the training period"
    assert (record.times.seconds[0], record.times.seconds[-1]) == (first, last)
    later = store.times.seconds[7:9]
    np.testing.assert_array_equal(record.read(record.index_of(later)), truth.read(truth.index_of(later)))
    middle = truth.within(int(later[0]), int(later[1]) - 1)
    assert middle.times.seconds.tolist() == later[:1].tolist()
    np.testing.assert_array_equal(middle.read([0]), truth.read([7]))


def test_a_record_on_another_calendar_is_refused(tiny_store: Path, tiny_weather: Path, tmp_path: Path) -> None:
    with xr.open_dataset(tiny_weather) as ds:
        ds.convert_calendar("noleap").to_netcdf(tmp_path / "truth.nc")
    with pytest.raises(DataError, match="the climatology counts time on the proleptic_gregorian calendar; the truth on noleap") as refused:
        open_truth([tmp_path / "truth.nc"], Store.open(tiny_store).channels, tiny_store)
    assert refused.value.where == str(tiny_store)


@pytest.mark.parametrize("calendar", ["360_day", "noleap", "all_leap", "proleptic_gregorian"])
def test_a_season_is_as_long_at_the_turn_of_the_year(calendar: str) -> None:
    seconds = np.arange(parse_instant("2000-01-01", calendar), parse_instant("2005-01-01", calendar), DAY)
    record = Record(np.zeros((len(seconds), 1, 2, 3), np.float32), TimeAxis(seconds, calendar), CHANNELS, GRID)
    rival = OtherYears(record, CHANNELS, 2, seed=0)
    for date in ("2002-01-03", "2002-06-15", "2002-12-27"):
        valid = parse_instant(date, calendar)
        found = rival.candidates(valid)
        year = {"360_day": 360, "all_leap": 366}.get(calendar, 365.25) * DAY
        away = np.abs((found - valid + year / 2) % year - year / 2) / DAY
        assert away.max() <= 11, f"{date}: the season reaches {away.max():.1f} days"
        assert len(found) >= 4 * 21 - 11, f"{date}: {len(found)} days"
