"""Where a map looks: projection, outline, coastlines, graticule and its labels, all as plain lines in projected metres or degrees.

Everything is computed once for a view and kept, so that further frames cost nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ResourceError
from ..grid import BoxGrid, Grid
from .boxes import BoxView, box_view
from .outline import Label, Outlined, raster

Float = NDArray[np.float64]
Region = tuple[float, float, float, float]
NATURAL_EARTH = Path(__file__).parent / "natural_earth"
NAMES = ("robinson", "platecarree", "equalearth", "mollweide", "orthographic", "npolar", "spolar", "lambert")
_CUT = ("robinson", "platecarree", "equalearth", "mollweide", "lambert")  # along the meridian opposite to their centre
_POLAR_EDGE = 20.0  # latitude at the rim of a polar map
_FARTHEST = 30.0  # latitude on the other hemisphere up to which a polar map is drawn


def _cartopy() -> Any:
    """cartopy's projections and shape reader.

    ecCodes wheels put their own PROJ into the global symbol scope. When they were loaded first, pyproj would call into the
    wrong library and crash; binding its symbols to its own copy avoids that.
    """
    if not ("gribapi" in sys.modules and hasattr(os, "RTLD_DEEPBIND")) or "pyproj" in sys.modules:
        import cartopy.crs
        import cartopy.io.shapereader
        return cartopy
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        import cartopy.crs
        import cartopy.io.shapereader
    finally:
        sys.setdlopenflags(flags)
    return cartopy


@dataclass(frozen=True, eq=False)
class View(Outlined):
    """A projection with its outline and background, all in projected coordinates.

    Args:
        name: of the projection.
        crs: cartopy's projection.
        outline: closed ring; shape (N, 2).
        stretch: height of a projected unit of y relative to one of x on the page.
        coasts: coastlines and lake shores; each of shape (M, 2).
        graticule: meridians and parallels; each of shape (M, 2).
        labels: coordinates written along the edges, see `outline.Label`.
        is_global: whether the whole sphere is shown.
    """

    name: str
    crs: Any
    outline: Float
    stretch: float
    coasts: tuple[Float, ...]
    graticule: tuple[Float, ...]
    labels: tuple[Label, ...]
    is_global: bool = True

    def project(self, longitude: Float, latitude: Float) -> tuple[Float, Float]:
        """x, y of points in degrees; NaN where they cannot be seen."""
        points = self.crs.transform_points(_cartopy().crs.PlateCarree(), np.asarray(longitude), np.asarray(latitude))
        return np.where(np.isfinite(points[..., 0]), points[..., 0], np.nan), np.where(np.isfinite(points[..., 1]), points[..., 1], np.nan)

    def pixels(self, width: int, rim: int = 0) -> tuple[Float, Float]:
        """Longitude and latitude at the centres of `width` columns of pixels over the extent, bottom row first; shape (rows, width).

        NaN off the map, but for the `rim` pixels next to it, which repeat their neighbours so that colours reach the outline.
        """
        points = _cartopy().crs.PlateCarree().transform_points(self.crs, *raster(self.extent, width, self.aspect))
        longitude, latitude = points[..., 0], points[..., 1]
        bad = ~(np.isfinite(longitude) & np.isfinite(latitude))
        longitude, latitude = np.where(bad, np.nan, longitude), np.where(bad, np.nan, latitude)
        for _ in range(rim):
            for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                bare = np.isnan(longitude)
                longitude = np.where(bare, _shifted(longitude, *shift), longitude)
                latitude = np.where(bare, _shifted(latitude, *shift), latitude)
        return longitude, latitude


def _shifted(values: Float, rows: int, columns: int) -> Float:
    """The values moved by at most one row or column, NaN coming in."""
    tall, wide = values.shape
    return np.pad(values, 1, constant_values=np.nan)[1 - rows: 1 - rows + tall, 1 - columns: 1 - columns + wide]


def view_for(grid: Grid, projection: str | None = None, region: Region | None = None,
             center: tuple[float, float] | None = None) -> View | BoxView:
    """The view of a map.

    Args:
        grid: of the data; a limited area is shown whole when no region is given, and a box always.
        projection: one of `NAMES`; None takes robinson for a global grid, platecarree for a region.
        region: (west, east, south, north) in degrees; west may be greater than east, across the date line.
        center: (longitude, latitude) in the middle; only orthographic and lambert can be centred on a latitude, others take 0 (a polar map the pole).

    Raises:
        ConfigError: no such projection, a region that is none, or a center that the projection cannot have.
    """
    if isinstance(grid, BoxGrid):
        if projection is not None or region is not None or center is not None:
            raise ConfigError("a box has no projection, region or center", fix="leave --projection, --region and --center out")
        return box_view(grid)
    name = projection or ("robinson" if region is None and grid.is_global else "platecarree")
    name = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    if name not in NAMES:
        near = get_close_matches(name, NAMES, 1, 0.5)
        raise ConfigError(f"no projection '{projection}'; there are {', '.join(NAMES)}",
                          fix=f"did you mean '{near[0]}'?" if near else "use one of these")
    _require_center(name, center)
    if region is None and not grid.is_global and name in ("platecarree", "lambert"):
        rows, left = np.sort(grid.latitude_edges()), float(grid.longitude[0])
        half = (grid.longitude[1] - grid.longitude[0]) / 2
        region = (-180.0, 180.0, float(rows[0]), float(rows[-1])) if grid.periodic else (
            left - half, float(grid.longitude[-1]) + half, float(rows[0]), float(rows[-1]))
    if region is not None:
        west, east, south, north = (float(v) for v in region)
        reason = ("west and east are no degrees" if not np.isfinite([west, east]).all() else "west and east are the same" if west == east
                  else "it goes more than once around the globe" if east - west > 360 + 1e-6 else "")
        if not (-90 <= south <= 90 and -90 <= north <= 90):
            reason = "latitudes lie between -90 and 90"
        elif south >= north:
            reason = f"its south, {south:g}, is not below its north, {north:g}"
        if reason:
            raise ConfigError(f"{west:g}/{east:g}/{south:g}/{north:g} is no region: {reason}", where="--region",
                              fix="give west, east, south and north in degrees, for example --region -30/45/30/75")
        span = min(east - west, 360.0) if west < east else (east - west) % 360 or 360.0
        if center is not None and name in _CUT:
            if span == 360:
                west = center[0] - 180
            elif 1e-6 < (center[0] + 180 - west) % 360 < span - 1e-6:
                raise ConfigError(f"a {name} map centred on {center[0]:g} is cut at {degrees_text(center[0] + 180, True)}, inside the region",
                                  where="--center", fix="leave --center out")
        region = (west, west + span, south, north)
    return _make(name, region, center)


def _require_center(name: str, center: tuple[float, float] | None) -> None:
    """See that a projection can show the center in its middle. Raises ConfigError rather than leave out the latitude."""
    if center is None:
        return
    longitude, latitude = center
    if not (np.isfinite(longitude) and -90 <= latitude <= 90):
        raise ConfigError(f"{longitude:g}/{latitude:g} is no place", where="--center", fix="give longitude and latitude in degrees: --center 10/50")
    middle = {"npolar": 90.0, "spolar": -90.0}.get(name, 0.0)
    if name not in ("orthographic", "lambert") and latitude != middle:
        raise ConfigError(f"a {name} map cannot be centred on latitude {latitude:g}", where="--center",
                          fix=f"add --projection orthographic, or give --center {longitude:g}/{middle:g}")


def _projection(name: str, longitude: float, latitude: float) -> Any:
    crs = _cartopy().crs
    makers: dict[str, Callable[[], Any]] = {
        "robinson": lambda: crs.Robinson(central_longitude=longitude),
        "platecarree": lambda: crs.PlateCarree(central_longitude=longitude),
        "equalearth": lambda: crs.EqualEarth(central_longitude=longitude),
        "mollweide": lambda: crs.Mollweide(central_longitude=longitude),
        "orthographic": lambda: crs.Orthographic(central_longitude=longitude, central_latitude=latitude),
        "npolar": lambda: crs.NorthPolarStereo(central_longitude=longitude),
        "spolar": lambda: crs.SouthPolarStereo(central_longitude=longitude),
        "lambert": lambda: crs.LambertConformal(central_longitude=longitude, central_latitude=latitude, cutoff=-89 if latitude >= 0 else 89,
                                                standard_parallels=tuple(np.clip((latitude - 12, latitude + 12), -89, 89))),
    }
    return makers[name]()


@lru_cache(maxsize=16)
def _make(name: str, region: Region | None, center: tuple[float, float] | None) -> View:
    if name == "lambert" and region is None:
        raise ConfigError("the lambert projection shows a region", fix="give west, east, south and north in degrees: --region -30/45/30/75")
    whole = (0.0, 30.0 if name == "orthographic" else 0.0)
    middle = whole if region is None else ((region[0] + region[1]) / 2, (region[2] + region[3]) / 2)
    longitude, latitude = center or middle
    longitude = (longitude + 180) % 360 - 180
    crs = _projection(name, longitude, latitude if name != "lambert" or abs(latitude) > 1 else 1.0)
    outline = _outline(name, crs, region)
    stretch = 1.0
    if name == "platecarree" and region is not None:
        stretch = 1 / max(float(np.cos(np.deg2rad((region[2] + region[3]) / 2))), 0.2)
    bare = View(name, crs, outline, stretch, _coasts(crs), (), ())
    lines, labels = _graticule(bare, region, longitude)
    return View(name, crs, outline, stretch, bare.coasts, lines, labels, region is None and name not in ("npolar", "spolar", "orthographic"))


def _outline(name: str, crs: Any, region: Region | None) -> Float:
    t = np.linspace(0, 1, 181)
    if region is not None and ((name == "npolar" and region[2] < -_FARTHEST) or (name == "spolar" and region[3] > _FARTHEST)):
        raise ConfigError(f"the {name} map does not reach latitude {region[2 if name == 'npolar' else 3]:g}", where="--region",
                          fix=f"add --projection {'spolar' if name == 'npolar' else 'npolar'}, or platecarree")
    if region is not None and _is_disc(name, region):
        longitude, rim = 360 * t, np.full(181, region[2] if name == "npolar" else region[3])
        ring = crs.transform_points(_cartopy().crs.PlateCarree(), longitude, rim)[:, :2]
    elif region is None and name == "orthographic":
        radius = float(np.abs(np.asarray(crs.boundary.coords)[:, 0]).max())
        ring = radius * np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], axis=-1)
    elif region is None and name not in ("npolar", "spolar"):
        ring = np.asarray(crs.boundary.coords)[:, :2]
    else:
        if region is not None:
            west, east, south, north = region
            west, east = west + 1e-6, east - 1e-6
            longitude = np.concatenate([west + (east - west) * t, np.full(181, east), east + (west - east) * t, np.full(181, west)])
            latitude = np.concatenate([np.full(181, south), south + (north - south) * t, np.full(181, north), north + (south - north) * t])
        else:
            longitude = np.linspace(-180, 180, 361)
            latitude = np.full(361, _POLAR_EDGE if name == "npolar" else -_POLAR_EDGE)
        ring = crs.transform_points(_cartopy().crs.PlateCarree(), longitude, latitude)[:, :2]
        if not np.isfinite(ring).all():
            raise ConfigError(f"the region {region} is not on one side of the {name} map", fix="add --projection platecarree")
    return np.concatenate([ring, ring[:1]])


@lru_cache(maxsize=1)
def _shores() -> tuple[Any, ...]:
    """Coastlines and lake shores in degrees."""
    lines: list[Any] = []
    for name in ("ne_110m_coastline", "ne_110m_lakes"):
        path = NATURAL_EARTH / f"{name}.shp"
        if not path.is_file():
            raise ResourceError("the coastlines are missing", where=str(path), fix="install the package again")
        for shape in _cartopy().io.shapereader.Reader(str(path)).geometries():
            if shape.geom_type == "LineString":
                lines.append(shape)
            else:
                polygons = shape.geoms if shape.geom_type == "MultiPolygon" else [shape]
                lines += [type(lines[0])(polygon.exterior.coords) for polygon in polygons]
    return tuple(lines)


def _coasts(crs: Any) -> tuple[Float, ...]:
    flat = _cartopy().crs.PlateCarree()
    parts = [part for line in _shores() for part in crs.project_geometry(line, flat).geoms]
    return tuple(np.asarray(part.coords)[:, :2] for part in parts if len(part.coords) > 1)


def _spacing(span: float) -> float:
    return next((step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0) if span / step <= 7), 60.0)


def degrees_text(degrees: float, east: bool) -> str:
    """`30°W`, `45°N`, `180°`; `east` for a longitude."""
    degrees = (degrees + 180) % 360 - 180 if east else degrees
    if abs(degrees) in (0.0, 180.0):
        return f"{abs(degrees):g}°"
    positive, negative = ("E", "W") if east else ("N", "S")
    return f"{abs(degrees):g}°{positive if degrees > 0 else negative}"


def _breaks(line: Float, limit: float) -> list[Float]:
    """The line cut where it leaves the map or jumps across it."""
    jump = np.hypot(*np.diff(line, axis=0).T)
    cut = np.flatnonzero(~np.isfinite(jump) | (jump > limit)) + 1
    return [part for part in np.split(line, cut) if len(part) > 1 and np.isfinite(part).all()]


def _graticule(view: View, region: Region | None, middle: float) -> tuple[tuple[Float, ...], tuple[Label, ...]]:
    polar = _is_disc(view.name, region)
    if region is not None:
        west, east, south, north = region
    else:
        west, east = middle - 180, middle + 180
        south, north = {"npolar": (_POLAR_EDGE, 90.0), "spolar": (-90.0, -_POLAR_EDGE)}.get(view.name, (-90.0, 90.0))
    step_x, step_y = (30.0, 20.0) if polar else (60.0, 30.0)
    if region is not None:
        step_x, step_y = step_x if polar else _spacing(east - west), _spacing(north - south)
    meridians = np.arange(np.ceil(west / step_x - 1e-9), np.floor(east / step_x + 1e-9) + 1) * step_x
    parallels = np.arange(np.ceil(south / step_y - 1e-9), np.floor(north / step_y + 1e-9) + 1) * step_y
    if polar and region is None:
        parallels = np.array([40.0, 60.0, 80.0]) * (1 if view.name == "npolar" else -1)
    elif polar:
        parallels = parallels[(parallels > south) & (parallels < north) & (np.abs(parallels) < 90)]
    limit = 0.2 * (view.extent[1] - view.extent[0])
    lines: list[Float] = []
    tall = np.linspace(max(south, -89.9), min(north, 89.9), 181)
    wide = np.linspace(west + 1e-6, east - 1e-6, 361)
    for value in meridians:
        lines += _breaks(np.stack(view.project(np.full_like(tall, np.clip(value, west + 1e-6, east - 1e-6)), tall), axis=-1), limit)
    for value in parallels:
        lines += _breaks(np.stack(view.project(wide, np.full_like(wide, value)), axis=-1), limit)
    return tuple(lines), _labels(view, region, meridians, parallels, middle, (west, east, south, north))


def _labels(view: View, region: Region | None, meridians: Float, parallels: Float, middle: float, box: Region) -> tuple[Label, ...]:
    west, east, south, north = box
    labels: list[Label] = []

    def put(longitude: float, latitude: float, text: str, ha: str, va: str, inside: bool) -> None:
        x, y = view.project(np.array([longitude]), np.array([latitude]))
        if np.isfinite(x[0]) and np.isfinite(y[0]):
            labels.append((float(x[0]), float(y[0]), text, ha, va, inside))

    if _is_disc(view.name, region):
        for value in meridians[:-1]:
            x, y = view.project(np.array([value]), np.array([south if view.name == "npolar" else north]))
            radius = float(np.hypot(x[0], y[0]))
            side = "left" if x[0] > 0.2 * radius else "right" if x[0] < -0.2 * radius else "center"
            labels.append((float(x[0]) * 1.02, float(y[0]) * 1.02, degrees_text(float(value), True), side,
                           "bottom" if y[0] > 0.9 * radius else "top" if y[0] < -0.9 * radius else "center", False))
        for value in parallels:
            put(middle + 45, float(value), degrees_text(float(value), False), "center", "center", True)
    elif view.name == "orthographic" and region is None:
        for value in parallels[1:-1]:
            if value != 0:
                put(middle, float(value), degrees_text(float(value), False), "center", "center", True)
        for value in meridians[:-1]:
            if abs((value - middle + 180) % 360 - 180) < 75:
                put(float(value), 0.0, degrees_text(float(value), True), "center", "center", True)
    else:
        for value in parallels:
            if region is not None or abs(value) < 90:
                put(west + 1e-6, float(value), degrees_text(float(value), False) + " ", "right", "center", False)
        inside = view.name == "mollweide" and region is None  # whose poles are points
        edge, step = (north, -1e-3) if view.name == "spolar" else (south, 1e-3)
        for value in meridians[1:-1] if inside else meridians:
            longitude, text = float(np.clip(value, west + 1e-6, east - 1e-6)), degrees_text(float(value), True)
            if inside:
                put(longitude, 0.0, text, "center", "center", True)
            elif region is None or view.name == "platecarree":
                put(longitude, edge, text, "center", "top", False)
            else:
                put(longitude, edge, text, *_sides(view, longitude, edge, step), False)
    return tuple(labels)


def _is_disc(name: str, region: Region | None) -> bool:
    """Whether a map is round, with the pole in its middle."""
    return name in ("npolar", "spolar") and (region is None or region[1] - region[0] > 359.9)


def _sides(view: View, longitude: float, edge: float, step: float) -> tuple[str, str]:
    """Alignments of words that stand where a meridian leaves the map, away from it."""
    x, y = view.project(np.full(2, longitude), np.array([edge, edge + step]))
    out_x, out_y = x[0] - x[1], (y[0] - y[1]) * view.stretch
    length = float(np.hypot(out_x, out_y)) or 1.0
    right, up = out_x / length, out_y / length
    return "left" if right > 0.2 else "right" if right < -0.2 else "center", "top" if up < -0.4 else "bottom" if up > 0.4 else "center"
