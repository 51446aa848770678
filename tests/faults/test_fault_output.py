"""FAULTS 2, 4, 5, 10, 14: a forecast file that is interrupted, meets a full disk or another file, or is damaged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError, DataError, ResourceError
from afno_forecast.forecast import output
from afno_forecast.forecast.metadata import make_layout
from afno_forecast.forecast.output import ForecastWriter
from afno_forecast.grid import Orientation
from afno_forecast.verify.forecasts import open_forecast, read_channels

CHANNELS = ChannelSet((Channel("geopotential", 850, "m2 s-2"), Channel("2m_temperature", None, "K"), Channel("geopotential", 500, "m2 s-2")))
NUM_INITS, NUM_LEADS = 6, 3


def make_writer(path: Path, *, form: Any = None, identity: str = "model 1") -> ForecastWriter:
    layout = make_layout(CHANNELS, Orientation(np.linspace(80, -80, 5), np.arange(8) * 45.0 - 180), np.arange(NUM_INITS) * 86400,
                         np.arange(1, NUM_LEADS + 1) * 21600, "proleptic_gregorian", {"title": "test"})
    return ForecastWriter(path, layout, identity=identity, format=form)


def state(i: int, k: int) -> np.ndarray:
    return np.random.default_rng(100 * i + k).normal(size=(len(CHANNELS), 5, 8)).astype(np.float32)


def run(path: Path, form: str | None = None, *, pause: float = 0, stop_after: int | None = None) -> int:
    """Write what is not done; the number of states written. Raises KeyboardInterrupt after `stop_after` states."""
    count = 0
    with make_writer(path, form=form) as writer:
        for i in range(NUM_INITS):
            if writer.is_done(i):
                continue
            for k in range(NUM_LEADS):
                if count == stop_after:
                    raise KeyboardInterrupt
                writer.write(i, k, state(i, k))
                count += 1
                time.sleep(pause)
            writer.finish(i)
    return count


def content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


FORMS = [("fc.zarr", None), ("fc.zarr", "zarr3"), ("fc.nc", None)]


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("stop_after", [0, 1, 4, NUM_INITS * NUM_LEADS - 1])
def test_stopped_and_continued_equals_unbroken(tmp_path: Path, name: str, form: str | None, stop_after: int) -> None:
    whole, path = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    path.mkdir()
    run(whole / name, form)
    with pytest.raises(KeyboardInterrupt):
        run(path / name, form, stop_after=stop_after)
    with pytest.raises(DataError, match="run the same rollout command again"):
        open_forecast(path / name)
    assert run(path / name, form) == NUM_INITS * NUM_LEADS - stop_after // NUM_LEADS * NUM_LEADS
    assert content(path / name) == content(whole / name)
    assert [p.name for p in path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_killed_again_and_again_and_continued_equals_unbroken(tmp_path: Path, name: str, form: str | None) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(tmp_path / "a" / name, form)
    path = tmp_path / "b" / name
    program = ("import importlib.util, sys, time\nfrom pathlib import Path\n"
               f"spec = importlib.util.spec_from_file_location('steps', {str(Path(__file__))!r})\n"
               "steps = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(steps)\n"
               f"print('ready', flush=True)\nsys.stdin.readline()\nsteps.run(Path({str(path)!r}), {form!r}, pause=0.004)\n")
    for delay in (0.04, 0.2):
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(path, form)
    assert content(path) == content(tmp_path / "a" / name)
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_a_finished_forecast_is_left_alone(tmp_path: Path) -> None:
    for name in ("fc.zarr", "fc.nc"):
        assert run(tmp_path / name) == NUM_INITS * NUM_LEADS
        before = content(tmp_path / name)
        assert run(tmp_path / name) == 0
        assert content(tmp_path / name) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fc.nc", "fc.zarr"]


def test_killed_between_the_mark_and_its_copy(tmp_path: Path) -> None:
    run(tmp_path / "fc.zarr")
    whole = content(tmp_path / "fc.zarr")
    consolidated = tmp_path / "fc.zarr" / ".zmetadata"
    consolidated.write_text(consolidated.read_text().replace('"afno_forecast_complete": "yes"', '"afno_forecast_complete": "no"'))
    (tmp_path / "fc.zarr.progress.jsonl").write_text("")
    assert content(tmp_path / "fc.zarr") != whole
    assert run(tmp_path / "fc.zarr") == 0
    assert content(tmp_path / "fc.zarr") == whole


def test_progress_torn_by_a_kill_or_lost(tmp_path: Path) -> None:
    run(tmp_path / "whole.zarr")
    progress = tmp_path / "fc.zarr.progress.jsonl"
    lost = tmp_path / "fc.zarr" / "geopotential" / "0.1.0.0.0"
    for damage in (lambda: progress.write_text(progress.read_text()[:-4]), progress.unlink, lambda: shutil.rmtree(tmp_path / "fc.zarr"),
                   lambda: (tmp_path / "fc.zarr" / ".zgroup").unlink(), lambda: lost.write_bytes(b"")):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "fc.zarr", stop_after=7)
        damage()
        run(tmp_path / "fc.zarr")
        assert content(tmp_path / "fc.zarr") == content(tmp_path / "whole.zarr")
        shutil.rmtree(tmp_path / "fc.zarr")


@pytest.mark.parametrize("name", ["fc.zarr", "fc.nc"])
def test_another_forecast_is_never_overwritten(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / name, stop_after=4)
    with pytest.raises(ConfigError, match=r"unfinished forecast of another model.*\n.*\n.*--out, or remove it: rm -r ") as refused:
        make_writer(tmp_path / name, identity="model 2")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)
    command = refused.value.fix.partition("it: ")[2].replace(str(tmp_path), str(copy))
    subprocess.run(["bash", "-c", command], check=True)
    assert list(copy.iterdir()) == [], "the fix must work as written"
    copy.rmdir()
    run(tmp_path / name)
    before = content(tmp_path / name)
    with pytest.raises(ConfigError, match="a finished forecast of another model"):
        make_writer(tmp_path / name, identity="model 2")
    assert content(tmp_path / name) == before and [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_of_another_origin_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "fc.nc").write_text("my thesis")
    (tmp_path / "fc.zarr").mkdir()
    (tmp_path / "fc.zarr" / "thesis.txt").write_text("my thesis")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc")
    (tmp_path / "late.nc.partial").mkdir()
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "data.zarr", zarr_format=2, consolidated=True)
    for name in ("fc.nc", "fc.zarr", "other.nc", "late.nc", "data.zarr"):
        with pytest.raises(ConfigError, match=r"not a forecast of this program|of another origin") as refused:
            make_writer(tmp_path / name)
        assert "rm " not in str(refused.value)
    assert (tmp_path / "fc.nc").read_text() == (tmp_path / "fc.zarr" / "thesis.txt").read_text() == "my thesis"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.zarr", "fc.nc", "fc.zarr", "late.nc.partial", "other.nc"]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_forecast_that_another_process_finishes_just_before_is_left_alone(tmp_path: Path, name: str, form: str | None,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one ends between the look at the file and the lock."""
    path, lock = tmp_path / name, output.Progress

    def late(*args: Any) -> Any:
        monkeypatch.setattr(output, "Progress", lock)
        run(path, form)
        return lock(*args)

    monkeypatch.setattr(output, "Progress", late)
    with make_writer(path, form=form) as writer:
        assert writer.complete and writer.num_done == NUM_INITS
    assert open_forecast(path).sizes["time"] == NUM_INITS
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["text", "folder", "forecast"])
def test_a_file_that_comes_meanwhile_is_not_taken_for_the_forecast(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "fc.nc"
    with pytest.raises(ConfigError, match="another file has come") as refused, make_writer(path) as writer:
        for i in range(NUM_INITS):
            for k in range(NUM_LEADS):
                writer.write(i, k, state(i, k))
            writer.finish(i)
        if kind == "text":
            path.write_text("mine")
        elif kind == "folder":
            path.mkdir()
        else:
            xr.Dataset({"mine": 1}).to_netcdf(path)
    assert "all forecasts are kept" in refused.value.fix and not writer.complete
    path.rename(tmp_path / "mine")
    assert run(path) == 0
    assert open_forecast(path).sizes["time"] == NUM_INITS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fc.nc", "mine"]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), make_writer(tmp_path / "fc.zarr"):
        with pytest.raises(ConfigError, match="another process is writing"):
            make_writer(tmp_path / "fc.zarr")
        raise ZeroDivisionError
    run(tmp_path / "fc.zarr")


def test_the_output_folder_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"does not exist\n.*\n.*mkdir -p "):
        make_writer(tmp_path / "nowhere" / "fc.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="is a file"):
        make_writer(tmp_path / "file" / "fc.zarr")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ResourceError, match="read-only"):
            make_writer(tmp_path / "locked" / "fc.zarr")


def test_a_read_only_folder_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afno_forecast.forecast.output.os.access", lambda *_: False)
    with pytest.raises(ResourceError, match="read-only"):
        make_writer(tmp_path / "fc.zarr")


@pytest.mark.parametrize("name", ["fc.zarr", "fc.nc"])
def test_a_disk_too_small_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1234, 1234))
    with pytest.raises(ResourceError, match=r"up to 1,\d{3},\d{3} bytes .* needed, 1,234 bytes .* free"):
        make_writer(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_disk_full_while_writing_keeps_what_is_done(tmp_path: Path, name: str, form: str | None) -> None:
    (tmp_path / "full").mkdir()
    run(tmp_path / name, form)
    path = tmp_path / "full" / name
    program = ("import importlib.util, resource, signal, sys\nfrom pathlib import Path\n"
               f"spec = importlib.util.spec_from_file_location('steps', {str(Path(__file__))!r})\n"
               "steps = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(steps)\n"
               "import afno_forecast.errors as errors\n"
               f"writer = steps.make_writer(Path({str(path)!r}), form={form!r})\n"
               "for k in range(steps.NUM_LEADS): writer.write(0, k, steps.state(0, k))\n"
               "writer.finish(0)\n"
               "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
               "try:\n    writer.write(1, 0, steps.state(1, 0))\n"
               "except errors.ResourceError as error:\n    print(error)\n    sys.exit(error.exit_code)\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "writing failed" in done.stdout and "bytes" in done.stdout and "1 of 6 forecasts are kept" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 3
    assert run(path, form) == (NUM_INITS - 1) * NUM_LEADS
    assert content(path) == content(tmp_path / name)


@pytest.mark.parametrize("name", ["fc.zarr", "fc.nc"])
def test_what_was_written_before_a_divergence_is_readable(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArithmeticError), make_writer(tmp_path / name) as writer:
        writer.write(0, 0, state(0, 0))
        raise ArithmeticError("diverged")
    store = tmp_path / name if name.endswith("zarr") else tmp_path / f"{name}.partial"
    with xr.open_zarr(store, chunks=None) as ds:
        assert ds.attrs["afno_forecast_complete"] == "no"
        np.testing.assert_array_equal(ds["geopotential"].isel(time=0, prediction_timedelta=0).sel(level=500).values.shape, (5, 8))
        assert np.isfinite(ds["2m_temperature"].isel(time=0, prediction_timedelta=0)).all()
        assert np.isnan(ds["2m_temperature"].isel(time=0, prediction_timedelta=1)).all()


@pytest.mark.parametrize("form", [None, "zarr3"])
def test_a_lost_or_damaged_chunk_is_named(tmp_path: Path, form: str | None) -> None:
    run(tmp_path / "fc.zarr", form)
    key = "c/2/1/0/0" if form else "2.1.0.0"
    chunk = tmp_path / "fc.zarr" / "2m_temperature" / key
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(DataError, match=r"'2m_temperature' cannot be read"):
        read_channels(open_forecast(tmp_path / "fc.zarr"), CHANNELS.select(["t2m"]), 2, slice(0, 3))
    chunk.unlink()
    with pytest.raises(DataError, match=rf"a chunk of '2m_temperature' is lost: {key}\n.*init 1970-01-03T00"):
        open_forecast(tmp_path / "fc.zarr")
