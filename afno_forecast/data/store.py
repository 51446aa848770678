"""The training store: open, check, read. Written by `build.py`; FORMATS: one zarr v3 group with everything training needs."""

# C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["FORMAT_VERSION", "MARK", "Statistics", "Store", "channel_names", "is_store", "match_channels"]

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
        if self._state.shape != expected or self._state.chunk[0] != 1 or self._state.chunk[2:] != self.grid.shape:
            raise DataError(f"'state' has shape {self._state.shape}, its coordinates say {expected}", where=str(self.path), fix=_REBUILD)
        if (np.diff(self.times.seconds) <= 0).any():
            raise DataError("times that do not ascend", where=str(self.path / "time"), fix=_REBUILD)
        rows = np.concatenate([np.asarray(self._small(n)) for n in ("latitude", "longitude")])
        stated = np.concatenate([np.asarray(v) for v in (getattr(self.grid, "latitude", []), getattr(self.grid, "longitude", []))])
        if rows.shape != stated.shape or not np.array_equal(rows, stated):
            raise DataError("latitude and longitude differ from the grid in the attributes", where=str(self.path), fix=_REBUILD)

    def _small(self, name: str) -> NDArray[Any]:
        try:
            return ChunkedArray(self.path / name).read()
        except BadChunk as bad:
            raise DataError(f"'{name}' {bad.reason}", where=str(bad.file), fix=_REBUILD) from bad

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
        if not 0 <= index < len(self.times):
            raise IndexError(f"time {index} of {len(self.times)}")
        size = self._state.chunk[1]
        wanted = np.arange(len(self.channels)) if channel_index is None else np.asarray(channel_index)
        if len(wanted) == len(self.channels) <= size and np.array_equal(wanted, np.arange(len(wanted))):
            return self._chunk((index, 0, 0, 0))[0, :len(wanted)]
        out = np.empty((len(wanted), *self.grid.shape), np.float32)
        for number in np.unique(wanted // size):
            mine = wanted // size == number
            out[mine] = self._chunk((index, int(number), 0, 0))[0][wanted[mine] % size]
        return out

    def _chunk(self, index: tuple[int, ...]) -> NDArray[np.float32]:
        try:
            return self._state.read_chunk(index)
        except BadChunk as bad:
            self._raise(bad)

    def _raise(self, bad: BadChunk) -> NoReturn:
        raise DataError(f"a chunk of 'state' {bad.reason}: {self._describe(bad)}", where=f"{self.path}, {bad.file.relative_to(self.path)}",
                        fix=f"list all with `afno-forecast data inspect {self.path}`; then {_REBUILD}") from bad

    def _describe(self, bad: BadChunk) -> str:
        size = self._state.chunk[1]
        names = self.channels.names[bad.index[1] * size:(bad.index[1] + 1) * size]
        shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} .. {names[-1]}"
        return f"{self.times.format(bad.index[0])}, {shown}, chunk {'.'.join(map(str, bad.index))}"

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
        names: Sequence[str] = [*(["static"] if len(self.static_channels) else []), *(["climatology"] if self.attrs.get("climatology") else [])]
        for name in names:
            problems += [f"{bad.file.relative_to(self.path)}: chunk {'.'.join(map(str, bad.index))} {bad.reason}"
                         for bad in ChunkedArray(self.path / name).bad_chunks()]
        return problems

    def describe_period(self) -> str:
        """First and last time, count and step, in words."""
        first, last = (format_instant(int(s), self.times.calendar) for s in self.times.seconds[[0, -1]])
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
