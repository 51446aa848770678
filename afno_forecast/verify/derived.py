"""Channels that follow from others, as they are written in forecasts: wind speed from its two components."""

# C channel, H latitude row, W longitude column

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import Channel, ChannelSet
from ..errors import DataError


def with_derived(channels: ChannelSet) -> ChannelSet:
    """These channels and, after them, the wind speeds whose components are among them."""
    units = {c.name: c.units for c in channels}
    there = {c.variable for c in channels}
    extra = []
    for speed, u, v in vocabulary.WIND_SPEEDS:
        for channel in channels:
            other = Channel(v, channel.level, channel.units)
            if channel.variable == u and speed not in there and units.get(other.name) == channel.units:
                extra.append(Channel(speed, channel.level, channel.units, "diagnostic"))
    return ChannelSet((*channels.channels, *extra))


def derive(fields: NDArray[Any], source: ChannelSet, wanted: ChannelSet) -> NDArray[Any]:
    """The wanted channels, taken from fields or computed of them in float32, as the writer of forecasts does.

    Args:
        fields: shape (..., C, H, W), float32, in the order of `source`.
        source: what the fields are.
        wanted: channels of `with_derived(source)`, any of them, in any order.

    Returns:
        shape (..., C', H, W).

    Raises:
        DataError: a channel that neither is there nor can be derived.
    """
    if wanted.names == source.names:
        return fields
    index = {name: i for i, name in enumerate(source.names)}
    out = np.empty((*fields.shape[:-3], len(wanted), *fields.shape[-2:]), fields.dtype)
    for c, channel in enumerate(wanted):
        if channel.name in index:
            out[..., c, :, :] = fields[..., index[channel.name], :, :]
            continue
        pair = next(((u, v) for speed, u, v in vocabulary.WIND_SPEEDS if speed == channel.variable), ())
        found = [index[name] for name in (Channel(p, channel.level, channel.units).name for p in pair) if name in index]
        if len(found) != 2:
            raise DataError(f"no channel {channel.name}; there are {', '.join(source.names)}", fix="ask for channels that are there")
        np.hypot(fields[..., found[0], :, :], fields[..., found[1], :, :], out=out[..., c, :, :])
    return out
