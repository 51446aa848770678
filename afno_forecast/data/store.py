"""The training store: open, check, read. Written by `build.py`; FORMATS: one zarr v3 group with everything training needs."""

# C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import DataError
from ..grid import Grid, grid_from_dict
from ..times import TimeAxis, format_instant
from .climatology import Climatology
from .reader import BadChunk, ChunkedArray, read_metadata
from .statistics import Statistics

__all__ = ["FORMAT_VERSION", "MARK", "Scaling", "Statistics", "Store", "channel_names", "is_store", "match_channels"]

FORMAT_VERSION = 1
MARK = "afno_forecast_store"
_REBUILD = "restore the store from a copy, or delete it and build it again"


def is_store(path: Path | str) -> bool:
    """Whether a path is a training store of ours, finished or not, of any format version."""
    try:
        return MARK in _attributes(Path(path))
    except DataError:
        return False


def channel_names(path: Path | str) -> list[str]:
    """The channels of a store (`geopotential@500`), read from its JSON alone. Raises DataError."""
    return list(_channels(_checked_attributes(Path(path)), "channels", Path(path)).names)


def match_channels(wanted: ChannelSet, available: ChannelSet, where: str) -> NDArray[np.int64]:
    """Positions in `available` of the wanted channels, by variable, level and units. Raises DataError naming both lists."""
    names = available.names
    missing = [c.name for c in wanted if c.name not in names]
    if missing:
        raise DataError(f"no channel {', '.join(missing)}; wanted {', '.join(wanted.names)}; there are {', '.join(names) or 'none'}",
                        where=where, fix="give data with all the wanted channels")
    index = np.asarray([names.index(c.name) for c in wanted], dtype=np.int64)
    for channel, i in zip(wanted, index, strict=True):
        if available.channels[i].units != channel.units:
            raise DataError(f"{channel.name} comes in '{available.channels[i].units}', wanted '{channel.units}'", where=where,
                            fix="give data in these units")
    return index


@dataclass(frozen=True, eq=False)
class Scaling:
    """Normalisation of states: `value * scale + shift`, rounded twice in float32.

    Args:
        scale, shift: by channel wanted; float32, shape (C, 1, 1).
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]

    @classmethod
    def of(cls, mean: NDArray[np.float64], std: NDArray[np.float64]) -> Scaling:
        """To zero mean and unit standard deviation; a constant channel (std 0) is only centred. Physical units, shape (C,)."""
        scale = 1 / np.where(std > 0, std, 1.0)
        return cls(scale.astype(np.float32)[:, None, None], (-mean * scale).astype(np.float32)[:, None, None])

    def apply(self, values: NDArray[np.float32], places: NDArray[np.int64] | slice = slice(None)) -> None:
        """Normalise channels in place; values (C, H, W)."""
        np.multiply(values, self.scale[places], out=values)
        np.add(values, self.shift[places], out=values)


@dataclass(frozen=True, eq=False)
class _Group:
    """Channels wanted of one chunk.

    Args:
        number: the chunk's, along channels.
        local: their places in it.
        places: where they go among those wanted.
        direct: they are all of the chunk in its order, with all of its map, and go together: decoded straight to there.
    """

    number: int
    local: NDArray[np.int64]
    places: NDArray[np.int64] | slice
    direct: bool


class Store:
    """A finished training store, opened read-only; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attrs: dict[str, Any] = _checked_attributes(path)
        self.channels = _channels(self.attrs, "channels", path)
        self.static_channels = _channels(self.attrs, "static_channels", path)
        try:
            self.grid: Grid = grid_from_dict(self.attrs["grid"])
            self.time_step = int(self.attrs["time_step_seconds"])
            calendar = str(self.attrs["calendar"])
            self._period = (int(self.attrs["statistics_period"]["start"]), int(self.attrs["statistics_period"]["end"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"store attributes that cannot be read ({error})", where=str(path / "zarr.json"), fix=_REBUILD) from error
        self.times = TimeAxis(self._small("time").astype(np.int64), calendar)
        self._state = ChunkedArray(path / "state")
        self._group_cache: dict[tuple[bytes, int, int], tuple[_Group, ...]] = {}
        self._check()
        self.statistics = Statistics(self._small("mean"), self._small("std"), self._small("minimum"), self._small("maximum"),
                                     self._small("tendency_std"), self._period)

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open a store.

        Raises:
            DataError: not a store, unfinished, of another format version, or with parts that contradict each other.
        """
        return cls(Path(path))

    def _check(self) -> None:
        expected = (len(self.times), len(self.channels), *self.grid.shape)
        if self._state.shape != expected or self._state.dtype != np.float32:
            raise DataError(f"'state' has shape {self._state.shape}, its coordinates say {expected}", where=str(self.path), fix=_REBUILD)
        if (np.diff(self.times.seconds) <= 0).any():
            raise DataError("times that do not ascend", where=str(self.path / "time"), fix=_REBUILD)
        if not all(np.array_equal(self._small(name), values) for name, values in self.grid.axes.items()):
            raise DataError(f"{' and '.join(self.grid.axes)} differ from the grid in the attributes", where=str(self.path), fix=_REBUILD)

    def _small(self, name: str) -> NDArray[Any]:
        try:
            return ChunkedArray(self.path / name).read()
        except BadChunk as bad:
            raise DataError(f"'{name}' {bad.reason}", where=str(bad.file), fix=_REBUILD) from bad

    def trajectories(self) -> NDArray[np.int64] | None:
        """The trajectory of each time, for a store of independent trajectories; int64, shape (T,). None for one record. Raises DataError."""
        return self._small("trajectory").astype(np.int64) if "trajectories" in self.attrs else None

    @property
    def where(self) -> str:
        """The folder, in words."""
        return str(self.path)

    @property
    def source_attrs(self) -> dict[str, str]:
        """What the source files said of themselves: title, institution, source, license."""
        own = self.attrs.get("provenance", {}).get("source_attributes", {})
        return {str(k): str(v) for k, v in own.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the build had to remark: conversions, refused variables, filled cells, constant channels, missing times."""
        return tuple(map(str, self.attrs.get("provenance", {}).get("notes", ())))

    def channel_index(self, channels: ChannelSet) -> NDArray[np.int64]:
        """Positions of the wanted channels in the store, by variable, level and units. Raises DataError."""
        return match_channels(channels, self.channels, str(self.path))

    def read(self, index: int, channel_index: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """One state in physical units.

        Args:
            index: position on the time axis.
            channel_index: channels wanted, in this order; all in the store's order by default.

        Returns:
            float32, shape (C, H, W), latitude ascending.

        Raises:
            DataError: a chunk is missing or damaged; its file, channels and date are named.
        """
        wanted = np.arange(len(self.channels)) if channel_index is None else np.asarray(channel_index, dtype=np.int64)
        out = np.empty((len(wanted), *self.grid.shape), np.float32)
        self.read_into([index], [out], channel_index=wanted)
        return out

    def read_into(self, times: Sequence[int], outs: Sequence[NDArray[np.float32]], *, channel_index: NDArray[np.int64], rows: slice | None = None,
                  scaling: Scaling | None = None) -> None:
        """States into memory that is already there.

        Args:
            times: positions on the time axis.
            outs: where each goes: float32, contiguous, shape (C, rows, W).
            channel_index: channels wanted, in this order.
            rows: rows of the grid wanted; all by default.
            scaling: applied in place to each chunk while it is in the processor's cache; physical units by default.

        Raises:
            DataError: as `read` does.
        """
        whole = slice(0, self.grid.shape[0]) if rows is None else rows
        groups = self._groups(channel_index, whole)
        for time, out in zip(times, outs, strict=True):
            if not 0 <= time < len(self.times):
                raise IndexError(f"time {time} of {len(self.times)}")
            for group in groups:
                if group.direct:
                    part = out[group.places]
                    self._chunk((time, group.number, 0, 0), part[None])
                else:
                    part = self._pick(time, group, whole)
                if scaling is not None:
                    scaling.apply(part, group.places)
                if not group.direct:
                    out[group.places] = part

    def channel_groups(self) -> list[NDArray[np.int64]]:
        """Positions of the channels of each chunk."""
        return np.split(np.arange(len(self.channels)), range(self._state.chunk[1], len(self.channels), self._state.chunk[1]))

    @property
    def states(self) -> ChunkedArray:
        """The array of states, (time, channel, latitude, longitude)."""
        return self._state

    def run_of(self, time: int) -> tuple[int, int]:
        """The times (first, beyond the last) whose states lie in the same chunks: what one read decodes anyway."""
        size = self._state.chunk[0]
        return time // size * size, min(len(self.times), (time // size + 1) * size)

    def _groups(self, channel_index: NDArray[np.int64], rows: slice) -> tuple[_Group, ...]:
        """What is wanted of each chunk of channels."""
        key = channel_index.tobytes(), rows.start, rows.stop
        if key not in self._group_cache:
            depth, size, *cells = self._state.chunk
            numbers, groups = channel_index // size, []
            for number in dict.fromkeys(numbers.tolist()):
                places = np.flatnonzero(numbers == number)
                local = channel_index[places] % size
                together = len(local) == size == places[-1] - places[0] + 1 and bool((local == np.arange(size)).all())
                direct = together and depth == 1 and (*cells, rows) == (*self.grid.shape, slice(0, self.grid.shape[0]))
                groups.append(_Group(number, local, slice(int(places[0]), int(places[-1]) + 1) if together else places, direct))
            self._group_cache[key] = tuple(groups)
        return self._group_cache[key]

    def _pick(self, time: int, group: _Group, rows: slice) -> NDArray[np.float32]:
        """Some channels of some rows, out of borrowed chunks."""
        depth, _, height, width = self._state.chunk
        picked = np.empty((len(group.local), rows.stop - rows.start, self.grid.shape[1]), np.float32)
        for row in range(rows.start // height, -(-rows.stop // height)):
            low, high = max(rows.start, row * height), min(rows.stop, (row + 1) * height)
            for column in range(self._state.num_chunks[3]):
                chunk = self._chunk((time // depth, group.number, row, column))
                right = min(self.grid.shape[1], (column + 1) * width)
                picked[:, low - rows.start:high - rows.start, column * width:right] = \
                    chunk[time % depth, group.local, low - row * height:high - row * height, :right - column * width]
        return picked

    def _chunk(self, index: tuple[int, ...], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        try:
            return self._state.borrow_chunk(index) if out is None else self._state.read_chunk(index, out)
        except BadChunk as bad:
            self._raise(bad)

    def _raise(self, bad: BadChunk) -> NoReturn:
        raise DataError(f"a chunk of 'state' {bad.reason}: {self._describe(bad)}", where=f"{self.path}, {bad.file.relative_to(self.path)}",
                        fix=f"list all with `afno-forecast data verify {self.path}`; then {_REBUILD}") from bad

    def _describe(self, bad: BadChunk) -> str:
        size = self._state.chunk[1]
        names = self.channels.names[bad.index[1] * size:(bad.index[1] + 1) * size]
        shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} .. {names[-1]}"
        first, beyond = self.run_of(bad.index[0] * self._state.chunk[0])
        dates = " to ".join(dict.fromkeys((self.times.format(first), self.times.format(beyond - 1))))
        return f"{dates}, {shown}, chunk {'.'.join(map(str, bad.index))}"

    def static(self) -> NDArray[np.float32]:
        """The static fields; float32, shape (S, H, W). Raises DataError."""
        if not len(self.static_channels):
            return np.empty((0, *self.grid.shape), np.float32)
        return self._small("static").astype(np.float32)

    def climatology(self) -> Climatology | None:
        """The climatology, or None when the store was built without. Raises DataError."""
        if not self.attrs.get("climatology"):
            return None
        return Climatology(self.path / "climatology", self._small("hour").astype(np.int64), self.channels, self.times.calendar,
                           self.grid)

    def verify(self) -> list[str]:
        """Read every chunk; one line for each that is missing or damaged, with file, date and channels; empty when all is well."""
        problems = [f"{bad.file.relative_to(self.path)}: {self._describe(bad)} {bad.reason}" for bad in self._state.bad_chunks()]
        return problems + [f"{bad.file.relative_to(self.path)}: chunk {'.'.join(map(str, bad.index))} {bad.reason}"
                           for bad in self.other_bad_chunks()]

    def other_bad_chunks(self) -> list[BadChunk]:
        """Chunks of static fields and climatology that are missing or damaged."""
        names: Sequence[str] = [*(["static"] if len(self.static_channels) else []), *(["climatology"] if self.attrs.get("climatology") else [])]
        return [bad for name in names for bad in ChunkedArray(self.path / name).bad_chunks()]

    def describe_period(self) -> str:
        """First and last time, count and step, in words."""
        first, last = (format_instant(int(s), self.times.calendar) for s in self.times.seconds[[0, -1]])
        if "trajectories" in self.attrs:
            return f"{self.attrs['trajectories']['count']} trajectories, {len(self.times)} times, a trajectory a year from {first} to {last}"
        return f"{len(self.times)} times from {first} to {last}"


def _attributes(path: Path) -> dict[str, Any]:
    attributes = read_metadata(path).get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _checked_attributes(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError("there is no such store", where=str(path), fix="check the path, or build it with `afno-forecast data build`")
    try:
        attributes = _attributes(path)
    except DataError as error:
        raise DataError("not a training store", where=str(path), fix="build one with `afno-forecast data build`") from error
    if MARK not in attributes:
        raise DataError("not a training store", where=str(path), fix="build one with `afno-forecast data build`")
    if attributes[MARK] != FORMAT_VERSION:
        raise DataError(f"a training store of format {attributes[MARK]}; this version reads format {FORMAT_VERSION}", where=str(path),
                        fix="use the version of afno-forecast that built it, or build it again")
    if attributes.get("complete") is not True:
        raise DataError("an unfinished training store", where=str(path), fix="run the same `afno-forecast data build` again; it continues")
    return attributes


def _channels(attributes: dict[str, Any], key: str, path: Path) -> ChannelSet:
    try:
        return ChannelSet.from_list(attributes[key])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"store attributes without readable '{key}' ({error})", where=str(path / "zarr.json"), fix=_REBUILD) from error
