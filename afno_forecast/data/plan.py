"""What a build decides before it reads fields: the recipe resolved against a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import ConfigError, DataError
from ..grid import Grid
from ..times import TimeAxis, common_step, format_instant
from .blocks import match_fill
from .layout import CHUNK_BYTES, SHARD_BYTES, Layout
from .provenance import describe_source
from .sources import Source, refusals
from .sources_notes import tell


@dataclass(frozen=True)
class Plan:
    """Everything a build decides before it reads data. `recipe` holds what determines the bytes, as plain values."""

    channels: ChannelSet
    static: ChannelSet
    times: TimeAxis
    grid: Grid
    period: tuple[int, int]
    time_step: int
    hours: NDArray[np.int64]
    round_bits: int | None
    fill: Mapping[str, float]
    layout: Layout
    recipe: dict[str, Any]
    notes: tuple[str, ...]
    trajectories: NDArray[np.int64] | None = None

    @property
    def need_bytes(self) -> int:
        """Bytes the finished store takes at most."""
        return self.layout.total_bytes(len(self.hours))


@dataclass(frozen=True)
class StoreSettings:
    """What a training store holds, and how it is laid out.

    Args:
        channels: channels to keep, in this order; None for all that vary in time.
        static: static fields to keep; None for all constant ones.
        statistics_period: first and last instant of statistics and climatology, seconds, inclusive; None for the whole record.
        time_step: seconds of a model step; None for the record's most common step.
        climatology: whether to add a climatology.
        round_bits: mantissa bits to keep (1 to 23), rounding to nearest; None for all.
        fill: value for missing cells by variable.
        shard_bytes, chunk_bytes: decoded bytes of a shard and of a chunk.
    """

    channels: Sequence[str] | None = None
    static: Sequence[str] | None = None
    statistics_period: tuple[int, int] | None = None
    time_step: int | None = None
    climatology: bool = True
    round_bits: int | None = None
    fill: Mapping[str, float] = field(default_factory=dict)
    shard_bytes: int = SHARD_BYTES
    chunk_bytes: int = CHUNK_BYTES


def make_plan(source: Source, settings: StoreSettings) -> Plan:
    """Resolve what is wanted against a source, without reading fields. Raises ConfigError and DataError."""
    times = source.times
    chosen = source.channels if settings.channels is None else _select(source, source.channels, settings.channels)
    fixed = source.static if settings.static is None else _select(source, source.static, settings.static)
    if not len(times) or not len(chosen):
        raise DataError("nothing to build: no time, or no channel that varies in time", fix="give other files or channels")
    round_bits, climatology = settings.round_bits, settings.climatology
    if round_bits is not None and not 1 <= round_bits <= 23:
        raise ConfigError(f"round_bits {round_bits} is not between 1 and 23", fix="leave it out to keep every bit")
    if settings.time_step is None and len(times) < 2:
        raise DataError("a single time has no time step", fix="give time_step, such as 6h")
    step = common_step(times.seconds) if settings.time_step is None else settings.time_step
    period = settings.statistics_period or (int(times.seconds[0]), int(times.seconds[-1]))
    inside = times.at((times.seconds >= period[0]) & (times.seconds <= period[1]))
    if not len(inside):
        raise ConfigError(f"the statistics period {period_text(period, times.calendar)} holds no time of the record", fix="choose another")
    filled = match_fill(settings.fill, chosen, fixed)
    notes = list(tell(source.notes, folders_of(source)))
    if settings.statistics_period is None:
        notes.append("statistics and climatology describe the whole record: train on a part of it only after building with that period")
    if climatology and source.trajectories is not None:
        climatology = False
        notes.append("no climatology: independent trajectories have no seasons")
    grid = source.grid
    layout = Layout(len(times), len(chosen), grid.shape, settings.shard_bytes, settings.chunk_bytes)
    recipe = {"sources": [describe_source(p) for p in source.paths], "channels": list(chosen.names), "static": list(fixed.names),
              "statistics_period": list(period), "time_step_seconds": step, "climatology": climatology, "round_bits": round_bits,
              "fill": dict(sorted(filled.items())), "shard_bytes": layout.shard_bytes, "chunk_bytes": layout.chunk_bytes}
    return Plan(chosen, fixed, times, grid, period, step, hours_of(inside) if climatology else np.empty(0, np.int64), round_bits, filled, layout,
                recipe, tuple(notes), source.trajectories)


def _select(source: Source, there: ChannelSet, names: Sequence[str]) -> ChannelSet:
    """The named ones. Raises DataError with every name that is missing, and why where the source holds but refused it."""
    try:
        return there.select(names)
    except DataError as error:
        absent = [name for name in names if name not in (*there.names, *there.shorts)]
        reasons = dict.fromkeys(reason for name in absent for reason in refusals(name, source.findings)[:1])
        if not reasons:
            raise
        raise DataError(f"{error.what}; refused: {'; '.join(reasons)}", where=", ".join(source.paths),
                        fix="mend the file as this says, or use names from this list") from error


def folders_of(source: Source) -> tuple[str, ...]:
    """The folders of the files: a store's notes do not depend on them."""
    return tuple(sorted({str(Path(p).parent) for p in source.paths}, key=len, reverse=True))


def hours_of(times: TimeAxis) -> NDArray[np.int64]:
    """The hours of the day that a climatology of these times has. Raises ConfigError for a time that is not on the hour."""
    seconds = np.unique(times.second_of_day())
    if (seconds % 3600).any():
        raise ConfigError("a climatology needs times on the hour; the record has others", fix="build with `climatology: false`")
    return seconds // 3600


def period_text(period: tuple[int, int], calendar: str) -> str:
    """A period in words."""
    return " to ".join(format_instant(s, calendar) for s in period)
