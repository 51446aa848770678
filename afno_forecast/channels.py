"""The only border between named arrays and tensors: which channel is which, and `pack` / `unpack`."""

# C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from . import vocabulary
from .documents import nearest
from .errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["prognostic", "diagnostic", "forcing", "static"]


@dataclass(frozen=True)
class Channel:
    """One (variable, level) slice of a tensor.

    Args:
        variable: canonical long name (`geopotential`) or the file's own name for a quantity outside the vocabulary.
        level: pressure in hPa, or None.
        units: canonical units, UDUNITS text.
        role: predicted and fed back / predicted only / given for every time / constant.
    """

    variable: str
    level: int | None
    units: str
    role: Role = "prognostic"

    @property
    def name(self) -> str:
        """`geopotential@500` or `2m_temperature`: unique within a set."""
        return self.variable if self.level is None else f"{self.variable}@{self.level}"

    @property
    def short(self) -> str:
        """`z500` or `t2m`."""
        return vocabulary.short_name(self.variable, self.level)

    @property
    def is_vector(self) -> bool:
        """Whether it is a component of a horizontal vector, which changes sign where a meridian goes on over a pole."""
        known = vocabulary.find_variable(self.variable)
        return known is not None and known.is_vector


@dataclass(frozen=True)
class ChannelSet:
    """Ordered channels: the single authority on channel order."""

    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        names = [c.name for c in self.channels]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ConfigError(f"channel {', '.join(repeated)} is given twice")

    def __len__(self) -> int:
        return len(self.channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self.channels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Canonical names in order."""
        return tuple(c.name for c in self.channels)

    @cached_property
    def shorts(self) -> tuple[str, ...]:
        """Short names in order."""
        return tuple(c.short for c in self.channels)

    def index(self, name: str) -> int:
        """Position of a channel, by any name a person may type. Raises DataError with the nearest names."""
        variable, level = vocabulary.split_name(name)
        wanted = variable if level is None else f"{variable}@{level}"
        if wanted in self.names:
            return self.names.index(wanted)
        near = nearest(name, [*self.names, *self.shorts], 0.5)
        raise DataError(f"no channel '{name}'; there are {', '.join(self.shorts)}", fix=f"did you mean '{near}'?" if near else "use one of these")

    def select(self, names: Sequence[str]) -> ChannelSet:
        """The named channels, in the order asked for. Raises DataError listing every missing one."""
        chosen, missing = [], []
        for name in names:
            try:
                chosen.append(self.channels[self.index(name)])
            except DataError:
                missing.append(name)
        if missing:
            raise DataError(f"no channel {', '.join(missing)}; there are {', '.join(self.shorts)}", fix="use names from this list")
        return ChannelSet(tuple(chosen))

    def pack(self, ds: xr.Dataset) -> Tensor:
        """Stack the channels of a dataset into a tensor, in this set's order.

        Args:
            ds: canonical names; variables (..., latitude, longitude) or (..., y, x), with a `level` dimension (hPa) where the
                channel has a level. All must share their other dimensions. `units`, where given, must equal the channel's.

        Returns:
            float32 tensor (..., C, H, W).

        Raises:
            DataError: a variable or level is missing (both lists are named), its units differ, or its last dimensions are others.
        """
        import torch  # here, so that reading a model's channels needs no torch

        slices = [self._slice(ds, channel) for channel in self.channels]
        horizontal = slices[0].dims[-2:]
        leading = slices[0].dims[:-2]
        if horizontal not in (("latitude", "longitude"), ("y", "x")):
            raise DataError(f"{self.channels[0].name} ends with the dims {horizontal}, wanted latitude, longitude or y, x",
                            fix="transpose it, for example ds.transpose(..., 'latitude', 'longitude')")
        arrays = []
        for channel, item in zip(self.channels, slices, strict=True):
            if set(item.dims) != set(leading) | set(horizontal):
                raise DataError(f"{channel.name} has dims {item.dims}, {self.channels[0].name} has {slices[0].dims}", fix="give all the same dims")
            arrays.append(np.asarray(item.transpose(*leading, *horizontal).values, dtype=np.float32))
        return torch.from_numpy(np.stack(arrays, axis=-3))

    def _slice(self, ds: xr.Dataset, channel: Channel) -> xr.DataArray:
        if channel.variable not in ds:
            there = ", ".join(map(str, ds.data_vars))
            raise DataError(f"variable '{channel.variable}' is missing; wanted {', '.join(self.names)}; there are {there}",
                            fix="give a dataset with these variables")
        item = ds[channel.variable]
        units = item.attrs.get("units")
        if units is not None and units != channel.units:
            raise DataError(f"{channel.name} comes in '{units}', wanted '{channel.units}'",
                            fix="open it through afno_forecast.data.sources, which converts")
        if channel.level is None:
            if "level" in item.dims:
                raise DataError(f"{channel.name} has levels {item['level'].values.tolist()}, wanted none", fix=f"ask for {channel.variable}@LEVEL")
            return item
        if "level" not in item.dims or channel.level not in item["level"].values:
            have = item["level"].values.tolist() if "level" in item.dims else []
            raise DataError(f"channel '{channel.variable}' has no level {channel.level} hPa; there are {have}", fix="ask for a level that exists")
        return item.sel(level=channel.level)

    def unpack(self, x: Tensor, coords: Mapping[str, Any]) -> xr.Dataset:
        """The inverse of `pack`: named variables, levels gathered along `level`.

        Args:
            x: tensor (..., C, H, W).
            coords: coordinates in the order of the other dims of `x`: leading ones first, then the two horizontal ones,
                for example `{"time": ..., "latitude": ..., "longitude": ...}`.

        Returns:
            Dataset with variables (..., [level], H, W) in float32; levels ascending; attributes `units`, `standard_name`, `long_name`.
        """
        array = x.detach().cpu().numpy()
        dims = tuple(coords)
        if array.ndim != len(dims) + 1 or array.shape[-3] != len(self):
            raise DataError(f"a tensor of shape {tuple(array.shape)} does not fit {len(self)} channels on dims {dims}")
        variables: dict[str, xr.DataArray] = {}
        for variable in dict.fromkeys(c.variable for c in self.channels):
            members = [(c.level, i) for i, c in enumerate(self.channels) if c.variable == variable]
            units = next(c.units for c in self.channels if c.variable == variable)
            known = vocabulary.BY_NAME.get(variable)
            attrs = {"units": units, "long_name": variable.replace("_", " ")}
            if known:
                attrs["standard_name"] = known.standard_name
            if members[0][0] is None:
                variables[variable] = xr.DataArray(array[..., members[0][1], :, :], dims=dims, coords=dict(coords), attrs=attrs)
            else:
                members.sort(key=lambda item: item[0] or 0)
                stacked = np.stack([array[..., i, :, :] for _, i in members], axis=-3)
                levels = np.asarray([level for level, _ in members], dtype=np.int64)
                variables[variable] = xr.DataArray(stacked, dims=(*dims[:-2], "level", *dims[-2:]), coords={**coords, "level": levels}, attrs=attrs)
        return xr.merge([v.rename(k) for k, v in variables.items()], join="outer", compat="no_conflicts")

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [asdict(c) for c in self.channels]

    @classmethod
    def from_list(cls, values: Sequence[Mapping[str, Any]]) -> ChannelSet:
        """The set that `to_list` described."""
        return cls(tuple(Channel(str(v["variable"]), None if v["level"] is None else int(v["level"]), str(v["units"]), v["role"]) for v in values))
