"""What every forecast must beat: the initial state repeated, and the expected state of the valid time."""

# L lead time, C channel, H latitude row, W longitude column

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..data.store import match_channels
from ..errors import DataError
from ..grid import Grid

if TYPE_CHECKING:
    from ..data.climatology import Climatology
    from ..data.states import States


def persistence(truth: States, channels: ChannelSet, init_seconds: int, num_leads: int) -> NDArray[np.float32]:
    """The analysis at the init time, for every lead time; a read-only view of shape (L, C, H, W).

    Raises:
        DataError: the truth has no such time or channel.
    """
    index = [truth.channels.index(name) for name in channels.names]
    state_CHW = truth.read(truth.index_of(np.asarray([init_seconds], dtype=np.int64)))[0][index]
    return np.broadcast_to(state_CHW, (num_leads, *state_CHW.shape))


def require_climatology_fits(climatology: Climatology, channels: ChannelSet, grid: Grid) -> None:
    """Raise DataError unless the climatology is on this grid, and has those of the channels that it has in the same units."""
    where = str(climatology.path)
    if not climatology.grid.matches(grid):
        raise DataError(f"the climatology is on {climatology.grid.describe()}; the truth on {grid.describe()}", where=where,
                        fix="give a climatology on the grid of the truth")
    names = climatology.channels.names
    match_channels(ChannelSet(tuple(c for c in channels if c.name in names)), climatology.channels, where)


def climatology_states(climatology: Climatology, channels: ChannelSet, valid_seconds: NDArray[np.int64], calendar: str) -> NDArray[np.float32]:
    """The climatology at the valid times, NaN on days without and in channels without; shape (L, C, H, W)."""
    states = climatology.at(valid_seconds, calendar)
    result = np.full((len(states), len(channels), *states.shape[2:]), np.nan, dtype=np.float32)
    for c, name in enumerate(channels.names):
        if name in climatology.channels.names:
            result[:, c] = states[:, climatology.channels.names.index(name)]
    return result
