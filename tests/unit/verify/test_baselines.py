"""What forecasts are compared with: the record of the training period alone, and states of the same season on any calendar."""

from __future__ import annotations

import itertools
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
from afno_forecast.verify.online import OnlineScorer
from afno_forecast.verify.settings import References, ScoreSettings
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


def test_days_of_the_probabilistic_climatology_are_days_of_the_record() -> None:
    """Amounts of four unrelated days are far too seldom all dry, and a forecast without skill would cost more than 1."""
    channels, members = ChannelSet((Channel("total_precipitation_6hr", None, "m"),)), 6
    grid = LatLonGrid(np.array([-60.0, 0, 60]), np.arange(8) * 45.0)
    rng = np.random.default_rng(4)

    def weather(year: int, days: int) -> Record:
        amounts = np.where(rng.random((days, 1, *grid.shape)) < 0.5, 0, rng.gamma(1, 8e-4, (days, 1, *grid.shape)))
        times = TimeAxis(parse_instant(f"{year}-01-01T06") + 6 * 3600 * np.arange(4 * days, dtype=np.int64))
        return Record(np.repeat(amounts, 4, axis=0).astype(np.float32), times, channels, grid)

    past, truth = weather(2001, 3 * 365), weather(2005, 120)
    rival = OtherYears(past, channels, members, seed=0)
    end, parts = parse_instant("2005-02-01"), tuple(6 * 3600 * k for k in range(4))
    day = rival.parts(end, parts)
    assert day is not None and day.shape == (4, members, 1, *grid.shape) and (day == day[0]).all(), "four amounts of one day are equal here"
    np.testing.assert_array_equal(day[0], rival.members(end - DAY, DAY))
    inits, leads = parse_instant("2005-01-02") + 2 * DAY * np.arange(50), 6 * 3600 * np.arange(1, 5)
    scorer = OnlineScorer(truth, channels, inits, leads, num_members=members, references=References(record=past),
                          settings=ScoreSettings(regions=("global",), kinds=("ensemble", "precipitation")))
    for init, lead in itertools.product(inits.tolist(), leads.tolist()):
        scorer.score(init, lead, np.repeat(truth.read(truth.index_of(np.asarray([init + lead]))), members, axis=0))
    scores = scorer.finalize()["total_precipitation_24hr"].isel(region=0, lead_time=-1)
    assert float(scores.sel(metric="seeps")) == 0
    assert float(scores.sel(metric="seeps_probabilistic_climatology")) == pytest.approx(1, abs=0.07)
