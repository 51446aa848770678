"""Streaming writer of forecast files: constant memory, killed at any moment and continued by the same command.

Every chunk is one file that appears whole (temporary name, rename). What is finished stands in `PATH.progress.jsonl`, one line an
init time. netCDF, which a kill can leave unreadable, is gathered in the zarr folder `PATH.partial` and exported at the end.
"""

# I init time, L lead time, C channel, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import ConfigError, ResourceError
from ..grid import Orientation
from ..vocabulary import COMPLETE_ATTRIBUTE as COMPLETE
from .metadata import IDENTITY, ArraySpec, Geometry, make_layout
from .zarr_form import ChunkFiles, create_store, mark_complete, open_chunks, read_marks

Format = Literal["zarr2", "zarr3", "netcdf"]
_MARGIN = 1 << 20  # bytes of metadata and coordinates


class ForecastWriter:
    """Writes a forecast while it is made.

    Args:
        path: the file to make.
        channels: order of the channels of the states.
        orientation: the user's order of the axes, or the box of a PDE.
        init_seconds: init times, ascending, seconds since 1970 in `calendar`; shape (I,).
        lead_seconds: lead times, ascending; shape (L,).
        calendar: CF calendar of the init times.
        attrs: attributes of the file (title, source, institution, ...); must not change when a file is continued.
        format: None takes it from the suffix: `.zarr` zarr v2 with consolidated metadata, `.nc` netCDF.
        identity: hash of what produces the forecast: model, data and settings.

    Raises:
        ConfigError: another forecast is there, or another process writes this one, or the suffix says no format or another one.
        ResourceError: the folder is missing or read-only, or the disk too small; bytes needed and free are named.
    """

    def __init__(self, path: Path, *, channels: ChannelSet, orientation: Geometry, init_seconds: NDArray[np.int64], lead_seconds: NDArray[np.int64],
                 calendar: str, attrs: Mapping[str, str], format: Format | None = None, identity: str) -> None:
        self.path = Path(path)
        self.format = _format_of(self.path, format)
        self._layout = make_layout(channels, orientation, init_seconds, lead_seconds, calendar, attrs)
        self._identity = self._layout.digest(f"{identity} {self.format}")
        self._shape_CHW = (len(channels), *(orientation.grid() if isinstance(orientation, Orientation) else orientation).shape)
        self._store = self.path if self.format != "netcdf" else self.path.with_name(self.path.name + ".partial")
        self._written: set[tuple[int, int]] = set()
        self._done: set[int] = set()
        self._chunks: dict[str, ChunkFiles] = {}
        self._progress: _Progress | None = None
        _require_folder(self.path)
        self.complete = self._is_complete()
        if self.complete:
            self._done = set(range(self._layout.num_inits))
            if self.format != "netcdf" and _progress_path(self.path).exists():
                mark_complete(self.path)  # killed between the mark and its consolidated copy
            self._clean()
        else:
            self._progress = _Progress(_progress_path(self.path), self.path)
            with contextlib.ExitStack() as undo:
                undo.callback(self._progress.close)
                self._start()
                undo.pop_all()

    def is_done(self, init_index: int) -> bool:
        """Whether the forecast of this init time is in the file, whole."""
        return init_index in self._done

    def write(self, init_index: int, lead_index: int, state: NDArray[Any]) -> None:
        """Write one state, physical units, canonical order, float32; shape (C, H, W). Raises ResourceError when the disk is full."""
        assert not self.complete and init_index not in self._done, f"init {init_index} is done"
        assert state.shape == self._shape_CHW, f"a state of shape {state.shape}, wanted {self._shape_CHW}"
        with self._disk_errors():
            for spec, values in self._layout.chunks_of(state):
                self._chunks[spec.name].write(init_index, lead_index, values)
        self._written.add((init_index, lead_index))

    def finish_init(self, init_index: int) -> None:
        """Mark the forecast of one init time as done; all its lead times must have been written."""
        missing = [k for k in range(self._layout.num_leads) if (init_index, k) not in self._written]
        assert not missing, f"init {init_index} lacks leads {missing}"
        assert self._progress is not None
        with self._disk_errors():
            self._progress.append({"done": init_index})
        self._done.add(init_index)
        self._written = {key for key in self._written if key[0] != init_index}

    def close(self) -> None:
        """Mark the file as complete; every init time must be done. Nothing to do for one that was complete before."""
        if self.complete:
            return
        missing = [i for i in range(self._layout.num_inits) if i not in self._done]
        assert not missing, f"inits {missing} are not done"
        with self._disk_errors():
            if self.format == "netcdf":
                self._export()
            else:
                mark_complete(self._store)
        self.complete = True
        self._release()
        self._clean()

    def __enter__(self) -> ForecastWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def _is_complete(self) -> bool:
        """Whether the very forecast is there already. Raises ConfigError for another one, or another file."""
        if not os.path.lexists(self.path):
            return False
        marks = _read_netcdf_marks(self.path) if self.format == "netcdf" else read_marks(self.path)
        if marks is not None and marks.get(IDENTITY) == self._identity:
            return marks.get(COMPLETE) == "yes"
        header = _read_progress(_progress_path(self.path))
        if self.format != "netcdf" and marks is None and header and header[0] == {"identity": self._identity}:
            return False  # killed before its metadata were written
        if marks is None or IDENTITY not in marks:  # the user's own data, perhaps the very analyses: no word of removing it
            raise ConfigError("there is a file that is not a forecast of this program", where=str(self.path), fix="choose another --out")
        what = "a finished forecast" if marks.get(COMPLETE) == "yes" else "an unfinished forecast"
        raise ConfigError(f"there is {what} of another model, other data or other settings", where=str(self.path),
                          fix=f"choose another --out, or remove it: {self._remove_command()}")

    def _remove_command(self) -> str:
        return " ".join(["rm -r", *(_quoted(p) for p in dict.fromkeys((self.path, self._store, _progress_path(self.path))) if os.path.lexists(p))])

    def _start(self) -> None:
        """Create the store, or take up what an interrupted run has left; then see that the rest fits the disk."""
        assert self._progress is not None
        lines = self._progress.read()
        if lines and lines[0] != {"identity": self._identity}:
            raise ConfigError("there is an unfinished forecast of another model, other data or other settings", where=str(self.path),
                              fix=f"choose another --out, or remove it: {self._remove_command()}")
        marks = read_marks(self._store)
        ours = marks is not None and marks.get(IDENTITY) == self._identity
        if os.path.lexists(self._store) and not ours and not lines:
            raise ConfigError("there is a folder of another origin in the way", where=str(self._store), fix="move it away")
        if ours and {"created": True} in lines:
            self._done = {int(line["done"]) for line in lines if "done" in line}
        self._require_space()
        with self._disk_errors():
            if not lines:
                self._progress.append({"identity": self._identity})
            if not ours or {"created": True} not in lines:
                if self._store.exists():
                    shutil.rmtree(self._store)
                create_store(self._store, self._layout, 3 if self.format == "zarr3" else 2, self._identity)
                self._progress.append({"created": True})
            for leftover in self._store.rglob("*.partial"):
                leftover.unlink()
        self._chunks = open_chunks(self._store, self._layout)
        self._done = {i for i in self._done if all(self._is_written(i, k) for k in range(self._layout.num_leads))}

    def _is_written(self, init_index: int, lead_index: int) -> bool:
        """Whether all chunks of a state are there; an empty one was lost with the power."""
        paths = [chunks.path(init_index, lead_index) for chunks in self._chunks.values()]
        return all(p.is_file() and p.stat().st_size > 0 for p in paths)

    def _require_space(self) -> None:
        """Uncompressed size of what is missing, an upper bound, against the free space."""
        rest = self._layout.bytes_per_init * (self._layout.num_inits - len(self._done))
        export = self._layout.bytes_per_init * self._layout.num_inits if self.format == "netcdf" else 0
        needed, free = rest + export + _MARGIN, shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise ResourceError(f"the disk is too small for the forecast: up to {_size(needed)} needed, {_size(free)} free",
                                where=str(self.path.parent), fix="free some space, forecast fewer init or lead times, or choose another --out")

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            try:
                free = _size(shutil.disk_usage(self.path.parent).free)
            except OSError:
                free = "unknown"
            rest = _size(self._layout.bytes_per_init * (self._layout.num_inits - len(self._done)))
            raise ResourceError(f"writing failed: {error.strerror or error}; up to {rest} to go, {free} free", where=str(self.path),
                                fix=f"free some space and run the same command again: {len(self._done)} of {self._layout.num_inits} "
                                    "init times are kept") from error

    def _export(self) -> None:
        """Copy the gathered chunks into a netCDF file that appears whole."""
        if not self.path.exists():
            draft = self._store.with_name(self._store.name + ".nc")
            draft.unlink(missing_ok=True)
            with netCDF4.Dataset(draft, "w", format="NETCDF4") as file:
                file.setncatts(self._layout.attrs | {COMPLETE: "yes", IDENTITY: self._identity})
                for spec in self._layout.coordinates:
                    for name, size in zip(spec.dims, spec.shape, strict=True):
                        if name not in file.dimensions:
                            file.createDimension(name, size)
                    _create_netcdf(file, spec)[...] = spec.values
                for spec in self._layout.variables:
                    target = _create_netcdf(file, spec)
                    for i in range(self._layout.num_inits):
                        for k in range(self._layout.num_leads):
                            target[i, k] = self._chunks[spec.name].read(i, k)
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.replace(self.path)

    def _release(self) -> None:
        self._chunks = {}
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _clean(self) -> None:
        """Remove what only an unfinished file needs."""
        if self.format == "netcdf" and self._store.is_dir():
            shutil.rmtree(self._store)
        _progress_path(self.path).unlink(missing_ok=True)


class _Progress:
    """An append-only list of JSON lines, locked while a writer lives; a torn last line counts as not written."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a+")
        except OSError as error:
            raise ResourceError(f"cannot write into the output folder: {error.strerror}", where=str(path.parent),
                                fix="choose another --out, or make the folder writable") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # any other: a file system without locks, which has to do without
                self._file.close()
                raise ConfigError("another process is writing this forecast", where=str(target), fix="wait, or choose another --out") from error

    def read(self) -> list[dict[str, Any]]:
        return _read_progress(self.path)

    def append(self, line: dict[str, Any]) -> None:
        text = self.path.read_text()
        if text and not text.endswith("\n"):
            self._file.truncate(text.rfind("\n") + 1)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()


def _progress_path(path: Path) -> Path:
    return path.with_name(path.name + ".progress.jsonl")


def _read_progress(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines(keepends=True):
        try:
            line = json.loads(text) if text.endswith("\n") else None
        except json.JSONDecodeError:
            line = None
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def _format_of(path: Path, asked: Format | None) -> Format:
    formats: dict[str, Format] = {".zarr": "zarr2", ".nc": "netcdf", ".nc4": "netcdf"}
    usual = formats.get(path.suffix)
    if asked is None and usual is None:
        raise ConfigError(f"'{path.name}' does not say which format to write", where="--out", fix="end it in .zarr or .nc")
    if asked is not None and usual is not None and (asked == "netcdf") != (usual == "netcdf"):
        raise ConfigError(f"'{path.name}' and the format {asked} contradict each other", where="--out",
                          fix=f"leave --format out, or end --out in {'.nc' if asked == 'netcdf' else '.zarr'}")
    found = asked or usual
    assert found is not None
    return found


def _require_folder(path: Path) -> None:
    folder = path.parent
    if not folder.exists():
        raise ResourceError("the output folder does not exist", where=str(folder), fix=f"mkdir -p {_quoted(folder)}")
    if not folder.is_dir():
        raise ResourceError("the output folder is a file", where=str(folder), fix="choose another --out")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResourceError("the output folder is read-only", where=str(folder), fix="choose another --out, or make the folder writable")


def _create_netcdf(file: netCDF4.Dataset, spec: ArraySpec) -> Any:
    options: dict[str, Any] = {"fill_value": False} if spec.values is not None else {
        "zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True, "chunksizes": spec.chunks, "fill_value": np.float32(np.nan)}
    variable = file.createVariable(spec.name, np.dtype(spec.dtype), spec.dims, **options)
    variable.setncatts({k: np.asarray(v, dtype=np.int32) if isinstance(v, list) else v for k, v in spec.attrs.items()})
    return variable


def _read_netcdf_marks(path: Path) -> dict[str, str] | None:
    """Completion and identity of a netCDF file; None for anything else."""
    try:
        with netCDF4.Dataset(path) as file:
            return {name: str(file.getncattr(name)) for name in (COMPLETE, IDENTITY) if name in file.ncattrs()}
    except OSError:
        return None


def _size(num_bytes: int) -> str:
    return f"{num_bytes:,} bytes ({num_bytes / 2**30:.2f} GiB)"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
