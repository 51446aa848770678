"""HDF5 of The Well and of PDEBench to datasets of dims (trajectory, time, y, x), read lazily; needs h5py (extra `[pde]`).

The Well's layout is that of its `docs/data_format.md`: groups `dimensions`, `boundary_conditions`, `scalars`, `t0_fields` (scalars),
`t1_fields` (vectors, components last) and `t2_fields` (tensors), attributes saying which axes a field has. PDEBench has two: whole
arrays `(trajectory, time, x, y)` beside `t-coordinate`, `x-coordinate` and `y-coordinate`; or one group a trajectory with `data`
`(time, x, y, component)` and `grid`.
"""

# N trajectory, T time, R row, C column: as letters in the name of a field's axes

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from afno_forecast.errors import DataError, ResourceError
from afno_forecast.vocabulary import find_variable, split_name

from .sources_notes import Ledger
from .sources_trajectories import DIM

_BLOCK_BYTES = 4 * 2**20
_DIMS = {"N": DIM, "T": "time"}


@dataclass(frozen=True)
class Field:
    """A field in HDF5, read when indexed; it can be sent to another process, and keeps no file open.

    Args:
        path: the file.
        members: the array of all trajectories, or one array each.
        axes: letters of the array's axes, without those of `component`; an axis that is not there repeats the values.
        shape: of what indexing gives: N, T, R, C, or R, C for a constant field.
        component: index on the axes that follow.
        dtype: of the values.
    """

    path: str
    members: tuple[str, ...]
    axes: str
    shape: tuple[int, ...]
    component: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Axes of what indexing gives."""
        return len(self.shape)

    @property
    def letters(self) -> str:
        """Axes of what indexing gives."""
        return "NTRC"[-self.ndim:]

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        import h5py

        wanted = dict(zip(self.letters, index, strict=True))
        sizes = dict(zip(self.letters, self.shape, strict=True))
        inner = tuple(wanted[axis] for axis in self.axes)
        with h5py.File(self.path, "r") as file:
            if len(self.members) == 1 and "N" in (*self.axes, "N" if self.ndim == 2 else ""):
                block = np.asarray(file[self.members[0]][(*inner, *self.component)])
                order = self.axes
            else:
                chosen = self.members[wanted["N"]]
                block = np.stack([file[name][(*inner, *self.component)] for name in chosen])
                order = "N" + self.axes
        lengths = {axis: len(range(*part.indices(sizes[axis]))) for axis, part in wanted.items()}
        there = [axis for axis in self.letters if axis in order]
        block = block.transpose([order.index(axis) for axis in there])
        block = block.reshape([lengths[axis] if axis in order else 1 for axis in self.letters])
        return np.broadcast_to(block, [lengths[axis] for axis in self.letters])


def is_pde(path: Path) -> bool:
    """Whether an HDF5 file has the layout of The Well or of PDEBench."""
    try:
        with netCDF4.Dataset(path) as file:
            groups, arrays = set(file.groups), set(file.variables)
            nested = next(iter(file.groups.values()), None)
            return {"dimensions", "t0_fields"} <= groups or "x-coordinate" in arrays or (nested is not None and "data" in nested.variables
                                                                                         and "grid" in nested.groups)
    except (OSError, RuntimeError):
        return False


def open_pde(path: Path, ledger: Ledger) -> list[xr.Dataset]:
    """The dataset of one file of The Well or PDEBench, lazily.

    Raises:
        DataError: damaged, not two-dimensional, or without time.
        ResourceError: h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ResourceError("reading HDF5 of The Well and PDEBench needs the package h5py", where=str(path), fix="pip install 'afno-forecast[pde]'")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return [_the_well(file, path, ledger) if "t0_fields" in file else _pdebench(file, path, ledger)]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot be opened as HDF5 of The Well or PDEBench ({first})", where=str(path), fix="fetch the file again") from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(values: Any) -> list[str]:
    return [_text(v) for v in np.atleast_1d(values)] if values is not None else []


def _own_name(name: str, path: Path, ledger: Ledger) -> str:
    """A name that does not mean a quantity of the weather: the fields have no units, and `height` is no orography."""
    if split_name(name) == (name, None) and find_variable(name) is None:
        return name
    ledger.note(f"'{name}' is called 'fluid_{name}': by its own name it would be a quantity of the weather", str(path))
    return f"fluid_{name}"


def _lazy(field: Field) -> da.Array:
    rows, columns = field.shape[-2:]
    chunks: tuple[int, ...] = (rows, columns)
    if field.ndim == 4:
        chunks = (1, max(1, _BLOCK_BYTES // (rows * columns * field.dtype.itemsize)), rows, columns)
    stat = Path(field.path).stat()
    name = f"hdf5-{field.path}-{field.members[0]}-{len(field.members)}-{field.component}-{stat.st_mtime_ns}-{stat.st_size}"
    array: da.Array = da.from_array(field, chunks=chunks, name=name, meta=np.empty((0,) * field.ndim, field.dtype))
    return array


def _horizontal(dims: Sequence[str]) -> tuple[int, int]:
    """Positions of rows and columns among two spatial dimensions: x are columns, longitudes too; else the second ones."""
    columns = next((i for i, name in enumerate(dims) if name in ("x", "phi", "longitude", "lon")), 1)
    return 1 - columns, columns


# ---- The Well


def _the_well(file: Any, path: Path, ledger: Ledger) -> xr.Dataset:
    space = _words(file["dimensions"].attrs.get("spatial_dims"))
    if len(space) != 2:
        raise DataError(f"{len(space)} spatial dimensions ({', '.join(space)}); fields on two are read", where=str(path),
                        fix="choose another dataset")
    num = int(file.attrs["n_trajectories"])
    time = np.asarray(file["dimensions"]["time"], dtype=np.float64)
    spherical = _text(file.attrs.get("grid_type", "cartesian")) == "spherical"
    rows, columns = _horizontal(space)
    coords = _sphere(file, space, rows, columns) if spherical else _well_box(file, space, rows, columns, path, ledger)
    names = tuple(coords)
    coords["time"] = ((DIM, "time"), time, {}) if time.ndim == 2 else ("time", time, {})
    sizes = {"N": num, "T": time.shape[-1], "R": len(coords[names[0]][1]), "C": len(coords[names[1]][1])}
    variables = {}
    for name, dataset, order in _well_fields(file):
        for suffix, component in _components(dataset, order, space):
            try:
                field = _well_field(dataset, str(path), sizes, "RC" if rows == 0 else "CR", component, order)
            except DataError as error:
                ledger.refuse(f"{error.what}; {error.fix}", f"{path}, {name}")
                break
            dims = tuple(_DIMS.get(axis, names[axis == "C"]) for axis in field.letters)
            variables[_own_name(name + suffix, path, ledger)] = (dims, _lazy(field), {"units": "1"})
    _tell_parameters(file, path, ledger)
    attrs = {"title": _text(file.attrs.get("dataset_name", path.stem)), "source": "The Well", "institution": "simulated, not observed"}
    return xr.Dataset(variables, coords, attrs)


def _well_fields(file: Any) -> Iterator[tuple[str, Any, int]]:
    """(name, array, tensor order) of every field."""
    for order in range(3):
        group = file.get(f"t{order}_fields", {})
        for name in group:
            yield str(name), group[name], order


def _components(dataset: Any, order: int, space: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """(ending of the name, index) of the independent components of a tensor."""
    if order == 0:
        return [("", ())]
    pairs = list(itertools.product(range(2), repeat=order))
    if order == 2 and dataset.attrs.get("symmetric", False):
        pairs = [(0, 0), (0, 1), (1, 1)]
    elif order == 2 and dataset.attrs.get("antisymmetric", False):
        pairs = [(0, 1)]
    flat = order == 2 and dataset.shape[-1] == 4  # the two axes of a tensor as one
    return [("_" + "".join(space[i] for i in pair), (2 * pair[0] + pair[1],) if flat else pair) for pair in pairs]


def _well_field(dataset: Any, path: str, sizes: dict[str, int], spatial: str, component: tuple[int, ...], order: int) -> Field:
    """Raises DataError for one that is neither a state nor a constant field, or whose shape contradicts what it says of itself."""
    name = str(dataset.name).rsplit("/", 1)[-1]
    sample, time = bool(dataset.attrs.get("sample_varying", True)), bool(dataset.attrs.get("time_varying", True))
    varying = [bool(v) for v in np.atleast_1d(dataset.attrs.get("dim_varying", [True, True]))]
    if sample != time:
        reason = "changes with the trajectory but not with time" if sample else "is one series of time for all trajectories"
        raise DataError(f"'{name}' {reason}", fix="it is neither a state nor a constant field")
    axes = ("NT" if sample else "") + "".join(axis for axis, there in zip(spatial, varying, strict=True) if there)
    expected = tuple(sizes[axis] for axis in axes)
    if dataset.shape[:len(axes)] != expected or dataset.ndim != len(axes) + len(component):
        raise DataError(f"'{name}' has the shape {dataset.shape}, its attributes say {expected} and {order} axes of components",
                        fix="fetch the file again")
    letters = "NTRC" if sample else "RC"
    return Field(path, (str(dataset.name),), axes, tuple(sizes[axis] for axis in letters), component, dataset.dtype)


def _well_box(file: Any, space: Sequence[str], rows: int, columns: int, path: Path, ledger: Ledger) -> dict[str, Any]:
    ends = dict.fromkeys(space, "")
    for group in file.get("boundary_conditions", {}).values():
        kind = _text(group.attrs.get("bc_type", "")).lower()
        for name in _words(group.attrs.get("associated_dims")):
            if name in ends:
                ends[name] = kind if not ends[name] or ends[name] == kind else "open"
    if (space[rows], space[columns]) != ("y", "x"):
        ledger.note(f"dimension '{space[rows]}' is taken for y, '{space[columns]}' for x", str(path))
    made = {}
    for dim, position in (("y", rows), ("x", columns)):
        name = space[position]
        attrs = {"boundary": ends[name]} if ends[name] else {}
        made[dim] = (dim, np.asarray(file["dimensions"][name], np.float64), attrs)
    return made


def _sphere(file: Any, space: Sequence[str], rows: int, columns: int) -> dict[str, Any]:
    """Colatitude 0..pi, or latitude, in radians, to degrees north; azimuth to degrees east."""
    theta = np.rad2deg(np.asarray(file["dimensions"][space[rows]], np.float64))
    latitude = theta if theta.min() < 0 else 90 - theta
    longitude = np.rad2deg(np.asarray(file["dimensions"][space[columns]], np.float64))
    return {"latitude": ("latitude", latitude, {"units": "degrees_north"}), "longitude": ("longitude", longitude, {"units": "degrees_east"})}


def _tell_parameters(file: Any, path: Path, ledger: Ledger) -> None:
    fixed = [f"{name} = {np.asarray(file.attrs[name]).tolist()}" for name in _words(file.attrs.get("simulation_parameters")) if name in file.attrs]
    scalars = file.get("scalars", {})
    varying = [str(name) for name in scalars if scalars[name].attrs.get("sample_varying") or scalars[name].attrs.get("time_varying")]
    if fixed:
        ledger.note(f"parameters of the simulation, which no channel tells the model: {', '.join(fixed)}", str(path))
    if varying:
        ledger.note(f"numbers that change with trajectory or time, which no channel tells the model: {', '.join(varying)}", str(path))


# ---- PDEBench


def _pdebench(file: Any, path: Path, ledger: Ledger) -> xr.Dataset:
    made = _pdebench_groups(file, path) if "x-coordinate" not in file else _pdebench_arrays(file, path)
    made = made.rename({name: _own_name(str(name), path, ledger) for name in made.data_vars})
    return made.assign_attrs(title=path.stem, source="PDEBench", institution="simulated, not observed")


def _pdebench_arrays(file: Any, path: Path) -> xr.Dataset:
    """Arrays (trajectory, time, x, y); `t-coordinate` may hold one time more than there are states."""
    if "y-coordinate" not in file or "t-coordinate" not in file:
        missing = " and ".join(n for n in ("y", "t") if f"{n}-coordinate" not in file)
        raise DataError(f"no coordinate {missing}: fields on two spatial dimensions that change with time are read", where=str(path),
                        fix="choose another dataset")
    x, y, time = (np.asarray(file[f"{n}-coordinate"], np.float64) for n in "xyt")
    variables = {}
    for name in file:
        dataset = file[name]
        if not hasattr(dataset, "shape") or str(name).endswith("-coordinate"):
            continue
        if dataset.ndim not in (4, 5) or dataset.shape[2:4] != (len(x), len(y)) or dataset.shape[1] > len(time):
            raise DataError(f"'{name}' has the shape {dataset.shape}; (trajectory, {len(time)} times, {len(x)} x, {len(y)} y) is read",
                            where=str(path), fix="choose another dataset")
        time = time[:dataset.shape[1]]
        shape = (dataset.shape[0], dataset.shape[1], len(y), len(x))
        for suffix, component in [("", ())] if dataset.ndim == 4 else [(f"_{c}", (c,)) for c in range(dataset.shape[4])]:
            variables[f"{name}{suffix}"] = Field(str(path), (str(name),), "NTCR", shape, component, dataset.dtype)
    return _box_dataset(variables, time, y, x)


def _pdebench_groups(file: Any, path: Path) -> xr.Dataset:
    """A group a trajectory: `data` (time, x, y, component), `grid/x`, `grid/y`, `grid/t`."""
    members = tuple(f"{name}/data" for name in sorted(file) if "data" in file[name])
    first = file[members[0].split("/")[0]]
    shapes = {file[member].shape for member in members}
    if len(shapes) > 1 or first["data"].ndim != 4 or "y" not in first["grid"]:
        raise DataError(f"trajectories of the shapes {sorted(shapes)[:3]}; all (time, x, y, component) alike are read", where=str(path),
                        fix="choose another dataset")
    x, y, time = (np.asarray(first["grid"][n], np.float64) for n in "xyt")
    num_times, _, _, num_components = first["data"].shape
    shape = (len(members), num_times, len(y), len(x))
    names = ["data"] if num_components == 1 else [f"data_{c}" for c in range(num_components)]
    variables = {name: Field(str(path), members, "TCR", shape, (c,), first["data"].dtype) for c, name in enumerate(names)}
    return _box_dataset(variables, time[:num_times], y, x)


def _box_dataset(fields: dict[str, Field], time: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> xr.Dataset:
    variables = {name: ((DIM, "time", "y", "x"), _lazy(field), {"units": "1"}) for name, field in fields.items()}
    return xr.Dataset(variables, {"time": ("time", time), "y": ("y", y), "x": ("x", x)})
