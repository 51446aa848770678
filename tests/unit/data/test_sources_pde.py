"""The Well and PDEBench, in files written here in their published layouts."""

from pathlib import Path

import numpy as np
import pytest

from afno_forecast.data.build import build_store
from afno_forecast.data.inspect import format_inspection, inspect
from afno_forecast.data.named import store_dataset
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.samples import find_windows
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError
from afno_forecast.grid import BoxGrid, LatLonGrid

h5py = pytest.importorskip("h5py")
N, T, NX, NY = 3, 5, 6, 4  # trajectories, times, columns, rows


def numbered(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def write_well(path: Path, *, ends=("periodic", "wall"), spatial=("x", "y"), grid_type: str = "cartesian") -> dict[str, np.ndarray]:
    fields = {"density": numbered(N, T, NX, NY), "velocity": numbered(N, T, NX, NY, 2),
              "stress": numbered(N, T, NX, NY, 2, 2)}
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name="a_test", grid_type=grid_type, n_spatial_dims=2, n_trajectories=N, simulation_parameters=["Re"], Re=100.0)
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = list(spatial)
        dims["time"] = (np.arange(T) * 0.25).astype("f4")
        if grid_type == "spherical":
            dims[spatial[0]], dims[spatial[1]] = np.deg2rad(15 + 30.0 * np.arange(NX)), np.deg2rad(np.arange(NY) * 90.0)
        else:
            dims[spatial[0]], dims[spatial[1]] = np.arange(NX) * 0.5, np.arange(NY) * 0.25
        for name, end in zip(spatial, ends, strict=True):
            group = file.create_group(f"boundary_conditions/{name}_edge")
            group.attrs.update(associated_dims=[name], associated_fields=[], bc_type=end, sample_varying=False, time_varying=False)
        file.create_group("scalars")["Mach"] = np.arange(N, dtype="f4")
        file["scalars"]["Mach"].attrs.update(sample_varying=True, time_varying=False)
        for order, name in enumerate(("density", "velocity", "stress")):
            group = file.create_group(f"t{order}_fields")
            group[name] = fields[name]
            group[name].attrs.update(dim_varying=[True, True], sample_varying=True, time_varying=True)
        file["t2_fields/stress"].attrs["symmetric"] = True
        file["t0_fields/mask"] = numbered(NX)
        file["t0_fields/mask"].attrs.update(dim_varying=[True, False], sample_varying=False, time_varying=False)
        file["t0_fields/forcing"] = numbered(N, NX, NY)
        file["t0_fields/forcing"].attrs.update(dim_varying=[True, True], sample_varying=True, time_varying=False)
    return fields


def write_cfd(path: Path) -> dict[str, np.ndarray]:
    values = {name: numbered(N, T, NX, NY) for name in ("Vx", "density", "height")}
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file[name] = array
        file["t-coordinate"] = (np.arange(T + 1) * 0.05).astype("f4")
        file["x-coordinate"], file["y-coordinate"] = (np.arange(NX) + 0.5) / NX, (np.arange(NY) + 0.5) / NY
    return values


def test_the_well_becomes_a_box_of_trajectories_with_a_year_each(tmp_path):
    fields = write_well(tmp_path / "well.hdf5")
    source = open_source(tmp_path / "well.hdf5")
    assert source.channels.names == ("density", "velocity_x", "velocity_y", "stress_xx", "stress_xy", "stress_yy")
    assert isinstance(source.grid, BoxGrid) and source.grid.boundary == "band" and source.grid.shape == (NY, NX)
    np.testing.assert_array_equal(source.grid.x, np.arange(NX) * 0.5)
    assert source.trajectories.tolist() == np.repeat(range(N), T).tolist()
    assert [source.times.format(i) for i in (0, 4, 5, 14)] == ["2000-01-01T00", "2000-01-01T04", "2001-01-01T00", "2002-01-01T04"]
    flat = {"density": fields["density"], "velocity_y": fields["velocity"][..., 1], "stress_xy": fields["stress"][..., 0, 1]}
    for name, values in flat.items():
        np.testing.assert_array_equal(source.dataset[name].values, values.reshape(N * T, NX, NY).swapaxes(1, 2))
    assert source.static.names == ("mask",)
    with h5py.File(tmp_path / "well.hdf5") as file:
        np.testing.assert_array_equal(source.dataset["mask"].values, np.broadcast_to(file["t0_fields/mask"][:], (NY, NX)))
    told = " ".join(note.message for note in source.notes)
    assert "'forcing' changes with the trajectory but not with time" in told
    assert "Re = 100.0" in told and "Mach" in told and "1 hour on the axis of time is 0.25 of the model's own units of time" in told


def test_a_store_of_trajectories_keeps_them_apart(tmp_path):
    fields = write_well(tmp_path / "well.hdf5", ends=("periodic", "periodic"))
    period = (int(np.datetime64("2000-01-01", "s").astype(int)), int(np.datetime64("2001-12-31", "s").astype(int)))
    store = build_store(open_source(tmp_path / "well.hdf5"), tmp_path / "s.zarr", StoreSettings(statistics_period=period))
    assert Store.open(tmp_path / "s.zarr").trajectories().tolist() == np.repeat(range(N), T).tolist()
    assert store.climatology() is None and store.attrs["missing_times"]["count"] == 0 and store.time_step == 3600
    assert "0.25 of the model's own units" in store.attrs["provenance"]["source_attributes"]["time_mapping"]
    assert "3 trajectories" in store.describe_period()
    training = fields["density"][:2].astype(np.float64)
    assert store.statistics.mean[0] == pytest.approx(training.mean(), rel=1e-12)
    assert store.statistics.tendency_std[0] == pytest.approx(np.diff(training, axis=1).std(), rel=1e-6)
    windows = find_windows(store.times, time_step=3600, history=2, num_steps=1)
    assert len(windows) == N * (T - 2)
    assert all(len(set(store.trajectories()[row].tolist())) == 1 for row in windows.index)
    named = store_dataset(store)
    assert named["density"].dims == ("time", "y", "x") and named["mask"].dims == ("y", "x")
    np.testing.assert_array_equal(named["density"][7].values, fields["density"][1, 2].T)


def test_trajectories_of_several_files_are_numbered_on(tmp_path):
    write_well(tmp_path / "a.hdf5")
    write_well(tmp_path / "b.hdf5")
    source = open_source(tmp_path)
    assert source.trajectories.tolist() == np.repeat(range(2 * N), T).tolist()


def test_a_sphere_of_the_well_is_a_latitude_longitude_grid(tmp_path):
    fields = write_well(tmp_path / "planet.hdf5", spatial=("theta", "phi"), grid_type="spherical")
    source = open_source(tmp_path / "planet.hdf5")
    assert isinstance(source.grid, LatLonGrid) and source.grid.is_global
    np.testing.assert_allclose(source.grid.latitude, -75 + 30.0 * np.arange(NX), atol=1e-9)
    np.testing.assert_array_equal(source.dataset["density"].values, fields["density"].reshape(N * T, NX, NY)[:, ::-1])
    assert "velocity_theta" in source.channels.names


def test_a_field_whose_shape_contradicts_its_attributes_is_refused(tmp_path):
    write_well(tmp_path / "well.hdf5")
    with h5py.File(tmp_path / "well.hdf5", "a") as file:
        file["t0_fields/density"].attrs["time_varying"] = False
        file["t1_fields/velocity"].attrs["dim_varying"] = [True, False]
    report = format_inspection(inspect(tmp_path / "well.hdf5"))
    assert "'velocity' has the shape (3, 5, 6, 4, 2)" in report and "'density' changes with the trajectory but not with time" in report


def test_three_dimensions_are_refused_in_words(tmp_path):
    write_well(tmp_path / "well.hdf5")
    with h5py.File(tmp_path / "well.hdf5", "a") as file:
        file["dimensions"].attrs["spatial_dims"] = ["x", "y", "z"]
    with pytest.raises(DataError, match="3 spatial dimensions"):
        open_source(tmp_path / "well.hdf5")


def test_pdebench_arrays_need_a_word_on_the_edges_and_may_have_one_time_too_many(tmp_path):
    values = write_cfd(tmp_path / "cfd.hdf5")
    with pytest.raises(DataError, match="does not say whether y and x wrap") as caught:
        open_source(tmp_path / "cfd.hdf5")
    assert "--boundary periodic" in caught.value.fix
    source = open_source(tmp_path / "cfd.hdf5", boundary="periodic")
    assert source.grid.boundary == "periodic" and source.channels.names == ("Vx", "density", "fluid_height")
    np.testing.assert_array_equal(source.dataset["Vx"].values, values["Vx"].reshape(N * T, NX, NY).swapaxes(1, 2))
    assert any("quantity of the weather" in note.message for note in source.notes)


def test_pdebench_groups_of_trajectories(tmp_path):
    data = numbered(N, T, NX, NY, 2)
    with h5py.File(tmp_path / "rdb.h5", "w") as file:
        for n in range(N):
            file[f"{n:04d}/data"] = data[n]
            for name, size in (("t", T), ("x", NX), ("y", NY)):
                file[f"{n:04d}/grid/{name}"] = np.linspace(0, 1, size)
    source = open_source(tmp_path / "rdb.h5", boundary="open")
    assert source.grid.boundary == "limited"
    for c in range(2):
        np.testing.assert_array_equal(source.dataset[f"data_{c}"].values, data[..., c].reshape(N * T, NX, NY).swapaxes(1, 2))
    store = build_store(source, tmp_path / "s.zarr", StoreSettings(shard_bytes=4 * NX * NY * 2 * 4))
    np.testing.assert_array_equal(store.read(6), data[1, 1].transpose(2, 1, 0))


def test_the_pipelines_build_both_layouts(tmp_path, run_pipeline, capsys):
    fields = write_well(tmp_path / "well.hdf5")
    assert run_pipeline("the_well.py", tmp_path / "well.hdf5", tmp_path / "well.zarr", "--train", 2, "--channels", "velocity_x,density") == 0
    store = Store.open(tmp_path / "well.zarr")
    assert store.channels.names == ("velocity_x", "density")
    assert store.statistics.mean[1] == pytest.approx(fields["density"][:2].astype(np.float64).mean(), rel=1e-12)
    write_cfd(tmp_path / "cfd.hdf5")
    assert run_pipeline("pdebench.py", tmp_path / "cfd.hdf5", tmp_path / "cfd.zarr", "--train", 2, "--boundary", "periodic") == 0
    assert Store.open(tmp_path / "cfd.zarr").grid.boundary == "periodic"
    capsys.readouterr()
    assert run_pipeline("the_well.py", tmp_path / "absent.hdf5", tmp_path / "none.zarr", "--train", 2) == 3
    assert "absent.hdf5" in capsys.readouterr().err
