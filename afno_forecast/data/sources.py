"""netCDF, GRIB, HDF5 and zarr to one labelled, canonical dataset. Nothing is dropped, sorted or converted without a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from afno_forecast.channels import Channel, ChannelSet, Role
from afno_forecast.errors import DataError
from afno_forecast.grid import Geometry, Grid, LatLonGrid
from afno_forecast.times import TimeAxis
from afno_forecast.vocabulary import BY_NAME, short_name, split_name

from .derive import derive as with_derived
from .derive import ingredients
from .sources_chunks import check_presence
from .sources_combine import Field, align, combine, one_calendar, same_mesh
from .sources_decode import Finding, Part, decode
from .sources_files import expand_paths, open_file
from .sources_notes import Ledger, Note
from .sources_trajectories import Numbering, trajectory_numbers, unroll

__all__ = ["Finding", "Note", "Source", "build_source", "open_source", "scan"]


@dataclass(frozen=True, eq=False)
class Source:
    """A gridded dataset in canonical form, read lazily.

    Args:
        dataset: long names; float32 dask arrays with dims (time, [level], latitude, longitude), constant fields without time; y and x
            instead of latitude and longitude on a box; `level` int hPa ascending, the union of all variables' levels (NaN where a
            variable lacks one; `channels` says which exist); latitude ascending, longitude canonical; `units` in each variable's
            attributes.
        orientation: the order of the first file, to give results back in it.
        times: instants of `dataset.time`; none when nothing changes with time.
        channels: every time-varying (variable, level), role prognostic.
        static: every constant one, role static.
        notes: remarks and refusals.
        paths: the files.
        attrs: global attributes of the first file.
        findings: what became of each variable of each file.
        trajectories: the trajectory of each time, for independent ones; int64 (T,); None for one record. Each has a year to itself.
    """

    dataset: xr.Dataset
    orientation: Geometry
    times: TimeAxis
    channels: ChannelSet
    static: ChannelSet
    notes: tuple[Note, ...]
    paths: tuple[str, ...]
    attrs: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    trajectories: NDArray[np.int64] | None = None

    @property
    def grid(self) -> Grid:
        """The canonical grid of `dataset`."""
        return self.orientation.grid()


def open_source(paths: Sequence[str | Path] | str | Path, *, channels: Sequence[str] | None = None, static: Sequence[str] | None = None,
                derive: Sequence[str] = (), report_only: bool = False, fill_absent: bool = False,
                boundary: Literal["periodic", "open"] | None = None, allow_remote: Sequence[str] = ()) -> Source:
    """Open files, globs, a folder or a zarr store as one dataset.

    Args:
        paths: netCDF, HDF5, GRIB or zarr, local.
        channels: time-varying channels wanted, by any name, in the order wanted; None for all. The others are neither checked nor aligned.
        static: constant fields wanted, likewise; None for all.
        derive: channels made of others; see `derive.derive`.
        report_only: remember what would be refused as notes and go on with the rest, where there is a rest.
        fill_absent: take chunks that a zarr store lacks as its fill value, where that is a number; they are refused otherwise.
        boundary: how a box continues over its edges where its files do not say.
        allow_remote: schemes of remote zarr stores that may be opened, such as `gs`.

    Raises:
        ConfigError: a path that is neither local nor of an allowed scheme; a name that cannot be derived.
        DataError: a file that is missing, damaged or contradicts another; a wanted channel that is missing or refused; nothing usable.
        ResourceError: GRIB without cfgrib.
    """
    ledger = Ledger(report_only, fill_absent, boundary)
    files = expand_paths(paths, allow_remote)
    return build_source(scan(files, ledger, Numbering()), ledger, channels, static=static, derive=derive)


def scan(files: Sequence[Path | str], ledger: Ledger, numbering: Numbering) -> list[Part]:
    """Each file decoded on its own. Raises as `open_source` does, or remembers with a ledger that only reports."""
    parts = []
    for path in files:
        try:
            datasets = [unroll(ds, str(path), ledger, numbering) for ds in open_file(path, ledger)]
        except DataError as error:
            ledger.fail(error)
            continue
        parts += [decode(ds, str(path), ledger) for ds in datasets]
    return parts


def build_source(parts: Sequence[Part], ledger: Ledger, channels: Sequence[str] | None = None, *, static: Sequence[str] | None = None,
                 derive: Sequence[str] = ()) -> Source:
    """One source from decoded files. Raises ConfigError and DataError as `open_source` does."""
    kept, grid = same_mesh(parts, ledger)
    findings = tuple(f for part in parts for f in part.findings)
    pieces = [piece for part in kept for piece in part.pieces]
    have = tuple(dict.fromkeys(short_name(p.variable, level) for p in pieces for level in (p.levels or (None,))))
    wanted = {split_name(name)[0] for name in (*(channels or ()), *(static or ()))}
    read = wanted | ingredients(derive)
    pieces = [p for p in pieces if (static if p.times is None or _is_constant(p.variable) else channels) is None or p.variable in read]
    if not pieces:
        raise _nothing(parts, findings, channels)
    check_presence(kept, pieces, ledger)
    unrolled = [part.trajectories for part in kept if any(p.times is not None for p in part.pieces)]
    if any(unrolled) and not all(unrolled):
        mixed = ", ".join(kept[unrolled.index(flag)].path for flag in (True, False))
        raise DataError("trajectories in one file, one record in another", where=mixed, fix="open them apart")
    fields = with_derived(combine(one_calendar(pieces, ledger), ledger), derive, ledger, ", ".join(dict.fromkeys(p.path for p in parts)))
    if channels is not None:
        fields = [f for f in fields if f.times is None or f.variable in wanted]
    fields, times = align(fields, ledger, trajectories=any(unrolled))
    prognostic = ChannelSet(tuple(channel for f in fields if f.times is not None for channel in _channels(f)))
    fixed = ChannelSet(tuple(channel for f in fields if f.times is None for channel in _channels(f)))
    if channels is not None:
        prognostic = _select(channels, prognostic, fixed, have, findings)
        fields = [f for f in fields if f.times is None or f.variable in {c.variable for c in prognostic}]
    if static is not None:
        fixed = _select(static, fixed, prognostic, have, findings)
        fields = [f for f in fields if f.times is not None or f.variable in {c.variable for c in fixed}]
    for field in fields:
        if field.times is None and not _is_constant(field.variable):
            ledger.note(f"'{field.piece.file_name}' has no time: taken as a constant field; add a time if it is a state", field.piece.path)
        if field.levels is None and (known := BY_NAME.get(field.variable)) is not None and known.on_levels:
            ledger.note(f"'{field.piece.file_name}' ({field.variable}) has no pressure level in the file", field.piece.path)
    orientation = next(p.orientation for p in kept if p.orientation is not None)
    return Source(_dataset(fields, times, grid), orientation, times, prognostic, fixed, ledger.notes,
                  tuple(dict.fromkeys(p.path for p in parts)), dict(kept[0].attrs), findings,
                  trajectory_numbers(times) if any(unrolled) else None)


def _is_constant(variable: str) -> bool:
    known = BY_NAME.get(variable)
    return known is not None and known.constant


def _nothing(parts: Sequence[Part], findings: Sequence[Finding], channels: Sequence[str] | None) -> DataError:
    refused = [f for f in findings if f.refused]
    where = ", ".join(dict.fromkeys(p.path for p in parts))
    if channels is not None and any(not f.refused for f in findings):
        have = ", ".join(dict.fromkeys(f.variable for f in findings if f.variable))
        return DataError(f"none of the channels {', '.join(channels)} is here; there are {have}", where=where, fix="use names from this list")
    if refused:
        return DataError(f"no variable can be used: {refused[0].refused}", where=where,
                         fix="'afno-forecast data inspect' lists every variable and reason")
    return DataError("there is no gridded variable here", where=where, fix="'afno-forecast data inspect' shows what is in it")


def _channels(field: Field) -> list[Channel]:
    role: Role = "static" if field.times is None else "prognostic"
    return [Channel(field.variable, level, field.units, role) for level in (field.levels if field.levels is not None else (None,))]


def _select(names: Sequence[str], there: ChannelSet, others: ChannelSet, have: Sequence[str], findings: Sequence[Finding]) -> ChannelSet:
    """The wanted channels in order; one of the other kind, constant or not, is allowed, and stays among the others."""
    chosen, missing, reasons = [], [], []
    for name in names:
        variable, level = split_name(name)
        full = variable if level is None else f"{variable}@{level}"
        if full in there.names:
            chosen.append(there.channels[there.names.index(full)])
        elif full not in others.names:
            missing.append(name)
            reasons += refusals(name, findings)[:1]
    if missing:
        near = get_close_matches(missing[0], [*there.names, *have], 1, 0.6)
        reason = f" ({reasons[0]})" if reasons else ""
        where = ", ".join(dict.fromkeys(f.path for f in findings))
        raise DataError(f"no channel {', '.join(missing)}{reason}; there are {', '.join(have) or 'none'}", where=where,
                        fix=f"did you mean '{near[0]}'?" if near else "use names from this list")
    return ChannelSet(tuple(chosen))


def refusals(name: str, findings: Sequence[Finding]) -> list[str]:
    """Why the variables of a file that bear a channel's name, any of its names, are not used."""
    variable = split_name(name)[0]
    return [f.refused for f in findings if f.refused and (f.file_name == name or split_name(f.file_name)[0] == variable)]


def _dataset(fields: Sequence[Field], times: TimeAxis, grid: Grid) -> xr.Dataset:
    levels = sorted({level for f in fields for level in f.levels or ()})
    units = {"latitude": "degrees_north", "longitude": "degrees_east"}
    about = {n: {"units": units[n], "standard_name": n} if isinstance(grid, LatLonGrid) else {"axis": n.upper()} for n in grid.axes}
    coords: dict[str, Any] = {name: (name, values, about[name]) for name, values in grid.axes.items()}
    if levels:
        coords["level"] = ("level", np.asarray(levels, np.int64), {"units": "hPa", "standard_name": "air_pressure", "positive": "down"})
    if len(times):
        coords["time"] = ("time", times.values(), {"standard_name": "time"})
    variables = {}
    for field in fields:
        dims = (*(("time",) if field.times is not None else ()), *(("level",) if field.levels is not None else ()), *grid.axes)
        known = BY_NAME.get(field.variable)
        attrs: dict[str, object] = {"units": field.units, "long_name": str(field.piece.attrs.get("long_name", field.variable.replace("_", " ")))}
        standard_name = known.standard_name if known else str(field.piece.attrs.get("standard_name", ""))
        if standard_name and standard_name != "unknown":
            attrs["standard_name"] = standard_name
        if field.levels is not None and len(field.levels) < len(levels):
            attrs["available_levels"] = list(field.levels)
        variables[field.variable] = (dims, _on_levels(field, levels), attrs)
    return xr.Dataset(variables, coords)


def _on_levels(field: Field, levels: Sequence[int]) -> da.Array:
    """The field on the union of levels, NaN on those it lacks."""
    if field.levels is None or list(field.levels) == list(levels):
        return field.data
    axis = field.data.ndim - 3
    layers = []
    for level in levels:
        if level in field.levels:
            index = field.levels.index(level)
            layers.append(field.data[:, index : index + 1] if axis else field.data[index : index + 1])
        else:
            shape = (*field.data.shape[:axis], 1, *field.data.shape[axis + 1 :])
            chunks = (*field.data.chunks[:axis], (1,), *field.data.chunks[axis + 1 :])
            layers.append(da.full(shape, np.nan, dtype=np.float32, chunks=chunks))
    joined: da.Array = da.concatenate(layers, axis=axis)
    return joined
