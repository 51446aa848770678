"""What the loader delivers depends on seed, stage and position: not on chunks, cache, threads or ranks."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afno_forecast.data.build import build_store
from afno_forecast.data.loader import Delivery, Loader
from afno_forecast.data.order import Shuffle, sample_order
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.records import SourceRecord
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store

SHUFFLE = Shuffle(block=4, pool=12)
STATE = 3 * 7 * 12 * 4


@pytest.fixture(scope="module")
def stores(tiny_weather: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """The same record in several chunkings: one channel or all in a chunk, one or many times in a shard."""
    folder = tmp_path_factory.mktemp("chunkings")
    source = open_source(tiny_weather)
    sizes = [(20 * STATE, STATE), (50 * STATE, STATE // 3), (7 * STATE, STATE * 2 // 3)]
    return [build_store(source, folder / f"{n}.zarr", StoreSettings(climatology=False, shard_bytes=shard, chunk_bytes=chunk))
            for n, (shard, chunk) in enumerate(sizes)]


def take(record, count: int, *, num_steps: int = 2, position: int = 0, history: int = 2, batch_size: int = 6, **delivery):
    """(states, seconds) of some batches, copied."""
    loader = Loader(record, record.channels, time_step=21600, history=history, batch_size=batch_size, seed=9,
                    delivery=Delivery(**{"shuffle": SHUFFLE, **delivery}))
    batches = loader.batches(num_steps, stage=1, position=position)
    got = [(b.states.numpy().copy(), b.seconds) for b in islice(batches, count)]
    batches.close()
    return np.concatenate([s for s, _ in got]), np.concatenate([s for _, s in got])


@pytest.fixture(scope="module")
def expected(stores: list[Store]):
    return take(stores[0], 30, cache_bytes=0)  # more than an epoch


def test_every_state_is_the_one_of_its_instant(stores, expected):
    states, seconds = expected
    for state, second in zip(states[:20].reshape(-1, *states.shape[2:]), seconds[:20].ravel(), strict=True):
        np.testing.assert_array_equal(state, stores[0].read(int(np.searchsorted(stores[0].times.seconds, second))))


@settings(max_examples=12)
@given(chunking=st.integers(0, 2), kept=st.integers(0, 200), threads=st.integers(1, 4), prefetch=st.integers(1, 4))
def test_chunks_cache_threads_and_prefetch_change_nothing(stores, expected, chunking, kept, threads, prefetch):
    states, seconds = take(stores[chunking], 30, cache_bytes=kept * STATE, threads=threads, prefetch=prefetch)
    np.testing.assert_array_equal(seconds, expected[1])
    np.testing.assert_array_equal(states, expected[0])


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_share_out_the_same_batches(stores, expected, world):
    parts = [take(stores[0], 30, rank=rank, world=world, cache_bytes=9 * STATE) for rank in range(world)]
    for which in (0, 1):
        shares = [p[which].reshape(30, 6 // world, *p[which].shape[1:]) for p in parts]
        np.testing.assert_array_equal(np.concatenate(shares, axis=1).reshape(expected[which].shape), expected[which])


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 7), slice(2, 5)])
@pytest.mark.parametrize("chunking", [0, 1, 2])
def test_a_spatial_rank_gets_its_rows(stores, expected, rows, chunking):
    states, _ = take(stores[chunking], 30, rows=rows, cache_bytes=20 * STATE)
    np.testing.assert_array_equal(states, expected[0][..., rows, :])


@settings(max_examples=15)
@given(position=st.integers(0, 100))
def test_it_resumes_at_the_exact_sample(stores, expected, position):
    states, seconds = take(stores[1], 10, position=position, cache_bytes=30 * STATE)
    np.testing.assert_array_equal(seconds, expected[1][position:position + 60])
    np.testing.assert_array_equal(states, expected[0][position:position + 60])


def test_files_as_they_are_give_the_same_batches(stores, expected, tiny_weather):
    record = SourceRecord(open_source(tiny_weather))
    states, seconds = take(record, 30, cache_bytes=60 * STATE)
    np.testing.assert_array_equal(seconds, expected[1])
    np.testing.assert_array_equal(states, expected[0])


@given(num_samples=st.integers(1, 300), block=st.integers(1, 40), pool=st.integers(1, 120), seed=st.integers(0, 5))
def test_an_epoch_is_a_permutation_whose_pools_are_whole_blocks(num_samples, block, pool, seed):
    shuffle = Shuffle(block, pool)
    order = sample_order(num_samples, 2 * num_samples, seed=seed, stage=0, position=0, shuffle=shuffle)
    for epoch in (order[:num_samples], order[num_samples:]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_samples))
    blocks = max(1, pool // block)
    if num_samples > pool and blocks > 2:  # a pool's windows lie in few stretches, so that few states make many samples
        assert len(np.unique(order[:(blocks - 2) * block] // block)) <= 2 * blocks


def test_each_state_is_decoded_about_once_when_the_cache_holds_a_pool(stores, monkeypatch):
    reads: list[int] = []
    original = Store.read_into

    def counting(self, times, outs, **options):
        reads.extend(times)
        original(self, times, outs, **options)

    monkeypatch.setattr(Store, "read_into", counting)
    loader = Loader(stores[0], stores[0].channels, time_step=21600, history=1, batch_size=6, seed=9)
    epoch = loader.num_samples(1) // 6
    take(stores[0], epoch, num_steps=1, history=1, cache_bytes=34 * STATE, prefetch=1)
    blocks = epoch * 6 / SHUFFLE.block
    assert len(reads) <= blocks * (SHUFFLE.block + 1) + 12
    reads.clear()
    take(stores[0], epoch, num_steps=1, history=1, cache_bytes=0, prefetch=1, shuffle=Shuffle(1, 1))
    assert len(reads) > 1.8 * epoch * 6
