"""Build a training store: one pass over the source in blocks of one shard, one pass over the store for the climatology.

Whatever is finished is marked on disk; a build killed at any moment goes on with the same call and ends with the same bytes.
"""

# T time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .. import __version__
from ..config import Strict
from ..errors import ConfigError, DataError, ResourceError, Stopped
from ..signals import StopFlag
from ..times import common_step, format_duration, format_instant, missing_instants, parse_duration, parse_instant
from . import layout as disk
from .blocks import BlockReader
from .climatology import NUM_DAYS, pool_days, smooth_days, year_length
from .layout import CHUNK_BYTES, SHARD_BYTES
from .plan import Plan, folders_of, make_plan, period_text
from .provenance import provenance, simulated_text
from .reader import BadChunk, ChunkedArray
from .sources import Source, open_source
from .sources_files import small_chunk_caches
from .sources_notes import tell
from .sources_trajectories import FIRST_YEAR
from .statistics import Moments, PartialStatistics, Statistics
from .store import FORMAT_VERSION, MARK, Store, is_store

Progress = Callable[[int, int, str], None]
_MAX_LISTED = 10_000


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
    absent_chunks: Literal["refuse", "fill"] = "refuse"
    """Chunks that a zarr source lacks: an error, or filled with the array's fill value because the writer left out chunks that hold only it."""


def run_recipe(recipe: BuildRecipe, out: Path, *, progress: Progress | None = None, echo: Callable[[str], None] | None = None) -> Store:
    """Build the store a recipe describes; see `build_store`. `echo` gets every note on the source before fields are read, the others at the end."""
    echo = echo or (lambda text: None)
    check_target(out)
    step = None if recipe.time_step is None else parse_duration(recipe.time_step)
    source = open_source(recipe.sources, fill_absent=recipe.absent_chunks == "fill", boundary=recipe.boundary)
    for line in tell(source.notes):
        echo(line)
    period = None
    if recipe.statistics is not None:
        calendar = source.times.calendar
        period = (parse_instant(recipe.statistics.start, calendar), parse_instant(recipe.statistics.end, calendar))
    store = build_store(source, out, channels=recipe.channels, static=recipe.static, statistics_period=period, time_step=step,
                        climatology=recipe.climatology, round_bits=recipe.round_bits, fill=recipe.fill, progress=progress)
    told = tell(source.notes, folders_of(source))
    for line in store.notes:
        if line not in told:
            echo(line)
    return store


def check_target(out: Path) -> None:
    """Say before any data are read that a store cannot be written there. Raises ResourceError."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise ResourceError(f"the folder '{parent}' does not exist", where=str(out), fix=f"mkdir -p '{parent}'")
    if out.exists() and not is_store(out):
        raise ResourceError("the output exists and is not a training store", where=str(out), fix="choose another name, or move it away")
    if not is_store(out) and not _work_folder(out).is_dir():
        try:
            _work_folder(out).mkdir()
            _work_folder(out).rmdir()
        except OSError as error:
            raise ResourceError(f"cannot write into '{parent}' ({error.strerror})", where=str(out), fix="choose another folder") from error


def build_store(source: Source, out: Path, *, channels: Sequence[str] | None = None, static: Sequence[str] | None = None,
                statistics_period: tuple[int, int] | None = None, time_step: int | None = None, climatology: bool = True,
                round_bits: int | None = None, fill: Mapping[str, float] | None = None, progress: Progress | None = None,
                shard_bytes: int = SHARD_BYTES, chunk_bytes: int = CHUNK_BYTES) -> Store:
    """Build a training store, or finish one that was interrupted.

    Args:
        source: the record, canonical names, units and order.
        out: the store's folder; appears only when everything is written.
        channels: channels to keep, in this order; None for all that vary in time.
        static: static fields to keep; None for all constant ones.
        statistics_period: first and last instant of statistics and climatology, seconds, inclusive; None for the whole record.
        time_step: seconds of a model step; None for the record's most common step.
        climatology: whether to add a climatology.
        round_bits: mantissa bits to keep (1 to 23), rounding to nearest; None for all.
        fill: value for missing cells by variable.
        progress: called with blocks done, blocks in all, and what is being done.
        shard_bytes: decoded bytes of a shard.
        chunk_bytes: decoded bytes of a chunk.

    Raises:
        ConfigError: the output is finished, or half finished, by another recipe; a period or fill that does not fit.
        DataError: a channel is missing, missing values without a fill, a file that cannot be read.
        ResourceError: the output cannot be written, or the disk is too small.
        Stopped: a signal came; every finished part is kept.
    """
    check_target(out)
    plan = make_plan(source, channels=channels, static=static, statistics_period=statistics_period, time_step=time_step, climatology=climatology,
                     round_bits=round_bits, fill=fill, layout_bytes=(shard_bytes, chunk_bytes))
    if is_store(out):
        store = Store.open(out)
        if store.attrs.get("recipe") != plan.recipe:
            raise ConfigError(f"the store exists, built from another recipe ({_difference(store.attrs.get('recipe'), plan.recipe)})", where=str(out),
                              fix="choose another name, or delete the store")
        shutil.rmtree(_work_folder(out), ignore_errors=True)
        return store
    try:
        with _workspace(out, plan) as work, small_chunk_caches(), StopFlag() as stop:
            _Builder(source, plan, work, progress, stop).run()
            (work / "store").replace(out)
            disk.flush([out.absolute().parent])
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(f"the disk is full; the store needs up to {plan.need_bytes / 1e6:.0f} MB", where=str(out.absolute().parent),
                            fix="free space and run the same command again; it continues") from error
    shutil.rmtree(_work_folder(out))
    return Store.open(out)


def _difference(old: Any, new: dict[str, Any]) -> str:
    old = old if isinstance(old, dict) else {}
    return "other " + ", ".join(key for key in new if old.get(key) != new[key])


def _work_folder(out: Path) -> Path:
    return out.absolute().with_name(out.name + ".partial")


@contextmanager
def _workspace(out: Path, plan: Plan) -> Iterator[Path]:
    """The folder beside the output where the build happens: locked, of this recipe, with room for the rest."""
    work = _work_folder(out)
    work.mkdir(exist_ok=True)
    with (work / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("another process is building this store", where=str(work), fix="wait for it") from error
        mark = work / "recipe.json"
        recipe = {"version": __version__, **plan.recipe}
        if mark.exists():
            old = json.loads(mark.read_text(encoding="utf-8"))
            if old != recipe:
                raise ConfigError(f"an unfinished build of another recipe is in the way ({_difference(old, recipe)})", where=str(work),
                                  fix=f"rm -r '{work}'")
        _check_room(work, plan)
        if not mark.exists():
            shutil.rmtree(work / "store", ignore_errors=True)
            (work / "store").mkdir()
            disk.create_states(work / "store", plan.layout, plan.grid.axes)
            if len(plan.hours):
                disk.create_climatology(work / "store", plan.layout, len(plan.hours), plan.grid.axes)
            disk.write_text(mark, json.dumps(recipe, indent=1))
        for leftover in (work / "store").rglob("*.partial"):
            leftover.unlink()
        yield work


def _check_room(work: Path, plan: Plan) -> None:
    done = sum(p.stat().st_size for p in work.rglob("*") if p.is_file())
    free = shutil.disk_usage(work).free
    if plan.need_bytes - done > free:
        raise ResourceError(f"the store needs up to {(plan.need_bytes - done) / 1e6:.0f} MB, {free / 1e6:.0f} MB are free", where=str(work.parent),
                            fix="free space, choose another disk, fewer channels, or `climatology: false`")


class _Builder:
    """One build in its working folder."""

    def __init__(self, source: Source, plan: Plan, work: Path, progress: Progress | None, stop: StopFlag) -> None:
        self._plan = plan
        self._stop = stop
        self._work = work
        self._root = work / "store"
        self._blocks = BlockReader(source, plan.channels, plan.static, fill=plan.fill, round_bits=plan.round_bits)
        self._source_attrs = source.attrs
        self._progress = progress or (lambda done, total, what: None)
        self._states = ChunkedArray(self._root / "state")
        self._total = plan.layout.num_shards + len(plan.hours) * plan.layout.num_groups

    def run(self) -> None:
        """Everything, in order; finished parts are passed over."""
        plan = self._plan
        statistics = self._pass_over_source().finalize(plan.period)
        disk.write_coordinates(self._root, plan.times, plan.grid, plan.channels, plan.static)
        if plan.trajectories is not None:
            disk.write_small(self._root, "trajectory", plan.trajectories, ("time",), {"long_name": "number of the trajectory"})
        disk.write_statistics(self._root, statistics)
        if len(plan.static):
            disk.write_static(self._root, self._blocks.read_static(), plan.grid.axes)
        if len(plan.hours):
            disk.write_small(self._root, "dayofyear", np.arange(1, NUM_DAYS + 1), ("dayofyear",), {"long_name": "day of year"})
            disk.write_small(self._root, "hour", plan.hours, ("hour",), {"long_name": "hour of the day, UTC"})
            self._pass_over_store()
        disk.write_group(self._root, self._attributes(statistics))
        disk.flush(p for p in self._root.rglob("*") if p.is_file())

    def _stop_if_asked(self, done: int) -> None:
        if self._stop.name:
            raise Stopped(f"stopped by {self._stop.name} after {done} of {self._total} parts; they are kept", where=str(self._work),
                          fix="run the same command again; it continues")

    def _pass_over_source(self) -> PartialStatistics:
        layout = self._plan.layout
        merged = PartialStatistics.empty(layout.num_channels)
        array = disk.open_array(self._root, "state")
        for number in range(layout.num_shards):
            self._progress(number, self._total, "reading the source")
            self._stop_if_asked(number)
            saved = self._work / f"block-{number:06d}.npz"
            shard = self._root / "state" / "c" / str(number) / "0" / "0" / "0"
            if not (saved.exists() and shard.exists()):
                saved.unlink(missing_ok=True)
                shard.unlink(missing_ok=True)
                block = self._blocks.read(layout.block(number))
                array[layout.block(number)] = block
                disk.flush([shard])
                self._partial(block, layout.block(number).start).save(saved)
            merged = merged.merge(PartialStatistics.load(saved))
        self._progress(layout.num_shards, self._total, "reading the source")
        return merged

    def _partial(self, block: NDArray[np.float32], first: int) -> PartialStatistics:
        """What a block adds: its states inside the period, and the differences over one time step that end in it."""
        plan = self._plan
        areas = plan.grid.area_weights()
        seconds = plan.times.seconds
        mine = np.arange(first, first + len(block))
        inside = (seconds[mine] >= plan.period[0]) & (seconds[mine] <= plan.period[1])
        earlier = np.minimum(np.searchsorted(seconds, seconds[mine] - plan.time_step), len(seconds) - 1)
        paired = inside & (seconds[earlier] == seconds[mine] - plan.time_step) & (seconds[earlier] >= plan.period[0])
        state = Moments.of(block if inside.all() else block[inside], areas)
        difference = np.empty((int(paired.sum()), *block.shape[1:]), np.float32)
        for row, (now, before) in enumerate(zip(mine[paired], earlier[paired], strict=True)):
            past = block[before - first] if before >= first else self._stored(int(before))
            np.subtract(block[now - first], past, out=difference[row])
        return PartialStatistics(state, Moments.of(difference, areas))

    def _stored(self, time: int) -> NDArray[np.float32]:
        """A state of an earlier, finished shard; (C, H, W)."""
        groups = [self._chunk(time, g) for g in range(self._plan.layout.num_groups)]
        return groups[0] if len(groups) == 1 else np.concatenate(groups)

    def _chunk(self, time: int, group: int) -> NDArray[np.float32]:
        channels = self._plan.layout.group(group)
        try:
            chunk: NDArray[np.float32] = self._states.read_chunk((time, group, 0, 0))[0, :channels.stop - channels.start]
        except BadChunk as bad:
            raise DataError(f"a chunk written before {bad.reason}: {self._plan.times.format(time)}", where=str(bad.file),
                            fix=f"rm -r '{self._work}' and build again") from bad
        return chunk

    def _pass_over_store(self) -> None:
        layout, done = self._plan.layout, self._plan.layout.num_shards
        for hour in range(len(self._plan.hours)):
            for group in range(layout.num_groups):
                self._progress(done, self._total, "climatology")
                self._stop_if_asked(done)
                mark = self._work / f"climatology-{hour:02d}-{group:04d}"
                if not mark.exists():
                    self._write_climatology(hour, group)
                    disk.write_text(mark, "")
                done += 1
        self._progress(done, self._total, "climatology")

    def _write_climatology(self, hour: int, group: int) -> None:
        plan, layout = self._plan, self._plan.layout
        times, period = plan.times, plan.period
        chosen = np.flatnonzero((times.seconds >= period[0]) & (times.seconds <= period[1]) & (times.second_of_day() == plan.hours[hour] * 3600))
        members, circle = pool_days(times.at(chosen))
        channels = layout.group(group)
        shape = (channels.stop - channels.start, *layout.shape)

        def day_sum(day: int) -> tuple[NDArray[np.float64], int]:
            total = np.zeros(shape)
            for position in members.get(day + 1, ()):
                total += self._chunk(int(chosen[position]), group)
            return total, len(members.get(day + 1, ()))

        array = disk.open_array(self._root, "climatology")
        folder = self._root / "climatology" / "c"
        buffer = np.full((layout.days_per_shard, *shape), np.nan, np.float32)
        # a record without day 366 gives it what day 365 has; a calendar without leap days has none of it
        beyond = np.full(shape, np.nan, np.float32)
        smooth = smooth_days(day_sum, circle)
        for number, first in enumerate(range(0, NUM_DAYS, layout.days_per_shard)):
            last = min(NUM_DAYS, first + layout.days_per_shard)
            for day in range(first, last):
                buffer[day - first] = next(smooth, beyond)
                if day + 1 == circle == year_length(times.calendar) - 1:
                    beyond = buffer[day - first].copy()
            shard = folder / str(number) / str(hour) / str(group) / "0" / "0"
            shard.unlink(missing_ok=True)
            array[first:last, hour, channels] = buffer[:last - first]
            disk.flush([shard])

    def _attributes(self, statistics: Statistics) -> dict[str, Any]:
        plan = self._plan
        own_step = common_step(plan.times.seconds) if len(plan.times) > 1 else plan.time_step
        missing = missing_instants(plan.times.seconds, own_step, plan.trajectories)
        constant = [name for name, low, high in zip(plan.channels.names, statistics.minimum, statistics.maximum, strict=True) if low == high]
        notes = [*plan.notes, *self._blocks.notes]
        if constant:
            notes.append(f"constant in the statistics period, std 0: {', '.join(constant)}")
        if len(missing):
            notes.append(f"{len(missing)} times are missing at the record's step of {format_duration(own_step)}")
        period = {"start": plan.period[0], "end": plan.period[1], "text": period_text(plan.period, plan.times.calendar)}
        attributes: dict[str, Any] = {
            MARK: FORMAT_VERSION, "channels": plan.channels.to_list(), "static_channels": plan.static.to_list(), "grid": plan.grid.to_dict(),
            "calendar": plan.times.calendar, "time_step_seconds": plan.time_step, "statistics_period": period,
            "climatology": bool(len(plan.hours)), "constant_channels": constant, "round_bits": plan.round_bits,
            "missing_times": {"count": len(missing), "times": [format_instant(int(s), plan.times.calendar) for s in missing[:_MAX_LISTED]]},
            "recipe": plan.recipe, "provenance": provenance(plan.recipe["sources"], self._source_attrs, notes, __version__)}
        if plan.trajectories is not None:
            attributes["trajectories"] = {"count": len(np.unique(plan.trajectories)), "first_year": FIRST_YEAR}
        simulated = simulated_text(self._source_attrs)
        if simulated is not None:
            attributes["simulated"] = simulated
        return {**attributes, "complete": True}
