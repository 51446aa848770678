"""Build a training store: one pass over the source in blocks of one shard, one pass over the store for the climatology.

Whatever is finished is marked on disk; a build killed at any moment goes on with the same call and ends with the same bytes. Several
processes may each build a part; new dates are appended to a finished store without reading the old sources.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..config import Strict
from ..errors import ConfigError, ResourceError
from ..signals import StopFlag
from ..times import parse_duration, parse_instant
from . import layout as disk
from .blocks import BlockReader
from .build_append import Continued, continue_plan, require_later, require_whole_sums, settle_swap, swap
from .build_steps import Builder, Progress
from .build_workspace import Share, check_target, difference, work_folder, workspace
from .derive import SUM, SUMMED
from .plan import Plan, StoreSettings, folders_of, make_plan
from .regrid import RegridConfig, regrid
from .sources import Source, open_source
from .sources_files import expand_paths, small_chunk_caches
from .sources_notes import tell
from .store import Store, is_store

__all__ = ["BuildRecipe", "Share", "StatisticsPeriod", "append_to_store", "build_store", "check_target", "run_part", "run_recipe"]

Echo = Callable[[str], None]


class StatisticsPeriod(Strict):
    """The period that statistics and climatology describe: the training period."""

    start: str
    """First instant, ISO date."""
    end: str
    """Last instant, ISO date, inclusive."""


class BuildRecipe(Strict):
    """One training store."""

    sources: tuple[str, ...]
    """Files or folders, read together as one record."""
    channels: tuple[str, ...] | None = None
    """Channels, by any name (`z500`, `t2m`); all that vary in time when left out."""
    static: tuple[str, ...] | None = None
    """Static fields; all constant ones when left out."""
    statistics: StatisticsPeriod | None = None
    """Training period; the whole record when left out."""
    period: str | None = None
    """START/END of what is kept, ISO dates, both inclusive; the whole record when left out."""
    time_step: str | None = None
    """Time step of the model, such as `6h`; the record's most common step when left out."""
    climatology: bool = True
    """Whether the store carries a climatology."""
    round_bits: int | None = None
    """Mantissa bits to keep, 1 to 23; all when left out."""
    fill: dict[str, float] = Field(default_factory=dict)
    """Value for missing cells by variable, in its canonical units."""
    boundary: Literal["periodic", "open"] | None = None
    """How a box continues over its edges, where its files do not say."""
    derive: tuple[str, ...] = ()
    """Channels made of others: wind_speed, 10m_wind_speed, 100m_wind_speed, total_precipitation_6hr (the sum of shorter accumulations)."""
    regrid: RegridConfig | None = None
    """Another global grid; the files' own when left out."""
    absent_chunks: Literal["refuse", "fill"] = "refuse"
    """Chunks that a zarr source lacks: an error, or filled with the array's fill value because the writer left out chunks that hold only it."""


def run_recipe(recipe: BuildRecipe, out: Path, *, finish: bool = False, allow_remote: Sequence[str] = (), progress: Progress | None = None,
               echo: Echo | None = None) -> Store:
    """Build the store a recipe describes, or finish one whose parts are built; see `build_store`.

    Args:
        recipe: what is built.
        out: the store's folder.
        finish: refuse to read what parts have not built (ConfigError names them), instead of building it.
        allow_remote: schemes of remote zarr stores that may be opened.
        progress: see `build_store`.
        echo: gets every note on the source before fields are read, the others at the end.
    """
    echo = echo or (lambda text: None)
    check_target(out)
    source, plan = _resolve(recipe, out, echo, allow_remote)
    store = _build(source, plan, out, finish=finish, progress=progress)
    told = tell(source.notes, folders_of(source))
    for line in store.notes:
        if line not in told:
            echo(line)
    return store


def run_part(recipe: BuildRecipe, out: Path, share: Share, *, allow_remote: Sequence[str] = (), progress: Progress | None = None,
             echo: Echo | None = None) -> None:
    """Build one part of the store a recipe describes, while other processes build theirs; `run_recipe` then finishes it. Raises as `build_store`."""
    check_target(out)
    source, plan = _resolve(recipe, out, echo or (lambda text: None), allow_remote)
    if is_store(out):
        _require_same_recipe(Store.open(out), plan)
        return
    reader = BlockReader(source, plan.channels, plan.static, fill=plan.fill, round_bits=plan.round_bits)
    with _disk_full(plan, out), workspace(out, plan, share) as work, small_chunk_caches(), StopFlag() as stop:
        Builder(reader, plan, work, progress=progress, stop=stop).run_part(share)


def _resolve(recipe: BuildRecipe, out: Path, echo: Echo, allow_remote: Sequence[str]) -> tuple[Source, Plan]:
    """The source of a recipe and what is built from it; the source's notes are told."""
    step = None if recipe.time_step is None else parse_duration(recipe.time_step)
    files = expand_paths(recipe.sources, allow_remote, output=out)
    source = open_source(files, channels=recipe.channels, static=recipe.static, derive=recipe.derive,
                         fill_absent=recipe.absent_chunks == "fill", boundary=recipe.boundary, allow_remote=allow_remote)
    source = source if recipe.period is None else _within(source, recipe.period)
    source = source if recipe.regrid is None else regrid(source, recipe.regrid)
    for line in tell(source.notes):
        echo(line)
    period = None
    if recipe.statistics is not None:
        calendar = source.times.calendar
        period = (parse_instant(recipe.statistics.start, calendar), parse_instant(recipe.statistics.end, calendar))
    plan = make_plan(source, StoreSettings(recipe.channels, recipe.static, period, step, recipe.climatology, recipe.round_bits, recipe.fill))
    more = {"period": recipe.period, "derive": list(recipe.derive), "regrid": None if recipe.regrid is None else recipe.regrid.model_dump(),
            "boundary": recipe.boundary, "absent_chunks": "fill" if recipe.absent_chunks == "fill" else None}
    return source, replace(plan, recipe=plan.recipe | {key: value for key, value in more.items() if value})


def _within(source: Source, period: str) -> Source:
    """The part of a record between two dates. Raises ConfigError when it holds no time."""
    first, slash, last = period.partition("/")
    if not slash:
        raise ConfigError(f"'{period}' is no period", where="period", fix="write START/END, for example 2000-01-01/2009-12-31T18")
    start, end = (parse_instant(text, source.times.calendar) for text in (first, last))
    inside = np.flatnonzero((source.times.seconds >= start) & (source.times.seconds <= end))
    if not len(inside):
        raise ConfigError(f"the period {period} holds no time of the record", where="period", fix="choose another")
    numbers = None if source.trajectories is None else source.trajectories[inside]
    return replace(source, dataset=source.dataset.isel(time=slice(int(inside[0]), int(inside[-1]) + 1)), times=source.times.at(inside),
                   trajectories=numbers)


def build_store(source: Source, out: Path, settings: StoreSettings | None = None, *, progress: Progress | None = None) -> Store:
    """Build a training store, or finish one that was interrupted.

    Args:
        source: the record, canonical names, units and order.
        out: the store's folder; appears only when everything is written.
        settings: what the store holds, and how it is laid out; all of the source by default.
        progress: called with blocks done, blocks in all, and what is being done.

    Raises:
        ConfigError: the output is finished, or half finished, by another recipe; a period or fill that does not fit.
        DataError: a channel is missing, missing values without a fill, a file that cannot be read.
        ResourceError: the output cannot be written, or the disk is too small.
        Stopped: a signal came; every finished part is kept.
    """
    check_target(out)
    return _build(source, make_plan(source, settings or StoreSettings()), out, progress=progress)


def _build(source: Source, plan: Plan, out: Path, *, finish: bool = False, progress: Progress | None = None) -> Store:
    if is_store(out):
        store = Store.open(out)
        _require_same_recipe(store, plan)
        shutil.rmtree(work_folder(out), ignore_errors=True)
        return store
    reader = BlockReader(source, plan.channels, plan.static, fill=plan.fill, round_bits=plan.round_bits)
    with _disk_full(plan, out), workspace(out, plan) as work, small_chunk_caches(), StopFlag() as stop:
        builder = Builder(reader, plan, work, progress=progress, stop=stop)
        if finish:
            builder.require_blocks()
        builder.run()
        (work / "store").replace(out)
        disk.flush([out.absolute().parent])
    shutil.rmtree(work_folder(out))
    return Store.open(out)


def append_to_store(out: Path, sources: Sequence[str], *, progress: Progress | None = None, echo: Echo | None = None) -> Store:
    """Add later dates to a finished store; everything else stays as its recipe says.

    States, statistics and climatology become those of a store built at once from old and new sources with the same statistics period,
    byte for byte; the old sources are not needed. Interrupted, the same call continues; until the end the old store stays as it is.

    Args:
        out: the store.
        sources: files or folders of later dates; the store's channels, units, grid and calendar.
        progress, echo: see `run_recipe`.

    Raises:
        DataError: dates that are not later, another grid or calendar, a channel that is missing, sums that need earlier hours.
        ConfigError, ResourceError, Stopped: as `build_store`.
    """
    settle_swap(out, work_folder(out))
    store = Store.open(out)
    recipe = store.attrs["recipe"]
    opened = partial(open_source, expand_paths(sources, output=out), static=(), fill_absent=recipe.get("absent_chunks") == "fill",
                     boundary=recipe.get("boundary"))
    source = opened(channels=store.channels.names, derive=recipe.get("derive", ()))
    target = recipe.get("regrid")
    source = source if target is None else regrid(source, RegridConfig.model_validate(target))
    for line in tell(source.notes):
        (echo or (lambda text: None))(line)
    if not require_later(store, source):
        return store
    if SUM in store.channels.names and all(found.variable != SUM for found in source.findings):
        require_whole_sums(store, source, opened(channels=(SUMMED,)))
    plan = continue_plan(store, source)
    reader = BlockReader(source, plan.channels, plan.static, fill=plan.fill, round_bits=plan.round_bits)
    states = Continued(store, reader, plan)
    with _disk_full(plan, out), workspace(out, plan) as work, small_chunk_caches(), StopFlag() as stop:
        if Store.open(out).attrs["recipe"] != recipe:
            shutil.rmtree(work)
            raise ConfigError("the store changed meanwhile: another process added to it", where=str(out), fix="run the same command again")
        Builder(states, plan, work, progress=progress, stop=stop, reuse=states.reuse).run()
        swap(out, work)
        shutil.rmtree(work)  # while it is locked: after that it may be another's
    return Store.open(out)


def _require_same_recipe(store: Store, plan: Plan) -> None:
    if other := difference(store.attrs.get("recipe"), plan.recipe):
        raise ConfigError(f"the store exists, built from another recipe ({other})", where=str(store.path),
                          fix="choose another name, or delete the store")


@contextmanager
def _disk_full(plan: Plan, out: Path) -> Iterator[None]:
    """A full disk in words. Raises ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(f"the disk is full; the store needs up to {plan.need_bytes / 1e6:.0f} MB", where=str(out.absolute().parent),
                            fix="free space and run the same command again; it continues") from error
