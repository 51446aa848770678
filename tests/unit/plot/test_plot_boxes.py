"""Boxes of PDEs are drawn by the same functions as the globe, without projection or coastlines."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from afno_forecast.errors import ConfigError
from afno_forecast.grid import BoxGrid
from afno_forecast.plot import style
from afno_forecast.plot.boxes import BoxSampler, box_view
from afno_forecast.plot.canvas import MapPanel
from afno_forecast.plot.choices import Look, When
from afno_forecast.plot.maps import plot_compare, plot_map

Y, X = np.arange(5) * 0.5, np.arange(8) * 0.25


def forecast() -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(1, 2, 5, 8)).astype("f4")
    return xr.Dataset({"density": (("time", "prediction_timedelta", "y", "x"), values, {"units": "1"})},
                      {"time": [np.datetime64("2000-01-01", "ns")], "prediction_timedelta": np.asarray([3600, 7200]).astype("m8[s]").astype("m8[ns]"),
                       "y": Y, "x": X})


def test_a_box_is_drawn_whole_and_compared_with_its_truth(tmp_path):
    ds = forecast()
    plot_map(ds, "density", tmp_path / "map.png", when=When(lead="2h"), look=Look(style="cells", dpi=40))
    truth = xr.Dataset({"density": (("time", "y", "x"), ds["density"].values[0] + 1, {"units": "1"})},
                       {"time": np.datetime64("2000-01-01T01", "ns") + np.arange(2) * np.timedelta64(1, "h"), "y": Y, "x": X})
    plot_compare(ds, truth, "density", tmp_path / "compare.png", when=When(lead="1h"), look=Look(dpi=40))
    for name in ("map.png", "compare.png"):
        with Image.open(tmp_path / name) as image:
            assert image.convert("L").getextrema() != (255, 255)
    with pytest.raises(ConfigError, match="a box has no projection"):
        plot_map(ds, "density", tmp_path / "map.png", when=When(lead="2h"), look=Look("robinson"))


@pytest.mark.parametrize("side", [1e-3, 6.28, 100.0, 512.0, 1e5])
@pytest.mark.parametrize("form", ["arrows", "barbs"])
def test_wind_in_a_box_of_any_size_points_where_it_blows(side: float, form: str):
    grid = BoxGrid((np.arange(5) + 0.5) * side / 5 - 0.7 * side, (np.arange(8) + 0.5) * side / 8)
    figure = Figure(figsize=(4, 4))
    panel = MapPanel(figure, (0, 0, 1, 1), box_view(grid), grid, style.symmetric([np.ones((5, 8))]))
    panel.wind(np.full((5, 8), 3.0), np.full((5, 8), -3.0), grid, form)
    drawn = next(c for c in panel.axes.collections if hasattr(c, "u" if form == "barbs" else "U"))
    u, v = (drawn.u, drawn.v) if form == "barbs" else (drawn.U, drawn.V)
    assert len(u) > 500
    np.testing.assert_allclose(np.arctan2(v, u), -np.pi / 4, atol=1e-6)


def test_the_sampler_is_linear_and_goes_round_where_the_box_does():
    grid = BoxGrid(Y, X)
    values = np.random.default_rng(1).normal(size=(5, 8))
    points_x, points_y = np.asarray([X[2], 0.5 * (X[2] + X[3]), X[-1] + 0.125]), np.asarray([Y[1], Y[1], Y[4]])
    expected = [values[1, 2], 0.5 * (values[1, 2] + values[1, 3]), 0.5 * (values[4, -1] + values[4, 0])]
    np.testing.assert_allclose(BoxSampler(grid, points_x, points_y)(values), expected, rtol=1e-6)
    walls = BoxSampler(BoxGrid(Y, X, wraps=False), points_x, points_y)(values)
    assert walls[2] == np.float32(values[4, -1])
    x, y = box_view(grid).pixels(64)
    np.testing.assert_array_equal(np.unique(BoxSampler(grid, x, y, "cells")(values)), np.unique(values.astype("f4")))
