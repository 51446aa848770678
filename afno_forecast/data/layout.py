"""The layout of a training store on disk: its arrays, chunks, shards, codecs and metadata, by zarr-python; shards of states by `shard_file`."""

# T time, C channel, S static channel, H latitude row, W longitude column, K hour

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from ..channels import ChannelSet
from ..grid import Grid, LatLonGrid
from ..times import EPOCH, TimeAxis
from .climatology import NUM_DAYS
from .statistics import Statistics

SHARD_BYTES = 32 * 10**6
CHUNK_BYTES = 2 * 10**6
BLOSC_LEVEL = 5


@dataclass(frozen=True)
class Layout:
    """How states are cut.

    Args:
        num_times: T.
        num_channels: C.
        shape: (H, W).
        shard_bytes: decoded bytes a shard holds at most, but at least one time.
        chunk_bytes: decoded bytes a chunk holds at most, but at least one channel.
    """

    num_times: int
    num_channels: int
    shape: tuple[int, int]
    shard_bytes: int = SHARD_BYTES
    chunk_bytes: int = CHUNK_BYTES

    @property
    def map_bytes(self) -> int:
        """Bytes of one channel at one time."""
        return 4 * math.prod(self.shape)

    @property
    def channels_per_chunk(self) -> int:
        """Channels of an inner chunk, as even as possible."""
        most = max(1, self.chunk_bytes // self.map_bytes)
        return math.ceil(self.num_channels / math.ceil(self.num_channels / most))

    @property
    def num_groups(self) -> int:
        """Chunks along the channels."""
        return math.ceil(self.num_channels / self.channels_per_chunk)

    @property
    def times_per_shard(self) -> int:
        """Times of a shard."""
        return min(self.num_times, max(1, self.shard_bytes // (self.map_bytes * self.channels_per_chunk * self.num_groups)))

    @property
    def num_shards(self) -> int:
        """Shards along time."""
        return math.ceil(self.num_times / self.times_per_shard)

    @property
    def days_per_shard(self) -> int:
        """Days of a shard of the climatology, which holds one hour and one chunk of channels."""
        return min(NUM_DAYS, max(1, self.shard_bytes // (self.map_bytes * self.channels_per_chunk)))

    def block(self, number: int) -> slice:
        """The times of a shard."""
        return slice(number * self.times_per_shard, min(self.num_times, (number + 1) * self.times_per_shard))

    def group(self, number: int) -> slice:
        """The channels of a chunk."""
        return slice(number * self.channels_per_chunk, min(self.num_channels, (number + 1) * self.channels_per_chunk))

    def total_bytes(self, num_hours: int) -> int:
        """Decoded bytes of states and climatology: no store of this layout takes noticeably more."""
        return self.map_bytes * self.num_channels * (self.num_times + NUM_DAYS * num_hours)


def _compressors(item_bytes: int) -> list[Any]:
    return [BloscCodec(cname="lz4", clevel=BLOSC_LEVEL, shuffle="shuffle", typesize=item_bytes), Crc32cCodec()]


def create(root: Path, name: str, shape: tuple[int, ...], dims: Sequence[str], *, dtype: str = "float32", chunks: tuple[int, ...] | None = None,
           shards: tuple[int, ...] | None = None, attributes: Mapping[str, Any] | None = None) -> zarr.Array[Any]:
    """An empty array: blosc-lz4 with shuffle, crc32c on every chunk; a chunk of fill values is written, so that absence is always a fault."""
    fill: Any = {"str": "", "int64": 0}.get(dtype, np.nan)
    return zarr.create_array(store=zarr.storage.LocalStore(root), name=name, shape=shape, dtype=str if dtype == "str" else dtype,
                             chunks=chunks or tuple(max(1, n) for n in shape), shards=shards, filters=None,
                             compressors=_compressors(1 if dtype == "str" else np.dtype(dtype).itemsize), fill_value=fill,
                             dimension_names=list(dims), attributes=dict(attributes or {}), config={"write_empty_chunks": True}, overwrite=True)


def create_states(root: Path, layout: Layout, horizontal: Iterable[str]) -> None:
    """The array `state (time, channel, latitude, longitude)`, or (..., y, x)."""
    inner = (1, layout.channels_per_chunk, *layout.shape)
    shard = (layout.times_per_shard, layout.channels_per_chunk * layout.num_groups, *layout.shape)
    create(root, "state", (layout.num_times, layout.num_channels, *layout.shape), ("time", "channel", *horizontal), chunks=inner,
           shards=shard, attributes={"coordinates": "channel_variable channel_level channel_units channel_role"})


def create_climatology(root: Path, layout: Layout, num_hours: int, horizontal: Iterable[str]) -> None:
    """The array `climatology (dayofyear, hour, channel, latitude, longitude)`, or (..., y, x)."""
    k = layout.channels_per_chunk
    create(root, "climatology", (NUM_DAYS, num_hours, layout.num_channels, *layout.shape), ("dayofyear", "hour", "channel", *horizontal),
           chunks=(1, 1, k, *layout.shape), shards=(layout.days_per_shard, 1, k, *layout.shape),
           attributes={"long_name": "mean of the day of year and hour, all years, 61-day triangular window"})


def open_array(root: Path, name: str) -> zarr.Array[Any]:
    """An array, to be written."""
    array = zarr.open_array(store=zarr.storage.LocalStore(root), path=name, mode="r+", zarr_format=3)
    return array.with_config({"write_empty_chunks": True})  # an argument `config` of open_array is ignored


def write_small(root: Path, name: str, values: NDArray[Any] | Sequence[str], dims: Sequence[str],
                attributes: Mapping[str, Any] | None = None) -> None:
    """A whole array in one chunk."""
    text = not isinstance(values, np.ndarray)
    array = np.asarray(values, dtype=object) if text else np.asarray(values)
    create(root, name, array.shape, dims, dtype="str" if text else array.dtype.name, attributes=attributes)[...] = array


def write_coordinates(root: Path, times: TimeAxis, grid: Grid, channels: ChannelSet, static: ChannelSet) -> None:
    """The coordinates of states and static fields, as xarray reads them."""
    write_small(root, "time", times.seconds, ("time",), {"units": EPOCH, "calendar": times.calendar, "standard_name": "time"})
    units = {"latitude": "degrees_north", "longitude": "degrees_east"}
    for name, values in grid.axes.items():
        about = {"units": units[name], "standard_name": name} if isinstance(grid, LatLonGrid) else {"long_name": f"{name} coordinate"}
        write_small(root, name, values, (name,), about)
    for dim, members in (("channel", channels), ("static_channel", static)):
        if not len(members):
            continue
        level = np.asarray([np.nan if c.level is None else c.level for c in members], dtype=np.float64)
        write_small(root, dim, list(members.names), (dim,), {"long_name": "variable@level"})
        write_small(root, f"{dim}_variable", [c.variable for c in members], (dim,))
        write_small(root, f"{dim}_level", level, (dim,), {"units": "hPa", "standard_name": "air_pressure"})
        write_small(root, f"{dim}_units", [c.units for c in members], (dim,))
        write_small(root, f"{dim}_role", [c.role for c in members], (dim,))


def write_statistics(root: Path, statistics: Statistics) -> None:
    """The statistics arrays, float64 (channel)."""
    for name in ("mean", "std", "minimum", "maximum", "tendency_std"):
        write_small(root, name, getattr(statistics, name), ("channel",), {"long_name": f"{name.replace('_', ' ')}, area-weighted"})


def write_static(root: Path, fields: NDArray[np.float32], horizontal: Iterable[str]) -> None:
    """The array `static (static_channel, latitude, longitude)`, or (..., y, x)."""
    names = " ".join(f"static_channel_{part}" for part in ("variable", "level", "units", "role"))
    write_small(root, "static", fields, ("static_channel", *horizontal), {"coordinates": names})


def write_text(path: Path, text: str) -> None:
    """Write a file whole: temporary name, flush to disk, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def flush(paths: Iterable[Path]) -> None:
    """Flush files to disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_group(root: Path, attributes: Mapping[str, Any]) -> None:
    """The group's `zarr.json`: attributes and consolidated metadata; written last, it makes the folder a store."""
    members = {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(root.glob("*/zarr.json"))}
    group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes),
             "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members}}
    write_text(root / "zarr.json", json.dumps(group, indent=1, ensure_ascii=False) + "\n")
