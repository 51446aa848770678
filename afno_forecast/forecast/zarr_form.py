"""A forecast's layout as a zarr store, v2 with consolidated metadata or v3, every chunk with a checksum."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from ..vocabulary import COMPLETE_ATTRIBUTE as COMPLETE
from .metadata import IDENTITY, ArraySpec, Layout


def create_store(path: Path, layout: Layout, zarr_format: Literal[2, 3], identity: str) -> None:
    """Metadata and coordinates, marked incomplete; the chunks of the variables come later."""
    attrs = layout.attrs | {COMPLETE: "no", IDENTITY: identity}
    root = zarr.create_group(str(path), zarr_format=zarr_format, attributes=attrs)
    for spec in (*layout.coordinates, *layout.variables):
        array = _create_array(root, spec, zarr_format)
        if spec.values is not None:
            array[...] = spec.values
    _consolidate(path, zarr_format)


def open_arrays(path: Path, layout: Layout) -> dict[str, Any]:
    """The arrays of the variables, for writing; a chunk is written even when all of it is the fill value."""
    root: Any = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    return {spec.name: root[spec.name].with_config({"write_empty_chunks": True}) for spec in layout.variables}


def chunk_paths(path: Path, arrays: Mapping[str, Any], init_index: int, num_leads: int) -> Iterator[Path]:
    """Files of one init time's chunks."""
    for name, array in arrays.items():
        for lead in range(num_leads):
            yield path / name / array.metadata.encode_chunk_key((init_index, lead, *(0,) * (array.ndim - 2)))


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
        # zstd's own checksum: any reader of zstd checks it
        options |= {"filters": [numcodecs.Shuffle(np.dtype(spec.dtype).itemsize)], "compressors": numcodecs.Zstd(level=1, checksum=True)}
        options["attributes"]["_ARRAY_DIMENSIONS"] = list(spec.dims)
    else:
        options |= {"compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()], "dimension_names": spec.dims}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
        return root.create_array(**options)
