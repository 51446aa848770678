"""What forecasts are compared with: states of the same season on any calendar."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.grid import LatLonGrid
from afno_forecast.times import TimeAxis, parse_instant
from afno_forecast.verify.baselines import OtherYears

sys.path.insert(0, str(Path(__file__).parent))
from in_memory import Record

DAY = 86400
CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"),))
GRID = LatLonGrid(np.array([-45.0, 45.0]), np.arange(3) * 120.0)


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
