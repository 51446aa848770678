"""Streaming writer of forecast files: constant memory, killed at any moment and continued by the same command.

Every chunk is one file that appears whole (temporary name, rename). What is finished stands in `PATH.progress.jsonl`, one line an
init time. netCDF, which a kill can leave unreadable, is gathered in the zarr folder `PATH.partial` and exported at the end.
"""

# I init time, L lead time, C channel, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import netCDF4
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ResourceError
from ..vocabulary import COMPLETE_ATTRIBUTE as COMPLETE
from .metadata import IDENTITY, ArraySpec, Layout
from .progress import SINGLE, Progress, Share, gate, progress_path, read_progress, remove_progress
from .zarr_form import ChunkFiles, create_store, mark_complete, open_chunks, read_marks

Format = Literal["zarr2", "zarr3", "netcdf"]
_MARGIN = 1 << 20  # bytes of metadata and coordinates


class ForecastWriter:
    """Writes a forecast while it is made.

    Args:
        path: the file to make.
        layout: what the file holds besides the numbers, from `make_layout`; its attributes must not change when a file is continued.
        identity: hash of what produces the forecast: model, data and settings.
        share: this process; those of a group write into one file, and the last one to finish marks it complete.
        format: None takes it from the suffix: `.zarr` zarr v2 with consolidated metadata, `.nc` netCDF.

    Raises:
        ConfigError: another forecast is there, or another process writes this one, or the suffix says no format or another one.
        ResourceError: the folder is missing or read-only, or the disk too small; bytes needed and free are named.
    """

    def __init__(self, path: Path, layout: Layout, *, identity: str, share: Share = SINGLE, format: Format | None = None) -> None:
        self.path = Path(path)
        self.format = _format_of(self.path, format)
        self._layout = layout
        self._identity = self._layout.digest(f"{identity} {self.format}")
        self._store = self.path if self.format != "netcdf" else self.path.with_name(self.path.name + ".partial")
        self._share = share
        self._written: set[tuple[int, int]] = set()
        self._done: set[int] = set()
        self._chunks: dict[str, ChunkFiles] = {}
        self._progress: Progress | None = None
        _require_folder(self.path)
        with gate(progress_path(self.path), self._share):
            self.complete = self._is_complete() or self._begin()
            if self.complete:
                self._done = set(range(self._layout.num_forecasts))
                if self.format != "netcdf" and progress_path(self.path).exists():
                    mark_complete(self.path)  # killed between the mark and its consolidated copy
                self._clean()

    @property
    def num_forecasts(self) -> int:
        """How many the file holds: init times times members, counted by init time, then by member."""
        return self._layout.num_forecasts

    @property
    def num_done(self) -> int:
        """How many of them are in the file, whole, as far as this process knows."""
        return len(self._done)

    def is_done(self, forecast: int) -> bool:
        """Whether a forecast is in the file, whole."""
        return forecast in self._done

    def write(self, forecast: int, lead_index: int, state: NDArray[Any]) -> None:
        """Write one state, physical units, canonical order, float32; shape (C, H, W). Raises ResourceError when the disk is full."""
        assert not self.complete and forecast not in self._done, f"forecast {forecast} is done"
        assert state.shape == self._layout.state_shape, f"a state of shape {state.shape}, wanted {self._layout.state_shape}"
        index = self._layout.index(forecast, lead_index)
        with self._disk_errors():
            for spec, values in self._layout.chunks_of(state):
                self._chunks[spec.name].write(index, values)
        self._written.add((forecast, lead_index))

    def finish(self, forecast: int) -> None:
        """Mark a forecast as done; all its lead times must have been written."""
        missing = [k for k in range(self._layout.num_leads) if (forecast, k) not in self._written]
        assert not missing, f"forecast {forecast} lacks leads {missing}"
        assert self._progress is not None
        with self._disk_errors():
            self._progress.append({"done": forecast})
        self._done.add(forecast)
        self._written = {key for key in self._written if key[0] != forecast}

    def close(self) -> None:
        """Mark the file as complete, unless other processes of the group still write theirs; nothing to do for one that was complete before.

        Raises:
            ConfigError: another file has come to the path; all forecasts are kept.
            ResourceError: the disk is full.
        """
        if self.complete:
            return
        assert self._progress is not None
        with gate(progress_path(self.path), self._share):
            try:
                if self._share.count > 1 and self._is_complete():  # between our last forecast and this, another process has seen it and finished
                    self.complete = True
                else:
                    self._complete()
            finally:
                self._release()
            if self.complete:
                self._clean()

    def __enter__(self) -> ForecastWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    def _begin(self) -> bool:
        """Lock the list and start, unless another process has finished the forecast just before: whether it has."""
        with contextlib.ExitStack() as undo:
            self._progress = Progress(progress_path(self.path), self.path, self._share)
            undo.callback(self._release)
            if self._is_complete():
                return True
            self._start()
            undo.pop_all()
        return False

    def _is_complete(self) -> bool:
        """Whether the very forecast is there already. Raises ConfigError for another one, or another file."""
        if not os.path.lexists(self.path):
            return False
        marks = _read_netcdf_marks(self.path) if self.format == "netcdf" else read_marks(self.path)
        if marks is not None and marks.get(IDENTITY) == self._identity:
            return marks.get(COMPLETE) == "yes"
        header = read_progress(progress_path(self.path))
        if self.format != "netcdf" and marks is None and header and header[0] == {"identity": self._identity}:
            return False  # killed before its metadata were written
        if marks is None or IDENTITY not in marks:  # the user's own data, perhaps the very analyses: no word of removing it
            raise ConfigError("there is a file that is not a forecast of this program", where=str(self.path), fix="choose another --out")
        what = "a finished forecast" if marks.get(COMPLETE) == "yes" else "an unfinished forecast"
        raise ConfigError(f"there is {what} of another model, other data or other settings", where=str(self.path),
                          fix=f"choose another --out, or remove it: {self._remove_command()}")

    def _complete(self) -> None:
        """Mark the file as complete once all forecasts of all processes are done."""
        assert self._progress is not None
        listed = {int(line["done"]) for line in self._progress.read() if "done" in line}
        self._done |= {i for i in listed - self._done if self._is_written(i)}
        missing = [i for i in range(self._layout.num_forecasts) if i not in self._done]
        assert not missing or self._share.count > 1, f"forecasts {missing} are not done"
        if missing:
            return
        with self._disk_errors():
            if self.format == "netcdf":
                self._export()
            else:
                mark_complete(self._store)
        self.complete = True

    def _remove_command(self) -> str:
        return " ".join(["rm -r", *(_quoted(p) for p in dict.fromkeys((self.path, self._store, progress_path(self.path))) if os.path.lexists(p))])

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
                assert self._progress.first, "another process of the group has begun and has not created the store"
                if self._store.exists():
                    shutil.rmtree(self._store)
                create_store(self._store, self._layout, 3 if self.format == "zarr3" else 2, self._identity)
                self._progress.append({"created": True})
            for leftover in self._store.rglob("*.partial") if self._progress.first else ():
                leftover.unlink()
        self._chunks = open_chunks(self._store, self._layout)
        self._done = {i for i in self._done if self._is_written(i)}

    def _is_written(self, forecast: int) -> bool:
        """Whether all chunks of a forecast are there; an empty one was lost with the power."""
        paths = (chunks.path(self._layout.index(forecast, k)) for k in range(self._layout.num_leads) for chunks in self._chunks.values())
        return all(p.is_file() and p.stat().st_size > 0 for p in paths)

    def _require_space(self) -> None:
        """Uncompressed size of what is missing, an upper bound, against the free space."""
        rest = self._layout.bytes_per_forecast * (self._layout.num_forecasts - len(self._done))
        export = self._layout.bytes_per_forecast * self._layout.num_forecasts if self.format == "netcdf" else 0
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
            rest = _size(self._layout.bytes_per_forecast * (self._layout.num_forecasts - len(self._done)))
            raise ResourceError(f"writing failed: {error.strerror or error}; up to {rest} to go, {free} free", where=str(self.path),
                                fix=f"free some space and run the same command again: {len(self._done)} of {self._layout.num_forecasts} "
                                    "forecasts are kept") from error

    def _export(self) -> None:
        """Copy the gathered chunks into a netCDF file that appears whole. Raises ConfigError where another file has come to the path."""
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
                for index in product(*(range(n) for n in spec.shape[:spec.dims.index("prediction_timedelta") + 1])):
                    target[index] = self._chunks[spec.name].read(index)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        if os.path.lexists(self.path) and (_read_netcdf_marks(self.path) or {}).get(IDENTITY) != self._identity:
            draft.unlink()
            raise ConfigError("another file has come to this path while the forecast was made", where=str(self.path),
                              fix="move it away and run the same command again: all forecasts are kept")
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
        remove_progress(progress_path(self.path))


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
