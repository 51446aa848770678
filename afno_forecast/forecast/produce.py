"""From a model folder and analyses to a forecast file."""

# B batch, T history, C channel, H latitude row, W longitude column

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__, model_folder
from ..data.states import States, open_states
from ..errors import ConfigError, DataError, DivergenceError, Stopped
from ..forecaster import Forecaster
from ..grid import Grid, LatLonGrid
from ..signals import StopFlag
from ..times import format_duration, format_instant, parse_duration, parse_instant
from .output import ForecastWriter
from .rollout import rollout

Format = Literal["zarr2", "zarr3", "netcdf"]


def select_inits(text: str, states: States, *, history: int, time_step: int) -> NDArray[np.int64]:
    """Init times of `first`, `last`, an ISO date, or START/END/STEP; seconds since 1970 in the data's calendar.

    `first` and `last` are the first and last analysis with the whole history before it. Raises ConfigError for another text,
    DataError when an init time or its history is not in the data.
    """
    calendar = states.times.calendar
    if text in {"first", "last"}:
        complete = _complete_inits(states, history, time_step)
        return np.asarray([complete[0 if text == "first" else -1]], dtype=np.int64)
    parts = text.split("/")
    if len(parts) == 1:
        return np.asarray([parse_instant(parts[0], calendar)], dtype=np.int64)
    if len(parts) != 3:
        raise ConfigError(f"'{text}' is not an init time", fix="write first, last, 2020-01-01T00 or 2020-01-01/2020-01-31/12h")
    start, end, step = parse_instant(parts[0], calendar), parse_instant(parts[1], calendar), parse_duration(parts[2])
    if end < start:
        raise ConfigError(f"'{text}' ends before it starts", fix="write START/END/STEP with the earlier date first")
    return np.arange(start, end + 1, step, dtype=np.int64)


def _complete_inits(states: States, history: int, time_step: int) -> list[int]:
    """The instants with the whole history before them, in order. Raises DataError when there are none."""
    available = set(states.times.seconds.tolist())
    complete = [s for s in states.times.seconds.tolist() if all(s - k * time_step in available for k in range(history))]
    if not complete:
        raise DataError(f"no analysis has {history} states {format_duration(time_step)} apart", fix="give data that hold the model's history")
    return complete


def history_rows(states: States, inits: NDArray[np.int64], *, history: int, time_step: int) -> NDArray[np.int64]:
    """Positions in the data of the states that a model reads, oldest first; shape (I, T).

    Raises DataError when an init time, or a state before it, is not in the data.
    """
    states.index_of(inits)
    seconds_IT = inits[:, None] - np.arange(history - 1, -1, -1, dtype=np.int64) * time_step
    whole = np.isin(seconds_IT, states.times.seconds)
    if not whole.all():
        row = int(np.argmin(whole.all(axis=1)))
        init, calendar = int(inits[row]), states.times.calendar
        absent = ", ".join(format_instant(int(s), calendar) for s in seconds_IT[row][~whole[row]])
        complete = _complete_inits(states, history, time_step)
        nearest = next((s for s in complete if s >= init), complete[-1])
        which = "first" if nearest == complete[0] else "next" if nearest > init else "last"
        raise DataError(f"a forecast from {format_instant(init, calendar)} needs {absent} as well, which is not in the data: "
                        f"the model reads {history} states {format_duration(time_step)} apart", where=states.where,
                        fix=f"the {which} init that works is {format_instant(nearest, calendar)}")
    return states.index_of(seconds_IT)


def require_fit(forecaster: Forecaster, states: States) -> None:
    """Raise DataError unless the data are on the model's grid and calendar."""
    if not forecaster.grid.matches(states.grid):
        raise DataError(f"the model was trained on {forecaster.grid.describe()}; the data are on {states.grid.describe()}",
                        fix=_fix_of_grid(forecaster.grid, states.grid))
    if forecaster.calendar != states.times.calendar:
        raise DataError(f"the model was trained on the {forecaster.calendar} calendar; the data use {states.times.calendar}",
                        fix="give data on the model's calendar")


def _fix_of_grid(model: Grid, data: Grid) -> str:
    """What to do; a row on a pole that the model does not have is named."""
    if isinstance(model, LatLonGrid) and isinstance(data, LatLonGrid) and data.shape[0] == model.shape[0] + 1:
        for kept, comparison, row in ((data.latitude[1:], ">", data.latitude[0]), (data.latitude[:-1], "<", data.latitude[-1])):
            if model.matches(LatLonGrid(kept, data.longitude)):
                return f"the model has no row at latitude {row:g}; leave it out, with xarray: ds.sel(latitude=ds.latitude {comparison} {row:g})"
    return "give data on the model's grid"


def produce_forecast(model: Path, data: Path | Sequence[Path], *, init: str, lead_time: int, out: Path, format: Format | None = None,
                     batch_size: int = 8, echo: Callable[[str], None] = print) -> Path:
    """Roll a model out from analyses and write the forecast while it runs; an interrupted one is continued.

    Args:
        model: model folder.
        data: training store, or any source `open_source` reads.
        init: first, last, ISO date, or START/END/STEP.
        lead_time: seconds, a multiple of the model's time step.
        out: forecast file, `.zarr` or `.nc`.
        format: overrides what the suffix of `out` says.
        batch_size: init times stepped together; the forecast does not depend on it beyond rounding.
        echo: prints a line.

    Returns:
        `out`.

    Raises:
        DivergenceError: a state is not finite; what was written before can be read.
        Stopped: a signal came; every finished forecast is kept.
        CheckpointError, DataError, ConfigError, ResourceError: see errors.py.
    """
    forecaster = model_folder.load(model)
    _require_whole_steps(lead_time, forecaster.time_step)
    states = open_states(data, forecaster.channels)
    for note in states.notes:
        echo(f"note: {note}")
    require_fit(forecaster, states)
    forecaster.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    inits = select_inits(init, states, history=forecaster.history, time_step=forecaster.time_step)
    rows_IT = history_rows(states, inits, history=forecaster.history, time_step=forecaster.time_step)
    leads = np.arange(1, lead_time // forecaster.time_step + 1, dtype=np.int64) * forecaster.time_step
    name = _model_name(model)
    identity = _identity(model, states, rows_IT, inits, leads)
    attrs = {"title": f"Forecast of {name}", "source": f"afno_forecast {__version__}, model {name}", "model": name}
    attrs |= {key: str(states.attrs[key]) for key in ("institution", "license") if states.attrs.get(key)}
    with ForecastWriter(Path(out), channels=forecaster.channels, orientation=states.orientation, init_seconds=inits, lead_seconds=leads,
                        calendar=states.times.calendar, attrs=attrs, format=format, identity=identity) as writer, StopFlag() as stop:
        todo = [i for i in range(len(inits)) if not writer.is_done(i)]
        if len(todo) < len(inits):
            echo(f"{len(inits) - len(todo)} of {len(inits)} forecasts are already in {out}")
        for first in range(0, len(todo), batch_size):
            chosen = todo[first:first + batch_size]
            for _ in _write_batch(forecaster, states, rows_IT[chosen], inits[chosen], chosen, len(leads), writer):
                _stop_if_asked(stop, writer, len(inits))
            echo(f"{min(first + batch_size, len(todo))} of {len(todo)} forecasts of {format_duration(lead_time)}, "
                 f"last from {format_instant(int(inits[chosen[-1]]), states.times.calendar)}")
    return Path(out)


def _require_whole_steps(lead_time: int, time_step: int) -> None:
    if lead_time <= 0 or lead_time % time_step:
        nearest = max(1, lead_time // time_step) * time_step
        raise ConfigError(f"a lead time of {format_duration(lead_time)} is not a multiple of the model's step of "
                          f"{format_duration(time_step)}", where="--lead-time", fix=f"use --lead-time {format_duration(nearest)}")


def _stop_if_asked(stop: StopFlag, writer: ForecastWriter, num_inits: int) -> None:
    if stop.name:
        done = sum(writer.is_done(i) for i in range(num_inits))
        raise Stopped(f"stopped by {stop.name} after {done} of {num_inits} forecasts; they are kept", where=str(writer.path),
                      fix="run the same command again; it continues")


def _identity(model: Path, states: States, rows_IT: NDArray[np.int64], inits: NDArray[np.int64], leads: NDArray[np.int64]) -> str:
    """Hash of what a forecast follows from: the files of the model, the initial states themselves, wherever they lie, and the times.

    Raises DataError for a missing value in any of the states, before anything is written.
    """
    manifest = json.loads((Path(model) / model_folder.MANIFEST).read_text())
    digest = hashlib.sha256(json.dumps([manifest["files"], inits.tolist(), leads.tolist()], sort_keys=True).encode())
    for row in np.unique(rows_IT):
        digest.update(states.read([row]).astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _write_batch(forecaster: Forecaster, states: States, rows_BT: NDArray[np.int64], inits: NDArray[np.int64], chosen: Sequence[int], num_steps: int,
                 writer: ForecastWriter) -> Iterator[int]:
    """Write the forecasts of some inits; yields each step after it is written, the last one after they are marked finished."""
    history = torch.from_numpy(np.stack([states.read(rows) for rows in rows_BT])).to(forecaster.area_weights_HW.device)
    for state in rollout(forecaster, history, inits, num_steps):
        fields = state.fields_BCHW.cpu().numpy()
        if not np.isfinite(fields).all():
            channel = next(n for n, v in zip(forecaster.channels.shorts, np.moveaxis(fields, 1, 0), strict=True) if not np.isfinite(v).all())
            before = f"leads up to {format_duration(state.lead_seconds - forecaster.time_step)}" if state.step > 1 else "no leads"
            raise DivergenceError(f"the forecast diverged: {channel} is not finite at lead {format_duration(state.lead_seconds)}",
                                  where=f"init {', '.join(format_instant(int(s), forecaster.calendar) for s in inits)}",
                                  fix=f"{before} are written; use a shorter --lead-time")
        for row, init_index in enumerate(chosen):
            writer.write(init_index, state.step - 1, fields[row])
        if state.step == num_steps:
            for init_index in chosen:
                writer.finish_init(init_index)
        yield state.step


def _model_name(model: Path) -> str:
    title = (Path(model) / model_folder.CARD).read_text().splitlines()[:1]
    return title[0].removeprefix("# ").strip() if title else Path(model).name
