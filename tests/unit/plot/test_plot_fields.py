"""Choosing a map, its units and its words."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from afno_forecast.errors import ConfigError, DataError
from afno_forecast.grid import LatLonGrid
from afno_forecast.plot.fields import clean, lead_text, pretty_units, scores_of
from afno_forecast.plot.series import Series, available, truth_for


def test_forecast_is_found_by_init_and_lead_and_shown_in_readable_units(forecast: xr.Dataset) -> None:
    field = Series(forecast, "z500").find(init="last", lead="2d")
    raw = forecast["geopotential"].sel(level=500).isel(time=1, prediction_timedelta=2).values
    assert field.units.text == "m"
    np.testing.assert_allclose(field.values, raw / 9.80665)
    assert field.times_text() == "Init 2001-12-01 12 UTC    Lead +48 h (2 d)    Valid 2001-12-03 12 UTC"
    assert field.label == "Geopotential height at 500 hPa" and field.simulated


def test_valid_time_with_lead_or_init_is_the_same_map(forecast: xr.Dataset) -> None:
    series = Series(forecast, "t2m")
    wanted = series.find(init="2001-12-01T12", lead="24h").values
    np.testing.assert_array_equal(series.find(time="2001-12-02T12", lead="1d").values, wanted)
    np.testing.assert_array_equal(series.find(time="2001-12-02T12", init="last").values, wanted)
    with pytest.raises(ConfigError, match="either init or lead"):
        series.find(time="2001-12-02T12")


def test_a_single_time_picks_itself_and_several_do_not(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    one = forecast.isel(time=[1], prediction_timedelta=[0])
    assert Series(one, "z850").find().times_text().startswith("Init 2001-12-01 12 UTC    Lead +6 h ")
    with pytest.raises(DataError, match="2 times to choose from"):
        Series(forecast, "z850").find(lead="6h")
    with pytest.raises(DataError, match=r"3 lead times to choose from: 6h, 1d, 2d"):
        Series(forecast, "z850").find(init="first")
    with pytest.raises(DataError, match="16 times to choose from"):
        Series(truth, "z850").find()
    assert Series(truth.isel(time=0, drop=True), "t2m").find().valid is None


@pytest.mark.parametrize(("name", "says"), [("z5000", "z500, z850"), ("z300", "did you mean 'z500'"), ("msl", "t2m"), ("geopotential", "z500"),
                                            ("t2m@500", "t2m")])
def test_what_is_missing_is_answered_with_what_there_is(forecast: xr.Dataset, name: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        Series(forecast, name)
    assert says in str(caught.value)


def test_missing_lead_and_time_name_those_there_are(forecast: xr.Dataset) -> None:
    with pytest.raises(DataError, match=r"no lead time 5d in this file; there are 6h, 1d, 2d"):
        Series(forecast, "z500").find(init="first", lead="5d")
    with pytest.raises(DataError, match=r"no time 2002-01-01T00 in this file; there are 2001-12-01T00, 2001-12-01T12"):
        Series(forecast, "z500").find(init="2002-01-01", lead="6h")
    with pytest.raises(ConfigError, match="no lead times"):
        Series(forecast.isel(prediction_timedelta=0, drop=True), "z500").find(lead="6h", time="first")


def test_wind_speed_comes_from_its_components(forecast: xr.Dataset) -> None:
    field = Series(forecast, "wind_speed@850").find(init="first", lead="6h")
    u, v = (Series(forecast, n).find(init="first", lead="6h").values for n in ("u850", "v850"))
    np.testing.assert_allclose(field.values, np.hypot(u, v))
    assert field.units.text == "m/s"


def test_units_without_a_known_conversion_stay(truth: xr.Dataset) -> None:
    odd = truth.assign({"2m_temperature": truth["2m_temperature"].assign_attrs(units="degF")})
    field = Series(odd, "t2m").find(time="first")
    assert field.units.text == "degF"
    np.testing.assert_array_equal(field.values, truth["2m_temperature"].isel(time=0).values)


def test_scores_of_a_map_use_exact_areas_and_leave_out_what_is_missing(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    field = Series(forecast, "t2m").find(init="first", lead="1d")
    there = truth_for(field, Series(truth, "t2m"))
    rmse, bias = scores_of(field, there)
    weights = LatLonGrid(forecast.latitude.values, forecast.longitude.values).cell_areas()
    error = field.values - there.values
    assert rmse == pytest.approx(np.sqrt((weights * error**2).sum() / weights.sum()))
    assert bias == pytest.approx((weights * error).sum() / weights.sum())
    there.values[3] = np.nan
    rows = np.arange(18) != 3
    assert scores_of(field, there)[0] == pytest.approx(np.sqrt((weights * error**2)[rows].sum() / weights[rows].sum()))


def test_truth_on_another_grid_or_without_the_time_is_refused(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    field = Series(forecast, "t2m").find(init="first", lead="1d")
    with pytest.raises(DataError, match="different grids"):
        field.minus(truth_for(field, Series(truth.isel(longitude=slice(0, None, 2)), "t2m")))
    with pytest.raises(DataError, match="no time 2001-12-02T00"):
        truth_for(field, Series(truth.isel(time=slice(0, 3)), "t2m"))


def test_words() -> None:
    assert lead_text(0) == "+0 h" and lead_text(5400) == "+1.5 h" and lead_text(864000) == "+240 h (10 d)"
    assert pretty_units("m s**-1") == "m s⁻¹" and pretty_units("1") == ""
    assert clean("a\x1b[31m\nb") == "a [31m b"
    assert len(clean("x" * 500)) == 200


def test_a_level_that_a_variable_lacks_is_neither_listed_nor_drawn(forecast: xr.Dataset) -> None:
    lacking = forecast.copy()
    z = forecast["geopotential"]
    lacking["geopotential"] = z.where(z["level"] == 500)
    with pytest.raises(DataError, match="every value of 'z850' is missing"):
        Series(lacking, "z850").find(init="first", lead="6h")
    for name in ("geopotential", "v_component_of_wind"):
        lacking[name].attrs = {**forecast[name].attrs, "available_levels": np.array([500], dtype=np.int32)}
    assert available(lacking) == ["z500", "u500", "u850", "v500", "t2m"]
    for name in ("z850", "wind_speed@850"):
        with pytest.raises(DataError, match="there are z500, u500, u850"):
            Series(lacking, name)
    assert Series(lacking, "geopotential").level == Series(lacking, "wind_speed").level == 500


def test_what_must_be_chosen_is_asked_for_as_it_is_typed(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    for ds, choice, words in ((forecast, {"lead": "6h"}, "--init first, --init last"), (truth, {}, "--time first, --time last"),
                              (forecast, {"init": "first"}, "--lead 6h")):
        with pytest.raises(DataError) as refused:
            Series(ds, "t2m").find(**choice)  # type: ignore[arg-type]
        assert words in refused.value.fix
