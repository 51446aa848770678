"""How fast a training store is read here, against the bare work that nobody avoids, where the time goes, and what to change."""

# C channel, H latitude row, W longitude column

from __future__ import annotations

import os
import statistics as middle
import time as clock
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from ..errors import DataError
from .loader import Delivery, Loader
from .order import Shuffle
from .store import Scaling, Store

_PARTS = ("read", "checksum", "decode", "normalise", "collate")


@dataclass(frozen=True)
class Bench:
    """What was measured. A sample is a pair of states, read in random order from the page cache unless said otherwise.

    Args:
        store: its path.
        state_bytes: of a decoded state.
        samples_per_second: the loader without a cache: all threads, wall clock.
        samples_per_cpu_second: the same by the time that the process was given by the processor, which other work does not change.
        cached_per_second: the loader in block-shuffled order, each state decoded about once.
        floor_per_second: read, decode and normalise into the same memory and nothing else; 0 where chunks are not in our codecs.
        milliseconds: of a state, by part.
        disk_megabytes_per_second: encoded bytes from the disk itself, where the system could be made to forget them.
        compression: decoded by encoded bytes.
        advice: what to change in the store or the configuration.
    """

    store: str
    state_bytes: int
    samples_per_second: float
    samples_per_cpu_second: float
    cached_per_second: float
    floor_per_second: float
    milliseconds: dict[str, float]
    disk_megabytes_per_second: float
    compression: float
    advice: tuple[str, ...]

    @property
    def share_of_floor(self) -> float:
        """Speed of the loader by that of the bare work, a CPU second; 0 where that is not known."""
        return self.samples_per_cpu_second / self.floor_per_second if self.floor_per_second else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "share_of_floor": self.share_of_floor}

    def lines(self) -> Iterator[str]:
        """For people."""
        pair = 2 * self.state_bytes / 1e6
        yield f"{self.store}: states of {self.state_bytes / 1e6:.2f} MB, compressed {self.compression:.2f} times"
        for name, rate in (("random order", self.samples_per_second), ("blocks + cache", self.cached_per_second), ("floor", self.floor_per_second)):
            yield f"  {name:15} {rate:9.1f} samples/s {rate * pair:9.1f} MB/s"
        yield f"  share of the floor, random order: {100 * self.share_of_floor:.0f} %"
        total = sum(self.milliseconds.values())
        yield "  a state's time: " + ", ".join(f"{n} {ms:.2f} ms ({100 * ms / total:.0f} %)" for n, ms in self.milliseconds.items())
        yield f"  from the disk itself: {self.disk_megabytes_per_second:.0f} MB/s of encoded bytes"
        yield from (f"  change: {line}" for line in self.advice or ("nothing",))


def bench(store: Store, *, seconds: float = 5.0, batch_size: int = 4, threads: int = 1, cache_bytes: int = 1 << 30, seed: int = 0) -> Bench:
    """Measure a store.

    Args:
        store: an open store with at least two times one step apart.
        seconds: about how long to measure, in all.
        batch_size: samples in a batch.
        threads: of the loader.
        cache_bytes: of the loader with a cache.
        seed: of the choice of states.

    Raises:
        DataError: no two states follow each other, or a damaged chunk.
    """
    part = seconds / 5
    state_bytes = 4 * len(store.channels) * int(np.prod(store.grid.shape))
    loader = _loader(store, batch_size, Delivery(cache_bytes=0, shuffle=Shuffle(1, 1), threads=threads, prefetch=1))
    if loader.num_samples(1) < batch_size:
        raise DataError(f"{loader.num_samples(1)} samples do not fill a batch of {batch_size}", where=store.where, fix="give a smaller --batch-size")
    times = np.random.default_rng(seed).permutation(len(store.times))
    parts, floor, encoded = _by_part(store, times, part) if store.states.is_fast else ({}, 0.0, 0.0)
    random, random_cpu = _rate(loader, part)
    shuffle = Shuffle(16, max(16, min(512, cache_bytes // state_bytes // 17 * 16)))
    kept = _loader(store, batch_size, Delivery(cache_bytes=cache_bytes, shuffle=shuffle, threads=threads, prefetch=1))
    _rate(kept, part)
    kept.forget()  # the first touch of memory is no part of its speed
    cached, _ = _rate(kept, part)
    files = list(dict.fromkeys(str(store.states.file_of((int(t), *[0] * 3))) for t in times if store.states.chunk[0] == 1))
    disk = _disk_rate(files[:8])
    result = Bench(store.where, state_bytes, random, random_cpu, cached, floor, parts, disk, state_bytes / encoded if encoded else 1.0, ())
    return Bench(**{**asdict(result), "advice": tuple(_advice(store, result, cache_bytes, threads))})


def _loader(store: Store, batch_size: int, delivery: Delivery) -> Loader:
    scaling = Scaling.of(store.statistics.mean, store.statistics.std)
    return Loader(store, store.channels, time_step=store.time_step, history=1, batch_size=batch_size, seed=0,
                  delivery=Delivery(**{**delivery.__dict__, "scaling": scaling}))


def _rate(loader: Loader, seconds: float) -> tuple[float, float]:
    """Samples a second of wall clock and of the processor, after the first batch, of one epoch at most.

    So no state is found in the cache that was not decoded in that time.
    """
    batches = loader.batches(1, stage=0)
    size = len(next(batches).states)
    rounds = max(1, loader.num_samples(1) // size - 1)
    began, began_cpu, done = clock.perf_counter(), clock.process_time(), 0
    while done < rounds and (not done or clock.perf_counter() - began < seconds):
        next(batches)
        done += 1
    spent, spent_cpu = clock.perf_counter() - began, clock.process_time() - began_cpu
    batches.close()
    return done * size / spent, done * size / max(spent_cpu, 1e-9)


def _by_part(store: Store, times: NDArray[np.int64], seconds: float) -> tuple[dict[str, float], float, float]:
    """(milliseconds of a state by part, samples a second of the bare work, encoded bytes of a state)."""
    array = store.states
    groups = range(array.num_chunks[1])
    rows: list[dict[str, float]] = []
    encoded_bytes: list[int] = []
    state, batch = np.empty((len(groups), *array.chunk), np.float32), np.empty((len(groups), *array.chunk), np.float32)
    scale, shift = np.float32(0.5), np.float32(-1.0)
    began = clock.perf_counter()
    for time in times:
        row, size = dict.fromkeys(_PARTS, 0.0), 0
        for group in groups:
            index = (int(time) // array.chunk[0], group, 0, 0)
            row["read"] += _timed(lambda index=index: array.read_encoded(index))  # type: ignore[misc]
            encoded = array.read_encoded(index)
            size += len(encoded)
            row["checksum"] += _timed(lambda encoded=encoded: google_crc32c.value(encoded[:-4]))  # type: ignore[misc]
            chunk = state[group]
            row["decode"] += _timed(lambda encoded=encoded, chunk=chunk: blosc.decompress(encoded[:-4], chunk))  # type: ignore[misc]
            row["normalise"] += _timed(lambda chunk=chunk: np.add(np.multiply(chunk, scale, out=chunk), shift, out=chunk))  # type: ignore[misc]
        row["collate"] += _timed(lambda: np.copyto(batch, state))
        rows.append(row)
        encoded_bytes.append(size)
        if clock.perf_counter() - began > seconds:
            break
    parts = {part: 1e3 * middle.median(row[part] for row in rows) for part in _PARTS}
    bare = middle.median(row["read"] + row["decode"] + row["normalise"] for row in rows)
    return parts, 1 / (2 * bare), middle.mean(encoded_bytes)


def _timed(work: Callable[[], object]) -> float:
    began = clock.perf_counter()
    work()
    return clock.perf_counter() - began


def _disk_rate(files: list[str]) -> float:
    """MB/s of whole files, after the system was asked to forget them."""
    spent, size = 0.0, 0
    for name in files:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            began = clock.perf_counter()
            while piece := os.read(descriptor, 1 << 22):
                size += len(piece)
            spent += clock.perf_counter() - began
        finally:
            os.close(descriptor)
    return size / 1e6 / spent if spent else 0.0


def _advice(store: Store, result: Bench, cache_bytes: int, threads: int) -> Iterator[str]:
    """What would make this store, or its reading, faster."""
    array = store.states
    rebuild = "afno-forecast data build makes stores that need none of this"
    if not array.is_fast:
        yield f"its chunks are not bytes + blosc + crc32c and go through zarr-python, at a fraction of the speed: build the store again; {rebuild}"
    if array.chunk[0] > 1:
        yield f"a chunk holds {array.chunk[0]} times, all of which are decoded for each state: chunks of one time; {rebuild}"
    if array.chunk[2:] != store.grid.shape and result.state_bytes < 1 << 24:
        yield f"a map is cut into {array.num_chunks[2] * array.num_chunks[3]} chunks: whole maps in a chunk; {rebuild}"
    total = sum(result.milliseconds.values())
    if total and result.milliseconds["read"] > 0.4 * total and array.num_chunks[1] > 1:
        share = 100 * result.milliseconds["read"] / total
        yield f"{share:.0f} % of the time is opening and reading {array.num_chunks[1]} chunks a state: larger chunks"
    if result.compression < 1.05:
        yield "compression saves nothing: build with --round-bits 12 if the data are not exact to more"
    needed = 2 * result.samples_per_second * result.state_bytes / 1e6 / result.compression
    if 0 < result.disk_megabytes_per_second < needed:
        yield (f"the disk gives {result.disk_megabytes_per_second:.0f} MB/s, the loader takes {needed:.0f}: copy the store to a faster disk, "
               "or build with --round-bits 12")
    whole = len(store.times) * result.state_bytes
    if cache_bytes < whole < 8 << 30:
        yield f"training.cache_megabytes={-(-whole >> 20)} holds the whole record decoded"
    if threads == 1 and result.samples_per_second < 0.7 * result.samples_per_cpu_second:
        share = 100 * result.samples_per_second / result.samples_per_cpu_second
        yield f"nothing in the store: the loader ran {share:.0f} % of the time, the rest it waited for the disk or for other work on this machine"
    elif 0 < result.cached_per_second < 0.9 * result.samples_per_second:
        yield "decoding is as fast here as copying, so keeping states does not pay: training.cache_megabytes=1"
