"""Readers of training samples side by side: (input, target) pairs per CPU second, in random order, with what each needs to keep up.

    OMP_NUM_THREADS=1 taskset -c 1 python tests/benchmarks/pipeline.py --store small --json pipeline.json

A training store is made in a temporary folder and read, from the page cache, by each in turn in every round; what counts are the ratios
within a round, of which the median is told. Every reader gets the same store, takes as many samples, and ends with the same thing: a
batch (B, 2, C, H, W) of float32 in one torch tensor, normalised by channel. Those that are given an order get a random permutation. CPU
seconds are those of the whole process, threads too. Opening, importing and the first touch of memory are left out for all: three batches
before the clock starts, for the cache an epoch that is then forgotten.

dask         xarray.open_zarr with one dask chunk a state, one selection and one load a sample, dask's synchronous scheduler
zarr         zarr-python's array, one selection a sample
zarrs        the same through the zarrs codec pipeline, where it is installed
tensorstore  tensorstore's zarr3 driver, one read a sample, where it is installed
xbatcher     xbatcher's generator over the dask dataset, where it is installed
random       ours in random order: no state is kept
cached       ours in block-shuffled order with a cache that holds a pool of blocks, empty at the start: each state is decoded about once
floor        read, decode and normalise each state of a sample into the same warm memory, without any check or collation
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics as middle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs import blosc
from numpy.typing import NDArray

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data import layout as disk
from afno_forecast.data.loader import Delivery, Loader
from afno_forecast.data.order import Shuffle
from afno_forecast.data.reader import ChunkedArray
from afno_forecast.data.statistics import Statistics
from afno_forecast.data.store import FORMAT_VERSION, MARK, Scaling, Store
from afno_forecast.grid import LatLonGrid
from afno_forecast.times import TimeAxis

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"grid": (32, 64), "times": 121, "batch": 4, "shuffle": Shuffle(8, 16)},
    "small": {"grid": (128, 256), "times": 193, "batch": 8, "shuffle": Shuffle(16, 64)},
    "big": {"grid": (721, 1440), "times": 21, "batch": 2, "shuffle": Shuffle(8, 16)},
}
CHANNELS = 20
STEP = 21600
RIVALS = ("dask", "zarr", "zarrs", "tensorstore", "xbatcher")
OURS = ("random", "cached", "floor")
_WARM_UP = 3


# ---- the store


def make_store(path: Path, size: str) -> Store:
    """A store of smooth waves with noise, which lz4 packs to about two thirds as it does analyses in float32."""
    shape, count = SIZES[size]["grid"], SIZES[size]["times"]
    levels = np.linspace(50, 1000, CHANNELS).astype(int)
    channels = ChannelSet(tuple(Channel("temperature", int(level), "K") for level in levels))
    grid = LatLonGrid(np.linspace(-90, 90, shape[0]), np.arange(shape[1]) * 360.0 / shape[1])
    times = TimeAxis(np.arange(count, dtype=np.int64) * STEP)
    plan = disk.Layout(count, CHANNELS, shape)
    path.mkdir()
    disk.create_states(path, plan, tuple(grid.axes))
    array = disk.open_array(path, "state")
    noise = np.random.default_rng(1).normal(scale=0.3, size=shape).astype(np.float32)
    latitude, longitude = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None]
    phases = np.arange(CHANNELS)[:, None, None] * 0.7
    for number in range(plan.num_shards):
        block = range(*plan.block(number).indices(count))
        states = np.stack([280 + 25 * np.cos(latitude) * np.sin(3 * longitude - 0.1 * t + phases) for t in block]).astype(np.float32)
        for n, t in enumerate(block):
            for c in range(CHANNELS):
                states[n, c] += np.roll(noise, (7 * t + 3 * c, 31 * t + c), (0, 1))
        array[block.start:block.stop] = states
    disk.write_coordinates(path, times, grid, channels, ChannelSet(()))
    one = np.ones(CHANNELS)
    disk.write_statistics(path, Statistics(280 * one, 12 * one, 250 * one, 310 * one, 3 * one, (0, int(times.seconds[-1]))))
    disk.write_group(path, {MARK: FORMAT_VERSION, "channels": channels.to_list(), "static_channels": [], "grid": grid.to_dict(),
                            "calendar": times.calendar, "time_step_seconds": STEP, "climatology": False, "complete": True,
                            "statistics_period": {"start": 0, "end": int(times.seconds[-1])}})
    return Store.open(path)


# ---- the readers


def collate(samples: Iterator[NDArray[np.float32]], store: Store, batch: int) -> Iterator[torch.Tensor]:
    """Normalise samples (2, C, H, W), in place where the array is the reader's to give, and stack them into batches."""
    mean = store.statistics.mean.astype(np.float32)[:, None, None]
    std = store.statistics.std.astype(np.float32)[:, None, None]
    gathered = []
    for sample in samples:
        sample -= mean
        sample /= std
        gathered.append(torch.from_numpy(sample))
        if len(gathered) == batch:
            yield torch.stack(gathered)
            gathered = []


def dask_reader(store: Store, batch: int, order: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """xarray + dask."""
    import dask
    import xarray as xr

    states = xr.open_zarr(store.path, chunks={"time": 1, "channel": -1})["state"]
    with dask.config.set(scheduler="synchronous"):
        yield from collate((states.isel(time=slice(int(i), int(i) + 2)).load().values for i in order), store, batch)


def zarr_reader(store: Store, batch: int, order: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """zarr-python."""
    import zarr

    array = zarr.open_array(store.path / "state", mode="r")
    yield from collate((np.asarray(array[int(i):int(i) + 2], dtype=np.float32) for i in order), store, batch)


def zarrs_reader(store: Store, batch: int, order: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """zarr-python through zarrs."""
    import zarr

    importlib.import_module("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield from zarr_reader(store, batch, order)


def tensorstore_reader(store: Store, batch: int, order: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """tensorstore."""
    where = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.path / "state")}}
    array = importlib.import_module("tensorstore").open(where, read=True).result()
    yield from collate((array[int(i):int(i) + 2].read().result() for i in order), store, batch)


def xbatcher_reader(store: Store, batch: int, order: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """xbatcher over dask."""
    import dask
    import xarray as xr

    states = xr.open_zarr(store.path, chunks={"time": 1, "channel": -1})[["state"]]
    generator = importlib.import_module("xbatcher").BatchGenerator(states, input_dims={**states.sizes, "time": 2}, input_overlap={"time": 1},
                                                                   preload_batch=False)
    with dask.config.set(scheduler="synchronous"):
        yield from collate((generator[int(i)]["state"].load().values for i in order), store, batch)


def our_loader(store: Store, size: str, kind: str) -> Loader:
    """The loader of a training, normalising as the others do."""
    shuffle = Shuffle(1, 1) if kind == "random" else SIZES[size]["shuffle"]
    state_bytes = 4 * CHANNELS * int(np.prod(SIZES[size]["grid"]))
    pool_states = shuffle.pool // shuffle.block * (shuffle.block + 1)
    delivery = Delivery(cache_bytes=0 if kind == "random" else pool_states * state_bytes, shuffle=shuffle, prefetch=1,
                        scaling=Scaling.of(store.statistics.mean, store.statistics.std))
    return Loader(store, store.channels, time_step=STEP, history=1, batch_size=SIZES[size]["batch"], seed=1, delivery=delivery)


def our_reader(loader: Loader, num_batches: int) -> Iterator[torch.Tensor]:
    """Ours."""
    batches = loader.batches(1, stage=0)
    for _ in range(num_batches):
        yield next(batches).states
    batches.close()


def give_memory(loader: Loader, num_batches: int) -> None:
    """Read an epoch and forget it: the cache has its memory then, and nothing in it."""
    for _ in our_reader(loader, num_batches):
        pass
    loader.forget()


def floor_reader(store: Store, batch: int, order: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """The bare work: one byte range, one decompression and one normalisation a chunk, always in the same memory."""
    array = ChunkedArray(store.path / "state")
    places = {}
    for index in array.indexes():
        places[index] = (str(array.file_of(index)), *array.place_of(index))
    buffer = torch.empty((batch, 2, *array.num_chunks[1:2], *array.chunk))
    view, encoded = buffer.numpy(), np.empty(max(length for _, _, length in places.values()), np.uint8)
    scale, shift = (v.astype(np.float32)[:, None, None] for v in (1 / store.statistics.std, -store.statistics.mean / store.statistics.std))
    for n, i in enumerate(order):
        for t in range(2):
            for group in range(array.num_chunks[1]):
                name, offset, length = places[int(i) + t, group, 0, 0]
                descriptor = os.open(name, os.O_RDONLY)
                os.preadv(descriptor, [encoded[:length].data], offset)
                os.close(descriptor)
                chunk = view[n % batch, t, group]
                blosc.decompress(encoded[:length - 4], chunk)
                mine = slice(group * array.chunk[1], (group + 1) * array.chunk[1])
                np.multiply(chunk[0], scale[mine], out=chunk[0])
                np.add(chunk[0], shift[mine], out=chunk[0])
        if n % batch == batch - 1:
            yield buffer


READERS: dict[str, Callable[[Store, int, NDArray[np.int64]], Iterator[torch.Tensor]]] = {
    "dask": dask_reader, "zarr": zarr_reader, "zarrs": zarrs_reader, "tensorstore": tensorstore_reader, "xbatcher": xbatcher_reader,
    "floor": floor_reader}


# ---- measuring


def measure(name: str, store: Store, size: str, num_samples: int, seed: int) -> float:
    """Samples per CPU second."""
    batch = SIZES[size]["batch"]
    num_batches = max(1, num_samples // batch)
    order = np.random.default_rng(seed).permutation(len(store.times) - 1)[:num_batches * batch]
    loader = our_loader(store, size, name) if name in ("random", "cached") else None
    reader = our_reader(loader, num_batches) if loader else READERS[name](store, batch, order)
    if loader and name == "cached":
        give_memory(loader, num_batches)  # batches of this reader would leave states in the cache for those that are timed
    else:
        for _ in range(_WARM_UP):
            next(reader)
    began, count = time.process_time(), 0
    for states in reader:
        count += len(states)
        del states
    return count / (time.process_time() - began)


def check(store: Store, size: str) -> None:
    """Every reader's first batch against the store, so that a reader that reads something else is never timed."""
    batch, order = SIZES[size]["batch"], np.arange(SIZES[size]["batch"])
    truth = np.stack([np.stack([store.read(int(i) + t) for t in range(2)]) for i in order])
    truth = (truth - store.statistics.mean.astype(np.float32)[:, None, None]) / store.statistics.std.astype(np.float32)[:, None, None]
    for name in available():
        if name in READERS:
            got = next(READERS[name](store, batch, order)).reshape(truth.shape)
            np.testing.assert_allclose(got.numpy(), truth, atol=1e-4, err_msg=name)
        else:
            ours = next(our_loader(store, size, name).batches(1, stage=0))
            states = np.stack([np.stack([store.read(int(s) // STEP) for s in window]) for window in ours.seconds])
            scaling = Scaling.of(store.statistics.mean, store.statistics.std)
            np.testing.assert_allclose(ours.states.numpy(), states * scaling.scale + scaling.shift, atol=1e-4, err_msg=name)


def available() -> tuple[str, ...]:
    """Readers that can run here."""
    return tuple(n for n in (*RIVALS, *OURS) if n in ("dask", "zarr", *OURS) or importlib.util.find_spec(n) is not None)


def peak_memory(store: Path, size: str, kind: str) -> dict[str, float]:
    """Peak of our reader in a process of its own, beside what it may take; MB."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pipeline; pipeline.print_peak({str(store)!r}, {size!r}, {kind!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {key: round(float(value), 1) for key, value in json.loads(done.stdout).items()}


def high_water() -> float:
    """Most memory this process has had resident, MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def print_peak(path: str, size: str, kind: str) -> None:
    """Read two epochs; print the peak beyond what the process took before, and the budget: prefetch and cache and 100 MB."""
    store = Store.open(path)
    loader = our_loader(store, size, kind)
    before = high_water()
    size_mb = 0.0
    for states in our_reader(loader, 2 * (len(store.times) - 1) // SIZES[size]["batch"]):
        size_mb = states.nbytes / 1e6
        del states
    peak = high_water() - before
    delivery = loader.delivery
    print(json.dumps({"peak": peak, "prefetch": (delivery.prefetch + 2) * size_mb, "cache": delivery.cache_bytes / 1e6,
                      "budget": (delivery.prefetch + 2) * size_mb + delivery.cache_bytes / 1e6 + 100}))


def run(size: str, rounds: int, folder: Path) -> dict[str, Any]:
    """All readers in every round."""
    store = make_store(folder / "store.zarr", size)
    disk_bytes = sum(f.stat().st_size for f in (store.path / "state").rglob("*") if f.is_file())
    check(store, size)
    names = available()
    rates: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(rounds):
        for name in names:
            rates[name].append(measure(name, store, size, len(store.times) - 1, seed))
            print(f"round {seed + 1} of {rounds}  {name:12} {rates[name][-1]:8.1f} samples/s", flush=True)
    ratio = {f"{a}_vs_{b}": round(middle.median(x / y for x, y in zip(rates[a], rates[b], strict=True)), 3)
             for a in ("random", "cached") for b in (*RIVALS, "floor") if b in names}
    memory = {kind: peak_memory(store.path, size, kind) for kind in ("random", "cached")}
    return {"store": size, "grid": SIZES[size]["grid"], "channels": CHANNELS, "times": len(store.times), "rounds": rounds,
            "chunk": ChunkedArray(store.path / "state").chunk, "bytes_on_disk": disk_bytes,
            "compression": round(4 * CHANNELS * int(np.prod(SIZES[size]["grid"])) * len(store.times) / disk_bytes, 2),
            "samples_per_cpu_second": {n: round(middle.median(r), 1) for n, r in rates.items()},
            "spread": {n: [round(min(r), 1), round(max(r), 1)] for n, r in rates.items()},
            "skipped": [n for n in RIVALS if n not in names], "ratios": ratio, "memory_mb": memory,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": platform.machine(), "python": platform.python_version(),
            "versions": {p: importlib.metadata.version(p) for p in ("numpy", "xarray", "dask", "zarr", "numcodecs", "torch",
                                                                    *(n for n in ("zarrs", "tensorstore", "xbatcher") if n in names))}}


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=tuple(SIZES), default="small", help="cells of a state: tiny 32x64, small 128x256, big 721x1440")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where the store is made, and removed again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = run(options.store, options.rounds, Path(folder))
    for name, rate in result["samples_per_cpu_second"].items():
        print(f"{name:12} {rate:8.1f} samples per CPU second, {rate / result['samples_per_cpu_second']['dask']:5.2f} of xarray + dask")
    for name in result["skipped"]:
        print(f"{name:12} skipped: not installed here")
    print("ratios, median of the rounds:", json.dumps(result["ratios"]))
    print("peak memory of ours, MB:", json.dumps(result["memory_mb"]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
