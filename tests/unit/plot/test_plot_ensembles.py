"""Ensembles and diagrams in time: mean, spread, one member, all of them; a place; a band of latitudes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from afno_forecast.errors import ConfigError, DataError
from afno_forecast.grid import LatLonGrid
from afno_forecast.plot import hovmoller, meteogram, stamps
from afno_forecast.plot.choices import Look, When
from afno_forecast.plot.dates import marks
from afno_forecast.plot.maps import build_map, plot_compare, plot_map
from afno_forecast.plot.series import Series
from afno_forecast.plot.views import view_for
from afno_forecast.times import parse_instant

DAY = When(init="first", lead="1d")


@pytest.fixture(scope="module")
def ensemble(forecast: xr.Dataset) -> xr.Dataset:
    members = [forecast.map(lambda item, k=k: item + (k - 1.0) * item.std(), keep_attrs=True) for k in range(4)]
    return xr.concat(members, xr.IndexVariable("number", [1, 2, 3, 4]), combine_attrs="override").assign_attrs(forecast.attrs)


def test_mean_spread_and_member_are_what_they_say(ensemble: xr.Dataset) -> None:
    raw = ensemble["2m_temperature"].isel(time=0, prediction_timedelta=1)
    mean, spread, third = (Series(ensemble, "t2m", m).find(init="first", lead="1d") for m in (None, "spread", "3"))
    np.testing.assert_allclose(mean.values, raw.mean("number").values - 273.15)
    np.testing.assert_allclose(spread.values, raw.std("number", ddof=1).values)
    np.testing.assert_allclose(third.values, raw.sel(number=3).values - 273.15)
    assert (mean.units.text, spread.units.text) == ("°C", "K")
    assert mean.label == "2 m temperature, mean of 4 members" and third.label == "2 m temperature, member 3 of 4"
    assert spread.label == "Ensemble spread of 2 m temperature" and spread.is_spread and not spread.is_vector


def test_the_speed_of_an_ensemble_is_taken_member_by_member(ensemble: xr.Dataset) -> None:
    u, v = (ensemble[f"{c}_component_of_wind"].sel(level=850).isel(time=0, prediction_timedelta=1) for c in "uv")
    np.testing.assert_allclose(Series(ensemble, "wind_speed@850").find(init="first", lead="1d").values, np.hypot(u, v).mean("number").values)


@pytest.mark.parametrize(("member", "says"), [("5", "there are 1 to 4"), ("median", "no member 'median'"), ("0", "there are 1 to 4")])
def test_a_member_that_is_not_there_is_refused(ensemble: xr.Dataset, forecast: xr.Dataset, member: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Series(ensemble, "t2m", member)
    with pytest.raises(DataError, match="no ensemble"):
        Series(forecast, "t2m", member)


def test_lines_over_a_spread_are_of_the_mean(ensemble: xr.Dataset, tmp_path: Path) -> None:
    field = Series(ensemble, "z500", "spread").find(init="first", lead="1d")
    mean = Series(ensemble, "z500").find(init="first", lead="1d")
    figure = build_map(field, view_for(field.grid), Look(dpi=40), overlay=mean)
    assert figure.texts[0].get_text() == "Ensemble spread of geopotential height at 500 hPa (m);  lines: ensemble mean (m)"
    assert plot_map(ensemble, "z500", tmp_path / "s.png", when=When("first", "1d", None, "spread"), contours="z500", look=Look(dpi=40)).exists()


def test_there_is_no_truth_of_a_spread(ensemble: xr.Dataset, truth: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no truth of an ensemble's spread"):
        plot_compare(ensemble, truth, "t2m", tmp_path / "c.png", when=When("first", "1d", None, "spread"))


def test_stamps_have_a_map_a_member_in_the_same_colours(ensemble: xr.Dataset, tmp_path: Path) -> None:
    series = Series(ensemble, "t2m")
    mean = series.find(init="first", lead="1d")
    spread = Series(ensemble, "t2m", "spread").find(init="first", lead="1d")
    members = [Series(ensemble, "t2m", str(k)).find(init="first", lead="1d") for k in (1, 2, 3, 4)]
    figure = stamps.build_stamps(mean, spread, members, series.numbers, view_for(mean.grid), Look(dpi=30))
    maps = [axes for axes in figure.axes if axes.images and axes.images[0].norm.boundaries is figure.axes[0].images[0].norm.boundaries]
    assert len(maps) == 1 + 4 and any("4 members" in t.get_text() for t in figure.texts)
    with Image.open(stamps.plot_stamps(ensemble, "t2m", tmp_path / "s.png", when=DAY, look=Look("npolar", dpi=30))) as picture:
        assert picture.width == 360


def test_stamps_need_members(forecast: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no ensemble"):
        stamps.plot_stamps(forecast, "t2m", tmp_path / "s.png", when=DAY)


def test_a_point_is_the_cell_of_the_map_for_any_order_of_the_file(ensemble: xr.Dataset) -> None:
    turned = ensemble.isel(latitude=slice(None, None, -1)).assign_coords(longitude=(ensemble.longitude + 180) % 360 - 180).sortby("longitude")
    for ds in (ensemble, turned, ensemble.transpose("longitude", "latitude", ...)):
        series = Series(ds, "z500")
        start = series.instant("first")
        np.testing.assert_allclose(series.point(start, 86400, 4, 17), series.members(start, 86400)[:, 4, 17])


@pytest.mark.parametrize(("place", "cell"), [((52.5, 13.4), (55.0, 15.0)), ((-33.9, -179.0), (-35.0, 180.0)), ((8.0, 359.0), (5.0, 0.0)),
                                             ((90.0, 0.0), (85.0, 0.0))])
def test_the_nearest_grid_point_over_date_line_and_pole(place: tuple[float, float], cell: tuple[float, float]) -> None:
    grid = LatLonGrid(np.linspace(-85, 85, 18), np.arange(0, 360, 15.0))
    row, column, away = meteogram.nearest_cell(grid, *place)
    if place[0] < 90:
        assert (grid.latitude[row], grid.longitude[column]) == cell
    assert grid.latitude[row] == cell[0] and away < 6371 * np.deg2rad(10)


def test_a_place_off_the_grid_or_the_earth_is_refused() -> None:
    part = LatLonGrid(np.linspace(30, 60, 7), np.arange(0, 40, 5.0))
    assert meteogram.nearest_cell(part, 45.1, 10.2)[2] < 30
    with pytest.raises(DataError, match="off the grid"):
        meteogram.nearest_cell(part, 45, -20)
    with pytest.raises(ConfigError, match="no place"):
        meteogram.nearest_cell(part, float("nan"), 0)


def test_a_meteogram_has_bands_members_median_and_truth(ensemble: xr.Dataset, truth: xr.Dataset, tmp_path: Path) -> None:
    plume = meteogram.read_plume(ensemble, truth, "t2m", "first", (52.5, 13.4))
    assert plume.values_LE.shape == (3, 4) and plume.truth is not None
    row, column, _ = meteogram.nearest_cell(plume.series.grid, 52.5, 13.4)
    there = [Series(truth, "t2m").at(int(t)).values[row, column] for t in plume.valid]
    np.testing.assert_allclose(plume.truth[1], there)
    figure = meteogram.build_meteogram([plume], (52.5, 13.4), dpi=40)
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words == ["all members", "10–90 %", "25–75 %", "median", "truth (analysis)"]
    assert "4 members" in figure.texts[1].get_text() and "Grid point 55°N 15°E" in figure.texts[1].get_text()
    assert "Simulated" in figure.texts[2].get_text()
    assert meteogram.plot_meteogram(ensemble, ["t2m", "z500"], (52.5, 13.4), tmp_path / "m.png", init="last", dpi=40).stat().st_size > 2000


def test_one_forecast_is_one_line(forecast: xr.Dataset) -> None:
    plume = meteogram.read_plume(forecast, None, "u850", "first", (-33.9, 18.4))
    figure = meteogram.build_meteogram([plume], (-33.9, 18.4), dpi=40)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["forecast"]


def test_a_band_mean_has_exact_areas_and_leaves_out_what_is_missing(forecast: xr.Dataset) -> None:
    field = Series(forecast, "t2m").find(init="first", lead="1d")
    field.values[14, 3] = np.nan
    rows, words = hovmoller.band_rows(field.grid, (30, 60))
    assert field.grid.latitude[rows].tolist() == [35, 45, 55] and words == "mean over 30°N to 60°N"  # type: ignore[union-attr]
    weights = field.grid.cell_areas()[rows]
    expected = (weights * field.values[rows]).sum(axis=0) / weights.sum(axis=0)
    expected[3] = (weights[:2, 3] * field.values[rows[:2], 3]).sum() / weights[:2, 3].sum()  # row 14 is the last of the band
    np.testing.assert_allclose(hovmoller.band_mean(field, rows), expected)


@pytest.mark.parametrize(("seconds", "text"), [(0, "+0 h"), (5400, "+1.5 h"), (43200, "+12 h"), (86400, "+1 d"), (129600, "+1.5 d")])
def test_leads_within_the_first_day_are_hours(seconds: int, text: str) -> None:
    assert hovmoller._after(seconds) == text


def test_forecast_and_truth_run_side_by_side(forecast: xr.Dataset, truth: xr.Dataset, tmp_path: Path) -> None:
    series = Series(forecast, "z500")
    section = hovmoller.read_section(series, None, "first")
    assert section.values_LW.shape == (3, 24)
    np.testing.assert_array_equal(section.instants - series.instant("first"), [21600, 86400, 172800])
    for style in ("smooth", "cells"):
        out = hovmoller.plot_hovmoller(forecast, "z500", tmp_path / f"{style}.png", truth=truth.isel(time=slice(0, 6)), when=When("first"),
                                       look=Look(style=style, dpi=40))
        assert out.stat().st_size > 2000
    assert hovmoller.plot_hovmoller(truth, "t2m", tmp_path / "a.png", band=(-60, -30), look=Look(dpi=40)).stat().st_size > 2000


def test_bands_and_times_that_are_not_there_are_refused(forecast: xr.Dataset, truth: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "h.png"
    with pytest.raises(ConfigError, match="is no band"):
        hovmoller.plot_hovmoller(forecast, "t2m", out, band=(60, 30), when=When("first"))
    with pytest.raises(DataError, match="no row of the grid"):
        hovmoller.plot_hovmoller(forecast, "t2m", out, band=(86, 89), when=When("first"))
    with pytest.raises(DataError, match="one instant makes no diagram"):
        hovmoller.plot_hovmoller(truth.isel(time=[0]), "t2m", out)
    with pytest.raises(DataError, match="none of the forecast's valid times"):
        hovmoller.plot_hovmoller(forecast, "t2m", out, truth=truth.isel(time=[0]), when=When("first"))
    assert not out.exists()


def test_marks_are_round_and_name_the_day_at_midnight() -> None:
    start = parse_instant("2002-12-30T18")
    found = marks(np.array([start, start + 2 * 86400]), "proleptic_gregorian", 6)
    assert [words for _, words in found] == ["31 Dec", "12 UTC", "1 Jan", "12 UTC"]
    assert [words for _, words in marks(np.array([start, start + 420]), "noleap", 8)][:3] == ["18 UTC", "18:01", "18:02"]
    assert [words for _, words in marks(np.array([start + 7, start + 70]), "standard", 8)] == [f"18:00:{s}" for s in range(10, 60, 10)] + [
        "18:01", "18:01:10"]
    assert next(words for _, words in marks(np.array([start, start + 40 * 86400]), "proleptic_gregorian", 6)).endswith(("Dec", "Jan"))
