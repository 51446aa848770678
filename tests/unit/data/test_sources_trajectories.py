"""Trajectories in netCDF: numbers, times with and without units, and what cannot be laid on one axis."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.data.sources import open_source
from afno_forecast.errors import DataError
from afno_forecast.times import parse_instant

PIPELINES = Path(__file__).resolve().parents[3] / "pipelines"


def dataset(time: np.ndarray, numbers=None, units: str | None = None, count: int = 2) -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(count, time.shape[-1], 3, 4)).astype("f4")
    periodic = {"boundary": "periodic"}
    dims = ("trajectory", "time") if time.ndim == 2 else ("time",)
    coords = {"time": (dims, time, {"units": units} if units else {}), "y": ("y", np.arange(3.0), periodic), "x": ("x", np.arange(4.0), periodic)}
    if numbers is not None:
        coords["trajectory"] = numbers
    return xr.Dataset({"field": (("trajectory", "time", "y", "x"), values, {"units": "1"})}, coords)


@pytest.fixture
def write(tmp_path):
    def write(ds: xr.Dataset, name: str = "a.nc"):
        ds.to_netcdf(tmp_path / name)
        return tmp_path / name

    return write


def test_times_with_units_are_physical(write):
    source = open_source(write(dataset(np.arange(4) * 0.5, units="hours")))
    assert np.diff(source.times.seconds[:4]).tolist() == [1800] * 3
    assert source.attrs["time_mapping"] == "times are physical"


def test_times_without_units_are_counted_in_steps_and_a_missing_one_stays_missing(write):
    source = open_source(write(dataset(np.asarray([0.1, 0.2, 0.3, 0.5, 0.6], "f4"))))
    assert (np.diff(source.times.seconds[:5]) // 3600).tolist() == [1, 1, 2, 1]


def test_numbers_of_the_file_are_kept_in_any_order_of_files(write, tmp_path):
    a = dataset(np.arange(3.0), np.asarray([4, 5]))
    b = dataset(np.arange(3.0), np.asarray([1, 0]))
    paths = [write(a, "a.nc"), write(b, "b.nc")]
    source = open_source(paths)
    assert source.trajectories.tolist() == [0, 0, 0, 1, 1, 1, 4, 4, 4, 5, 5, 5]
    np.testing.assert_array_equal(source.dataset["field"][:3].values, b["field"][1].values)


@pytest.mark.parametrize(("ds", "words"), [
    (dataset(np.asarray([0.0, 2.0, 1.0])), "do not ascend"),
    (dataset(np.arange(3) * 5000.0, units="hours"), "a trajectory of"),
    (dataset(np.arange(3.0), np.asarray([2, 2])), "different whole numbers"),
    (dataset(np.arange(3.0)).drop_vars("time"), "without a coordinate 'time'")])
def test_what_cannot_be_laid_on_the_axis_is_said(write, ds, words):
    with pytest.raises(DataError, match=words):
        open_source(write(ds))


@pytest.mark.parametrize(("units", "words"), [
    (None, "1 hour on the axis of time is 0.1 of the model's own units of time; 1 hour on the axis of time is 0.2 of"),
    ("hours", "1 hour on the axis of time is 0.1 of the model's own units of time; times are physical")])
def test_files_of_different_steps_are_refused(write, units, words):
    single, first = write(dataset(np.asarray([7.0])), "0.nc"), write(dataset(np.arange(5) * 0.1), "a.nc")
    nearly = write(dataset((np.arange(4) * 0.1 + 100).astype("f4"), count=3), "b.nc")
    assert len(open_source([single, first, nearly]).times) == 2 + 10 + 12
    other = write(dataset(np.arange(3) * 0.2, units=units), "c.nc")
    with pytest.raises(DataError, match="two mappings of time: ") as caught:
        open_source([first, nearly, other])
    assert words in caught.value.what and caught.value.where == f"{first} and {other}"


def test_trajectories_and_a_record_do_not_mix(write):
    one = dataset(np.arange(3.0))
    record = one.isel(trajectory=0).assign_coords(time=np.datetime64("2001-01-01", "ns") + np.arange(3) * np.timedelta64(1, "h"))
    with pytest.raises(DataError, match="trajectories in one file, one record in another"):
        open_source([write(one, "a.nc"), write(record, "b.nc")])


@pytest.mark.parametrize("count", ["8001", "0", "some"])
@pytest.mark.parametrize("name", ["pdebench.py", "the_well.py"])
def test_the_pipelines_refuse_to_train_on_trajectories_that_no_date_can_name(tmp_path, run_pipeline, capsys, name, count):
    more = ("--boundary", "periodic") if name == "pdebench.py" else ()
    assert run_pipeline(name, tmp_path / "cfd.hdf5", tmp_path / "cfd.zarr", "--train", count, *more) == 2
    assert f"'{count}' is no number of trajectories from 1 to 8000" in capsys.readouterr().err


def test_the_commands_that_pdebench_shows_name_trajectories_that_have_a_date(monkeypatch):
    monkeypatch.syspath_prepend(PIPELINES)
    from building import first_trajectories

    counts = re.findall(r"--train (\d+)", (PIPELINES / "pdebench.py").read_text())
    assert len(counts) == 2
    for count in counts:
        parse_instant(first_trajectories(count).end)
