"""A forecast's layout as a zarr store, v2 with consolidated metadata or v3, every chunk with a checksum."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from ..vocabulary import COMPLETE_ATTRIBUTE as COMPLETE
from .metadata import IDENTITY, ArraySpec, Layout

_SHUFFLE = numcodecs.Shuffle(4)
_ZSTD = numcodecs.Zstd(level=1, checksum=True)  # zstd's own checksum: every reader of zstd checks it
_BLOSC = numcodecs.Blosc(cname="zstd", clevel=1, shuffle=numcodecs.Blosc.SHUFFLE)


def create_store(path: Path, layout: Layout, zarr_format: Literal[2, 3], identity: str) -> None:
    """Metadata and coordinates, marked incomplete; the chunks of the variables come later."""
    attrs = layout.attrs | {COMPLETE: "no", IDENTITY: identity}
    root = zarr.create_group(str(path), zarr_format=zarr_format, attributes=attrs)
    for spec in (*layout.coordinates, *layout.variables):
        array = _create_array(root, spec, zarr_format)
        if spec.values is not None:
            array[...] = spec.values
    _consolidate(path, zarr_format)


class ChunkFiles:
    """The chunks of one variable, one file each, written whole (temporary name, rename).

    Encoded here, as the array's metadata say: the asynchronous way through zarr costs seven times as much for maps of this size.
    """

    def __init__(self, path: Path, array: Any) -> None:
        self._folder = path / str(array.basename)
        self._metadata = array.metadata
        self._shape = array.chunks
        self._version = array.metadata.zarr_format

    def path(self, index: tuple[int, ...]) -> Path:
        """Where a chunk is; `index` on the leading dimensions."""
        return self._folder / str(self._metadata.encode_chunk_key((*index, *(0,) * (len(self._shape) - len(index)))))

    def write(self, index: tuple[int, ...], values: NDArray[np.float32]) -> None:
        """Write one map, all its levels. Raises OSError."""
        data = np.ascontiguousarray(values, dtype="<f4")
        raw = bytes(_ZSTD.encode(_SHUFFLE.encode(data))) if self._version == 2 else bytes(_BLOSC.encode(data))
        if self._version == 3:
            raw += int(google_crc32c.value(raw)).to_bytes(4, "little")
        path = self.path(index)
        draft = path.with_name(f"{path.name}.partial")
        try:
            draft.write_bytes(raw)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(raw)
        draft.replace(path)

    def read(self, index: tuple[int, ...]) -> NDArray[np.float32]:
        """Read one of a v2 store back. Raises OSError when it is lost or damaged; a damaged one is removed, so that it is written again."""
        path = self.path(index)
        try:
            data = _SHUFFLE.decode(_ZSTD.decode(path.read_bytes()))
        except RuntimeError as error:
            path.unlink()
            raise OSError(errno.EIO, "what was written before is damaged") from error
        return np.frombuffer(data, dtype="<f4").reshape(self._shape[len(index):])


def open_chunks(path: Path, layout: Layout) -> dict[str, ChunkFiles]:
    """The chunks of the variables, for writing."""
    root = zarr.open_group(str(path), mode="r", use_consolidated=False)
    return {spec.name: ChunkFiles(path, root[spec.name]) for spec in layout.variables}


def read_marks(path: Path) -> dict[str, str] | None:
    """Completion and identity of a zarr store; None for anything else, and for one whose metadata are not all there."""
    if not path.is_dir():
        return None
    try:
        root = zarr.open_group(str(path), mode="r", use_consolidated=False)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return {name: str(root.attrs[name]) for name in (COMPLETE, IDENTITY) if name in root.attrs}


def mark_complete(path: Path) -> None:
    """The last thing done: the mark, then the consolidated copy of it that readers look at."""
    root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    root.attrs[COMPLETE] = "yes"
    _consolidate(path, root.metadata.zarr_format)


def _consolidate(path: Path, zarr_format: Literal[2, 3]) -> None:
    with warnings.catch_warnings():  # xarray asks for it in v3 too, where zarr warns that the specification has none yet
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(str(path), zarr_format=zarr_format)


def _create_array(root: zarr.Group, spec: ArraySpec, zarr_format: int) -> Any:
    options: dict[str, Any] = {"name": spec.name, "shape": spec.shape, "chunks": spec.chunks, "dtype": spec.dtype, "attributes": dict(spec.attrs),
                               "config": {"write_empty_chunks": True}}
    options["fill_value"] = np.float32(np.nan) if spec.values is None else (None if zarr_format == 2 else 0)
    if zarr_format == 2:
        options |= {"filters": [numcodecs.Shuffle(np.dtype(spec.dtype).itemsize)], "compressors": _ZSTD}
        options["attributes"]["_ARRAY_DIMENSIONS"] = list(spec.dims)
    else:
        options |= {"compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()], "dimension_names": spec.dims}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
        return root.create_array(**options)
