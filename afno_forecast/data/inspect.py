"""What is in any file we are given, in what order and units, and what of it would be refused: everything told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from afno_forecast.errors import DataError, ForecastError
from afno_forecast.grid import BoxGrid, Geometry, LatLonGrid
from afno_forecast.times import TimeAxis, common_step, format_instant, missing_instants

from .inspect_text import Inspection, TimesReport, VariableReport, format_inspection
from .inspect_values import measure
from .sources import Source, build_source, scan
from .sources_decode import Part
from .sources_files import GRIDDED, READ_ERRORS, expand_paths, kind_of
from .sources_notes import Ledger, lines
from .sources_trajectories import Numbering

__all__ = ["Inspection", "TimesReport", "VariableReport", "format_inspection", "inspect"]

_MONTH_DAYS = (28, 31)


def inspect(paths: Sequence[str | Path] | str | Path, *, allow_remote: Sequence[str] = ()) -> Inspection:
    """Look into files, globs, folders or zarr stores. Never raises for a file that can be read; problems are listed.

    Args:
        paths: what to look into.
        allow_remote: schemes of remote zarr stores that may be opened, such as `gs`.

    Raises:
        ConfigError: a path that is neither local nor of an allowed scheme.
        DataError: a path that does not exist.
    """
    files = _all_files(paths, allow_remote)
    kinds = {path: "zarr" if isinstance(path, str) else kind_of(path) for path in files}
    gridded = [path for path in files if kinds[path] in GRIDDED]
    ledger = Ledger(report_only=True)
    for path in files:
        if path not in gridded:
            ledger.refuse(_what_it_is(kinds[path]), str(path))
    empty = Inspection(", ".join(dict.fromkeys(kinds.values())), tuple(map(str, files)), "", None, (), (), lines(ledger.notes, "refused"), {}, "",
                       False, "there is no gridded dataset here")
    if not gridded:
        return empty
    parts, broken = _scan_each(gridded, ledger)
    source, why_not = _try_source(parts, ledger)
    rows, sampled = measure(parts, source)
    orientation = source.orientation if source else next((p.orientation for p in parts if p.orientation is not None), None)
    attrs = {str(k): str(v) for k, v in (source.attrs if source else parts[0].attrs if parts else {}).items()}
    times = _times(parts, source)
    why_not = why_not or _why_not_ready(source, ledger, broken, rows)
    notes = _time_notes(times, parts) + lines(ledger.notes, "note")
    return replace(empty, grid=_grid(orientation), times=times, variables=tuple(rows), notes=notes, refused=lines(ledger.notes, "refused"),
                   attrs=attrs, sampled=sampled, ready=not why_not, why_not=why_not)


def _all_files(paths: Sequence[str | Path] | str | Path, allow_remote: Sequence[str]) -> tuple[Path | str, ...]:
    """As `expand_paths`, but a folder without gridded files is looked into all the same."""
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files: list[Path | str] = []
    for item in given:
        try:
            files += expand_paths(item, allow_remote)
        except DataError:
            if not Path(item).is_dir():
                raise
            files += sorted(p for p in Path(item).iterdir() if p.is_file()) or [Path(item)]
    return tuple(dict.fromkeys(files))


def _what_it_is(kind: str) -> str:
    if kind.startswith("shapefile") or kind in ("dBase table", "map projection text", "character set name"):
        return ("not a gridded dataset: part of a shapefile, a set of vector shapes (lines or areas for maps); "
                "maps can draw it, nothing can be trained on it")
    return f"not a gridded dataset: {kind}; netCDF, GRIB, HDF5 and zarr are read"


def _scan_each(files: Sequence[Path | str], ledger: Ledger) -> tuple[list[Part], bool]:
    """(decoded parts, whether a file could not be opened)."""
    parts, broken, numbering = [], False, Numbering()
    for path in files:
        try:
            found = scan([path], ledger, numbering)
        except ForecastError as error:
            ledger.refuse(f"{error.what}; {error.fix}", error.where or str(path))
            found = []
        broken = broken or not found
        parts += found
    return parts, broken


def _try_source(parts: Sequence[Part], ledger: Ledger) -> tuple[Source | None, str]:
    try:
        return build_source(parts, ledger), ""
    except ForecastError as error:
        return None, error.what
    except READ_ERRORS as error:
        ledger.refuse(f"data cannot be read ({error})", ", ".join(dict.fromkeys(p.path for p in parts)))
        return None, "data cannot be read"


def _why_not_ready(source: Source | None, ledger: Ledger, broken: bool, rows: Sequence[VariableReport]) -> str:
    if source is None or broken or ledger.num_fatal:
        return "something is refused that must be repaired first, or left out"
    if not len(source.channels):
        return "nothing in it changes with time: there is no series to learn from"
    if len(source.times) < 2:
        return "it has one time only: there is no step to learn"
    if any(r.unreadable for r in rows):
        return "some values cannot be read"
    return ""


def _grid(orientation: Geometry | None) -> str:
    """Size, spacing, kind and the file's own order, in one line."""
    if orientation is None:
        return ""
    if isinstance(orientation, BoxGrid):
        return orientation.describe()
    grid = orientation.grid()
    order = [f"latitude {'north to south' if orientation.latitude[0] > orientation.latitude[-1] else 'south to north'}",
             f"longitude {orientation.longitude[0]:g}..{orientation.longitude[-1]:g}"]
    if orientation.transposed:
        order.append("longitude before latitude")
    return f"{grid.describe()}, {_spacing(grid)}; in the file: {', '.join(order)}"


def _spacing(grid: LatLonGrid) -> str:
    rows, columns = np.diff(grid.latitude), np.diff(grid.longitude)
    width = f"{columns.mean():.4g}"
    if np.allclose(rows, rows.mean(), atol=1e-3):
        poles = "pole rows" if grid.has_pole_rows else "no pole rows"
        return f"regular {rows.mean():.4g} x {width} degrees" + (f", {poles}" if grid.is_global else "")
    nodes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(len(grid.latitude))[0])) if len(grid.latitude) <= 2000 else np.empty(0)
    kind = "Gaussian" if nodes.shape == grid.latitude.shape and np.allclose(nodes, grid.latitude, atol=0.01) else "unequally spaced"
    return f"{kind} latitudes x {width} degrees"


def _times(parts: Sequence[Part], source: Source | None) -> TimesReport | None:
    """The time axis of the source or, when there is none, of the files."""
    axes = [p.times for part in parts for p in part.pieces if p.times is not None]
    if source is not None and len(source.times):
        axis = source.times
    elif axes:
        axis = TimeAxis(np.unique(np.concatenate([a.seconds for a in axes if a.calendar == axes[0].calendar])), axes[0].calendar)
    else:
        return _dates_of_refused(parts)
    groups: dict[tuple[str, object], list[NDArray[np.int64]]] = {}
    for piece in (p for part in parts for p in part.pieces):
        if piece.times is not None:
            groups.setdefault((piece.variable, piece.levels), []).append(piece.times.seconds)
    repeated = max((sum(map(len, group)) - len(np.unique(np.concatenate(group))) for group in groups.values()), default=0)
    return _report(axis, repeated, source.trajectories if source is not None else None)


def _report(axis: TimeAxis, repeated: int, trajectories: NDArray[np.int64] | None = None) -> TimesReport:
    if len(axis) < 2:
        return TimesReport(axis.format(0), axis.format(-1), len(axis), axis.calendar, None, None, None, 0, (), repeated)
    steps, step = np.diff(axis.seconds), common_step(axis.seconds)
    if trajectories is not None and (np.diff(trajectories) == 0).any():
        steps = steps[np.diff(trajectories) == 0]
    missing: NDArray[np.int64] = np.empty(0, np.int64)
    if (np.mod(steps, step) == 0).all() and (axis.seconds[-1] - axis.seconds[0]) // step < 10_000_000:
        missing = missing_instants(axis.seconds, step, trajectories)
    shown = tuple(format_instant(int(s), axis.calendar) for s in missing[:5])
    return TimesReport(axis.format(0), axis.format(-1), len(axis), axis.calendar, step, int(steps.min()), int(steps.max()), len(missing), shown,
                       repeated)


def _dates_of_refused(parts: Sequence[Part]) -> TimesReport | None:
    """The start times of a forecast, or those of another dataset that is refused."""
    for finding in (f for part in parts for f in part.findings if f.array is not None):
        assert finding.array is not None
        for coordinate in finding.array.coords.values():
            if coordinate.ndim <= 1 and coordinate.size and coordinate.dtype.kind == "M":
                try:
                    return _report(TimeAxis.from_xarray(coordinate), 0)
                except DataError:
                    continue
    return None


def _time_notes(times: TimesReport | None, parts: Sequence[Part]) -> tuple[str, ...]:
    if times is None or times.shortest_seconds is None or times.longest_seconds is None:
        return ()
    days = times.shortest_seconds / 86400, times.longest_seconds / 86400
    monthly = days[0] >= _MONTH_DAYS[0] - 0.1 and days[1] <= _MONTH_DAYS[1] + 0.1
    words = " ".join(f"{p.attrs.get('long_name', '')} {p.attrs.get('cell_methods', '')} {part.attrs.get('title', '')}"
                     for part in parts for p in part.pieces)
    if monthly and "mean" in words.lower():
        return (f"monthly means, not instantaneous states: one time every {days[0]:.4g} to {days[1]:.4g} days",)
    if monthly:
        return (f"monthly data: one time every {days[0]:.4g} to {days[1]:.4g} days",)
    return ()
