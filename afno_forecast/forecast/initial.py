"""Where forecasts start: init times, the analyses that the model reads, and what is checked of them before the first step."""

# B batch, I init time, T history, C channel, H latitude row, W longitude column

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import model_folder
from ..channels import ChannelSet
from ..data.sources import open_source
from ..data.states import States, open_states
from ..data.store import Store, is_store
from ..errors import ConfigError, DataError
from ..forecaster import Forecaster, cells_as_one
from ..grid import Grid, LatLonGrid
from ..nn.legacy import LegacyBackbone, LegacyConfig
from ..times import format_duration, format_instant, parse_duration, parse_instant

Data = Path | Sequence[Path]
REFUSED_RMS, NOTED_RMS = 8.0, 4.0  # standard deviations of training: the map's root mean square distance from the mean of training


def select_inits(text: str, states: States, *, history: int, time_step: int) -> NDArray[np.int64]:
    """Init times of `first`, `last`, an ISO date, or START/END/STEP (12h, 1d, 1y); seconds since 1970 in the data's calendar.

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
    start, end = parse_instant(parts[0], calendar), parse_instant(parts[1], calendar)
    if end < start:
        raise ConfigError(f"'{text}' ends before it starts", fix="write START/END/STEP with the earlier date first")
    if re.fullmatch(r"[1-9]\d{0,3}y", parts[2]):
        return _yearly(parts[0], end, int(parts[2][:-1]), calendar)
    return np.arange(start, end + 1, parse_duration(parts[2]), dtype=np.int64)


def _yearly(first: str, end: int, years: int, calendar: str) -> NDArray[np.int64]:
    """The same date every so many years up to `end`, such as the starts of trajectories, which have a year each. Raises ConfigError."""
    year, rest = first.split("-", 1)
    count = (int(format_instant(end, calendar).split("-")[0]) - int(year)) // years
    seconds = [parse_instant(f"{int(year) + n * years:04d}-{rest}", calendar) for n in range(count + 1)]
    return np.asarray([s for s in seconds if s <= end], dtype=np.int64)


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


_OTHER_GRID = ", or add --other-grid to step the network on the data's own"


def require_fit(forecaster: Forecaster, states: States) -> None:
    """Raise DataError unless the data are on the model's grid and calendar."""
    if not forecaster.grid.matches(states.grid):
        portable = not isinstance(forecaster.backbone, LegacyBackbone)
        raise DataError(f"the model was trained on {forecaster.grid.describe()}; the data are on {states.grid.describe()}",
                        fix=_fix_of_grid(forecaster.grid, states.grid) + (_OTHER_GRID if portable else ""))
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


def load_on_other_grid(model: Path, data: Data, states: States, echo: Callable[[str], None]) -> Forecaster:
    """The forecaster of a model folder on the data's grid: forcings, static fields and area weights are the data's, statistics the training's.

    Raises:
        DataError: the network belongs to one grid, or the data lack its static fields.
    """
    config, inputs = model_folder.read_model_config(model), model_folder.read_inputs(model)
    if isinstance(config.backbone, LegacyConfig):
        raise DataError(f"this network has a position table for {inputs.grid.describe()} and runs on no other grid; the data are on "
                        f"{states.grid.describe()}", where=str(model), fix="give data on the model's grid")
    fields = open_states(data, states.channels, static_channels(model, data)).static()
    echo(f"note: the model was trained on {inputs.grid.describe()} and runs on {states.grid.describe()}, which it has not seen: nothing is known "
         "of its skill there")
    if not (isinstance(states.grid, LatLonGrid) and states.grid.is_global):
        echo("note: a limited area has no neighbours: what should come in over its edges is made up, and spoils the forecast from there")
    rows, columns = cells_as_one(states.grid, inputs.grid)
    if (rows, columns) != (1, 1):
        echo(f"note: the network reads the mean of every {rows} x {columns} cells ({_size(states.grid, rows, columns)}) as one of those it was "
             f"trained with ({_size(inputs.grid)}), and moves nothing smaller")
    return model_folder.load(model, on=(states.grid, dict(zip(inputs.static, fields, strict=True))))


def _size(grid: Grid, rows: int = 1, columns: int = 1) -> str:
    """Of so many cells, in degrees or in the unit of the coordinates."""
    height, width = (number * length / count for number, length, count in zip((rows, columns), grid.lengths, grid.shape, strict=True))
    return f"{height:.3g} x {width:.3g}{' degrees' if isinstance(grid, LatLonGrid) else ''}"


def static_channels(model: Path, data: Data) -> ChannelSet:
    """The static fields of a model folder as the data have them, in the model's order. Raises DataError where they are missing."""
    names = list(model_folder.read_inputs(model).static)
    if not names:
        return ChannelSet(())
    there = Store.open(data).static_channels if isinstance(data, str | Path) and is_store(data) else open_source(data).static
    return there.select(names)


def check_states(forecaster: Forecaster, states: States, rows: NDArray[np.int64], echo: Callable[[str], None]) -> str:
    """Read every state that forecasts start from, one at a time, before anything is written.

    Returns:
        a hash of the states.

    Raises:
        DataError: a missing value, or a map so far from the training's that it cannot be the same quantity.
    """
    digest, mean, std = hashlib.sha256(), *(getattr(forecaster.normalizer, f"{n}_C").double().cpu().numpy() for n in ("mean", "std"))
    moving = np.asarray([name not in forecaster.normalizer.constant for name in forecaster.channels.shorts])
    weights = forecaster.area_weights_HW.double().cpu().numpy()
    noted: set[int] = set()
    for row in np.unique(rows):
        state = states.read([int(row)]).astype("<f4", copy=False)
        digest.update(state.tobytes())
        scores = (state[0].astype(np.float64) - mean[:, None, None]) / std[:, None, None]
        rms_C = np.sqrt((scores**2 * weights).sum(axis=(1, 2)) / weights.sum()) * moving
        for c in np.flatnonzero(rms_C > NOTED_RMS):
            text = (f"{forecaster.channels.shorts[c]} of {states.times.format(int(row))} lies {rms_C[c]:.0f} standard deviations from the training's "
                    f"mean (the map: {state[0, c].min():.4g} to {state[0, c].max():.4g}; training: {mean[c]:.4g} +- {std[c]:.3g} "
                    f"{forecaster.channels.channels[c].units})")
            if rms_C[c] > REFUSED_RMS:
                raise DataError(f"{text}: it cannot be the same quantity", where=states.where, fix="check its units and its level")
            if c not in noted:
                noted.add(int(c))
                echo(f"note: {text}")
    return digest.hexdigest()
