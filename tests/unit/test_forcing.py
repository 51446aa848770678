"""Solar geometry against textbook values; alignment; boxes."""

import numpy as np
import pytest
import torch

from afno_forecast.errors import ConfigError
from afno_forecast.forcing import SOLAR_CONSTANT, Forcing, toa_radiation
from afno_forecast.grid import BoxGrid, LatLonGrid
from afno_forecast.times import TimeAxis, parse_instant

GRID = LatLonGrid((np.arange(18) + 0.5) * 10 - 90, np.arange(24) * 15.0)


def at(text: str, latitude: float, longitude: float) -> float:
    return toa_radiation(TimeAxis(np.asarray([parse_instant(text)])), np.asarray([[latitude]]), np.asarray([[longitude]])).item()


def test_the_sun_is_overhead_where_it_should_be() -> None:
    assert at("2001-06-21T12", 23.44, 0) / SOLAR_CONSTANT == pytest.approx(1 / 1.0163**2, rel=3e-3)
    assert at("2001-03-20T12", 0, 0) / SOLAR_CONSTANT == pytest.approx(1 / 0.9959**2, rel=3e-3)
    assert at("2001-03-20T00", 0, 180) == pytest.approx(at("2001-03-20T12", 0, 0), rel=2e-3)


def test_polar_night_and_midnight_sun() -> None:
    for hour in range(0, 24, 3):
        assert at(f"2001-12-21T{hour:02d}", 80, 40) == 0
        assert at(f"2001-06-21T{hour:02d}", 80, 40) > 300


def test_global_mean_is_a_quarter_of_the_solar_constant_over_a_year() -> None:
    times = TimeAxis(parse_instant("2001-01-01") + 86400 * np.arange(0, 365, 5) + 3 * 3600 * (np.arange(73) % 8))
    latitude, longitude = np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij")
    mean = (toa_radiation(times, latitude, longitude) * GRID.area_weights()).mean()
    assert mean == pytest.approx(SOLAR_CONSTANT / 4, rel=5e-3)


def test_declination_follows_the_year_of_the_calendar() -> None:
    for calendar in ("noleap", "360_day", "proleptic_gregorian"):
        solstice = TimeAxis(np.asarray([parse_instant("2001-06-21T12", calendar)]), calendar)
        assert toa_radiation(solstice, np.asarray([[23.44]]), np.asarray([[0.0]])).item() / SOLAR_CONSTANT == pytest.approx(0.968, abs=4e-3)


@pytest.mark.parametrize(("text", "declination"), [("2019-03-20T21:58", 0.0), ("2020-06-20T21:44", 23.436), ("2017-09-22T20:02", 0.0),
                                                   ("2018-12-21T22:23", -23.435), ("2022-05-05T12", 16.3)])
def test_declination_at_the_equinoxes_and_solstices_of_several_years(text: str, declination: float) -> None:
    """The latitude of most sun at solar noon; instants of the seasons as published by the almanacs."""
    latitude = np.linspace(-90, 90, 18001)
    longitude = -15 * (float(text[11:13]) + (float(text[14:16]) / 60 if len(text) > 13 else 0) - 12)
    sun = toa_radiation(TimeAxis(np.asarray([parse_instant(text)])), latitude[:, None], np.full((18001, 1), longitude))[0, :, 0]
    zenith_side = latitude[np.argmax(sun)]
    assert zenith_side == pytest.approx(declination, abs=0.06)


def test_channels_come_in_the_order_asked_for_and_follow_the_time() -> None:
    static = {"orography": np.arange(18 * 24, dtype=np.float32).reshape(18, 24)}
    forcing = Forcing(("sin_longitude", "cos_day_of_year", "toa_radiation"), static, GRID, calendar="proleptic_gregorian", time_step=21600)
    seconds = np.asarray([parse_instant("2001-01-01"), parse_instant("2001-07-02T12"), parse_instant("2001-01-01T06")])
    values = forcing(seconds)
    assert values.shape == (3, 4, 18, 24) and values.dtype == torch.float32 and forcing.num_channels == 4
    assert values[0, 1, 3].numpy() == pytest.approx(np.sin(np.deg2rad(GRID.longitude)), abs=1e-6)
    assert values[:, 2, 0, 0].tolist() == pytest.approx([1, -1, 1], abs=1e-3)
    rolled = torch.roll(values[0, 3], -6, dims=1)
    assert torch.allclose(values[2, 3], rolled, atol=4e-3), "six hours later the sun stands 90 degrees further west"
    weights = torch.from_numpy(GRID.area_weights()).float()
    assert (values[0, 0] * weights).mean().item() == pytest.approx(0, abs=1e-5)
    assert (values[0, 0] ** 2 * weights).mean().item() == pytest.approx(1, rel=1e-5)


def test_what_has_no_meaning_is_refused() -> None:
    box = BoxGrid(np.arange(4.0), np.arange(6.0))
    with pytest.raises(ConfigError, match="no meaning on a 4x6 box"):
        Forcing(("toa_radiation",), {}, box, calendar="proleptic_gregorian", time_step=1)
    with pytest.raises(ConfigError, match="unknown forcing moonlight"):
        Forcing(("moonlight",), {}, GRID, calendar="proleptic_gregorian", time_step=21600)
    assert Forcing((), {}, box, calendar="proleptic_gregorian", time_step=1)(np.zeros(3, np.int64)).shape == (3, 0, 4, 6)
