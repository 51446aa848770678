import threading
from itertools import islice

import numpy as np
import pytest

from afno_forecast.data.build import build_store
from afno_forecast.data.loader import Delivery, Loader
from afno_forecast.data.order import draw_step, sample_order
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError

STEP = 21600


@pytest.fixture(scope="module")
def store(make_record, tmp_path_factory) -> Store:
    """20 times with one missing."""
    folder = tmp_path_factory.mktemp("loader")
    make_record(np.delete(np.datetime64("2001-02-20T00", "ns") + np.arange(21) * np.timedelta64(6, "h"), 11)).to_netcdf(folder / "record.nc")
    return build_store(open_source(folder / "record.nc"), folder / "s.zarr", StoreSettings(climatology=False, shard_bytes=3000))


def make(store: Store, **changes) -> Loader:
    """A loader; what is no argument of it is one of its delivery."""
    options = {"time_step": STEP, "history": 2, "batch_size": 4, "seed": 5, "period": None}
    channels = changes.pop("channels", store.channels)
    options |= {key: changes.pop(key) for key in list(changes) if key in options}
    return Loader(store, channels, **options, delivery=Delivery(**changes))


def test_a_batch_holds_the_states_of_its_instants_in_the_channels_asked_for(store):
    channels = store.channels.select(["t2m", "z500"])
    loader = make(store, channels=channels)
    batches = loader.batches(2, stage=0)
    batch = next(batches)
    assert batch.states.shape == (4, 4, 2, 6, 9)
    assert batch.states.numpy().dtype == np.float32
    assert batch.seconds.shape == (4, 4)
    assert (np.diff(batch.seconds, axis=1) == STEP).all()
    for b in range(4):
        for t in range(4):
            i = int(np.searchsorted(store.times.seconds, batch.seconds[b, t]))
            np.testing.assert_array_equal(batch.states[b, t].numpy(), store.read(i)[[2, 0]])
    batches.close()


def test_an_epoch_delivers_every_window_once_and_the_next_in_another_order(store):
    loader = make(store, batch_size=3)
    n = loader.num_samples(1)
    assert n == 20 - 2 * 2
    batches = loader.batches(1, stage=0)
    starts = np.concatenate([b.seconds[:, 0] for b in islice(batches, n)])  # three epochs
    batches.close()
    epochs = starts.reshape(3, n)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(epochs[0]))
        assert len(set(epoch.tolist())) == n
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("position", [0, 1, 7, 16, 33])
def test_a_stage_resumes_at_the_exact_sample(store, position):
    loader = make(store)
    whole = loader.batches(1, stage=2)
    starts = np.concatenate([b.seconds[:, 0] for b in islice(whole, 14)])
    whole.close()
    resumed = make(store).batches(1, stage=2, position=position)
    again = np.concatenate([b.seconds[:, 0] for b in islice(resumed, 3)])
    resumed.close()
    np.testing.assert_array_equal(again, starts[position:position + 12])


def test_the_order_is_a_function_of_seed_stage_and_epoch():
    order = sample_order(7, 21, seed=1, stage=0, position=0)
    np.testing.assert_array_equal(order, sample_order(7, 21, seed=1, stage=0, position=0))
    for other in (sample_order(7, 21, seed=2, stage=0, position=0), sample_order(7, 21, seed=1, stage=1, position=0)):
        assert not np.array_equal(order, other)
    np.testing.assert_array_equal(sample_order(7, 5, seed=1, stage=0, position=4), order[4:9])
    assert len(sample_order(3, 10, seed=1, stage=0, position=0)) == 10  # a batch larger than an epoch


def test_the_cache_keeps_to_its_bytes_and_changes_nothing(store):
    state = 3 * 6 * 9 * 4
    for cache_bytes in (0, 5 * state, 1 << 30):
        loader = make(store, cache_bytes=cache_bytes)
        batches = loader.batches(1, stage=0)
        got = [b.states for b in islice(batches, 9)]
        batches.close()
        assert len(loader._cache) * state <= cache_bytes
        if cache_bytes == 0:
            first = got
        for a, b in zip(first, got, strict=True):
            assert bool((a == b).all())


def test_closing_ends_the_thread(store):
    before = threading.active_count()
    batches = make(store).batches(1, stage=0)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_consumer(store, monkeypatch):
    def broken(self, times, outs, **options):
        raise DataError("a chunk of 'state' is missing")

    monkeypatch.setattr(Store, "read_into", broken)
    with pytest.raises(DataError, match="is missing"):
        next(make(store).batches(1, stage=0))
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_a_missing_channel_or_an_empty_period_is_said(store):
    with pytest.raises(DataError, match="holds no time"):
        make(store, period=(0, 5)).num_samples(1)
    with pytest.raises(DataError, match="no 30 states"):
        next(make(store).batches(28, stage=0))


def test_steps_are_drawn_evenly_at_random_and_each_batch_knows_how_many_came_before():
    entries = (6, 12, 24, 24)
    drawn = [draw_step(entries, n, seed=3, stage=1) for n in range(400)]
    assert drawn == [draw_step(entries, n, seed=3, stage=1) for n in range(400)]
    steps = [step for step, _ in drawn]
    for turn in range(100):
        assert sorted(steps[4 * turn:4 * turn + 4]) == sorted(entries)
    assert len({tuple(steps[4 * turn:4 * turn + 4]) for turn in range(100)}) == 12  # every order there is
    for step in set(entries):
        assert [before for s, before in drawn if s == step] == list(range(steps.count(step)))
    assert steps != [draw_step(entries, n, seed=3, stage=2)[0] for n in range(400)]
    assert [draw_step((6,), n, seed=3, stage=1) for n in range(5)] == [(6, n) for n in range(5)]


def test_batches_of_several_steps_deliver_every_window_of_each_once_an_epoch(store):
    loader = make(store, history=1, batch_size=2)
    steps = (STEP, 2 * STEP)
    sizes = {step: loader.num_samples(2, step) for step in steps}
    batches = loader.batches(2, stage=0, time_steps=steps)
    seen: dict[int, list[int]] = {step: [] for step in steps}
    for batch in islice(batches, 40):
        assert (np.diff(batch.seconds, axis=1) == batch.time_step).all() and batch.seconds.shape == (2, 3)
        seen[batch.time_step] += batch.seconds[:, 0].tolist()
    batches.close()
    assert sizes == {STEP: 16, 2 * STEP: 14} and [len(starts) for starts in seen.values()] == [40, 40]
    for step, starts in seen.items():
        assert len(set(starts[:sizes[step]])) == sizes[step] and set(starts[sizes[step]:2 * sizes[step]]) == set(starts)


@pytest.mark.parametrize("position", [2, 6, 14])
def test_drawn_steps_resume_at_the_exact_sample(store, position):
    loader = make(store, history=1, batch_size=2)
    whole, later = (loader.batches(2, stage=1, time_steps=(STEP, 2 * STEP, 3 * STEP), position=p) for p in (0, position))
    for expected, batch in zip(islice(whole, position // 2, position // 2 + 5), later, strict=False):
        np.testing.assert_array_equal(batch.seconds, expected.seconds)
        assert np.array_equal(batch.states, expected.states)
    whole.close()
    later.close()
