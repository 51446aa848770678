"""FAULTS 12 and 29 for the loader: a thread that dies is named within ten seconds, and nothing hangs."""

import ctypes
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from afno_forecast.data.loader import Batch, Delivery, Loader
from afno_forecast.data.store import Store
from afno_forecast.errors import ResourceError


def batches(store: Store, **delivery) -> Iterator[Batch]:
    loader = Loader(store, store.channels, time_step=21600, history=1, batch_size=4, seed=0, delivery=Delivery(**delivery))
    return loader.batches(1, stage=0)


def kill(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("loader")]


@pytest.mark.parametrize("moment", ["while it reads", "while it waits"])
def test_a_thread_that_dies_is_named_within_ten_seconds(tiny_store, monkeypatch, moment):
    store = Store.open(tiny_store)
    stream = batches(store, cache_bytes=0)
    next(stream)
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"loader thread loader_0 (has died|was ended by SystemExit)\n.*where: .*store\.zarr, batch of") as caught:
        if moment == "while it reads":
            original = Store.read_into

            def dying(self, *args, **options):
                monkeypatch.setattr(Store, "read_into", original)
                raise SystemExit

            monkeypatch.setattr(Store, "read_into", dying)
        else:
            while any(not future.done() for pending in stream.gi_frame.f_locals["ahead"] for future in pending.tasks):
                time.sleep(0.01)
            kill(loader_threads()[0])
        for _ in range(20):
            next(stream)
    assert caught.value.exit_code == 5
    assert "--resume" in caught.value.fix
    assert time.monotonic() - began < 10
    assert not loader_threads()


def test_waiting_long_for_a_disk_is_said_with_the_dates(tiny_store, monkeypatch, caplog):
    store = Store.open(tiny_store)
    free = threading.Event()
    original = Store.read_into

    def slow(self, *args, **options):
        free.wait(5)
        original(self, *args, **options)

    monkeypatch.setattr(Store, "read_into", slow)
    monkeypatch.setattr("afno_forecast.data.loader._LOOK_SECONDS", 0.05)
    monkeypatch.setattr("afno_forecast.data.loader._STALL_SECONDS", 0.1)
    stream = batches(store)
    threading.Timer(0.5, free.set).start()
    with caplog.at_level("WARNING"):
        batch = next(stream)
    stream.close()
    assert np.isfinite(batch.states.numpy()).all()
    assert "waiting for the loader" in caplog.text
    assert "store.zarr, batch of 2001" in caplog.text


def test_memory_is_used_again_only_when_nobody_holds_it(tiny_store):
    store = Store.open(tiny_store)
    stream = batches(store, cache_bytes=0, prefetch=1)
    held = [next(stream).states[1:, 0] for _ in range(6)]
    copies = [h.clone() for h in held]
    for _ in range(6):
        next(stream)
    assert all(bool((h == c).all()) for h, c in zip(held, copies, strict=True))
    del held
    places = {next(stream).states.data_ptr() for _ in range(20)}
    stream.close()
    assert len(places) <= 6 + 3
