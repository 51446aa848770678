"""Chunk reads of our own zarr v3 arrays: presence and checksum are always checked, sizes before anything is allocated.

The arrays are written by zarr-python (`data/build.py`) with the codecs bytes, blosc, crc32c, either straight or inside shards
with the index at the end. zarr-python 3.1 returns fill values for a chunk that is not there; these reads raise.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from ..errors import DataError

blosc.use_threads = False  # threads of its own neither pay nor survive a fork
_ABSENT = np.uint64(2**64 - 1)
_INDEX_CACHE = 4096
_DTYPES = ("float32", "float64", "int64")
_MAX_CHUNK_BYTES = 1 << 31


class BadChunk(Exception):  # noqa: N818 - always turned into a DataError with dates by whoever knows them
    """A chunk that is missing, truncated or altered.

    Args:
        file: the file it belongs to.
        index: chunk coordinates in the array's chunk grid.
        reason: what is wrong with it.
    """

    def __init__(self, file: Path, index: tuple[int, ...], reason: str) -> None:
        super().__init__(f"{file}: chunk {index} {reason}")
        self.file = file
        self.index = index
        self.reason = reason


class ChunkedArray:
    """One array of a store, read a chunk at a time.

    Args:
        path: the array's folder (with `zarr.json`).

    Raises:
        DataError: the metadata are missing, unreadable or not of the form we write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        meta = read_metadata(path)
        try:
            self.shape: tuple[int, ...] = tuple(int(n) for n in meta["shape"])
            self.dtype = np.dtype(_checked_dtype(meta["data_type"]))
            outer = tuple(int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"])
            codecs = meta["codecs"]
            self.sharded = codecs[0]["name"] == "sharding_indexed"
            inner = codecs[0]["configuration"]["codecs"] if self.sharded else codecs
            self.chunk: tuple[int, ...] = tuple(int(n) for n in codecs[0]["configuration"]["chunk_shape"]) if self.sharded else outer
            names = [c["name"] for c in inner]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise DataError(f"array metadata that cannot be read ({error})", where=str(path / "zarr.json"), fix="build the store again") from error
        self.per_shard = tuple(o // c if c else 0 for o, c in zip(outer, self.chunk, strict=True))
        if names != ["bytes", "blosc", "crc32c"] or 0 in self.per_shard or any(o % c for o, c in zip(outer, self.chunk, strict=True)):
            raise DataError(f"an array with codecs {names} and chunks {self.chunk} is not one of ours", where=str(path), fix="build the store again")
        self.chunk_bytes = math.prod(self.chunk) * self.dtype.itemsize
        if self.chunk_bytes > _MAX_CHUNK_BYTES or min(self.shape, default=0) < 0:
            raise DataError(f"absurd chunks {self.chunk} of {self.shape}", where=str(path), fix="build the store again")
        self._indexes: dict[tuple[int, ...], NDArray[np.uint64]] = {}

    @property
    def num_chunks(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))

    def file_of(self, index: tuple[int, ...]) -> Path:
        """The file that holds a chunk."""
        return self.path.joinpath("c", *(str(i // n) for i, n in zip(index, self.per_shard, strict=True)))

    def read_chunk(self, index: tuple[int, ...]) -> NDArray[Any]:
        """One chunk, padded where it sticks out of the array; shape `self.chunk`. Raises BadChunk."""
        file = self.file_of(index)
        try:
            with file.open("rb", buffering=0) as handle:
                encoded = self._encoded(handle.fileno(), file, index)
        except FileNotFoundError:
            raise BadChunk(file, index, "is missing") from None
        except OSError as error:
            raise BadChunk(file, index, f"cannot be read ({error.strerror})") from error
        return self._decode(encoded, file, index)

    def read(self) -> NDArray[Any]:
        """The whole array; for the small ones. Raises BadChunk."""
        out = np.empty(tuple(n * c for n, c in zip(self.num_chunks, self.chunk, strict=True)), self.dtype)
        for index in self.indexes():
            out[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, self.chunk, strict=True))] = self.read_chunk(index)
        return out[tuple(slice(0, n) for n in self.shape)]

    def indexes(self) -> Iterator[tuple[int, ...]]:
        """Every chunk's coordinates, last dimension fastest."""
        return product(*(range(n) for n in self.num_chunks))

    def bad_chunks(self) -> Iterator[BadChunk]:
        """Every chunk that cannot be read, with its reason."""
        for index in self.indexes():
            try:
                self.read_chunk(index)
            except BadChunk as bad:
                yield bad

    def _encoded(self, descriptor: int, file: Path, index: tuple[int, ...]) -> bytes:
        size = os.fstat(descriptor).st_size
        if not self.sharded:
            return os.pread(descriptor, min(size, self._limit), 0)
        shard = tuple(i // n for i, n in zip(index, self.per_shard, strict=True))
        table = self._indexes.get(shard)
        if table is None:
            table = self._shard_index(descriptor, size, file, index)
            if len(self._indexes) >= _INDEX_CACHE:
                self._indexes.clear()
            self._indexes[shard] = table
        offset, length = table[tuple(i % n for i, n in zip(index, self.per_shard, strict=True))]
        if offset == _ABSENT:
            raise BadChunk(file, index, "is missing from its shard")
        if length > self._limit or int(offset) + int(length) > size:
            raise BadChunk(file, index, "is truncated or its place is wrong")
        return os.pread(descriptor, int(length), int(offset))

    @property
    def _limit(self) -> int:
        """More bytes than any encoded chunk of this array takes."""
        return self.chunk_bytes + 16 + 4096 + self.chunk_bytes // 255

    def _shard_index(self, descriptor: int, size: int, file: Path, index: tuple[int, ...]) -> NDArray[np.uint64]:
        length = 16 * math.prod(self.per_shard)
        if size < length + 4:
            raise BadChunk(file, index, "is truncated")
        raw = os.pread(descriptor, length + 4, size - length - 4)
        if google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            raise BadChunk(file, index, "has a damaged or truncated shard index")
        return np.frombuffer(raw[:-4], dtype="<u8").astype(np.uint64).reshape(*self.per_shard, 2)

    def _decode(self, encoded: bytes, file: Path, index: tuple[int, ...]) -> NDArray[Any]:
        if len(encoded) < 20 or google_crc32c.value(encoded[:-4]) != int.from_bytes(encoded[-4:], "little"):
            raise BadChunk(file, index, "does not match its checksum")
        if int.from_bytes(encoded[4:8], "little") != self.chunk_bytes:
            raise BadChunk(file, index, f"does not hold {self.chunk_bytes} bytes")
        out = np.empty(self.chunk, self.dtype.newbyteorder("<"))
        try:
            blosc.decompress(encoded[:-4], out)
        except RuntimeError as error:
            raise BadChunk(file, index, f"cannot be decompressed ({error})") from error
        return out


def _checked_dtype(name: str) -> str:
    if name not in _DTYPES:
        raise ValueError(f"data type {name}")
    return name


def read_metadata(path: Path) -> dict[str, Any]:
    """The parsed `zarr.json` of a folder. Raises DataError when it is missing or no JSON object."""
    file = path / "zarr.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("zarr metadata are missing", where=str(file), fix="build the store again, or check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(f"zarr metadata that cannot be read ({error})", where=str(file), fix="build the store again") from error
    if not isinstance(value, dict):
        raise DataError("zarr metadata that are no JSON object", where=str(file), fix="build the store again")
    return value
