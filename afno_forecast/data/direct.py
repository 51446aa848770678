"""Training straight from a gridded zarr as it is (WeatherBench 2's, ARCO-ERA5's): no conversion, statistics measured in one pass."""

# N time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import DataError
from ..times import parse_instant
from .blocks import BlockReader
from .climatology import Climatology
from .provenance import describe_source, provenance
from .records import SourceRecord
from .sources import Source, open_source
from .sources_notes import tell
from .statistics import Moments, PartialStatistics, Statistics
from .store import Scaling

_BLOCK_BYTES = 32 * 10**6
_FIX = "fill the missing cells in the file, or build a store with `fill:`"


class DirectStore:
    """A gridded source with what training asks of a store; safe to share between threads.

    Args:
        source: the record.
        channels: prognostic channels, by any name.
        static: static fields, by any name.
        period: training period, which the statistics describe; first and last instant in seconds, inclusive.
        time_step: seconds of the model's step.
        cache: folder that keeps the statistics between calls; None to measure them each time.
        measure: False for checks that need no right numbers: mean 0 and standard deviation 1 stand in.
        echo: told while the statistics are measured.
    """

    def __init__(self, source: Source, *, channels: Sequence[str], static: Sequence[str], period: tuple[int, int], time_step: int,
                 cache: Path | None = None, measure: bool = True, echo: Callable[[str], None] | None = None) -> None:
        self.channels = source.channels.select(channels)
        self.static_channels = _static(source, static)
        self._record = SourceRecord(source, self.channels, fix=_FIX)
        self.path = Path(source.paths[0])
        self.times, self.grid, self.where = source.times, self._record.grid, self._record.where
        self.time_step = time_step
        self.notes = (*tell(source.notes), "trained on directly: no store was built, chunks are not checked by sums of ours")
        self.source_attrs: dict[str, str] = provenance([], source.attrs, [], "")["source_attributes"]
        self._reader = BlockReader(source, self.channels, self.static_channels, fix=_FIX)
        one = np.ones(len(self.channels))
        self.statistics = Statistics(0 * one, one, -one, one, one, period)
        if measure:
            key = json.dumps([[describe_source(p) for p in source.paths], self.channels.to_list(), period, time_step], sort_keys=True)
            kept = None if cache is None else cache / f"statistics-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
            self.statistics = self._measured(period, kept, echo or (lambda text: None)).finalize(period)

    def _measured(self, period: tuple[int, int], kept: Path | None, echo: Callable[[str], None]) -> PartialStatistics:
        if kept is not None and kept.exists():
            return PartialStatistics.load(kept)
        echo(f"measuring the statistics of {len(self.channels)} channels over the training period, once")
        seconds, areas = self.times.seconds, self.grid.area_weights()
        inside = np.flatnonzero((seconds >= period[0]) & (seconds <= period[1]))
        length = max(1, _BLOCK_BYTES // (4 * len(self.channels) * self.grid.shape[0] * self.grid.shape[1]))
        merged, recent = PartialStatistics.empty(len(self.channels)), dict[int, NDArray[np.float32]]()
        for first in range(0, len(inside), length):
            mine = inside[first:first + length]
            block = self._reader.read(mine)
            recent |= dict(zip(seconds[mine].tolist(), block, strict=True))
            pairs = [(now, now - self.time_step) for now in seconds[mine].tolist() if now - self.time_step in recent]
            difference = np.stack([recent[now] - recent[before] for now, before in pairs]) if pairs else block[:0]
            merged = merged.merge(PartialStatistics(Moments.of(block, areas), Moments.of(difference, areas)))
            oldest = int(seconds[mine[-1]]) - self.time_step
            recent = {at: state.copy() for at, state in recent.items() if at > oldest}
        if kept is not None and kept.parent.is_dir():
            merged.save(kept)
        return merged

    def channel_index(self, channels: ChannelSet) -> NDArray[np.int64]:
        """Positions of the wanted channels, by variable, level and units. Raises DataError."""
        return self._record.channel_index(channels)

    def run_of(self, time: int) -> tuple[int, int]:
        """The times (first, beyond the last) whose states lie in the same chunks."""
        return self._record.run_of(time)

    def read_into(self, times: Sequence[int], outs: Sequence[NDArray[np.float32]], *, channel_index: NDArray[np.int64], rows: slice | None = None,
                  scaling: Scaling | None = None) -> None:
        """As `Record.read_into`. Raises DataError."""
        self._record.read_into(times, outs, channel_index=channel_index, rows=rows, scaling=scaling)

    def read(self, index: int, channel_index: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """One state in physical units, float32 (C, H, W), as `Store.read`. Raises DataError."""
        wanted = np.arange(len(self.channels)) if channel_index is None else channel_index
        out = np.empty((len(wanted), *self.grid.shape), np.float32)
        self.read_into([index], [out], channel_index=wanted)
        return out

    def static(self) -> NDArray[np.float32]:
        """The static fields; float32 (S, H, W). Raises DataError."""
        return self._reader.read_static() if len(self.static_channels) else np.empty((0, *self.grid.shape), np.float32)

    def climatology(self) -> Climatology | None:
        """None: a climatology is of a store that was built."""
        return None


def _static(source: Source, names: Sequence[str]) -> ChannelSet:
    """The static fields of these names. Raises DataError naming those that lack, and those that are there."""
    try:
        return source.static.select(names)
    except DataError as error:
        raise DataError(f"static fields: {error.what}", where=", ".join(source.paths), fix=f"model.static: {error.fix}") from error


def open_direct(path: Path, *, channels: Sequence[str], static: Sequence[str], period: tuple[str, str], time_step: int, cache: Path | None = None,
                measure: bool = True, echo: Callable[[str], None] | None = None) -> DirectStore:
    """Open a zarr to train on directly; see `DirectStore`. The period is of ISO dates. Raises DataError, ConfigError."""
    source = open_source(path, channels=channels)
    start, end = (parse_instant(text, source.times.calendar) for text in period)
    return DirectStore(source, channels=channels, static=static, period=(start, end), time_step=time_step, cache=cache, measure=measure, echo=echo)
