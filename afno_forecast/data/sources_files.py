"""Files and folders to opened datasets: which paths, which format, whole or truncated, safe to open."""

from __future__ import annotations

import glob
import json
import lzma
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import netCDF4
import xarray as xr
from zarr.errors import BaseZarrError

from afno_forecast.errors import CheckpointError, ConfigError, DataError, ResourceError

from .sources_notes import Ledger
from .sources_pde import is_pde, open_pde
from .sources_remote import open_remote, remote_address

STORE_MARK = "afno_forecast_store"
GRIDDED = ("netCDF", "netCDF-4 / HDF5", "GRIB", "zarr")
_SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5", ".hdf", ".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2", ".zarr")
_TABLE_KINDS = {".shp": "shapefile", ".shx": "shapefile index", ".dbf": "dBase table", ".prj": "map projection text", ".cpg": "character set name"}
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs", ".zarray")
READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError, EOFError, BaseZarrError, zlib.error,
               lzma.LZMAError)  # what damaged files and chunks raise
_CHUNK_BYTES = 4 * 2**20
_MOST_CHUNKS = 64  # of the file in one block: more make single states slow to read, fewer make the task graph of long series large
_NETCDF3_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group or array."""
    return path.is_dir() and any((path / mark).is_file() for mark in _ZARR_MARKS)


def expand_paths(paths: Sequence[str | Path] | str | Path, allow_remote: Sequence[str] = (), *, output: Path | None = None) -> tuple[Path | str, ...]:
    """Files and zarr stores that paths, globs and folders name, each once, in order of name within a glob or folder; addresses as text.

    Args:
        paths: what is named.
        allow_remote: schemes of remote zarr stores that may be opened.
        output: what is made of them; it is none of them where it lies in such a folder.

    Raises:
        ConfigError: a remote address or a chained one.
        DataError: nothing of that name, with the nearest name there is.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise ConfigError("no source is given", fix="name files, a folder or a zarr store")
    found: dict[Path | str, None] = {}
    for item in given:
        text = str(item)
        address = remote_address(text, allow_remote)
        if address is not None:
            found[address] = None
            continue
        for path in _expand(text, output):
            found[path] = None
    return tuple(found)


def _expand(text: str, output: Path | None) -> list[Path]:
    def is_source(found: Path) -> bool:
        return output is None or found.resolve() != output.resolve()

    path = Path(text).expanduser()
    if path.is_dir() and not is_zarr(path):
        inside = sorted(p for p in path.iterdir() if is_source(p) and ((p.suffix.lower() in _SUFFIXES and p.is_file()) or is_zarr(p)))
        if not inside:
            some = ", ".join(sorted(p.name for p in path.iterdir())[:6])
            raise DataError("no gridded file in this folder" + (f"; it has {some}" if some else ": it is empty"), where=text,
                            fix=f"name the files, for example '{text.rstrip('/')}/*/*.nc'")
        return inside
    if path.exists():
        return [path]
    if glob.has_magic(text):
        matched = sorted(filter(is_source, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))
        if matched:
            return matched
        raise DataError(f"no file matches '{text}'", fix="check the pattern, and quote it so that the shell leaves it alone")
    siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, 1, 0.4)
    if near:
        fix = f"did you mean '{path.parent / near[0]}'?"
    else:
        fix = "check the path" if path.parent.is_dir() else f"there is no folder '{path.parent}' either; check the path"
    raise DataError(f"no such file or folder '{text}'", fix=fix)


def kind_of(path: Path) -> str:
    """The format by content: one of `GRIDDED`, or words for what it is instead. Raises DataError when it cannot be read."""
    if path.is_dir():
        return "zarr" if is_zarr(path) else "folder"
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path), fix="check its permissions") from error
    if head[:3] == b"CDF" and head[3:4] in (b"\x01", b"\x02", b"\x05"):
        return "netCDF"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "netCDF-4 / HDF5"
    if (head[:4] == b"GRIB" and head[7:8] in (b"\x01", b"\x02")) or (b"GRIB" in head and path.suffix.lower().startswith((".grib", ".grb"))):
        return "GRIB"
    if head[:4] == b"\x00\x00\x27\x0a":
        return "shapefile index" if path.suffix.lower() == ".shx" else "shapefile"
    if path.suffix.lower() in _TABLE_KINDS:
        return _TABLE_KINDS[path.suffix.lower()]
    if not head:
        return "empty file"
    return "text" if all(byte >= 32 or byte in (9, 10, 13) for byte in head) else "unknown binary file"


def open_file(path: Path | str, ledger: Ledger) -> list[xr.Dataset]:
    """The datasets of one file or store, lazily, in dask blocks of some 4 MB; several for a GRIB file of several hypercubes.

    Args:
        path: the file or store; text is a remote address.
        ledger: is told what a file of The Well holds that is not read.

    Raises:
        DataError: not a gridded file, truncated, damaged, or a training store.
        CheckpointError: a zarr store that would need unpickling.
        ResourceError: GRIB without cfgrib, The Well or PDEBench without h5py.
    """
    if isinstance(path, str):
        return [open_remote(path, ledger)]
    kind = kind_of(path)
    if kind not in GRIDDED:
        raise DataError(f"this is not a gridded dataset ({kind})", where=str(path), fix="give netCDF, GRIB, HDF5 or zarr")
    if kind == "GRIB":
        check_grib(path)
        datasets = _open_grib(path)
    elif kind == "zarr":
        check_zarr(path)
        store = _open_xarray(path, "zarr")
        datasets = [store[sorted(map(str, store.data_vars))]]  # a folder has no order of its own
    elif kind == "netCDF-4 / HDF5" and is_pde(path):
        return open_pde(path, ledger)
    else:
        if kind == "netCDF":
            check_netcdf3(path)
        with small_chunk_caches():
            datasets = [_open_xarray(path, "netcdf4")]
    stat = path.stat()
    return [_in_blocks(ds, f"{path.resolve()}-{stat.st_mtime_ns}-{stat.st_size}-{i}") for i, ds in enumerate(datasets)]


@contextmanager
def small_chunk_caches() -> Iterator[None]:
    """netCDF files opened here keep no decoded chunks (a KiB holds none), not 64 MiB a variable, so that memory does not grow with the files.

    Whole blocks of a file's chunks are read and a build reads forward, so nothing is decoded twice for it.
    """
    size, slots, preemption = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(1 << 10, slots, preemption)
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(size, slots, preemption)


def _open_xarray(path: Path, engine: str) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr without consolidated metadata, times outside nanoseconds: both are handled
        try:
            ds = xr.open_dataset(path, engine=engine, chunks=None, decode_cf=False)
            if engine == "netcdf4":
                _declare_fill(ds)
            try:
                return xr.decode_cf(ds, decode_timedelta=False)
            except ValueError as error:
                if "decode" not in str(error):
                    raise
                return xr.decode_cf(ds, decode_times=False, decode_timedelta=False)
        except READ_ERRORS as error:
            raise DataError(f"cannot be opened; it is truncated or damaged ({first_line(error)})", where=str(path),
                            fix="fetch or write the file again") from error


def _declare_fill(ds: xr.Dataset) -> None:
    """Name netCDF's fill of never written values where undecoded integer fields name none, as the library itself masks it; bytes have none."""
    for variable in ds.variables.values():
        dtype = variable.dtype
        if variable.ndim > 1 and dtype.kind in "iu" and dtype.itemsize > 1 and "_FillValue" not in variable.attrs:
            variable.attrs["_FillValue"] = dtype.type(netCDF4.default_fillvals[dtype.str[1:]])


def _open_grib(path: Path) -> list[xr.Dataset]:
    try:
        import cfgrib
    except (ImportError, RuntimeError) as error:
        raise ResourceError("reading GRIB needs the packages cfgrib and eccodes", where=str(path), fix="pip install 'afno-forecast[grib]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cfgrib's own use of xarray
        try:
            datasets: list[xr.Dataset] = cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""})
        except READ_ERRORS as error:
            raise DataError(f"cannot be decoded as GRIB ({first_line(error)})", where=str(path), fix="check it with grib_ls") from error
    if not datasets:
        raise DataError("no GRIB message could be decoded", where=str(path), fix="check it with grib_ls")
    return datasets


def first_line(error: BaseException) -> str:
    """The first line of a library's message, for one of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _in_blocks(ds: xr.Dataset, token: str) -> xr.Dataset:
    """As dask arrays; along time in blocks of the file's own chunks, together about 4 MB."""
    sizes: dict[str, int] = {}
    for variable in ds.data_vars.values():
        if variable.ndim < 3:
            continue
        if "trajectory" in variable.dims:  # a trajectory a block, so that all can be laid one after another
            sizes |= {"trajectory": 1, "time": max(1, int(_CHUNK_BYTES * variable.sizes["trajectory"] * variable.sizes.get("time", 1)
                                                          / max(variable.nbytes, 1)))}
            continue
        own = variable.encoding.get("preferred_chunks", {})
        timelike = [str(d) for d in variable.dims if d in ds.coords and ds[d].dtype.kind in "MO"]
        leading = timelike[0] if timelike else str(variable.dims[0])
        one = variable.nbytes / max(variable.sizes[leading], 1)
        unit = min(int(own.get(leading, 1)), variable.sizes[leading]) or 1
        length = max(unit, int(_CHUNK_BYTES / max(one, 1)) // unit * unit)
        if leading in own:
            length = min(length, _MOST_CHUNKS * unit)
        sizes[leading] = min(sizes.get(leading, length), length)
    return ds.chunk({dim: sizes.get(str(dim), -1) for dim in ds.dims}, token=token)


def check_grib(path: Path) -> int:
    """The number of messages. Raises DataError when the file ends inside one, or one does not end in `7777`."""
    size, count, position = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while (start := _next_grib(file, position)) is not None:
            file.seek(start)
            head = file.read(16)
            if len(head) < 16:
                raise DataError(f"truncated: ends inside GRIB message {count + 1}", where=str(path), fix="fetch the file again")
            length = int.from_bytes(head[4:7], "big") if head[7] == 1 else int.from_bytes(head[8:16], "big")
            if head[7] == 1 and length & 0x800000:  # a message over 8 MB in edition 1 hides its length; the decoder knows it
                return count + 1
            file.seek(min(start + max(length, 20) - 4, size))
            if start + length > size or file.read(4) != b"7777":
                raise DataError(f"truncated or damaged: GRIB message {count + 1} has no end", where=str(path), fix="fetch the file again")
            count, position = count + 1, start + length
    return count


def _next_grib(file: BinaryIO, position: int) -> int | None:
    """Where the next message starts; messages may be separated by padding."""
    file.seek(position)
    base = position
    window = file.read(4)
    if window == b"GRIB":
        return position
    while True:
        block = file.read(1 << 16)
        window += block
        at = window.find(b"GRIB")
        if at >= 0:
            return base + at
        if not block:
            return None
        base += len(window) - 3
        window = window[-3:]


def check_netcdf3(path: Path) -> None:
    """Raises DataError when a classic netCDF file is shorter than its header says: the library would read zeros."""
    try:
        with path.open("rb") as file:
            expected = _netcdf3_size(file)
    except (struct.error, KeyError, IndexError, OverflowError, OSError, ValueError) as error:
        raise DataError("truncated or damaged: its header ends early", where=str(path), fix="fetch or write the file again") from error
    if path.stat().st_size < expected:
        raise DataError(f"truncated: {path.stat().st_size} bytes of {expected}", where=str(path), fix="fetch or write the file again")


def _netcdf3_size(file: BinaryIO) -> int:
    """Bytes that the header of a classic netCDF file promises (versions 1, 2 and 5)."""
    version = file.read(4)[3]
    count_format = ">q" if version == 5 else ">i"
    begin_format = ">i" if version == 1 else ">q"

    def number(form: str) -> int:
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

    def skip_name() -> None:
        _skip(file, number(count_format))

    def entries() -> int:
        number(">i")
        return number(count_format)

    def skip_attributes() -> None:
        for _ in range(entries()):
            skip_name()
            size = _NETCDF3_SIZES[number(">i")]
            _skip(file, number(count_format) * size)

    num_records = number(count_format)
    lengths = []
    for _ in range(entries()):
        skip_name()
        lengths.append(number(count_format))
    skip_attributes()
    fixed_end, record_begins, record_sizes = 0, [], []
    for _ in range(entries()):
        skip_name()
        dims = [lengths[number(count_format)] for _ in range(number(count_format))]
        skip_attributes()
        size = _NETCDF3_SIZES[number(">i")]
        number(count_format)
        begin = number(begin_format)
        for length in dims:
            size *= length if length else 1
        if dims and dims[0] == 0:
            record_begins.append(begin)
            record_sizes.append(size)
        else:
            fixed_end = max(fixed_end, begin + size)
    if not record_begins or num_records <= 0:
        return fixed_end
    stride = record_sizes[0] if len(record_sizes) == 1 else sum(-(-size // 4) * 4 for size in record_sizes)
    last = max(begin + size for begin, size in zip(record_begins, record_sizes, strict=True))
    return max(fixed_end, last + (num_records - 1) * stride)


def _skip(file: BinaryIO, length: int) -> None:
    """Past `length` bytes and the padding to a multiple of four."""
    file.seek(-(-length // 4) * 4, 1)


def zarr_metadata(path: Path) -> list[dict[str, Any]]:
    """Every metadata document of a zarr group and its arrays. Raises DataError for one that is not JSON."""
    documents = []
    for pattern in (*_ZARR_MARKS, *(f"*/{mark}" for mark in _ZARR_MARKS)):
        for file in sorted(path.glob(pattern)):
            try:
                document = json.loads(file.read_text("utf-8"))
            except (ValueError, OSError, RecursionError) as error:
                raise DataError("zarr metadata cannot be read", where=str(file), fix="fetch or write the store again") from error
            if isinstance(document, dict):
                documents.append(document)
    return documents


def check_zarr(path: Path) -> None:
    """Raises DataError for a training store, CheckpointError for a store with pickled objects."""
    for document in zarr_metadata(path):
        attributes = document.get("attributes", document)
        if isinstance(attributes, dict) and STORE_MARK in attributes:
            raise DataError("this is a training store, not a source", where=str(path), fix="give it to train, rollout or evaluate as it is")
        if re.search(r'"(id|name)": "(numcodecs\.)?pickle"', json.dumps(document)):
            raise CheckpointError("the store holds pickled objects, which are never opened", where=str(path),
                                  fix="write it again without object arrays")
