"""What goes wrong with data, as the command line tells it: nothing is converted, refused or lost without a line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast import cli
from afno_forecast.data.store import Store

Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs a command in this process; (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["afno-forecast", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def write(path: Path, first: int = 0, last: int = 24, change: Callable[[xr.Dataset], object] | None = None) -> Path:
    """Three variables on 5 x 8 cells, 6-hourly; times `first`..`last - 1` of one longer series."""
    values = np.random.default_rng(4).normal(size=(3, 40, 5, 8)).astype("f4")[:, first:last]
    dims = ("time", "latitude", "longitude")
    ds = xr.Dataset({"t2m": (dims, 11 + values[0], {"units": "degC"}), "msl": (dims, 1e5 + 300 * values[1], {"units": "kg"}),
                     "sp": (dims, 1e5 + 300 * values[2], {"units": "Pa"})},
                    {"time": np.datetime64("2003-05-01", "ns") + np.arange(first, last) * np.timedelta64(6, "h"),
                     "latitude": ("latitude", np.linspace(-72, 72, 5), {"units": "degrees_north"}),
                     "longitude": ("longitude", np.arange(8) * 45.0, {"units": "degrees_east"})})
    ds = ds if change is None else change(ds)
    ds.to_netcdf(path)
    return path


CONVERTED = "a.nc, t2m: 't2m' converted from degC to K"
REFUSED = "a.nc, msl: 'msl' comes in 'kg', which is not a unit of mean_sea_level_pressure (Pa); correct its units attribute, for example to 'Pa'"


def test_build_tells_what_it_converts_and_what_it_refuses(program: Program, tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    code, out, _ = program("data", "build", path, tmp_path / "s.zarr", "--no-climatology")
    assert code == 0
    lines = out.splitlines()
    assert f"note: {tmp_path}/{CONVERTED}" in lines and f"note: refused: {tmp_path}/{REFUSED}" in lines
    assert len(lines) == len(set(lines)) and "2 channels" in lines[-1]
    assert {CONVERTED, f"refused: {REFUSED}"} <= set(Store.open(tmp_path / "s.zarr").notes)
    code, out, _ = program("data", "inspect", tmp_path / "s.zarr")
    assert code == 0 and REFUSED in out


@pytest.mark.parametrize("name", ["msl", "mean_sea_level_pressure"])
def test_a_channel_that_was_refused_is_not_just_absent(program: Program, tmp_path: Path, name: str) -> None:
    code, _, err = program("data", "build", write(tmp_path / "a.nc"), tmp_path / "s.zarr", "--channels", f"t2m,{name}")
    assert code == 3 and err.splitlines()[0] == f"no channel {name} ({REFUSED.partition('msl: ')[2]}); there are t2m, sp"
    assert str(tmp_path / "a.nc") in err.splitlines()[1]


def test_a_store_does_not_depend_on_the_folder_of_its_source(program: Program, tmp_path: Path) -> None:
    (tmp_path / "an other").mkdir()
    for folder in (tmp_path, tmp_path / "an other"):
        assert program("data", "build", write(folder / "a.nc"), folder / "s.zarr", "--no-climatology")[0] == 0
    assert (tmp_path / "s.zarr" / "zarr.json").read_bytes() == (tmp_path / "an other" / "s.zarr" / "zarr.json").read_bytes()


def test_build_tells_of_missing_and_repeated_times(program: Program, tmp_path: Path) -> None:
    one = write(tmp_path / "a.nc", 0, 12, lambda ds: ds.isel(time=[0, 1, 2, 5, 6, 7, 8, 9, 10, 11]))
    two = write(tmp_path / "b.nc", 9, 24)
    code, out, _ = program("data", "build", one, two, tmp_path / "s.zarr", "--no-climatology")
    assert code == 0
    assert "3 repeated times of '2m_temperature' with identical data: dropped" in out and "b.nc" in out
    assert "2 times are missing at the record's step of 6h" in out
    assert f"a.nc, msl and 1 more: {REFUSED.partition(': ')[2]}" in out
    write(tmp_path / "b.nc", 9, 24, lambda ds: ds.assign(t2m=ds.t2m + 1))
    code, _, err = program("data", "build", one, two, tmp_path / "other.zarr")
    assert code == 3 and "2003-05-03T06 twice with different data" in err and "a.nc and " in err


def test_plot_tells_what_it_converts(program: Program, tmp_path: Path) -> None:
    options = ("--variable", "t2m", "--time", "first", "--dpi", "30", "--out", tmp_path / "a.png")
    code, out, err = program("plot", "map", write(tmp_path / "a.nc"), *options)
    assert code == 0 and out == f"{tmp_path / 'a.png'}\n"
    assert f"note: {tmp_path}/{CONVERTED}" in err and f"note: refused: {tmp_path}/{REFUSED}" in err


def test_rollout_and_evaluate_tell_what_they_convert(program: Program, tiny_model: Path, tiny_weather: Path, tmp_path: Path) -> None:
    with xr.open_dataset(tiny_weather) as ds:
        celsius = ds.assign(t2m=(ds["t2m"] - 273.15).assign_attrs(units="degC"), msl=ds["t2m"].assign_attrs(units="kg", standard_name="")).load()
    celsius.to_netcdf(tmp_path / "a.nc")
    options = ("--init", "2001-01-20", "--lead-time", "12h", "--out", tmp_path / "f.nc")
    code, out, err = program("rollout", tiny_model, "--data", tmp_path / "a.nc", *options)
    assert code == 0, err
    assert f"note: {tmp_path}/{CONVERTED}" in out and f"note: refused: {tmp_path}/{REFUSED}" in out
    code, out, err = program("evaluate", tmp_path / "f.nc", "--truth", tmp_path / "a.nc", "--out", tmp_path / "s.nc")
    assert code == 0, err
    assert f"note: {tmp_path}/{CONVERTED}" in out and f"note: refused: {tmp_path}/{REFUSED}" in out


def test_inspect_reads_every_chunk_of_a_store_and_lists_the_bad_ones(program: Program, tiny_store: Path, tmp_path: Path) -> None:
    code, out, _ = program("data", "inspect", tiny_store)
    assert code == 0 and "training store" in out and "7x12 global" in out and "none missing or damaged" in out
    store = tmp_path / "store.zarr"
    shutil.copytree(tiny_store, store)
    (store / "state" / "c" / "0" / "0" / "0" / "0").unlink()
    store.joinpath("climatology", "c", *"00000").write_bytes(b"short")
    code, out, _ = program("data", "inspect", store)
    assert code == 3 and "BAD CHUNKS" in out
    assert "state/c/0/0/0/0: 2001-01-01T00, " in out and "is missing" in out and "climatology/c/0/0/0/0/0: chunk 0.0.0.0.0 is truncated" in out
    code, out, _ = program("info", store)
    assert code == 0 and f"data inspect {store}" in out
    (store / "mean" / "c" / "0").unlink()
    assert program("data", "inspect", store)[0] == 3
