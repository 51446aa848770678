"""The steps of a build: shards of states with their statistics, the climatology from the store itself, metadata last."""

# T time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import ConfigError, DataError, Stopped
from ..signals import StopFlag
from ..times import common_step, format_duration, format_instant, missing_instants
from . import layout as disk
from .build_workspace import Share, block_mark
from .climatology import NUM_DAYS, pool_days, smooth_days, year_length
from .plan import Plan, period_text
from .provenance import provenance, simulated_text
from .reader import BadChunk, ChunkedArray
from .shard_file import write_shard
from .sources_trajectories import FIRST_YEAR
from .statistics import Moments, PartialStatistics, Statistics
from .store import FORMAT_VERSION, MARK

Progress = Callable[[int, int, str], None]
_MAX_LISTED = 10_000


class States(Protocol):
    """What is built from: states by position in time, static fields, and what must be known about them."""

    @property
    def notes(self) -> list[str]:
        """Remarks on the values."""
        ...

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the source says of itself."""
        ...

    def read(self, times: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """States at some times; (N, C, H, W). Raises DataError."""
        ...

    def read_static(self) -> NDArray[np.float32]:
        """The static fields; (S, H, W). Raises DataError."""
        ...


class Builder:
    """One build in its work folder. What is finished is marked there and passed over.

    Args:
        states: what is built from.
        plan: what is built.
        work: the work folder.
        progress: called with blocks done, blocks in all, and what is being done.
        stop: looked at between two blocks.
        reuse: given a shard's number and where it belongs, puts a finished one there; False where there is none.
    """

    def __init__(self, states: States, plan: Plan, work: Path, *, progress: Progress | None, stop: StopFlag,
                 reuse: Callable[[int, Path], bool] | None = None) -> None:
        self._plan = plan
        self._stop = stop
        self._work = work
        self._root = work / "store"
        self._blocks = states
        self._reuse = reuse or (lambda number, shard: False)
        self._progress = progress or (lambda done, total, what: None)
        self._states = ChunkedArray(self._root / "state")
        self._total = plan.layout.num_shards + len(plan.hours) * plan.layout.num_groups

    def run_part(self, share: Share) -> None:
        """The shards of a part."""
        for number in share.shards(self._plan.layout.num_shards):
            self._build_shard(number)
        self._progress(self._num_built(), self._total, "reading the source")

    def require_blocks(self) -> None:
        """Raise ConfigError unless every shard is built."""
        division = self._work / "parts"
        share_of = int(division.read_text(encoding="utf-8")) if division.exists() else None
        missing = [n for n in range(self._plan.layout.num_shards) if not self._is_built(n)]
        if missing:
            num_shards, of = self._plan.layout.num_shards, share_of or 0
            parts = [p for p in range(1, of + 1) if not set(Share(p, of).shards(num_shards)).isdisjoint(missing)]
            fix = f"build --part {parts[0]}/{share_of} first" if parts else "leave --finish out"
            raise ConfigError(f"{len(missing)} of {num_shards} shards are not built"
                              + (f", of parts {', '.join(map(str, parts[:8]))}" if parts else ""), where=str(self._work), fix=fix)

    def run(self) -> None:
        """Everything, in order."""
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

    def _shard(self, number: int) -> Path:
        return self._root / "state" / "c" / str(number) / "0" / "0" / "0"

    def _is_built(self, number: int) -> bool:
        return block_mark(self._work, number).exists() and self._shard(number).exists()

    def _num_built(self) -> int:
        return sum(1 for _ in self._work.glob("block-*.npz"))

    def _pass_over_source(self) -> PartialStatistics:
        layout = self._plan.layout
        merged = PartialStatistics.empty(layout.num_channels)
        for number in range(layout.num_shards):
            self._build_shard(number)
            merged = merged.merge(PartialStatistics.load(block_mark(self._work, number)))
        self._progress(layout.num_shards, self._total, "reading the source")
        return merged

    def _build_shard(self, number: int) -> None:
        """Write a shard and, when it is on the disk, what it adds to the statistics."""
        self._progress(number, self._total, "reading the source")
        self._stop_if_asked(number)
        if self._is_built(number):
            return
        layout, shard, mark = self._plan.layout, self._shard(number), block_mark(self._work, number)
        mark.unlink(missing_ok=True)
        shard.unlink(missing_ok=True)
        times = layout.block(number)
        reused = self._reuse(number, shard)
        seconds = self._plan.times.seconds[times]
        if reused and not ((seconds >= self._plan.period[0]) & (seconds <= self._plan.period[1])).any():
            partial = PartialStatistics.empty(layout.num_channels)
        else:
            block = self._blocks.read(times)
            if not reused:
                write_shard(shard, block, layout)
            partial = self._partial(block, times.start)
        disk.flush([shard])
        partial.save(mark)

    def _partial(self, block: NDArray[np.float32], first: int) -> PartialStatistics:
        """What a block adds: its states inside the period, and the differences over one time step that end in it."""
        plan = self._plan
        areas = plan.grid.area_weights()
        seconds = plan.times.seconds
        mine = np.arange(first, first + len(block))
        inside = (seconds[mine] >= plan.period[0]) & (seconds[mine] <= plan.period[1])
        earlier = np.minimum(np.searchsorted(seconds, seconds[mine] - plan.time_step), len(seconds) - 1)
        paired = inside & (seconds[earlier] == seconds[mine] - plan.time_step) & (seconds[earlier] >= plan.period[0])
        count = block.shape[1]
        state = Moments.of_channels((block[:, c] if inside.all() else block[inside, c] for c in range(count)), count, areas)
        pasts = self._earlier_states(earlier[paired & (earlier < first)])
        nows, befores = mine[paired] - first, earlier[paired]

        def differences(c: int) -> NDArray[np.float32]:
            out: NDArray[np.float32] = block[nows, c]
            for row, before in enumerate(befores.tolist()):
                out[row] -= block[before - first, c] if before >= first else pasts[before][c]
            return out

        return PartialStatistics(state, Moments.of_channels((differences(c) for c in range(count)), count, areas))

    def _earlier_states(self, positions: NDArray[np.int64]) -> dict[int, NDArray[np.float32]]:
        """States (C, H, W) before a block: out of finished shards, and where another process builds those, from the source: the same values."""
        elsewhere = np.asarray([p for p in positions.tolist() if not self._is_built(p // self._plan.layout.times_per_shard)], dtype=np.int64)
        read = dict(zip(elsewhere.tolist(), self._blocks.read(elsewhere), strict=True)) if len(elsewhere) else {}
        return {position: read[position] if position in read else self._stored(position) for position in positions.tolist()}

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
        notes = list(dict.fromkeys([*plan.notes, *self._blocks.notes]))
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
            "recipe": plan.recipe, "provenance": provenance(plan.recipe["sources"], self._blocks.attrs, notes, __version__)}
        if plan.trajectories is not None:
            attributes["trajectories"] = {"count": len(np.unique(plan.trajectories)), "first_year": FIRST_YEAR}
        simulated = simulated_text(self._blocks.attrs)
        if simulated is not None:
            attributes["simulated"] = simulated
        return {**attributes, "complete": True}
