"""What the paths of a truth and a climatology hold, opened to be compared with: the same for a file and for a forecast that is being made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import vocabulary
from ..channels import Channel, ChannelSet
from ..data.sources import open_source
from ..data.states import States, open_states
from ..data.store import Store, is_store
from ..errors import DataError
from ..grid import Grid
from ..times import TimeAxis, comparable
from .baselines import Analyses
from .settings import References


def open_truth(truths: Sequence[Path | str], offered: ChannelSet, store_path: Path | str | None = None, *,
               fill_absent: bool = False) -> tuple[States, References]:
    """The analyses of the forecast's channels and of what they are derived from, and what else the files hold to compare with.

    Args:
        truths: a training store, or files of analyses.
        offered: channels of the forecast.
        store_path: training store whose climatology, and whose record of the climatology's period, the forecast is compared with; None for the
            truth, where it is one.
        fill_absent: as `open_source` has it.

    Raises:
        DataError: what cannot be read, or a store on another calendar than the truth.
    """
    if store_path is None and len(truths) == 1 and is_store(truths[0]):
        store_path = truths[0]
    if len(truths) == 1 and is_store(truths[0]):
        there, constant = Store.open(truths[0]).channels, Store.open(truths[0]).static_channels
    else:
        source = open_source(list(truths), fill_absent=fill_absent)
        there, constant = source.channels, source.static
    speeds = {(speed, c.level) for c in offered for speed, *_ in vocabulary.WIND_SPEEDS if c.variable == speed}
    wanted = {*offered.names, *(Channel(part, level, "").name for speed, *parts in vocabulary.WIND_SPEEDS for part in parts
                                for name, level in speeds if name == speed)}
    chosen = ChannelSet(tuple(c for c in there if c.name in wanted)) or there
    land = ChannelSet(tuple(c for c in constant if c.variable == "land_sea_mask"))
    truth = open_states(truths[0] if len(truths) == 1 else list(truths), chosen, land, fill_absent=fill_absent)
    fraction = truth.static()[0] if len(land) else None
    if store_path is None:
        return truth, References(land_fraction=fraction)
    store = Store.open(store_path)
    if not comparable(store.times, truth.times):
        raise DataError(f"the climatology counts time on the {store.times.calendar} calendar; the truth on {truth.times.calendar}",
                        where=str(store_path), fix="give a climatology on the calendar of the truth")
    known = ChannelSet(tuple(c for c in store.channels if c.name in chosen.names))
    record = open_states(store_path, known).within(*store.statistics.period) if len(known) and store.grid.matches(truth.grid) else None
    return truth, References(store.climatology(), record, fraction)


def require_truth_fits(truth: Analyses, grid: Grid, times: TimeAxis) -> None:
    """Raise DataError unless the truth is on the forecast's grid and counts time as its init times do."""
    if not grid.matches(truth.grid):
        raise DataError(f"the forecast is on {grid.describe()}; the truth on {truth.grid.describe()}", fix="give truth on the forecast's grid")
    if not comparable(times, truth.times):
        raise DataError(f"the forecast counts time on the {times.calendar} calendar; the truth on {truth.times.calendar}",
                        fix="give truth on the same calendar")
