"""One shard of states, written chunk after chunk: the format of zarr's sharding codec with the codecs of `layout`, in the memory of a chunk.

zarr-python encodes a whole shard before it writes any of it, and holds it several times meanwhile.
"""

# N time, C channel, H latitude row, W longitude column

from __future__ import annotations

from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from .layout import BLOSC_LEVEL, Layout

_ABSENT = 2**64 - 1
_BYTE_SHUFFLE = 1  # as blosc numbers its filters


def write_shard(path: Path, block: NDArray[np.float32], layout: Layout) -> None:
    """Write a file of the array `state`; the order of chunks is that of time, then channels, and the index lies at the end.

    Args:
        path: the file; its folder is made. A process killed meanwhile leaves a file without an index, which no reader takes.
        block: the states of the shard, physical units; (N, C, H, W), N at most `layout.times_per_shard`.
        layout: how states are cut.
    """
    index = np.full((layout.times_per_shard, layout.num_groups, 2), _ABSENT, dtype="<u8")
    chunk = np.full((layout.channels_per_chunk, *layout.shape), np.nan, dtype="<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for time in range(len(block)):
            for group in range(layout.num_groups):
                channels = layout.group(group)
                chunk[:channels.stop - channels.start] = block[time, channels]
                chunk[channels.stop - channels.start:] = np.nan
                encoded: bytes = blosc.compress(chunk, b"lz4", BLOSC_LEVEL, _BYTE_SHUFFLE)
                index[time, group] = file.tell(), len(encoded) + 4
                file.write(encoded)
                file.write(google_crc32c.value(encoded).to_bytes(4, "little"))
        table = index.tobytes()
        file.write(table)
        file.write(google_crc32c.value(table).to_bytes(4, "little"))
