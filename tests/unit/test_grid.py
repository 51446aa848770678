"""Grids: areas against the integral of cosine, poles, orientation there and back."""

import numpy as np
import pytest

from afno_forecast.errors import DataError
from afno_forecast.grid import BoxGrid, LatLonGrid, Orientation, grid_from_dict


def regular(rows: int, columns: int) -> LatLonGrid:
    return LatLonGrid((np.arange(rows) + 0.5) * 180 / rows - 90, np.arange(columns) * 360 / columns)


def gaussian(rows: int, columns: int) -> LatLonGrid:
    return LatLonGrid(np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0])), np.arange(columns) * 360 / columns)


@pytest.mark.parametrize("grid", [regular(32, 64), regular(7, 11), gaussian(48, 96), gaussian(9, 5),
                                  LatLonGrid(np.linspace(90, -90, 73), np.arange(144) * 2.5),
                                  LatLonGrid(np.linspace(-90, 90, 721), np.arange(6) * 60.0)])
def test_areas_of_a_global_grid_sum_to_the_sphere(grid: LatLonGrid) -> None:
    assert grid.is_global
    assert grid.cell_areas().sum() == pytest.approx(4 * np.pi, rel=1e-12)
    assert grid.area_weights().mean() == pytest.approx(1, rel=1e-12)


def test_cell_areas_equal_the_integral_of_cosine() -> None:
    grid = regular(9, 14)
    edges = grid.latitude_edges()
    for row in range(9):
        fine = np.deg2rad(np.linspace(edges[row], edges[row + 1], 20001))
        integral = np.trapezoid(np.cos(fine), fine) * np.deg2rad(360 / 14)
        assert grid.cell_areas()[row] == pytest.approx(np.full(14, integral), rel=1e-8)


def test_pole_rows_have_half_cells_and_are_not_zero() -> None:
    grid = LatLonGrid(np.linspace(-90, 90, 73), np.arange(144) * 2.5)
    assert grid.has_pole_rows and grid.boundary == "sphere_with_poles"
    assert grid.latitude_edges()[0] == -90 and grid.latitude_edges()[1] == pytest.approx(-88.75)
    assert (grid.cell_areas()[0] > 0).all()


def test_direction_of_latitude_does_not_change_the_area_of_a_row() -> None:
    up = regular(11, 6)
    down = LatLonGrid(up.latitude[::-1], up.longitude)
    assert np.array_equal(down.cell_areas(), up.cell_areas()[::-1])


def test_a_limited_area_has_its_own_edges() -> None:
    grid = LatLonGrid(np.arange(30, 61, 5.0), np.arange(-10, 31, 4.0) + 10)
    assert grid.boundary == "limited" and not grid.periodic
    assert grid.latitude_edges()[[0, -1]].tolist() == [27.5, 62.5]
    south, north = np.sin(np.deg2rad([27.5, 62.5]))
    assert grid.cell_areas().sum() == pytest.approx((north - south) * np.deg2rad(44), rel=1e-12)


@pytest.mark.parametrize(("latitude", "longitude", "text"), [
    ([0.0, 10, 5], [0.0, 1, 2], "latitude is not strictly monotonic"),
    ([0.0, 95], [0.0, 1], "latitude reaches 95"),
    ([0.0, 10], [0.0, 120, 240, 360], "a column is repeated"),
    ([0.0, np.nan], [0.0, 1], "missing or infinite"),
])
def test_broken_coordinates_are_refused(latitude: list[float], longitude: list[float], text: str) -> None:
    with pytest.raises(DataError, match=text):
        LatLonGrid(np.asarray(latitude), np.asarray(longitude))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("west", [0, -180, -30])
def test_orientation_goes_there_and_back(transposed: bool, descending: bool, west: int) -> None:
    rows, columns = 5, 12
    latitude = (np.arange(rows) + 0.5) * 36 - 90.0
    longitude = np.arange(columns) * 30.0
    truth = np.sin(np.deg2rad(latitude))[:, None] + np.cos(np.deg2rad(longitude - 40))[None, :]
    users_longitude = west + np.arange(columns) * 30.0
    users_latitude = latitude[::-1] if descending else latitude
    users = np.sin(np.deg2rad(users_latitude))[:, None] + np.cos(np.deg2rad(users_longitude - 40))[None, :]
    users = users.T if transposed else users
    orientation = Orientation(users_latitude, users_longitude, transposed)
    assert np.allclose(orientation.to_canonical(users[None]), truth, atol=1e-12)
    assert np.array_equal(orientation.from_canonical(orientation.to_canonical(users)), users)
    assert orientation.grid().matches(LatLonGrid(latitude, longitude))
    assert orientation.is_canonical == (not transposed and not descending and west == 0)


def test_a_limited_area_across_greenwich_stays_in_one_piece() -> None:
    orientation = Orientation(np.arange(40, 61, 5.0), np.arange(-12, 13, 3.0))
    assert orientation.grid().longitude.tolist() == list(np.arange(348, 373, 3.0))
    field = np.arange(5 * 9).reshape(5, 9)
    assert np.array_equal(orientation.from_canonical(orientation.to_canonical(field)), field)
    split = Orientation(np.arange(40, 61, 5.0), np.asarray([0, 3, 6, 9, 12, 348, 351, 354, 357.0]))
    assert split.grid().matches(orientation.grid())


def test_columns_close_to_greenwich_keep_their_longitudes() -> None:
    longitude = 0.001 * np.arange(-5, 5)
    user = Orientation(np.array([51.0, 51.5]), longitude)
    np.testing.assert_allclose(user.grid().longitude, 360 + longitude, rtol=0, atol=1e-9)
    assert Orientation(np.array([51.0, 51.5]), np.array([-1e-12, 1.0])).grid().longitude.tolist() == [0, 1]


def test_a_band_wraps_in_longitude_only() -> None:
    band = LatLonGrid(np.arange(-57.5, 58, 5), np.arange(36) * 10.0)
    assert band.boundary == "band" and band.periodic and not band.is_global
    hemisphere = LatLonGrid(np.arange(2.5, 90, 5), np.arange(36) * 10.0)
    assert hemisphere.boundary == "band" and hemisphere.touches_poles == (False, True)
    assert hemisphere.cell_areas().sum() == pytest.approx(2 * np.pi, rel=1e-12)


@pytest.mark.parametrize(("columns", "missing"), [(1440, 1), (1440, 5), (2879, 1), (36000, 7)])
def test_a_missing_column_at_the_seam_makes_a_limited_area_however_fine_the_grid(columns: int, missing: int) -> None:
    longitude = (np.arange(columns) * 360 / columns).astype("f4")
    rows = (np.arange(7) + 0.5) * 180 / 7 - 90
    assert LatLonGrid(rows, longitude).boundary == "sphere" and LatLonGrid(rows, longitude.round(3)).boundary == "sphere"
    short = LatLonGrid(rows, longitude[:-missing])
    assert short.boundary == "limited"
    assert short.lengths[1] == pytest.approx(360 - missing * 360 / columns, abs=1e-3)
    assert not Orientation(rows, np.roll(longitude[:-missing], 11)).grid().periodic


def test_grids_survive_json() -> None:
    for grid in (regular(5, 8), BoxGrid(np.arange(4) * 0.5, np.arange(7) * 0.5), BoxGrid(np.arange(4.0), np.arange(7.0), wraps=False)):
        again = grid_from_dict(grid.to_dict())
        assert again.matches(grid) and again.boundary == grid.boundary
    assert not regular(5, 8).matches(regular(5, 9))
    with pytest.raises(DataError, match="unknown kind"):
        grid_from_dict({"kind": "cubed sphere"})


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_boxes_match_to_a_thousandth_of_a_spacing_at_any_scale(scale: float) -> None:
    def box(spacing: float, shift: float = 0) -> BoxGrid:
        return BoxGrid(np.arange(4) * spacing * scale, (np.arange(7) + shift) * scale)

    assert box(1).matches(box(1 + 1e-4)) and box(1).matches(box(1, 5e-4))
    assert not box(1).matches(box(2)) and not box(1).matches(box(1.001)) and not box(1).matches(box(1, 2e-3))


def test_latitudes_and_longitudes_match_to_a_thousandth_of_a_degree_everywhere() -> None:
    grid = regular(5, 8)
    assert grid.matches(LatLonGrid(grid.latitude, grid.longitude + 9e-4))
    assert not grid.matches(LatLonGrid(grid.latitude, grid.longitude + 2e-3 * (np.arange(8) == 7)))


@pytest.mark.parametrize(("wraps", "rows_wrap"), [(True, True), (True, False), (False, False)])
def test_rows_of_a_box_keep_its_edges(wraps: bool, rows_wrap: bool) -> None:
    box = BoxGrid(np.arange(7.0), np.arange(5.0), wraps, rows_wrap)
    assert box.rows(slice(2, 5)).boundary == box.boundary
