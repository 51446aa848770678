"""What a path given on the command line holds, and opening it for drawing, describing and scoring."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from . import model_folder, model_summary
from .channels import ChannelSet
from .data.inspect import format_inspection, inspect
from .data.named import store_dataset
from .data.sources import open_source
from .data.sources_notes import tell
from .data.store import Store, is_store
from .documents import load_document
from .errors import ConfigError, DataError, printable
from .times import TimeAxis, format_duration, format_instant, thinned
from .verify.evaluate import evaluate
from .verify.forecasts import forecast_channels, forecast_grid, open_forecast
from .verify.score_file import check_scores_path, default_name, format_table, write_scores
from .verify.settings import ScoreSettings
from .verify.truth import open_truth

LEAD = "prediction_timedelta"
"""The coordinate of a forecast's lead times on disk."""
_MOST_ROWS = 12


def is_forecast(path: Path) -> bool:
    """Whether a zarr store or netCDF file has lead times."""
    if path.is_dir():
        return (path / LEAD).is_dir()
    if path.suffix not in {".nc", ".nc4"}:
        return False
    import netCDF4

    try:
        with netCDF4.Dataset(path) as file:
            return LEAD in file.variables
    except OSError:
        return False  # what is wrong with the file is told by who reads it as a source


def open_fields(paths: Sequence[Path], echo: Callable[[str], None] | None = None) -> xr.Dataset:
    """A forecast, a training store or any source, lazily, as one dataset of canonical names; `echo` gets every note on a source.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    if len(paths) == 1 and is_store(paths[0]):
        return store_dataset(Store.open(paths[0]))
    if len(paths) == 1 and is_forecast(paths[0]):
        return open_forecast(paths[0])
    source = open_source(list(paths))
    if echo is not None:
        for line in tell(source.notes):
            echo(f"note: {line}")
    return source.dataset.assign_attrs(source.attrs)


def describe(path: Path) -> str:
    """Readable account of whatever lies at a path. Raises DataError, CheckpointError."""
    if not path.exists():
        raise DataError("there is nothing at this path", where=str(path), fix="give a model folder, run folder, store, forecast or data file")
    if (path / model_folder.MANIFEST).is_file():
        return model_summary.describe(path)
    if (path / "model" / model_folder.MANIFEST).is_file():
        return f"run folder; its best model is {path / 'model'}\n{model_summary.describe(path / 'model')}"
    if is_store(path):
        return _account([*_store_lines(Store.open(path)), f"chunks      not read; to check every one: afno-forecast data inspect {path}"])
    if is_forecast(path):
        return _describe_forecast(path)
    return format_inspection(inspect(path))


def check_store(path: Path) -> tuple[str, bool]:
    """(account of a training store after every chunk was read, whether all are sound). Raises DataError when it cannot be opened."""
    store = Store.open(path)
    problems = store.verify()
    chunks = [f"BAD CHUNKS  {len(problems)}: restore the store from a copy, or delete it and build it again", *(f"  {p}" for p in problems)]
    if not problems:
        chunks = ["chunks      every one read, none missing or damaged"]
    return _account([f"{path}", *_store_lines(store), *chunks]), not problems


def _store_lines(store: Store) -> list[str]:
    first, last = store.statistics.period
    calendar = store.times.calendar
    lines = ["training store", f"grid        {store.grid.describe()}", f"times       {store.describe_period()}", f"calendar    {calendar}",
             f"time step   {format_duration(store.time_step)}",
             f"statistics  of {format_instant(first, calendar)} to {format_instant(last, calendar)}",
             f"climatology {'day of year and hour' if store.climatology() is not None else 'none'}",
             f"static      {', '.join(store.static_channels.shorts) or 'none'}"]
    return [*lines, *_channel_lines(store.channels), *(f"note        {note}" for note in store.notes)]


def _describe_forecast(path: Path) -> str:
    ds = open_forecast(path)
    inits = TimeAxis.from_xarray(ds["time"])
    leads = (ds[LEAD].values / np.timedelta64(1, "s")).astype(int)
    times = inits.format(0) if len(inits) == 1 else f"{len(inits)} from {inits.format(0)} to {inits.format(-1)}"
    lines = ["forecast", f"model       {ds.attrs.get('model', ds.attrs.get('title', 'not said'))}", f"grid        {forecast_grid(ds).describe()}",
             f"starts      {times}", f"leads       {len(leads)} from {format_duration(int(leads[0]))} to {format_duration(int(leads[-1]))}"]
    return _account([*lines, *_channel_lines(forecast_channels(ds))])


def _account(lines: Sequence[str]) -> str:
    """Lines of which none can be made to hold another one: they tell what a file says of itself."""
    return "\n".join(printable(line) for line in lines)


def _channel_lines(channels: ChannelSet) -> list[str]:
    return [f"{'channel':<34}{'short':<10}units", *(f"{c.name:<34}{c.short:<10}{c.units}" for c in channels)]


def score(forecast: Path, truths: Sequence[Path], out: Path, *, climatology: Path | None = None, against: Sequence[Path] = (),
          leads: Sequence[int] | None = None, settings: ScoreSettings | None = None, fill_absent: bool = False) -> Iterator[str]:
    """Score a forecast and write the scores; yields the lines to print. See `evaluate`."""
    if out.suffix != ".nc" and not out.is_dir():
        raise ConfigError(f"'{out}' is neither a .nc file nor a folder", where="--out", fix=f"write --out {out.with_suffix('.nc')}")
    inputs = [forecast, *truths, *against, *([climatology] if climatology else [])]
    if not out.is_dir():
        check_scores_path(out, inputs)
    ds = open_forecast(forecast)
    truth, references = open_truth(truths, forecast_channels(ds), climatology, fill_absent=fill_absent)
    if out.is_dir():
        years = np.unique(ds["time"].dt.year.values)
        year = str(years[0]) if len(years) == 1 else f"{years[0]}-{years[-1]}"
        out = out / default_name(str(ds.attrs.get("model", forecast.stem)), truths[0].stem, truth.grid, year)
        check_scores_path(out, inputs)
    logging.getLogger("afno_forecast.verify").addHandler(logging.NullHandler())  # its notes are printed below the table
    scores = evaluate(ds, truth, references=references, settings=settings, against=against, leads=leads)
    written = write_scores(scores, out)
    every = scores["lead_time"].values.astype("timedelta64[s]").astype(np.int64).tolist()
    shown = thinned(every, _MOST_ROWS) if leads is None else every
    yield format_table(scores, _shown(truth.channels), shown)
    if len(shown) < len(every):
        yield f"{len(shown)} of {len(every)} lead times are shown (--leads chooses); the files hold all"
    yield from (f"note: {note}" for note in truth.notes)
    if references.climatology is None:
        yield "for ACC and scores of climatology give --climatology STORE"
    yield from (str(path) for path in written)


def _shown(channels: ChannelSet) -> tuple[str, ...]:
    """Channels of the printed table: the customary ones, or the first four."""
    customary = tuple(n for n in ("z500", "t850", "u250", "t2m") if n in channels.shorts)
    return customary or channels.shorts[:4]


def open_scores(path: Path) -> xr.Dataset:
    """A score file. Raises DataError when it cannot be read."""
    try:
        return xr.open_dataset(path, decode_timedelta=True, engine="netcdf4")
    except (OSError, ValueError) as error:
        raise DataError("not a score file that can be read", where=str(path),
                        fix="make one: afno-forecast evaluate FORECAST --truth STORE --out scores.nc") from error


def model_card(folder: Path) -> dict[str, object]:
    """What a model folder says of itself, for a report: its account and its resolved experiment. Raises CheckpointError."""
    return {**model_summary.card_facts(folder), "experiment": load_document(folder / model_folder.CONFIG).values}
