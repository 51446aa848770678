"""data bench: figures that hang together, and advice for stores that read slowly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from afno_forecast.cli import cli
from afno_forecast.data.bench import Bench, _advice, bench
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError


@pytest.fixture(scope="module")
def measured(tiny_store: Path) -> Bench:
    return bench(Store.open(tiny_store), seconds=0.4)


def test_the_figures_hang_together(measured, tiny_store):
    store = Store.open(tiny_store)
    assert measured.state_bytes == 4 * 3 * 7 * 12
    assert set(measured.milliseconds) == {"read", "checksum", "decode", "normalise", "collate"} and min(measured.milliseconds.values()) > 0
    bare = sum(measured.milliseconds[part] for part in ("read", "decode", "normalise")) / 1e3
    assert measured.floor_per_second == pytest.approx(1 / (2 * bare), rel=0.5)  # medians of sums and sums of medians
    assert measured.share_of_floor == measured.samples_per_cpu_second / measured.floor_per_second > 0
    size = np.mean([store.states.encoded_bytes((time, 0, 0, 0)) for time in range(len(store.times))])
    assert measured.compression == pytest.approx(measured.state_bytes / size, rel=0.1)
    assert measured.to_dict()["share_of_floor"] == measured.share_of_floor


def test_the_command_prints_rates_shares_and_what_to_change(tiny_store):
    done = CliRunner().invoke(cli, ["data", "bench", str(tiny_store), "--seconds", "0.4"], catch_exceptions=False)
    assert done.exit_code == 0
    for part in ("random order", "blocks + cache", "floor", "samples/s", "MB/s", "share of the floor", "checksum", "the disk itself", "change: "):
        assert part in done.output, done.output
    done = CliRunner().invoke(cli, ["data", "bench", str(tiny_store), "--seconds", "0.4", "--json"], catch_exceptions=False)
    assert json.loads(done.output)["samples_per_second"] > 0


def test_a_store_of_a_year_of_weather(shared_data: Path, tmp_path):
    build_store(open_source(shared_data / "speedy_2000-03_2001-02.nc"), tmp_path / "s.zarr",
                StoreSettings(channels=["z500", "t850", "u250"], climatology=False))
    result = bench(Store.open(tmp_path / "s.zarr"), seconds=1)
    assert result.state_bytes == 4 * 3 * 32 * 64
    assert 1 < result.compression < 4 and result.disk_megabytes_per_second >= 0
    assert 0.03 < result.share_of_floor < 1.5  # of 24 kB, handing a state over takes longer than decoding it


def test_a_batch_that_the_store_cannot_fill_is_said(tiny_store):
    with pytest.raises(DataError, match="samples do not fill a batch of 500"):
        bench(Store.open(tiny_store), seconds=0.1, batch_size=500)


PARTS = {"read": 0.2, "checksum": 0.1, "decode": 0.5, "normalise": 0.1, "collate": 0.1}
FINE = Bench("s.zarr", 10**6, 400.0, 410.0, 450.0, 450.0, PARTS, 10**5, 1.7, ())


def advice(store: Store, cache_bytes: int = 1 << 30, **changes) -> str:
    return "\n".join(_advice(store, replace(FINE, **changes), cache_bytes, 1))


def test_nothing_is_advised_for_a_store_that_is_fine(tiny_store):
    assert advice(Store.open(tiny_store)) == ""


@pytest.mark.parametrize(("changes", "told"), [
    ({"compression": 1.0}, "--round-bits"),
    ({"disk_megabytes_per_second": 100.0}, "the disk gives 100 MB/s, the loader takes 471"),
    ({"cache_bytes": 10**8}, "training.cache_megabytes=149 holds the whole record"),
    ({"samples_per_second": 205.0}, "the loader ran 50 % of the time"),
    ({"cached_per_second": 300.0}, "training.cache_megabytes=1"),
])
def test_what_slows_it_is_named_with_the_remedy(tiny_store, changes, told):
    assert told in advice(Store.open(tiny_store), **changes)


def test_small_chunks_and_chunks_of_many_times_are_named(tiny_weather, tmp_path):
    small = build_store(open_source(tiny_weather), tmp_path / "small.zarr", StoreSettings(climatology=False, chunk_bytes=4 * 7 * 12))
    assert "opening and reading 3 chunks a state: larger chunks" in advice(small, milliseconds={**PARTS, "read": 2.0})
