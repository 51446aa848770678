"""Pieces of many files to one dataset: along time, along level, and variable by variable, with every doubt checked or refused."""

# T time, L level, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dask.array as da
import numpy as np
from dask.base import compute
from numpy.typing import NDArray

from afno_forecast.errors import DataError
from afno_forecast.grid import Grid
from afno_forecast.times import STANDARD, TimeAxis, common_step, format_instant
from afno_forecast.vocabulary import BY_NAME, split_name

from .sources_decode import Part, Piece
from .sources_files import READ_ERRORS, first_line
from .sources_notes import Ledger
from .sources_trajectories import trajectory_numbers
from .units import convert

_REFORM = -12_219_292_800  # 1582-10-15: from here on the standard calendar is the proleptic Gregorian one
_COMPARED_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Field:
    """One variable of the whole source: `data` is float32 (T, L, H, W), without T for a constant and without L when it has no levels."""

    variable: str
    units: str
    levels: tuple[int, ...] | None
    times: TimeAxis | None
    data: da.Array
    piece: Piece


def same_mesh(parts: Sequence[Part], ledger: Ledger) -> tuple[list[Part], Grid]:
    """The parts on the grid of the first one, and that grid. Raises DataError for another grid, naming both files."""
    usable = [p for p in parts if p.orientation is not None]
    if not usable or usable[0].orientation is None:
        reasons = [f.refused for p in parts for f in p.findings if f.refused]
        raise DataError("nothing here is on a grid that is read" + (f": {reasons[0]}" if reasons else ""),
                        where=parts[0].path if parts else "", fix="see what is in it with 'afno-forecast data inspect'")
    grid = usable[0].orientation.grid()
    kept = []
    for part in usable:
        assert part.orientation is not None
        own = part.orientation.grid()
        if grid.matches(own):
            kept.append(part)
        else:
            ledger.fail(DataError(f"two grids: {grid.describe()} and {own.describe()}", where=f"{usable[0].path} and {part.path}",
                                  fix="regrid one to the other, or open them apart"))
    return kept, grid


def one_calendar(pieces: Sequence[Piece], ledger: Ledger) -> list[Piece]:
    """The pieces of one calendar. Raises DataError when files have different ones, naming them."""
    dated = [p for p in pieces if p.times is not None]
    calendars = {p.times.calendar for p in dated if p.times is not None}
    if calendars == {"standard", STANDARD}:
        late = all(p.times.seconds.min() >= _REFORM for p in dated if p.times is not None and p.times.calendar == STANDARD)
        if late:
            return [p if p.times is None else replace(p, times=TimeAxis(p.times.seconds, "standard")) for p in pieces]
    if len(calendars) < 2:
        return list(pieces)
    first = dated[0]
    assert first.times is not None
    other = next(p for p in dated if p.times is not None and p.times.calendar != first.times.calendar)
    assert other.times is not None
    ledger.fail(DataError(f"mixed calendars: {first.times.calendar} and {other.times.calendar}", where=f"{first.path} and {other.path}",
                          fix="convert the files to one calendar, or open them apart"))
    return [p for p in pieces if p.times is None or p.times.calendar == first.times.calendar]


def combine(pieces: Sequence[Piece], ledger: Ledger) -> list[Field]:
    """One field for each variable, in the order of the files. Raises DataError for data that contradict each other."""
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.variable, []).append(piece)
    fields = []
    for members in groups.values():
        field = _combine_one(members, ledger)
        if field is not None:
            fields.append(field)
    return fields


def _combine_one(members: list[Piece], ledger: Ledger) -> Field | None:
    members = _one_unit(_one_of_each(members, ledger), ledger)
    first = members[0]
    for other in [p for p in members if (p.levels is None) != (first.levels is None) or (p.times is None) != (first.times is None)]:
        what = "times" if (other.times is None) != (first.times is None) else "pressure levels"
        ledger.fail(DataError(f"'{first.variable}' has {what} in one place and none in the other",
                              where=f"{first.path} ({first.file_name}) and {other.path} ({other.file_name})", fix="give both the same dimensions"))
        members = [p for p in members if p is not other]
    if len({p.levels for p in members}) == 1:
        times, data = _along_time(members, ledger)
        field = Field(first.variable, first.units, first.levels, times, data, first)
    else:
        field = _along_level(members, ledger)
    return _constant(field, ledger)


def _one_of_each(members: list[Piece], ledger: Ledger) -> list[Piece]:
    """Of two variables of one file that are the same quantity, the one whose name says so; the others are refused."""
    kept: list[Piece] = []
    for piece in members:
        rival = next((p for p in kept if p.path == piece.path and p.file_name != piece.file_name and _share_levels(p, piece)), None)
        if rival is None:
            kept.append(piece)
            continue
        names = {p.file_name: split_name(p.file_name)[0] == p.variable for p in (rival, piece)}
        if all(names.values()) or not any(names.values()):
            ledger.fail(DataError(f"'{rival.file_name}' and '{piece.file_name}' are both {piece.variable}", where=piece.path,
                                  fix="remove one, or correct its standard_name"))
            continue
        chosen, other = (rival, piece) if names[rival.file_name] else (piece, rival)
        kept[kept.index(rival)] = chosen
        ledger.refuse(f"'{other.file_name}' is {other.variable} too; '{chosen.file_name}' is used", f"{piece.path}, {other.file_name}")
    return kept


def _share_levels(one: Piece, other: Piece) -> bool:
    return one.levels is None or other.levels is None or bool(set(one.levels) & set(other.levels))


def _read(members: Sequence[Piece], *arrays: da.Array) -> tuple[NDArray[np.float32], ...]:
    """The values of arrays. Raises DataError naming the files when they cannot be read."""
    try:
        values: tuple[NDArray[np.float32], ...] = compute(*arrays)
    except READ_ERRORS as error:
        raise DataError(f"'{members[0].variable}' cannot be read ({first_line(error)})", where=", ".join(dict.fromkeys(p.path for p in members)),
                        fix="fetch or write the file again") from error
    return values


def _one_unit(members: list[Piece], ledger: Ledger) -> list[Piece]:
    """Quantities outside the vocabulary keep the first file's units; the others are converted to them."""
    first, out = members[0], []
    for piece in members:
        if piece.units == first.units:
            out.append(piece)
            continue
        scale = convert(piece.units, first.units, first.variable)
        if scale is None:
            ledger.fail(DataError(f"'{first.variable}' comes in '{first.units}' and in '{piece.units}'", where=f"{first.path} and {piece.path}",
                                  fix="bring the files to one unit"))
            continue
        ledger.note(f"'{piece.file_name}' converted from {piece.units} to {first.units}", piece.path)
        factor, offset = scale
        out.append(replace(piece, data=(piece.data * np.float32(factor) + np.float32(offset)).astype(np.float32), units=first.units))
    return out


def _along_level(members: list[Piece], ledger: Ledger) -> Field:
    """Levels from different variables or files gathered, ascending, at the times that all of them have."""
    by_level: dict[int, list[Piece]] = {}
    for piece in members:
        for i, level in enumerate(piece.levels or ()):
            data = piece.data[:, i : i + 1] if piece.times is not None else piece.data[i : i + 1]
            by_level.setdefault(level, []).append(replace(piece, levels=(level,), data=data))
    first = members[0]
    columns = {level: _along_time(by_level[level], ledger) for level in sorted(by_level)}
    times = shared_times({f"{first.variable}@{level}": t for level, (t, _) in columns.items()}, ledger)
    layers = [at_times(data, own, times) for own, data in columns.values()]
    return Field(first.variable, first.units, tuple(columns), times, da.concatenate(layers, axis=0 if times is None else 1), first)


def _along_time(members: list[Piece], ledger: Ledger) -> tuple[TimeAxis | None, da.Array]:
    """The pieces of one variable on the same levels, in order of time; repeated times must be identical."""
    first = members[0]
    if first.times is None:
        for other in members[1:]:
            _same_constant(first, other, ledger)
        return None, first.data
    seconds = np.concatenate([p.times.seconds for p in members if p.times is not None])
    order = np.argsort(seconds, kind="stable")
    ascending = seconds[order]
    repeated = np.flatnonzero(np.diff(ascending) == 0)
    data = first.data if len(members) == 1 else da.concatenate([p.data for p in members], axis=0)
    if len(repeated):
        _check_repeated(members, data, order, repeated, ledger)
        order = np.delete(order, repeated + 1)
    if not (np.diff(order) > 0).all():
        if any(p.times is not None and (np.diff(p.times.seconds) < 0).any() for p in members):
            ledger.note(f"times of '{first.variable}' are not in order: sorted", first.path)
        return TimeAxis(seconds[order], first.times.calendar), _take(members, data, order)
    axis = TimeAxis(seconds[order], first.times.calendar)
    return axis, data if len(order) == len(seconds) else _take(members, data, order)


def _take(members: list[Piece], data: da.Array, order: NDArray[np.int64]) -> da.Array:
    """`data[order]` in runs of ascending neighbours, so that whole files in another order stay whole blocks."""
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    if len(breaks) > 4 * len(members) + 64:
        joined: da.Array = data[order]
    else:
        joined = da.concatenate([data[run[0] : run[-1] + 1] for run in np.split(order, breaks)], axis=0)
    return joined


def _check_repeated(members: list[Piece], data: da.Array, order: NDArray[np.int64], repeated: NDArray[np.int64], ledger: Ledger) -> None:
    """Compare the fields at repeated times, in bounded memory; raises DataError with dates and files where they differ."""
    assert members[0].times is not None
    lengths = np.cumsum([len(p.times) for p in members if p.times is not None])
    axis = members[0].times
    batch = max(1, int(_COMPARED_BYTES / max(data.nbytes / data.shape[0], 1)))
    for start in range(0, len(repeated), batch):
        chosen = repeated[start : start + batch]
        one, two = _read(members, data[order[chosen]], data[order[chosen + 1]])
        differs = ~((one == two) | (np.isnan(one) & np.isnan(two))).reshape(len(chosen), -1).all(axis=1)
        if differs.any():
            at = chosen[int(np.argmax(differs))]
            files = [members[int(np.searchsorted(lengths, order[i], side="right"))].path for i in (at, at + 1)]
            seconds = np.concatenate([p.times.seconds for p in members if p.times is not None])[order[at]]
            count = int(differs.sum())
            ledger.fail(DataError(
                f"'{members[0].variable}' has the time {format_instant(int(seconds), axis.calendar)} twice with different data"
                f" (by up to {np.nanmax(np.abs(one - two)):.3g} {members[0].units}{f', and {count - 1} more such times' if count > 1 else ''})",
                where=files[0] if files[0] == files[1] else f"{files[0]} and {files[1]}", fix="remove the wrong one of the two"))
            return
    where = ", ".join(dict.fromkeys(members[int(np.searchsorted(lengths, order[i], side="right"))].path for i in repeated + 1))
    ledger.note(f"{len(repeated)} repeated times of '{members[0].variable}' with identical data: dropped", where)


def _same_constant(first: Piece, other: Piece, ledger: Ledger) -> None:
    one, two = _read([first, other], first.data, other.data)
    scale = float(np.nanmax(np.abs(one))) if np.isfinite(one).any() else 1.0
    if not np.allclose(one, two, rtol=1e-6, atol=1e-6 * scale, equal_nan=True):
        ledger.fail(DataError(f"'{first.variable}' does not change with time but differs between files", where=f"{first.path} and {other.path}",
                              fix="remove the wrong one of the two"))


def _constant(field: Field, ledger: Ledger) -> Field:
    """A quantity that is constant by nature but comes with times: the first of them, when first, middle and last agree."""
    known = BY_NAME.get(field.variable)
    if known is None or not known.constant or field.times is None or field.levels is not None:
        return field
    middle = len(field.times) // 2
    first, *others = _read([field.piece], field.data[0], field.data[middle], field.data[-1])
    if all(np.array_equal(first, other, equal_nan=True) for other in others):
        ledger.note(f"'{field.variable}' comes with times and is constant (first, middle and last agree): taken once", field.piece.path)
        return replace(field, times=None, data=field.data[0])
    ledger.note(f"'{field.variable}' changes with time: kept as a variable that does", field.piece.path)
    return field


def shared_times(axes: dict[str, TimeAxis | None], ledger: Ledger) -> TimeAxis | None:
    """The instants that all have. Raises DataError when there is none."""
    dated = {name: axis for name, axis in axes.items() if axis is not None}
    if not dated:
        return None
    first_name, first = next(iter(dated.items()))
    seconds = first.seconds
    for axis in dated.values():
        if not np.array_equal(seconds, axis.seconds):
            seconds = np.intersect1d(seconds, axis.seconds, assume_unique=True)
    for name, axis in dated.items():
        if len(axis) > len(seconds):
            ledger.note(f"{len(axis) - len(seconds)} of {len(axis)} times of '{name}' are left out: not every variable has them")
    if len(seconds) == 0:
        other = next(n for n, a in dated.items() if len(np.intersect1d(a.seconds, first.seconds)) < len(a))
        raise DataError(f"no time is common to all variables, for example '{first_name}' ({first.format(0)}..{first.format(-1)}) "
                        f"and '{other}' ({dated[other].format(0)}..{dated[other].format(-1)})",
                        fix="choose variables that share times with channels=[...]")
    return TimeAxis(seconds, first.calendar)


def at_times(data: da.Array, own: TimeAxis | None, wanted: TimeAxis | None) -> da.Array:
    """Data (T, ...) on their own times at some of them."""
    if own is None or wanted is None or np.array_equal(own.seconds, wanted.seconds):
        return data
    chosen: da.Array = data[np.searchsorted(own.seconds, wanted.seconds)]
    return chosen


def align(fields: Sequence[Field], ledger: Ledger, *, trajectories: bool = False) -> tuple[list[Field], TimeAxis]:
    """All fields at the times that every time-varying one has; the axis has no times when none varies.

    The steps from one of several trajectories to the next are no irregularity.
    """
    times = shared_times({f.variable: f.times for f in fields}, ledger)
    if times is None:
        return list(fields), TimeAxis(np.empty(0, np.int64))
    if len(times) > 2:
        steps = np.diff(times.seconds)
        if trajectories:
            steps = steps[np.diff(trajectory_numbers(times)) == 0]
        step = common_step(times.seconds)
        if (steps != step).any():
            ledger.note(f"irregular step: {np.count_nonzero(steps != step)} of {len(steps)} are not {step / 3600:g} h "
                        f"({steps.min() / 3600:g} to {steps.max() / 3600:g} h)")
    return [f if f.times is None else replace(f, times=times, data=at_times(f.data, f.times, times)) for f in fields], times
