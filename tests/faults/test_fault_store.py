"""FAULTS 2, 5, 14, 15, 17, 18 for the training store."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.data.build import BuildRecipe, build_store, run_recipe
from afno_forecast.data.loader import Loader
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError, ResourceError

SHAPE = (5, 8)
SCRIPT = """
import sys
from pathlib import Path
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
print("ready", flush=True)
build_store(open_source(sys.argv[1]), Path(sys.argv[2]), StoreSettings(shard_bytes=4 * 2 * 40 * 6))
"""


def write(path: Path, num_times: int = 25, change=None, hours: int = 6) -> Path:
    values = np.random.default_rng(1).normal(size=(2, num_times, *SHAPE)).astype("f4")
    ds = xr.Dataset({"t2m": (("time", "latitude", "longitude"), 280 + values[0], {"units": "K", "standard_name": "air_temperature"}),
                     "sp": (("time", "latitude", "longitude"), 1e5 + 500 * values[1], {"units": "Pa", "standard_name": "surface_air_pressure"})},
                    {"time": np.datetime64("2003-05-01", "ns") + np.arange(num_times) * np.timedelta64(hours, "h"),
                     "latitude": ("latitude", np.linspace(-72, 72, 5), {"units": "degrees_north"}),
                     "longitude": ("longitude", np.arange(8) * 45.0, {"units": "degrees_east"})})
    if change is not None:
        change(ds)
    ds.to_netcdf(path)
    return path


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path) -> Store:
    return build_store(open_source(write(tmp_path / "a.nc")), tmp_path / "s.zarr",
                       StoreSettings(climatology=False, shard_bytes=4 * 2 * 40 * 6, chunk_bytes=4 * 40))


def test_a_build_killed_at_any_moment_goes_on_and_ends_with_the_same_bytes(tmp_path):
    source = write(tmp_path / "a.nc", hours=24)
    whole, out = tmp_path / "whole.zarr", tmp_path / "cut.zarr"

    def start(target: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(source), str(target)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    process = start(whole)
    begin = time.monotonic()
    assert process.wait() == 0
    process.stdout.close()
    duration = time.monotonic() - begin
    moments = random.Random(4)
    for _ in range(10):
        process = start(out)
        time.sleep(moments.uniform(0.05, 0.6) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not out.exists() or digest(out) == digest(whole)
    process = start(out)
    assert process.wait() == 0
    process.stdout.close()
    assert digest(out) == digest(whole)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", ["missing folder", "file", "unwritable"])
def test_an_output_that_cannot_be_written_is_said_before_data_are_opened(tmp_path, kind, monkeypatch):
    out = tmp_path / "s.zarr"
    if kind == "missing folder":
        out = tmp_path / "absent" / "s.zarr"
    elif kind == "file":
        out.write_text("something else")
    else:
        def refuse(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError) as caught:
        run_recipe(BuildRecipe(sources=("not-opened.nc",)), out)
    assert caught.value.exit_code == 5
    assert str(out) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_shard_is_named_with_file_dates_and_chunk(store):
    shard = store.path / "state" / "c" / "2" / "0" / "0" / "0"
    shard.unlink()
    again = Store.open(store.path)
    again.read(11)
    with pytest.raises(DataError, match=r"is missing: 2003-05-04T00, .*chunk 12\.0\.0\.0\n.*s\.zarr, state/c/2/0/0/0\n.*data verify") as caught:
        again.read(12)
    assert caught.value.exit_code == 3
    problems = again.verify()
    assert len(problems) == 12
    assert "2003-05-04T00, 2m_temperature" in "\n".join(problems)
    assert "surface_pressure" in "\n".join(problems)


def test_any_flipped_byte_in_a_shard_is_found(store, tmp_path):
    shard = store.path / "state" / "c" / "1" / "0" / "0" / "0"
    sound = shard.read_bytes()
    truth = np.stack([store.read(i) for i in range(len(store.times))])
    choose = random.Random(0)
    for position in [0, len(sound) - 1, *(choose.randrange(len(sound)) for _ in range(40))]:
        spoiled = bytearray(sound)
        spoiled[position] ^= 1 << choose.randrange(8)
        shard.write_bytes(bytes(spoiled))
        broken = Store.open(store.path)
        assert broken.verify()
        for i in range(len(truth)):
            try:
                np.testing.assert_array_equal(broken.read(i), truth[i])
            except DataError as error:
                assert "checksum" in str(error) or "index" in str(error)
                assert 6 <= i < 12
    for length in (0, 3, len(sound) // 2, len(sound) - 1):
        shard.write_bytes(sound[:length])
        with pytest.raises(DataError, match="truncated"):
            Store.open(store.path).read(7)
    shard.write_bytes(sound)
    assert Store.open(store.path).verify() == []


def test_a_chunk_bomb_is_refused_before_anything_is_allocated(store):
    meta = store.path / "state" / "zarr.json"
    changed = json.loads(meta.read_text())
    changed["chunk_grid"]["configuration"]["chunk_shape"] = [6, 2, 500_000, 800_000]
    changed["codecs"][0]["configuration"]["chunk_shape"] = [1, 1, 500_000, 800_000]
    meta.write_text(json.dumps(changed))
    with pytest.raises(DataError, match="absurd chunks"):
        Store.open(store.path)


def test_a_chunk_of_fill_values_is_no_alarm(tmp_path):
    def zero(ds):
        ds.t2m[:] = 0.0

    store = build_store(open_source(write(tmp_path / "z.nc", 4, zero)), tmp_path / "z.zarr", StoreSettings(chunk_bytes=4 * 40))
    assert store.verify() == []  # the climatology is NaN for most of the year
    climatology = store.climatology()
    assert climatology is not None
    assert np.isnan(climatology.at(store.times.seconds[:1] + 200 * 86400, store.times.calendar)).all()


def test_damaged_statistics_are_found_on_opening(store):
    file = store.path / "mean" / "c" / "0"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="'mean' does not match its checksum"):
        Store.open(store.path)
    file.unlink()
    with pytest.raises(DataError, match="'mean' is missing"):
        Store.open(store.path)


def test_a_damaged_chunk_stops_training_with_its_name_instead_of_hanging(store):
    (store.path / "state" / "c" / "3" / "0" / "0" / "0").unlink()
    loader = Loader(store, store.channels, time_step=21600, history=1, batch_size=8, seed=0)
    batches = loader.batches(1, stage=0)
    with pytest.raises(DataError, match="state/c/3/0/0/0"):
        for _ in range(10):
            next(batches)


def test_a_truncated_netcdf_is_named_with_its_dates(tmp_path):
    path = write(tmp_path / "a.nc", 40)
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.seek(size // 2)
        handle.write(b"\xff" * (size // 2))
        handle.truncate(size // 2 + 100)
    with pytest.raises(DataError, match=r"a\.nc"):
        build_store(open_source(path), tmp_path / "s.zarr", StoreSettings(climatology=False))


def test_missing_values_are_refused_by_variable_unless_filled(tmp_path):
    def spoil(ds):
        ds.t2m[7, 1, 2] = np.nan
        ds.t2m[20] = np.nan
        ds.sp[9, 0, 0] = np.inf

    source = open_source(write(tmp_path / "a.nc", 25, spoil))
    with pytest.raises(DataError, match=r"2m_temperature: 41 of 1000, in 2 of 25 states, first 2003-05-02T18; surface_pressure: 1 of 1000") as caught:
        build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False))
    assert caught.value.exit_code == 3
    shutil.rmtree(tmp_path / "s.zarr.partial")
    with pytest.raises(DataError, match=r"in surface_pressure: 1 of 1000"):  # a fill is for missing cells, never for infinite ones
        build_store(source, tmp_path / "s.zarr", StoreSettings(climatology=False, fill={"t2m": 271.5, "sp": 1e5}))
    store = build_store(source, tmp_path / "t.zarr", StoreSettings(channels=["t2m"], climatology=False, fill={"t2m": 271.5}))
    assert store.read(7)[0, 1, 2] == 271.5
    assert any("filled with 271.5" in note for note in store.attrs["provenance"]["notes"])


def test_missing_values_are_counted_in_the_first_bad_block_and_the_message_says_so(tmp_path):
    def spoil(ds):
        ds.t2m[7:20, 1, 2] = np.nan

    with pytest.raises(DataError, match=r"2m_temperature: 5 of 240, in 5 of 6 states, .*\(counted from 2003-05-02T12 to 2003-05-03T18 only\)"):
        build_store(open_source(write(tmp_path / "a.nc", 25, spoil)), tmp_path / "s.zarr",
                    StoreSettings(climatology=False, shard_bytes=4 * 2 * 40 * 6))


def test_a_constant_channel_has_std_zero_and_is_named(tmp_path):
    def level(ds):
        ds.sp[:] = 101325.3

    store = build_store(open_source(write(tmp_path / "a.nc", change=level)), tmp_path / "s.zarr", StoreSettings(climatology=False))
    assert store.attrs["constant_channels"] == ["surface_pressure"]
    i = store.channels.names.index("surface_pressure")
    assert store.statistics.std[i] == 0.0
    assert store.statistics.tendency_std[i] == 0.0
    assert any("constant" in note and "surface_pressure" in note for note in store.attrs["provenance"]["notes"])


def test_nothing_is_left_open(store):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in range(len(store.times)):
        store.read(i)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
