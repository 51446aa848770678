"""Which chunks of a zarr source are not on disk: zarr reads them as the fill value without a word."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import zarr
from zarr.errors import BaseZarrError

_SHOWN = 3
_MOST_CHUNKS = 5_000_000


def absent_chunks(path: Path) -> list[tuple[str, str]]:
    """(array name, words) for each array of a group that lacks chunks; a writer may leave out chunks that hold only the fill value.

    A chunk inside a shard is not looked at: only whole shards.
    """
    try:
        group = zarr.open_group(path, mode="r")
        arrays = sorted((str(name), array) for name, array in group.arrays())
    except (BaseZarrError, OSError, ValueError, KeyError, TypeError):
        return []
    reports = []
    for name, array in arrays:
        shape = array.shape
        chunks = array.shards or array.chunks
        counts = [math.ceil(n / c) for n, c in zip(shape, chunks, strict=True)]
        if not shape or math.prod(counts) > _MOST_CHUNKS:
            continue
        present = _files(path / name)
        absent = [index for index in itertools.product(*map(range, counts)) if array.metadata.encode_chunk_key(index) not in present]
        if absent:
            reports.append((name, f"{len(absent)} of {math.prod(counts)} chunks absent, read as the fill value {array.fill_value}: "
                            + _places(absent, chunks, shape)))
    return reports


def _files(folder: Path) -> set[str]:
    """Every file below a folder, as a chunk key."""
    found: set[str] = set()
    for root, _, names in os.walk(folder):
        below = Path(root).relative_to(folder).as_posix()
        found.update(name if below == "." else f"{below}/{name}" for name in names)
    return found


def _places(absent: list[tuple[int, ...]], chunks: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The index ranges along the first dimension that are touched."""
    first = np.unique([index[0] for index in absent])
    ranges = [f"{i * chunks[0]}..{min((i + 1) * chunks[0], shape[0]) - 1}" for i in first[:_SHOWN].tolist()]
    return f"first dimension at {', '.join(ranges)}" + (f" and {len(first) - _SHOWN} more ranges" if len(first) > _SHOWN else "")
