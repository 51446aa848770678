"""Later dates added to a finished store: old states come from the store itself, whole old shards are taken over as they are."""

# N time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..times import TimeAxis, common_step, format_instant, missing_instants
from . import layout as disk
from .blocks import BlockReader
from .derive import HOURS, SUM, SUMMED
from .layout import Layout
from .plan import Plan, folders_of, hours_of
from .provenance import describe_source, is_same_source
from .sources import Source
from .sources_notes import tell
from .store import Store, is_store, match_channels

_MADE_ANEW = re.compile(r"\d+ times are missing at |constant in the statistics period|rounded to \d+ mantissa bits|missing cells of .* filled with")


def require_later(store: Store, source: Source) -> bool:
    """Whether there is anything to add. Raises DataError for dates that do not come after the store's, another grid or calendar."""
    if not store.grid.matches(source.grid):
        raise DataError(f"the store is on {store.grid.describe()}; the new files on {source.grid.describe()}", where=", ".join(source.paths),
                        fix="give files on the store's grid")
    calendar = store.times.calendar
    if source.times.calendar != calendar:
        raise DataError(f"the store counts time on the {calendar} calendar; the new files on {source.times.calendar}", where=", ".join(source.paths),
                        fix="give files on the same calendar")
    described = [describe_source(p) for p in source.paths]
    if all(any(is_same_source(old, new) for old in store.attrs["recipe"]["sources"]) for new in described):
        return False  # added before
    last = int(store.times.seconds[-1])
    if not len(source.times) or source.times.seconds[0] <= last:
        first = source.times.format(0) if len(source.times) else "no time"
        raise DataError(f"the store ends at {format_instant(last, calendar)}; the new files begin at {first}", where=", ".join(source.paths),
                        fix="give files of later dates only")
    return True


def require_whole_sums(store: Store, source: Source, accumulations: Source) -> None:
    """Raises DataError where six-hour sums lack times after the store's end only because their first accumulations are not among the new files.

    Args:
        store: the store.
        source: later states, with the sums.
        accumulations: what was summed, on its own times.
    """
    seam = np.asarray([store.times.seconds[-1], source.times.seconds[0]])
    step = common_step(np.concatenate([store.times.seconds, source.times.seconds]))
    lost, summed = missing_instants(seam, step), accumulations.times.seconds
    whole_from = summed[0] + HOURS * 3600 - common_step(summed)
    if len(lost) and summed[0] <= lost[0] and lost[-1] < whole_from:
        first, until = (format_instant(int(seconds), store.times.calendar) for seconds in (lost[0], lost[-1]))
        raise DataError(f"'{SUM}' cannot be summed at {len(lost)} times, {first} to {until}: '{SUMMED}' begins at {accumulations.times.format(0)}",
                        where=", ".join(source.paths), fix=f"add a file with '{SUMMED}' alone of the {HOURS} hours before {first}")


def continue_plan(store: Store, source: Source) -> Plan:
    """What the longer store is. Raises DataError for a channel that is missing or in other units."""
    where = ", ".join(source.paths)
    match_channels(store.channels, source.channels, where)
    recipe = dict(store.attrs["recipe"])
    recipe["sources"] = [*recipe["sources"], *(describe_source(p) for p in source.paths)]
    times = TimeAxis(np.concatenate([store.times.seconds, source.times.seconds]), store.times.calendar)
    period = store.statistics.period
    inside = times.at((times.seconds >= period[0]) & (times.seconds <= period[1]))
    old = [note for note in store.notes if not _MADE_ANEW.match(note)]
    numbers = store.trajectories()
    joined = None if numbers is None or source.trajectories is None else np.concatenate([numbers, source.trajectories])
    return Plan(store.channels, store.static_channels, times, store.grid, period, store.time_step,
                hours_of(inside) if store.attrs.get("climatology") else np.empty(0, np.int64), recipe["round_bits"], recipe["fill"],
                Layout(len(times), len(store.channels), store.grid.shape, recipe["shard_bytes"], recipe["chunk_bytes"]), recipe,
                tuple(dict.fromkeys([*old, *tell(source.notes, folders_of(source))])), joined)


class Continued:
    """The states of a store and, after them, those of a source.

    Args:
        store: finished.
        reader: of the later states.
        plan: of the longer store.
    """

    def __init__(self, store: Store, reader: BlockReader, plan: Plan) -> None:
        self._store = store
        self._reader = reader
        self._plan = plan
        old = store.attrs["recipe"]
        before = Layout(len(store.times), len(store.channels), store.grid.shape, old["shard_bytes"], old["chunk_bytes"])
        self._same_shards = replace(before, num_times=plan.layout.num_times).times_per_shard == before.times_per_shard

    @property
    def notes(self) -> list[str]:
        """Remarks on the values."""
        return self._reader.notes

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the store's sources say of themselves."""
        return self._store.source_attrs

    def read(self, times: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """States at some times; (N, C, H, W). Raises DataError."""
        positions = np.arange(len(self._plan.times))[times]
        num_old = len(self._store.times)
        out = np.empty((len(positions), len(self._plan.channels), *self._plan.grid.shape), np.float32)
        for n, position in enumerate(positions):
            if position < num_old:
                out[n] = self._store.read(int(position))
        new = positions >= num_old
        if new.any():
            out[new] = self._reader.read(positions[new] - num_old)
        return out

    def read_static(self) -> NDArray[np.float32]:
        """The store's static fields; (S, H, W). Raises DataError."""
        return self._store.static()

    def reuse(self, number: int, shard: Path) -> bool:
        """Take over a shard that holds old states only; False where it has to be written."""
        if not self._same_shards or self._plan.layout.block(number).stop > len(self._store.times):
            return False
        old = self._store.path / "state" / "c" / str(number) / "0" / "0" / "0"
        shard.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, shard)
        except OSError:
            draft = shard.with_name("0.taken")
            shutil.copyfile(old, draft)
            draft.replace(shard)
        return True


def swap(out: Path, work: Path) -> None:
    """The longer store takes the place of the old one."""
    out.replace(work / "before")
    (work / "store").replace(out)
    disk.flush([out.absolute().parent])


def settle_swap(out: Path, work: Path) -> None:
    """Finish a swap that was interrupted between its two renames."""
    if not out.exists() and (work / "before").exists():
        ((work / "store") if is_store(work / "store") else (work / "before")).replace(out)
    if out.exists() and (work / "before").exists():
        shutil.rmtree(work)
