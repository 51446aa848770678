"""Horizontal geometry: coordinates, orientation, periodicity, exact cell areas.

Inside the program a grid is *canonical*: latitude ascends, longitude ascends and, when it goes round the globe, starts in
0..360. `Orientation` carries a user's own order there and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

Boundary = Literal["sphere", "sphere_with_poles", "band", "periodic", "limited"]
Float = NDArray[np.float64]
_TOLERANCE_DEGREES = 1e-3
_TOLERANCE_SPACINGS = 1e-3
_SEAM_SPACINGS = 0.1
_POLE_FRACTION = 0.8  # the first Gaussian row lies 0.77 row spacings from the pole, a cell centre 0.5, a pole row 0


def _edges(centres: Float) -> Float:
    """Cell edges half-way between centres, the outermost extrapolated by half a cell; shape (N + 1,)."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _check_axis(values: Float, name: str) -> Float:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise DataError(f"{name} must be one-dimensional with at least two values, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{name} has missing or infinite values")
    difference = np.diff(values)
    if not ((difference > 0).all() or (difference < 0).all()):
        raise DataError(f"{name} is not strictly monotonic", fix=f"sort the file along {name} and drop repeated values")
    return values


@dataclass(frozen=True, eq=False)
class LatLonGrid:
    """A grid of latitude rows and longitude columns, in degrees, regular or Gaussian, global or a limited area.

    Args:
        latitude: degrees north, strictly monotonic, either direction; shape (H,).
        longitude: degrees east, strictly ascending; shape (W,).
    """

    latitude: Float
    longitude: Float

    def __post_init__(self) -> None:
        object.__setattr__(self, "latitude", _check_axis(self.latitude, "latitude"))
        object.__setattr__(self, "longitude", _check_axis(self.longitude, "longitude"))
        if np.abs(self.latitude).max() > 90 + _TOLERANCE_DEGREES:
            raise DataError(f"latitude reaches {np.abs(self.latitude).max():g} degrees", fix="check the units of latitude: degrees_north")
        if np.diff(self.longitude).max() <= 0:
            raise DataError("longitude descends", fix="use Orientation to bring it into ascending order")
        if self.longitude[-1] - self.longitude[0] >= 360 - _TOLERANCE_DEGREES:
            raise DataError(f"longitude spans {self.longitude[-1] - self.longitude[0]:g} degrees: a column is repeated",
                            fix="drop the repeated last longitude")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.latitude), len(self.longitude)

    @property
    def axes(self) -> dict[str, Float]:
        """Coordinates by the name of their dimension, rows first."""
        return {"latitude": self.latitude, "longitude": self.longitude}

    @property
    def periodic(self) -> bool:
        """Whether the columns go round the globe with equal spacing, also from the last to the first."""
        step, seam = 360 / len(self.longitude), 360 - (self.longitude[-1] - self.longitude[0])
        equal = np.allclose(np.diff(self.longitude), step, atol=max(_TOLERANCE_DEGREES, 1e-4 * step))
        return bool(equal and abs(seam - step) <= _SEAM_SPACINGS * step)

    @property
    def touches_poles(self) -> tuple[bool, bool]:
        """(south, north): whether the outermost row is the one next to, or on, the pole."""
        rows = np.sort(self.latitude)
        return (bool((rows[0] + 90) <= _POLE_FRACTION * (rows[1] - rows[0])), bool((90 - rows[-1]) <= _POLE_FRACTION * (rows[-1] - rows[-2])))

    @property
    def is_global(self) -> bool:
        """Whether the grid covers the sphere."""
        return self.periodic and all(self.touches_poles)

    @property
    def has_pole_rows(self) -> bool:
        """Whether the outermost rows lie on the poles themselves."""
        return bool(np.allclose(np.sort(self.latitude)[[0, -1]], [-90, 90], atol=_TOLERANCE_DEGREES))

    @property
    def boundary(self) -> Boundary:
        """How a network continues the grid over its edges."""
        if not self.is_global:
            return "band" if self.periodic else "limited"
        return "sphere_with_poles" if self.has_pole_rows else "sphere"

    def latitude_edges(self) -> Float:
        """Row edges in degrees, in the rows' order, on the pole where a row is next to it; shape (H + 1,)."""
        edges = np.clip(_edges(self.latitude), -90, 90)
        south, north = self.touches_poles
        first, last = (0, -1) if self.latitude[0] < self.latitude[-1] else (-1, 0)
        if south:
            edges[first] = -90
        if north:
            edges[last] = 90
        return edges

    @property
    def lengths(self) -> tuple[float, float]:
        """Degrees that the rows, and the columns, cover."""
        columns = 360.0 if self.periodic else float(np.ptp(_edges(self.longitude)))
        return float(np.ptp(self.latitude_edges())), columns

    def cell_areas(self) -> Float:
        """Exact solid angle of each cell in steradian, longitude width times |sin(upper) - sin(lower)|; shape (H, W)."""
        rows = np.abs(np.diff(np.sin(np.deg2rad(self.latitude_edges()))))
        columns = np.full(len(self.longitude), 360 / len(self.longitude)) if self.periodic else np.diff(_edges(self.longitude))
        return np.asarray(rows[:, None] * np.deg2rad(columns)[None, :])

    def area_weights(self) -> Float:
        """Cell areas divided by their mean; shape (H, W)."""
        areas = self.cell_areas()
        return np.asarray(areas / areas.mean())

    def matches(self, other: Grid) -> bool:
        """Whether both are the same grid, to a thousandth of a degree, in the same order."""
        return (isinstance(other, LatLonGrid) and self.shape == other.shape
                and bool(np.allclose(self.latitude, other.latitude, rtol=0, atol=_TOLERANCE_DEGREES))
                and bool(np.allclose(self.longitude, other.longitude, rtol=0, atol=_TOLERANCE_DEGREES)))

    def rows(self, part: slice) -> LatLonGrid:
        """Some of the rows as a grid of their own."""
        return LatLonGrid(self.latitude[part], self.longitude)

    def describe(self) -> str:
        """One line for messages: size, spacing, extent."""
        kind = "global" if self.is_global else "all longitudes" if self.periodic else "limited area"
        return (f"{self.shape[0]}x{self.shape[1]} {kind}, latitude {self.latitude[0]:g}..{self.latitude[-1]:g}, "
                f"longitude {self.longitude[0]:g}..{self.longitude[-1]:g}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {"kind": "latlon", "latitude": self.latitude.tolist(), "longitude": self.longitude.tolist()}


@dataclass(frozen=True, eq=False)
class BoxGrid:
    """A flat box of equal cells for PDEs: periodic in both directions, in x alone (a channel between walls), or in none.

    It is its own canonical order.

    Args:
        y: row coordinates, equally spaced, ascending; shape (H,).
        x: column coordinates, equally spaced, ascending; shape (W,).
        wraps: whether the columns are periodic.
        rows_wrap: whether the rows are too; without effect where the columns are not.
    """

    y: Float
    x: Float
    wraps: bool = True
    rows_wrap: bool = True

    def __post_init__(self) -> None:
        for name in ("y", "x"):
            values = _check_axis(getattr(self, name), name)
            spacing = np.diff(values)
            if spacing[0] <= 0 or not np.allclose(spacing, spacing.mean(), rtol=_TOLERANCE_SPACINGS, atol=0):
                raise DataError(f"{name} of a box grid must ascend with equal spacing")
            object.__setattr__(self, name, values)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.y), len(self.x)

    @property
    def axes(self) -> dict[str, Float]:
        """Coordinates by the name of their dimension, rows first."""
        return {"y": self.y, "x": self.x}

    @property
    def is_canonical(self) -> bool:
        """True: a box has one order."""
        return True

    def grid(self) -> BoxGrid:
        """Itself."""
        return self

    def to_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array as it is."""
        return array

    def from_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array as it is."""
        return array

    @property
    def periodic(self) -> bool:
        """Whether the columns wrap."""
        return self.wraps

    @property
    def boundary(self) -> Boundary:
        """How a network continues the grid over its edges."""
        if not self.wraps:
            return "limited"
        return "periodic" if self.rows_wrap else "band"

    @property
    def lengths(self) -> tuple[float, float]:
        """Length of the rows' and of the columns' axis, in the unit of the coordinates."""
        return float(np.ptp(_edges(self.y))), float(np.ptp(_edges(self.x)))

    def cell_areas(self) -> Float:
        """Area of each cell in the square of the coordinates' unit; shape (H, W)."""
        return np.full(self.shape, (self.y[1] - self.y[0]) * (self.x[1] - self.x[0]))

    def area_weights(self) -> Float:
        """Ones: all cells are equal; shape (H, W)."""
        return np.ones(self.shape)

    def matches(self, other: Grid) -> bool:
        """Whether both are the same box, to a thousandth of a spacing, with the same boundary."""
        return (isinstance(other, BoxGrid) and self.shape == other.shape and self.boundary == other.boundary
                and all(np.allclose(own, others, rtol=0, atol=_TOLERANCE_SPACINGS * (own[1] - own[0]))
                        for own, others in ((self.y, other.y), (self.x, other.x))))

    def rows(self, part: slice) -> BoxGrid:
        """Some of the rows as a box of their own."""
        return BoxGrid(self.y[part], self.x, self.wraps, self.rows_wrap)

    def describe(self) -> str:
        """One line for messages: size, extent, boundary."""
        edges = {"periodic": "periodic", "band": "periodic in x", "limited": "not periodic"}[self.boundary]
        return f"{self.shape[0]}x{self.shape[1]} box, y {self.y[0]:g}..{self.y[-1]:g}, x {self.x[0]:g}..{self.x[-1]:g}, {edges}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {"kind": "box", "y": self.y.tolist(), "x": self.x.tolist(), "wraps": self.wraps, "rows_wrap": self.rows_wrap}


Grid = Union[LatLonGrid, BoxGrid]


def grid_from_dict(values: dict[str, Any]) -> Grid:
    """The grid that `to_dict` described. Raises DataError for another kind."""
    if values.get("kind") == "latlon":
        return LatLonGrid(np.asarray(values["latitude"]), np.asarray(values["longitude"]))
    if values.get("kind") == "box":
        return BoxGrid(np.asarray(values["y"]), np.asarray(values["x"]), bool(values["wraps"]), bool(values.get("rows_wrap", True)))
    raise DataError(f"unknown kind of grid {values.get('kind')!r}", fix="use 'latlon' or 'box'")


@dataclass(frozen=True, eq=False)
class Orientation:
    """A user's order of a latitude-longitude grid, and the way to the canonical order and back.

    Args:
        latitude: the user's latitudes, either direction; shape (H,).
        longitude: the user's longitudes, any convention; ascending but for one wrap, or descending; shape (W,).
        transposed: whether the user's arrays are (..., longitude, latitude).
    """

    latitude: Float
    longitude: Float
    transposed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "latitude", _check_axis(self.latitude, "latitude"))
        object.__setattr__(self, "longitude", np.asarray(self.longitude, dtype=np.float64))

    def _columns(self) -> tuple[NDArray[np.int64], Float]:
        """Order of the user's columns in the canonical grid, and the canonical longitudes."""
        wrapped = np.mod(self.longitude, 360)
        wrapped = np.where(np.isclose(wrapped, 360, rtol=0, atol=1e-9), 0.0, wrapped)
        order = np.argsort(wrapped, kind="stable")
        ascending = wrapped[order]
        gaps = np.diff(np.concatenate([ascending, ascending[:1] + 360]))
        widest = int(np.argmax(gaps))
        if widest != len(gaps) - 1 and gaps[widest] > 1.5 * np.median(gaps):  # a limited area across Greenwich: start after the widest gap
            order = np.roll(order, -(widest + 1))
            ascending = np.roll(ascending, -(widest + 1))
            ascending = np.where(ascending < ascending[0], ascending + 360, ascending)
        return order.astype(np.int64), ascending

    def grid(self) -> LatLonGrid:
        """The canonical grid."""
        return LatLonGrid(np.sort(self.latitude), self._columns()[1])

    def to_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """From the user's order (last two axes) to canonical (..., H, W)."""
        if self.transposed:
            array = np.swapaxes(array, -1, -2)
        array = array[..., self._columns()[0]]
        return array[..., ::-1, :] if self.latitude[0] > self.latitude[-1] else array

    def from_canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """From canonical (..., H, W) to the user's order of the last two axes."""
        if self.latitude[0] > self.latitude[-1]:
            array = array[..., ::-1, :]
        array = array[..., np.argsort(self._columns()[0])]
        return np.swapaxes(array, -1, -2) if self.transposed else array

    @property
    def is_canonical(self) -> bool:
        """Whether the user's order is the canonical one."""
        order, ascending = self._columns()
        return (not self.transposed and self.latitude[0] < self.latitude[-1] and bool((order == np.arange(len(order))).all())
                and bool(np.allclose(ascending, self.longitude)))


Geometry = Union[Orientation, BoxGrid]  # a user's order of the horizontal axes
