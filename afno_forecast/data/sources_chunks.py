"""Which chunks of a zarr source are not on disk: zarr reads them as the fill value without a word."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.errors import BaseZarrError

from afno_forecast.errors import DataError
from afno_forecast.times import TimeAxis

from .sources_decode import Part, Piece
from .sources_files import READ_ERRORS, first_line, is_zarr
from .sources_notes import Ledger

_SHOWN = 3
_MOST_CHUNKS = 5_000_000


@dataclass(frozen=True, eq=False)
class Absent:
    """The chunks of one array that are not on disk.

    Args:
        indices: their places in the array's chunk grid, in order; int64, shape (N, number of dimensions).
        total: chunks of the whole array.
        chunks, shape: of the array.
    """

    indices: NDArray[np.int64]
    total: int
    chunks: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def first_cell(self) -> tuple[int, ...]:
        """The index of one value of the first of them."""
        return tuple(int(i) * c for i, c in zip(self.indices[0], self.chunks, strict=True))

    def num_entries(self) -> int:
        """Values along a one-dimensional array that they hold."""
        return sum(min(self.chunks[0], self.shape[0] - int(i) * self.chunks[0]) for i in self.indices[:, 0])

    def places(self, dim: int, times: TimeAxis | None) -> str:
        """The ranges along a dimension that they touch, as dates where there are some."""
        touched = np.unique(self.indices[:, dim])
        runs = np.split(touched, np.flatnonzero(np.diff(touched) != 1) + 1)
        words = []
        for run in runs[:_SHOWN]:
            start, last = int(run[0]) * self.chunks[dim], min((int(run[-1]) + 1) * self.chunks[dim], self.shape[dim]) - 1
            words.append(f"{start}..{last} along dimension {dim}" if times is None else f"{times.format(start)} to {times.format(last)}")
        more = f" and {len(runs) - _SHOWN} more spans" if len(runs) > _SHOWN else ""
        return f"{', '.join(words)}{more}, first chunk {'.'.join(map(str, self.indices[0].tolist()))}"


def check_presence(parts: Sequence[Part], pieces: Sequence[Piece], ledger: Ledger) -> None:
    """Look for every chunk of the zarr arrays behind `pieces`, and of the coordinates they stand on.

    A writer may leave out chunks that hold only the fill value. Where that value counts as missing, absent chunks are noted, and whoever
    reads them meets missing values; where it is a number, nothing tells a lost chunk from one left out: it is refused, unless the ledger
    says to take the fill value. Of a sharded array, whole shards are looked for.

    Raises:
        DataError: absent chunks that would be read as a number, with variable, chunk and dates.
    """
    for part in parts:
        mine = {p.file_name: p for p in pieces if p.path == part.path}
        if not mine or not is_zarr(Path(part.path)):
            continue
        arrays = {f.file_name: f.array for f in part.findings if f.file_name in mine and f.array is not None}
        axes = {str(n): c for array in arrays.values() for n, c in array.coords.items() if c.dims == (n,)}
        for name, absent in absent_chunks(Path(part.path), {*arrays, *axes}):
            where = f"{part.path}, {name}"
            if absent is None:
                ledger.note(f"'{name}' has too many chunks to look for absent ones", where)
            elif name in arrays:
                _judge(name, arrays[name], mine[name], absent, where, ledger)
            elif absent.num_entries() > 1 or not _runs_on(axes[name], absent.first_cell[0]):  # an axis may hold its fill value once, in its place
                ledger.fail(DataError(f"{len(absent.indices)} of {absent.total} chunks of the coordinate '{name}' are absent", where=where,
                                      fix="fetch or write the store again"))


def _runs_on(axis: xr.DataArray, index: int) -> bool:
    """Whether an axis as read goes strictly one way, beside the entry `index` in steps of at most twice the longest other."""
    if axis.size < 2:
        return True
    steps = np.diff(np.asarray(TimeAxis.from_xarray(axis).seconds if axis.dtype.kind in "MO" else axis.values, dtype=np.float64))
    steps *= np.sign(steps.sum())
    others = np.delete(steps, slice(max(index - 1, 0), index + 1))
    return bool((steps > 0).all() and (others.size == 0 or steps.max() <= 2 * others.max()))


def _judge(name: str, array: xr.DataArray, piece: Piece, absent: Absent, where: str, ledger: Ledger) -> None:
    try:
        value = float(array[absent.first_cell].values)
    except READ_ERRORS as error:
        ledger.fail(DataError(f"'{name}' cannot be read ({first_line(error)})", where=where, fix="fetch or write the store again"))
        return
    dim = _dated(array, piece)
    places = absent.places(dim or 0, piece.times if dim is not None else None)
    what = f"{len(absent.indices)} of {absent.total} chunks of '{name}' absent"
    if math.isnan(value):
        ledger.note(f"{what}, read as missing values: {places}", where)
    elif ledger.fill_absent:
        ledger.note(f"{what}, taken as {value:g}: {places}", where)
    else:
        fix = f"restore them; if they were left out because all is {value:g}, build with --fill-absent, in a recipe `absent_chunks: fill`"
        ledger.fail(DataError(f"{what}, which would be read as {value:g}: {places}", where=where, fix=fix))


def _dated(array: xr.DataArray, piece: Piece) -> int | None:
    """The dimension along which the piece's times run, or None."""
    dims = [i for i, dim in enumerate(array.dims) if any(c.dims == (dim,) and c.dtype.kind in "MO" for c in array.coords.values())]
    return dims[0] if dims and piece.times is not None and len(piece.times) == array.shape[dims[0]] else None


def absent_chunks(path: Path, names: set[str]) -> Iterator[tuple[str, Absent | None]]:
    """(array name, its absent chunks) of those arrays of a zarr group that lack some; None for an array of too many chunks to look."""
    try:
        group = zarr.open_group(path, mode="r")
        arrays = sorted((str(name), array) for name, array in group.arrays() if name in names)
    except (BaseZarrError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"its chunks cannot be listed ({first_line(error)})", where=str(path), fix="fetch or write the store again") from error
    for name, array in arrays:
        chunks = array.shards or array.chunks
        counts = [math.ceil(n / c) for n, c in zip(array.shape, chunks, strict=True)]
        if math.prod(counts) > _MOST_CHUNKS:
            yield name, None
        elif array.shape:
            present = _files(path / name)
            lost = [index for index in itertools.product(*map(range, counts)) if array.metadata.encode_chunk_key(index) not in present]
            if lost:
                yield name, Absent(np.asarray(lost, dtype=np.int64), math.prod(counts), chunks, array.shape)


def _files(folder: Path) -> set[str]:
    """Every file below a folder, as a chunk key."""
    found: set[str] = set()
    for root, _, names in os.walk(folder):
        below = Path(root).relative_to(folder).as_posix()
        found.update(name if below == "." else f"{below}/{name}" for name in names)
    return found
