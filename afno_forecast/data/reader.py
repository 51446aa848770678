"""Chunk reads of zarr v3 arrays: presence and checksum are always checked, sizes before anything is allocated.

The arrays that `data/build.py` writes (bytes, blosc, crc32c; straight, or inside shards with the index at the end) are read here:
one byte range of one file, its checksum, decoded into a buffer that is used again. Arrays of any other codec go chunk by chunk through
zarr-python, with the same bits as result. zarr-python 3.1 returns fill values for a chunk that is not there; these reads raise.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Sequence
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
_MAX_CHUNK_BYTES = (1 << 31) - 17  # blosc's own limit
_LZ4_RATIO = 255  # a byte of LZ4 stands for at most 255
_CHECKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_FIX = "build the store again"
Index = tuple[int, ...]


class BadChunk(Exception):  # noqa: N818 - always turned into a DataError with dates by whoever knows them
    """A chunk that is missing, truncated or altered.

    Args:
        file: the file it belongs to.
        index: chunk coordinates in the array's chunk grid.
        reason: what is wrong with it.
    """

    def __init__(self, file: Path | str, index: Index, reason: str) -> None:
        super().__init__(f"{file}: chunk {index} {reason}")
        self.file = Path(file)
        self.index = index
        self.reason = reason


class ChunkedArray:
    """One array of a store, read a chunk at a time; safe to share between threads.

    Args:
        path: the array's folder (with `zarr.json`).

    Raises:
        DataError: the metadata are missing, unreadable, or say absurd sizes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        meta = read_metadata(path)
        try:
            self.shape: Index = tuple(int(n) for n in meta["shape"])
            self.dtype = np.dtype(_checked_dtype(meta["data_type"])).newbyteorder("<")
            outer = tuple(int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"])
            codecs = meta["codecs"]
            self.sharded = codecs[0]["name"] == "sharding_indexed"
            sharding = codecs[0]["configuration"] if self.sharded else {}
            inner = sharding.get("codecs", codecs)
            self.chunk: Index = tuple(int(n) for n in sharding["chunk_shape"]) if self.sharded else outer
            self._fast = _is_fast(inner)
            self._bounded = self._fast and inner[1]["configuration"]["cname"] in ("lz4", "lz4hc")
            indexed = not self.sharded or (sharding.get("index_location", "end") == "end" and _plain(sharding["index_codecs"]) == _CHECKED)
            encoding = meta.get("chunk_key_encoding", {"name": "default"})
            simple = indexed and len(codecs) == (1 if self.sharded else len(inner)) and encoding["name"] == "default" \
                and encoding.get("configuration", {}).get("separator", "/") == "/"
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise DataError(f"array metadata that cannot be read ({error})", where=str(path / "zarr.json"), fix=_FIX) from error
        self.per_shard = tuple(o // c if c else 0 for o, c in zip(outer, self.chunk, strict=True))
        if not simple or len(outer) != len(self.shape) or min(self.per_shard, default=1) < 1 or \
                any(o % c for o, c in zip(outer, self.chunk, strict=True)):
            raise DataError(f"an array with chunks {self.chunk} in {outer} and keys or shard index of another form is not read",
                            where=str(path), fix=_FIX)
        self.chunk_bytes = math.prod(self.chunk) * self.dtype.itemsize
        if self.chunk_bytes > _MAX_CHUNK_BYTES or 16 * math.prod(self.per_shard) > _MAX_CHUNK_BYTES or min(self.shape, default=0) < 0:
            raise DataError(f"absurd chunks {self.chunk} of {self.shape}", where=str(path), fix=_FIX)
        self._indexes: dict[Index, NDArray[np.uint64]] = {}
        self._own = threading.local()
        self._array: Any = None
        self._folder = str(path / "c")

    @property
    def num_chunks(self) -> Index:
        """Chunks along each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))

    def file_of(self, index: Index) -> Path:
        """The file that holds a chunk."""
        return Path(self._name_of(index))

    def _name_of(self, index: Index) -> str:
        return "/".join((self._folder, *[str(i // n) for i, n in zip(index, self.per_shard, strict=True)]))

    def region_of(self, index: Index) -> tuple[slice, ...]:
        """What of the array a chunk holds."""
        return tuple(slice(i * c, min(n, (i + 1) * c)) for i, c, n in zip(index, self.chunk, self.shape, strict=True))

    def read_chunk(self, index: Index, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """One chunk, padded where it sticks out of the array.

        Args:
            index: chunk coordinates.
            out: where to put it: contiguous, of shape `self.chunk` and the array's type; a new array by default.

        Raises:
            BadChunk: missing, truncated or altered.
        """
        return self._decode(self.read_encoded(index), self._name_of(index), index, out)

    @property
    def is_fast(self) -> bool:
        """Whether chunks are decoded here, rather than through zarr-python."""
        return self._fast

    def read_encoded(self, index: Index) -> NDArray[np.uint8]:
        """The bytes of a chunk as they are on disk, in a buffer of this thread that its next read fills again.

        Nothing, when there is such a chunk, for an array that zarr-python reads.

        Raises:
            BadChunk: missing or truncated.
        """
        file = self._name_of(index)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return self._encoded(descriptor, file, index)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise BadChunk(file, index, "is missing") from None
        except OSError as error:
            raise BadChunk(file, index, f"cannot be read ({error.strerror})") from error

    def borrow_chunk(self, index: Index) -> NDArray[Any]:
        """One chunk in a buffer of this thread, which the thread's next call fills again. Raises BadChunk."""
        if not hasattr(self._own, "decoded"):
            self._own.decoded = np.empty(self.chunk, self.dtype)
        return self.read_chunk(index, self._own.decoded)

    def read(self) -> NDArray[Any]:
        """The whole array; for the small ones. Raises BadChunk."""
        for index in self.indexes():
            if not self.file_of(index).is_file():  # before a lying shape allocates anything
                raise BadChunk(self.file_of(index), index, "is missing")
        out = np.empty(self.shape, self.dtype)
        for index in self.indexes():
            region = self.region_of(index)
            out[region] = self.borrow_chunk(index)[tuple(slice(0, s.stop - s.start) for s in region)]
        return out

    def indexes(self) -> Iterator[Index]:
        """Every chunk's coordinates, last dimension fastest."""
        counts = self.num_chunks[::-1]
        for number in range(math.prod(counts)):  # itertools.product would hold as many numbers as a shape claims
            index = []
            for count in counts:
                number, place = divmod(number, count)
                index.append(place)
            yield tuple(index[::-1])

    def bad_chunks(self) -> Iterator[BadChunk]:
        """Every chunk that cannot be read, with its reason."""
        for index in self.indexes():
            try:
                self.borrow_chunk(index)
            except BadChunk as bad:
                yield bad

    def encoded_bytes(self, index: Index) -> int:
        """Bytes a chunk takes on disk. Raises BadChunk."""
        return self.place_of(index)[1]

    def place_of(self, index: Index) -> tuple[int, int]:
        """(offset, length) of an encoded chunk in its file. Raises BadChunk."""
        file = self._name_of(index)
        try:
            with Path(file).open("rb", buffering=0) as handle:
                return self._place(handle.fileno(), file, index)
        except OSError as error:
            raise BadChunk(file, index, f"cannot be read ({error.strerror})") from error

    def _place(self, descriptor: int, file: str, index: Index) -> tuple[int, int]:
        """(offset, length) of an encoded chunk in its file. Raises BadChunk."""
        size = os.fstat(descriptor).st_size
        if not self.sharded:
            return 0, size
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
        if int(offset) + int(length) > size:
            raise BadChunk(file, index, "is truncated or its place is wrong")
        return int(offset), int(length)

    def _encoded(self, descriptor: int, file: str, index: Index) -> NDArray[np.uint8]:
        """The bytes of a chunk in a buffer of this thread; nothing for arrays that zarr-python reads."""
        offset, length = self._place(descriptor, file, index)
        if not self._fast:
            return np.empty(0, np.uint8)
        if length > self.chunk_bytes + 16 + 4096 + self.chunk_bytes // 255:  # more than any encoded chunk of this array takes
            raise BadChunk(file, index, "is longer than it can be" if not self.sharded else "is truncated or its place is wrong")
        if getattr(self._own, "encoded", np.empty(0)).size < length:
            self._own.encoded = np.empty(length + length // 8, np.uint8)
        view: NDArray[np.uint8] = self._own.encoded[:length]
        if os.preadv(descriptor, [view.data], offset) != length:
            raise BadChunk(file, index, "is truncated")
        return view

    def _shard_index(self, descriptor: int, size: int, file: str, index: Index) -> NDArray[np.uint64]:
        length = 16 * math.prod(self.per_shard)
        if size < length + 4:
            raise BadChunk(file, index, "is truncated")
        raw = os.pread(descriptor, length + 4, size - length - 4)
        if google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            raise BadChunk(file, index, "has a damaged or truncated shard index")
        return np.frombuffer(raw[:-4], dtype="<u8").astype(np.uint64).reshape(*self.per_shard, 2)

    def _decode(self, encoded: NDArray[np.uint8], file: str, index: Index, out: NDArray[Any] | None) -> NDArray[Any]:
        if not self._fast:
            return self._by_zarr(file, index, out)
        if len(encoded) < 20 or google_crc32c.value(encoded[:-4]) != int.from_bytes(encoded[-4:].tobytes(), "little"):
            raise BadChunk(file, index, "does not match its checksum")
        stated = int.from_bytes(encoded[4:8].tobytes(), "little")
        if stated != self.chunk_bytes or (self._bounded and stated > _LZ4_RATIO * len(encoded) + 64):
            raise BadChunk(file, index, f"does not hold {self.chunk_bytes} bytes")
        result: NDArray[Any] = np.empty(self.chunk, self.dtype) if out is None else out
        try:
            blosc.decompress(encoded[:-4], result)
        except RuntimeError as error:
            raise BadChunk(file, index, f"cannot be decompressed ({error})") from error
        return result

    def _by_zarr(self, file: str, index: Index, out: NDArray[Any] | None) -> NDArray[Any]:
        import zarr  # slow to import, and only needed here

        if self._array is None:
            self._array = zarr.open_array(store=zarr.storage.LocalStore(self.path, read_only=True), mode="r", zarr_format=3)
        region = self.region_of(index)
        result = np.empty(self.chunk, self.dtype) if out is None else out
        try:
            result[tuple(slice(0, s.stop - s.start) for s in region)] = self._array[region]
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise BadChunk(file, index, f"cannot be read ({str(error).partition(chr(10))[0]})") from error
        return result


def _is_fast(codecs: Sequence[dict[str, Any]]) -> bool:
    """Whether these are little-endian bytes, blosc, crc32c."""
    return [c["name"] for c in codecs] == ["bytes", "blosc", "crc32c"] and codecs[0].get("configuration", {}).get("endian") == "little"


def _plain(codecs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Codecs without empty configurations."""
    return [{k: v for k, v in c.items() if v} for c in codecs]


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
