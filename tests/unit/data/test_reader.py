"""The reader equals zarr-python bit for bit, falls back to it for other codecs, and refuses what lies before it allocates."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from afno_forecast.data.reader import BadChunk, ChunkedArray
from afno_forecast.errors import DataError

CODECS = {"ours": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4), Crc32cCodec()],
          "blosc zstd": [BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=4), Crc32cCodec()],
          "zstd": [ZstdCodec(level=3), Crc32cCodec()], "plain": []}


def write(path: Path, codecs: str = "ours", chunks=(1, 2, 5, 8), shards=(4, 4, 5, 8)) -> np.ndarray:
    values = np.random.default_rng(2).normal(size=(7, 3, 5, 8)).astype("f4")
    array = zarr.create_array(store=zarr.storage.LocalStore(path.parent), name=path.name, shape=values.shape, dtype="float32", chunks=chunks,
                              shards=shards, filters=None, compressors=CODECS[codecs], fill_value=np.nan, config={"write_empty_chunks": True})
    array[...] = values
    return values


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize(("chunks", "shards"), [((1, 2, 5, 8), (4, 4, 5, 8)), ((1, 3, 5, 8), None), ((2, 1, 3, 3), (4, 3, 6, 9)),
                                                ((7, 3, 5, 8), None)])
def test_it_equals_zarr_python_whatever_the_codec_and_chunks(tmp_path, codecs, chunks, shards):
    values = write(tmp_path / "a", codecs, chunks, shards)
    array = ChunkedArray(tmp_path / "a")
    assert array.is_fast == ("blosc" in codecs or codecs == "ours")
    reference = np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...])
    assert np.array_equal(array.read(), values)
    assert np.array_equal(array.read(), reference)
    out = np.empty(array.chunk, "f4")
    for index in array.indexes():
        region = array.region_of(index)
        inside = tuple(slice(0, s.stop - s.start) for s in region)
        assert array.read_chunk(index, out) is out
        assert np.array_equal(out[inside], reference[region])
        assert np.array_equal(array.borrow_chunk(index)[inside], reference[region])


@pytest.mark.parametrize("codecs", ["ours", "zstd", "plain"])
@pytest.mark.parametrize("shards", [(4, 4, 5, 8), None])
def test_a_chunk_that_is_not_there_is_never_fill_values(tmp_path, codecs, shards):
    write(tmp_path / "a", codecs, shards=shards)
    (tmp_path / "a" / "c" / "1" / "0" / "0" / "0").unlink()
    with pytest.raises(BadChunk, match="is missing") as caught:
        ChunkedArray(tmp_path / "a").read_chunk((4 if shards else 1, 0, 0, 0))
    assert caught.value.file == tmp_path / "a" / "c" / "1" / "0" / "0" / "0"


def test_a_damaged_chunk_of_another_codec_is_found_by_its_checksum(tmp_path):
    write(tmp_path / "a", "zstd", shards=None)
    file = tmp_path / "a" / "c" / "2" / "0" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(BadChunk, match="cannot be read"):
        ChunkedArray(tmp_path / "a").read_chunk((2, 0, 0, 0))


def change(path: Path, **changes) -> None:
    meta = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(meta | changes))


def refuse_memory(monkeypatch: pytest.MonkeyPatch, limit: int = 1 << 20) -> None:
    """Fail the test when anything large is allocated."""
    original = np.empty

    def empty(shape, *args, **kwargs):
        assert np.prod(shape, dtype=float) * 4 < limit, f"allocates {shape}"
        return original(shape, *args, **kwargs)

    monkeypatch.setattr(np, "empty", empty)


def grid(*chunk: int) -> dict[str, object]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def test_absurd_shapes_and_chunks_are_refused_before_anything_is_allocated(tmp_path, monkeypatch):
    write(tmp_path / "a", shards=None)
    refuse_memory(monkeypatch)
    change(tmp_path / "a", chunk_grid=grid(1, 2, 1 << 20, 1 << 20))
    with pytest.raises(DataError, match="absurd"):
        ChunkedArray(tmp_path / "a")
    change(tmp_path / "a", chunk_grid=grid(1, 2, 5, 8), shape=[10**12, 3, 5, 8])
    with pytest.raises(BadChunk, match="is missing"):
        ChunkedArray(tmp_path / "a").read()
    change(tmp_path / "a", chunk_grid=grid(1, 2, 0, 8), shape=[7, 3, 5, 8])
    with pytest.raises(DataError, match="is not read"):
        ChunkedArray(tmp_path / "a")
    change(tmp_path / "a", chunk_grid=grid(1, 2, 5, 8), shape=[7, -3, 5, 8])
    with pytest.raises(DataError, match="absurd"):
        ChunkedArray(tmp_path / "a")


def test_a_chunk_that_claims_more_than_its_bytes_can_hold_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """A small file whose metadata and header both promise 256 MB."""
    import google_crc32c

    write(tmp_path / "a", shards=None)
    side = 1 << 12
    change(tmp_path / "a", chunk_grid=grid(1, 4, side, side), shape=[1, 4, side, side])
    file = tmp_path / "a" / "c" / "0" / "0" / "0" / "0"
    bomb = bytearray(file.read_bytes()[:-4])
    bomb[4:8] = (4 * 4 * side * side).to_bytes(4, "little")
    file.write_bytes(bytes(bomb) + google_crc32c.value(bytes(bomb)).to_bytes(4, "little"))
    refuse_memory(monkeypatch)
    with pytest.raises(BadChunk, match="does not hold 268435456 bytes"):
        ChunkedArray(tmp_path / "a").read_chunk((0, 0, 0, 0))


@pytest.mark.parametrize("key", ["codecs", "chunk_grid", "data_type"])
def test_metadata_without_a_part_are_an_error_with_the_file(tmp_path, key):
    write(tmp_path / "a")
    change(tmp_path / "a", **{key: None})
    with pytest.raises(DataError, match=r"zarr\.json"):
        ChunkedArray(tmp_path / "a")
