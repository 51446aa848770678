"""Taking maps from a grid to points: exact at grid points, continuous over the date line and the poles."""

from __future__ import annotations

import numpy as np
import pytest

from afno_forecast.grid import LatLonGrid
from afno_forecast.plot.sampling import Sampler, padded

CENTRES = LatLonGrid(np.linspace(-85, 85, 18), np.arange(0, 360, 15.0))
POLES = LatLonGrid(np.linspace(-90, 90, 19), np.arange(0, 360, 15.0))
ODD = LatLonGrid(np.linspace(-80, 80, 9), np.arange(15) * 24.0)


def _smooth(grid: LatLonGrid) -> np.ndarray:
    lat, lon = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    return np.sin(lat) + np.cos(lat) * np.cos(lon - 0.3)


@pytest.mark.parametrize("grid", [CENTRES, POLES, ODD])
@pytest.mark.parametrize("method", ["smooth", "cells"])
def test_grid_points_keep_their_values_in_either_longitude_convention(grid: LatLonGrid, method: str) -> None:
    values = np.random.default_rng(0).normal(size=grid.shape)
    longitude, latitude = np.meshgrid(grid.longitude, grid.latitude)
    for turn in (0.0, -360.0):
        np.testing.assert_allclose(Sampler(grid, longitude + turn, latitude, method)(values), values, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", [CENTRES, POLES])
def test_a_plane_through_the_sphere_is_continued_over_date_line_and_poles(grid: LatLonGrid) -> None:
    longitude, latitude = np.meshgrid(np.linspace(-180, 180, 73), np.linspace(-90, 90, 61))
    exact = np.sin(np.deg2rad(latitude)) + np.cos(np.deg2rad(latitude)) * np.cos(np.deg2rad(longitude) - 0.3)
    np.testing.assert_allclose(Sampler(grid, longitude, latitude)(_smooth(grid)), exact, atol=0.02)


def test_the_column_after_the_last_is_the_first() -> None:
    values = np.random.default_rng(1).normal(size=CENTRES.shape)
    wide = padded(values, CENTRES)
    np.testing.assert_array_equal(wide[2:-2, -2:], values[:, :2])
    np.testing.assert_array_equal(wide[2:-2, :2], values[:, -2:])


def test_beyond_the_pole_is_the_other_side_and_vectors_turn() -> None:
    values = np.random.default_rng(2).normal(size=CENTRES.shape)
    np.testing.assert_array_equal(padded(values, CENTRES)[-2, 2:-2], np.roll(values[-1], 12))
    np.testing.assert_array_equal(padded(values, CENTRES, is_vector=True)[1, 2:-2], -np.roll(values[0], 12))
    with_pole = np.random.default_rng(3).normal(size=POLES.shape)
    np.testing.assert_array_equal(padded(with_pole, POLES)[-2, 2:-2], np.roll(with_pole[-2], 12))


def test_values_never_leave_the_range_of_the_map() -> None:
    values = (np.random.default_rng(4).normal(size=CENTRES.shape) > 0).astype(float)
    longitude, latitude = np.meshgrid(np.linspace(0, 360, 101), np.linspace(-90, 90, 97))
    shown = Sampler(CENTRES, longitude, latitude)(values)
    assert shown.min() >= 0 and shown.max() <= 1


def test_missing_values_stay_where_they_are() -> None:
    values = _smooth(CENTRES)
    values[5, 7] = np.nan
    longitude, latitude = np.meshgrid(CENTRES.longitude, CENTRES.latitude)
    shown = Sampler(CENTRES, longitude, latitude)(values)
    np.testing.assert_array_equal(np.isnan(shown), np.isnan(values))
    near = Sampler(CENTRES, np.array([CENTRES.longitude[7] + 9.0]), np.array([CENTRES.latitude[5]]))(values)
    assert near[0] == pytest.approx(values[5, 8], abs=1e-6)


def test_off_a_limited_area_there_is_nothing() -> None:
    area = LatLonGrid(np.array([40.0, 42, 44]), np.array([350.0, 354, 358, 362, 366]))
    shown = Sampler(area, np.array([0.0, -10.0, 5.9, 9.0, -12.1, 2.0]), np.array([42.0, 40.0, 44.9, 42, 42, 46.0]))(np.arange(15.0).reshape(3, 5))
    np.testing.assert_array_equal(np.isnan(shown), [False, False, False, True, True, True])
