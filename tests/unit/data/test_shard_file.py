"""A shard written chunk by chunk is what zarr-python reads and what it would have written itself."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from afno_forecast.data import layout as disk
from afno_forecast.data.layout import Layout
from afno_forecast.data.reader import ChunkedArray
from afno_forecast.data.shard_file import write_shard


@pytest.mark.parametrize(("num_channels", "padded"), [(2, 2), (5, 6)])
def test_zarr_reads_the_same_and_would_have_written_the_same_chunks(tmp_path, num_channels, padded):
    layout = Layout(7, num_channels, (5, 8), shard_bytes=4 * 5 * 8 * padded * 3, chunk_bytes=4 * 5 * 8 * 3)
    assert layout.num_shards > 2 and layout.num_times % layout.times_per_shard
    states = np.random.default_rng(1).normal(size=(7, num_channels, 5, 8)).astype(np.float32)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        disk.create_states(tmp_path / name, layout, ("y", "x"))
    for number in range(layout.num_shards):
        write_shard(tmp_path / "ours" / "state" / "c" / str(number) / "0" / "0" / "0", states[layout.block(number)], layout)
        disk.open_array(tmp_path / "theirs", "state")[layout.block(number)] = states[layout.block(number)]
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "ours" / "state", mode="r")[:], states)
    ours, theirs = (ChunkedArray(tmp_path / name / "state") for name in ("ours", "theirs"))
    np.testing.assert_array_equal(ours.read(), states)
    for index in ours.indexes():
        assert ours.read_encoded(index).tobytes() == theirs.read_encoded(index).tobytes()
