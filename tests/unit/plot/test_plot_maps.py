"""Maps: what is written on them, shared limits, the same picture for any order of the file."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from PIL import Image

from afno_forecast.errors import ConfigError, DataError, ResourceError
from afno_forecast.plot import canvas, maps, style
from afno_forecast.plot.choices import Look, When
from afno_forecast.plot.fields import Field
from afno_forecast.plot.series import Series, truth_for
from afno_forecast.plot.views import NAMES, view_for

DAY, FIRST = When(init="first", lead="1d"), When(time="first")


def _words(figure: Figure) -> str:
    texts = list(figure.texts) + [t for axes in figure.axes for t in [*axes.texts, axes.xaxis.label]]
    return "\n".join(t.get_text() for t in texts)


def _field(ds: xr.Dataset, name: str = "z500", lead: str = "1d") -> Field:
    return Series(ds, name).find(init="first", lead=lead)


def test_a_map_says_all_a_forecaster_asks(forecast: xr.Dataset) -> None:
    field = _field(forecast)
    words = _words(maps.build_map(field, view_for(field.grid)))
    for said in ("Geopotential height at 500 hPa (m)", "Init 2001-12-01 00 UTC", "Lead +24 h (1 d)", "Valid 2001-12-02 00 UTC",
                 "Simulated, not observed", "Grid 18 × 24 (10° × 15°)", "Natural Earth", "60°N", "120°W"):
        assert said in words


def test_no_two_texts_overlap_and_none_leaves_the_page(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    field = _field(forecast)
    there, looks = truth_for(field, Series(truth, "z500")), ((None, None), ("npolar", None), ("mollweide", None), ("npolar", (-180, 180, 50, 90)),
                                                            ("spolar", (-180, 180, -90, -35)), ("lambert", (150, -120, 60, 90)),
                                                            ("npolar", (-30, 45, 30, 75)), ("spolar", (20, 110, -75, -30)))
    figures = [maps.build_compare(field, there, view_for(field.grid, name)).figure for name in (None, "npolar")]
    for figure in (*figures, *(maps.build_map(field, view_for(field.grid, name, region)) for name, region in looks)):
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        texts = [t for t in figure.texts if t.get_text() and t.get_visible()]
        texts += [t for axes in figure.axes for t in [*axes.texts, axes.xaxis.label] if t.get_text() and t.get_visible()]
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
        for i, (name, box) in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
            for other, second in boxes[i + 1:]:
                assert not (box.x0 < second.x1 and second.x0 < box.x1 and box.y0 < second.y1 and second.y0 < box.y1), (name, other)


@pytest.mark.parametrize(("projection", "region"), [("lambert", (150, -120, 60, 90)), ("npolar", (-180, 180, 60, 90)), ("npolar", (-30, 45, 60, 80))])
def test_colours_and_extremes_are_of_what_the_outline_encloses(forecast: xr.Dataset, projection: str, region: tuple[float, ...]) -> None:
    field = _field(forecast)
    latitudes = dataclasses.replace(field, values=np.broadcast_to(np.asarray(field.grid.latitude)[:, None], field.grid.shape).copy())
    (shown,) = maps.seen([latitudes], view_for(field.grid, projection, region), "smooth")
    there = shown[np.isfinite(shown)]
    assert 59.5 < there.min() < 61 and 79 < there.max() <= max(region[3], 85)


def test_a_part_of_the_map_without_any_value_is_refused(forecast: xr.Dataset) -> None:
    part = _field(forecast.sel(latitude=slice(-40, 40)) if forecast["latitude"][0] < 0 else forecast.sel(latitude=slice(40, -40)))
    with pytest.raises(DataError, match=r"the map shows no value of Geopotential height at 500 hPa: the data are on .* latitude -35") as error:
        maps.build_map(part, view_for(part.grid, None, (0, 40, 55, 80)))
    assert error.value.fix == "give a region that the data cover"


@pytest.mark.parametrize(("projection", "region", "other"), [("spolar", (-30, 45, 30, 75), "npolar"), ("npolar", (-30, 45, -75, 10), "spolar")])
def test_a_polar_map_is_of_its_own_hemisphere(forecast: xr.Dataset, projection: str, region: tuple[float, float, float, float], other: str) -> None:
    with pytest.raises(ConfigError, match=f"the {projection} map does not reach latitude") as error:
        view_for(_field(forecast).grid, projection, region)
    assert f"--projection {other}" in str(error.value.fix)


@pytest.mark.parametrize(("region", "reason"), [((10, 20, 50, 40), "its south, 50, is not below its north, 40"),
                                                ((0, 10, 30, 95), "between -90 and 90"),
                                                ((10, 10, 30, 40), "west and east are the same"), ((np.nan, 10, 30, 40), "are no degrees"),
                                                ((-200, 200, 30, 40), "more than once around the globe")])
def test_a_region_that_is_none_is_told_why(forecast: xr.Dataset, region: tuple[float, float, float, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        view_for(_field(forecast).grid, None, region)


@pytest.mark.parametrize("region", [(180.0, -180.0, 30.0, 75.0), (-180.0, 180.0, 30.0, 75.0), (360.0, 0.0, 30.0, 75.0)])
def test_the_same_meridian_twice_is_the_whole_circle(forecast: xr.Dataset, region: tuple[float, float, float, float]) -> None:
    for center in (None, (90.0, 0.0)):
        left, right, bottom, top = view_for(_field(forecast).grid, None, region, center).extent
        assert (right - left, bottom, top) == pytest.approx((360, 30, 75), abs=1e-3)


@pytest.mark.parametrize("projection", ["platecarree", "robinson", "equalearth", "mollweide", "lambert"])
def test_a_map_is_not_cut_inside_its_region(forecast: xr.Dataset, projection: str) -> None:
    grid, region = _field(forecast).grid, (170.0, -170.0, 20.0, 40.0)
    with pytest.raises(ConfigError, match="is cut at 180°, inside the region"):
        view_for(grid, projection, region, (0.0, 30.0 if projection == "lambert" else 0.0))
    view = view_for(grid, projection, region, (-175.0, 30.0 if projection == "lambert" else 0.0))
    assert np.abs(np.diff(view.outline[:, 0])).max() < 0.2 * (view.extent[1] - view.extent[0])


@pytest.mark.parametrize(("region", "center"), [((-30.0, 45.0, 80.0, 90.0), None), ((-30.0, 45.0, -90.0, -75.0), None),
                                                ((-30.0, 45.0, 30.0, 75.0), (10.0, 85.0))])
def test_lambert_maps_reach_the_poles(forecast: xr.Dataset, region: tuple[float, float, float, float], center: tuple[float, float] | None) -> None:
    view = view_for(_field(forecast).grid, "lambert", region, center)
    assert 0.1 < view.aspect < 2 and np.isfinite(view.outline).all()


def test_no_line_runs_along_the_edge_of_a_plateau() -> None:
    shown = np.ma.masked_invalid(np.array([[0.0, 0.0, np.nan], [0.0, 0.7, 1.0]]))
    assert canvas._crossed(shown, np.array([-0.5, 0.0, 0.25, 0.5, 1.0, 1.5])).tolist() == [0.25, 0.5]
    assert len(canvas._crossed(np.ma.masked_invalid(np.full((2, 2), np.nan)), np.array([0.0]))) == 0


def test_forecast_and_truth_share_limits_and_the_error_is_symmetric(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    field = _field(forecast, "t2m")
    there = truth_for(field, Series(truth, "t2m"))
    page = maps.build_compare(field, there, view_for(field.grid))
    first, second, third = (panel.image.norm for panel in page.panels)
    np.testing.assert_array_equal(first.boundaries, second.boundaries)
    assert first.boundaries[0] <= min(field.values.min(), there.values.min()) and first.boundaries[-1] >= max(field.values.max(), there.values.max())
    np.testing.assert_array_equal(third.boundaries, -third.boundaries[::-1])
    rmse = np.sqrt(np.average((field.values - there.values) ** 2, weights=field.grid.cell_areas()))
    assert f"RMSE {rmse:.4g} K,  bias" in _words(page.figure)


def test_an_error_without_units_has_nothing_behind_it(forecast: xr.Dataset, truth: xr.Dataset) -> None:
    plain = [ds.assign({"2m_temperature": ds["2m_temperature"].assign_attrs(units="1")}) for ds in (forecast, truth)]
    field = _field(plain[0], "t2m")
    page = maps.build_compare(field, truth_for(field, Series(plain[1], "t2m")), view_for(field.grid))
    assert re.search(r"RMSE [0-9.]+,  bias [+−][0-9.e−]+(\n|$)", _words(page.figure))


@pytest.mark.parametrize(("projection", "region"), [(None, (150.0, -120.0, 20.0, 65.0)), ("orthographic", None)])
def test_numbers_beside_a_part_of_the_globe_are_of_that_part(forecast: xr.Dataset, truth: xr.Dataset, projection: str | None,
                                                              region: tuple[float, float, float, float] | None) -> None:
    field = _field(forecast, "t2m")
    there = truth_for(field, Series(truth, "t2m"))
    view = view_for(field.grid, projection, region)
    page = maps.build_compare(field, there, view)
    latitude, longitude = field.grid.latitude[:, None], field.grid.longitude[None, :]
    if region is not None:
        inside = (latitude >= 20) & (latitude <= 65) & (longitude >= 150) & (longitude <= 240)
    else:
        inside = np.isfinite(view.project(*np.meshgrid(field.grid.longitude, field.grid.latitude))[0])
        assert 0.4 < inside.mean() < 0.6
    error, weights = (field.values - there.values)[inside], field.grid.cell_areas()[inside]
    assert f"RMSE {np.sqrt(np.average(error**2, weights=weights)):.4g} K" in _words(page.figure)
    greatest = page.panels[0].image.norm.boundaries[-1]
    step = np.diff(page.panels[0].image.norm.boundaries)[-1]
    assert greatest - step < max(np.nanmax(maps.seen([f], view, "smooth")[0]) for f in (field, there)), "colours fit what is seen"


def test_a_perfect_forecast_has_no_error(truth: xr.Dataset) -> None:
    leads = np.array([0, 6], "timedelta64[h]").astype("timedelta64[ns]")
    perfect = truth.isel(time=[0, 1]).rename(time="prediction_timedelta").assign_coords(prediction_timedelta=leads)
    perfect = perfect.expand_dims(time=truth.time.values[:1])
    field = Series(perfect, "z500").find(lead="6h")
    words = _words(maps.build_compare(field, truth_for(field, Series(truth, "z500")), view_for(field.grid)).figure)
    assert "RMSE 0 m" in words


@pytest.mark.parametrize("change", ["latitude", "longitude", "both", "transposed"])
def test_the_picture_does_not_depend_on_the_order_of_the_file(forecast: xr.Dataset, tmp_path: Path, change: str) -> None:
    turned = forecast
    if change in ("latitude", "both"):
        turned = turned.isel(latitude=slice(None, None, -1))
    if change in ("longitude", "both"):
        turned = turned.assign_coords(longitude=(turned.longitude + 180) % 360 - 180).sortby("longitude")
    if change == "transposed":
        turned = turned.transpose("longitude", "latitude", "level", "prediction_timedelta", "time")
    pictures = [np.asarray(Image.open(maps.plot_map(ds, "u850", tmp_path / f"{i}.png", when=DAY, wind="arrows", contours="z500",
                                                      look=Look(dpi=50))))
                for i, ds in enumerate((forecast, turned))]
    np.testing.assert_array_equal(*pictures)


def test_the_same_map_is_the_same_file_of_the_right_size(forecast: xr.Dataset, tmp_path: Path) -> None:
    one, two = (maps.plot_map(forecast, "t2m", tmp_path / name, when=DAY, look=Look(dpi=60)) for name in ("a.png", "b ü.png"))
    assert one.read_bytes() == two.read_bytes()
    picture = Image.open(one)
    assert picture.width == 600 and 300 < picture.height < 500
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b ü.png"]


@pytest.mark.parametrize("projection", [n for n in NAMES if n != "lambert"])
def test_every_projection_covers_its_outline(truth: xr.Dataset, projection: str) -> None:
    field = Series(truth, "t2m").find(time="first")
    panel_axes = maps.build_map(field, view_for(field.grid, projection), Look(dpi=40)).axes[0]
    image = panel_axes.images[0].get_array()
    inside = view_for(field.grid, projection).outline
    middle = inside.mean(axis=0)
    left, right, bottom, top = view_for(field.grid, projection).extent
    for x, y in middle + (inside[::7] - middle) * 0.995:
        row, column = int((y - bottom) / (top - bottom) * image.shape[0]), int((x - left) / (right - left) * image.shape[1])
        assert np.isfinite(np.ma.filled(image, np.nan)[min(row, image.shape[0] - 1), min(column, image.shape[1] - 1)])


def test_regions_cross_the_date_line_and_lambert_wants_one(truth: xr.Dataset, tmp_path: Path) -> None:
    for region, projection in (((150.0, -120.0, 20.0, 65.0), None), ((-40.0, 40.0, 30.0, 75.0), "lambert")):
        out = maps.plot_map(truth, "t2m", tmp_path / "r.png", when=FIRST, look=Look(projection, region, dpi=40))
        assert out.stat().st_size > 2000
    with pytest.raises(ConfigError, match="shows a region"):
        maps.plot_map(truth, "t2m", tmp_path / "r.png", when=FIRST, look=Look("lambert"))


def test_a_surface_field_takes_the_only_wind_there_is_and_says_so(truth: xr.Dataset) -> None:
    one = truth.sel(level=[850])
    field = Series(one, "t2m").find(time="first")
    words = _words(maps.build_map(field, view_for(field.grid), Look(dpi=40), wind=maps._wind_of(one, field)))
    assert "wind arrows at 850 hPa" in words


def test_wrong_choices_are_named(forecast: xr.Dataset, truth: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    with pytest.raises(ConfigError, match="did you mean 'robinson'"):
        maps.plot_map(truth, "t2m", out, when=FIRST, look=Look("robinsen"))
    with pytest.raises(ConfigError, match="no style 'blocks'"):
        maps.plot_map(truth, "t2m", out, when=FIRST, look=Look(style="blocks"))
    with pytest.raises(ConfigError, match="is no region"):
        maps.plot_map(truth, "t2m", out, when=FIRST, look=Look(region=(0, 10, 50, 40)))
    with pytest.raises(ConfigError, match="not on one side of the orthographic map") as error:
        maps.plot_map(truth, "t2m", out, when=FIRST, look=Look("orthographic", region=(-120, 120, -30, 30)))
    assert error.value.fix == "add --projection platecarree"
    with pytest.raises(ConfigError, match="no ending"):
        maps.plot_map(truth, "t2m", tmp_path / "x.txt", when=FIRST)
    with pytest.raises(ResourceError, match="does not exist"):
        maps.plot_map(truth, "t2m", tmp_path / "no" / "x.png", when=FIRST)
    with pytest.raises(DataError, match="it is an analysis"):
        maps.plot_compare(truth, truth, "t2m", out)
    with pytest.raises(DataError, match=r"over 2 m temperature --wind draws wind at 10 m; this file has wind at .*850 hPa alone"):
        maps.plot_map(truth, "t2m", out, when=FIRST, wind="arrows")
    assert not out.exists()


def test_words_of_a_file_are_drawn_as_they_are(truth: xr.Dataset) -> None:
    field = Series(truth.assign_attrs(title="$\\frac{ \x1b[31m 天気", source=""), "t2m").find(time="first")
    words = _words(maps.build_map(field, view_for(field.grid), Look(dpi=30)))
    assert "$\\frac{ [31m ??" in words and "\x1b" not in words


def test_a_constant_map_is_drawn_and_an_empty_one_refused(truth: xr.Dataset, tmp_path: Path) -> None:
    field = Series(truth.map(lambda x: x * 0 + 280.0, keep_attrs=True), "t2m").find(time="first")
    assert "2 m temperature" in _words(maps.build_map(field, view_for(field.grid), Look(dpi=30)))
    empty = truth.assign({"2m_temperature": truth["2m_temperature"] * np.nan})
    for options in ({"variable": "t2m"}, {"variable": "z500", "contours": "t2m"}):
        with pytest.raises(DataError, match="every value of 't2m' is missing"):
            maps.plot_map(empty, out=tmp_path / "m.png", when=FIRST, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("low", "spread"), [(1e16, 0), (9.96921e36, 0), (-1e20, 0), (288.15, 5.7e-14), (1e5, 1.5e-11), (1.0, 2.3e-16)])
def test_what_is_constant_but_for_rounding_has_levels_that_can_be_told_apart(truth: xr.Dataset, low: float, spread: float) -> None:
    values = np.full((18, 24), low)
    values[3:5] += spread
    field = dataclasses.replace(Series(truth, "t2m").find(time="first"), values=values)
    assert "2 m temperature" in _words(maps.build_map(field, view_for(field.grid), Look(dpi=30)))
    levels = style.magnitude("density", [values]).levels
    assert levels[0] <= low <= levels[-1] and len({f"{level:g}" for level in levels}) == len(levels)


def test_maps_are_right_when_eccodes_was_loaded_first(tmp_path: Path) -> None:
    pytest.importorskip("eccodes")
    code = ("import eccodes\nfrom afno_forecast.plot.views import view_for\nfrom afno_forecast.grid import LatLonGrid\nimport numpy as np\n"
            "view = view_for(LatLonGrid(np.linspace(-85, 85, 18), np.arange(24) * 15.0))\n"
            "print(round(float(view.project(np.array([10.0]), np.array([20.0]))[0][0])), len(view.coasts) > 100, flush=True)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "927952 True"), done.stderr


def test_levels_are_round_and_cover_the_values() -> None:
    scale = style.magnitude("geopotential", [np.array([4873.0, 5931.0])])
    assert np.ptp(np.diff(scale.levels)) < 1e-9 and np.diff(scale.levels)[0] == 60
    assert scale.levels[0] <= 4873 and scale.levels[-1] >= 5931
    signed = style.magnitude("u_component_of_wind", [np.array([-3.0, 71.0])])
    np.testing.assert_array_equal(signed.levels, -signed.levels[::-1])
    assert 0.0 not in signed.levels and 0.0 in style.ticks(signed.levels)


@pytest.mark.parametrize(("scale", "words"), [(3e-7, "Vorticity (10⁻⁷ s⁻¹)"), (0.02, "Vorticity (10⁻² s⁻¹)"), (4.0, "Vorticity (s⁻¹)"),
                                              (5e6, "Vorticity (10⁶ s⁻¹)")])
def test_numbers_under_a_colour_bar_stay_short(scale: float, words: str) -> None:
    """They neither meet nor lose digits: what is written, times the power in the words, is the level."""
    figure = style.new_figure(4, 1, 100)
    axes = figure.add_axes((0.1, 0.6, 0.8, 0.2))
    levels = style.symmetric([np.linspace(-scale, scale, 50)])
    ticks = style.ticks(levels.levels, 11)
    canvas.finish_bar(Colorbar(axes, ScalarMappable(levels.norm, levels.cmap), orientation="horizontal"), ticks, "Vorticity", "s⁻¹")
    figure.canvas.draw()
    labels = axes.get_xticklabels()
    assert axes.get_xlabel() == words
    assert [float(t.get_text().replace("−", "-")) * 10.0 ** style.common_exponent(ticks) for t in labels] == pytest.approx(ticks.tolist())
    boxes = [t.get_window_extent() for t in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_wind_without_a_level_and_fields_without_a_time_are_said_to_have_none() -> None:
    latitude, longitude = np.linspace(-80, 80, 9), np.arange(12) * 30.0
    shape = np.cos(np.deg2rad(latitude))[:, None] * np.ones(12)
    dims = ("latitude", "longitude")
    ds = xr.Dataset({"mean_sea_level_pressure": (dims, 1e5 + 1e3 * shape, {"units": "Pa"}),
                     "u_component_of_wind": (dims, 10 * shape, {"units": "m s-1"}),
                     "v_component_of_wind": (dims, shape, {"units": "m s-1"})}, coords={"latitude": latitude, "longitude": longitude})
    field = Series(ds, "msl").find()
    words = _words(maps.build_map(field, view_for(field.grid), wind=maps._wind_of(ds, field)))
    assert "wind arrows (level not given by the file)" in words and "Time not given by the file" in words


@pytest.mark.parametrize(("projection", "center", "works"), [
    (None, (10.0, 50.0), "--projection orthographic, or give --center 10/0"), ("platecarree", (10.0, -5.0), "--center 10/0"),
    ("equalearth", (10.0, 50.0), "--center 10/0"), ("mollweide", (10.0, 50.0), "--center 10/0"), ("npolar", (10.0, 50.0), "--center 10/90"),
    ("orthographic", (10.0, 95.0), "--center 10/50")])
def test_a_center_that_a_projection_cannot_have_is_refused(forecast: xr.Dataset, projection: str | None, center: tuple[float, float],
                                                           works: str) -> None:
    grid = Series(forecast, "t2m").grid
    with pytest.raises(ConfigError) as refused:
        view_for(grid, projection, None, center)
    assert works in refused.value.fix
    longitude, latitude = (float(v) for v in refused.value.fix.rpartition(" ")[2].split("/"))
    view_for(grid, projection, None, (longitude, latitude))
    view_for(grid, "orthographic", None, (10.0, 50.0))


@pytest.mark.parametrize("size", [1e-17, 3e-5, 1.0, 2e9])
def test_levels_ascend_for_values_of_any_size(size: float) -> None:
    for scale in (style.magnitude("density", [size * np.array([-0.3, 1.0])]), style.symmetric([size * np.array([-0.3, 1.0])])):
        assert (np.diff(scale.levels) > 0).all() and scale.levels[-1] >= 0.9 * size
