"""Where the wind takes a state: semi-Lagrangian advection of all channels over one model step, as inputs of a network.

Each cell of the grid is where some air arrives. Its departure point is found along a great circle by the wind half-way, which is read where the wind
at the arrival point comes from in half of the step (Staniforth and Côté 1991, Monthly Weather Review 119, 2206; on the sphere Ritchie 1987, the same
115, 608), and the state is interpolated there, linearly in rows and columns. What changed, the carried state less the state, is a first guess of the
tendency for which a stack of 3 x 3 convolutions would need many layers: over a day the jet crosses ten cells of 5.6 degrees.
Components of the wind are carried as they are, although the axes turn along the way.
"""

# B batch, C channel, K wind, H latitude row, W longitude column; P and Q rows and columns with one more on each side

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .channels import ChannelSet
from .errors import ConfigError, DataError
from .grid import Grid, LatLonGrid
from .nn.padding import pad
from .sphere import EARTH_RADIUS_KM

_TINY = 1e-6


class Advection(nn.Module):
    """The change that each of several winds alone would bring about.

    Args:
        winds: pairs of channels, the eastward and the northward component of each wind (m s-1).
        channels: of the states, C of them.
        grid: of latitudes and longitudes, canonical.

    Raises:
        ConfigError: a channel that is not there or no component of a wind, or a grid that is a box.
    """

    parity_C: Tensor
    latitude_H1: Tensor
    longitude_W: Tensor
    rows_P: Tensor
    columns_Q: Tensor

    def __init__(self, winds: Sequence[tuple[str, str]], channels: ChannelSet, grid: Grid) -> None:
        super().__init__()
        if not isinstance(grid, LatLonGrid):
            raise ConfigError(f"winds carry a state over the sphere, not over a {grid.describe()}", where="model.advected_by", fix="leave it out")
        self.boundary, self.wraps = grid.boundary, grid.periodic
        self._winds = [(_component(east, channels, "u"), _component(north, channels, "v")) for east, north in winds]
        tensors = {
            "parity_C": torch.tensor([-1.0 if channel.is_vector else 1.0 for channel in channels]),
            "latitude_H1": torch.from_numpy(np.deg2rad(grid.latitude)).float()[:, None],
            "longitude_W": torch.from_numpy(np.deg2rad(grid.longitude)).float(),
            "rows_P": torch.from_numpy(np.deg2rad(_rows(grid))).float(),
            "columns_Q": torch.from_numpy(np.deg2rad(_continued(grid.longitude))).float(),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self._all_rows: Callable[[Tensor], Tensor] = _as_it_is

    def keep_rows(self, rows: slice, all_rows: Callable[[Tensor], Tensor]) -> None:
        """Carry to some rows of the grid alone, from now on.

        Args:
            rows: those that the states hold.
            all_rows: states (B, C, H, W) with every row, from those of this and of other processes; differentiable.
        """
        self.latitude_H1 = self.latitude_H1[rows].clone()
        self._all_rows = all_rows

    @property
    def num_channels(self) -> int:
        """Inputs that it makes: the channels for each wind."""
        return len(self._winds) * len(self.parity_C)

    def forward(self, state_BCHW: Tensor, seconds: int) -> Tensor:
        """The carried state less the state.

        Args:
            state_BCHW: physical units.
            seconds: length of the step.

        Returns:
            (B, K * C, H, W), physical units, float32, all channels for the first wind first.
        """
        with torch.autocast(state_BCHW.device.type, enabled=False):
            state_BCHW = state_BCHW.float()
            padded_BCPQ = pad(self._all_rows(state_BCHW), 1, 1, self.boundary, self.parity_C)
            return torch.cat([self._carried(padded_BCPQ, state_BCHW, east, north, seconds) - state_BCHW for east, north in self._winds], dim=1)

    def _carried(self, padded_BCPQ: Tensor, state_BCHW: Tensor, east: int, north: int, seconds: int) -> Tensor:
        halfway_B2HW = self._departure(torch.stack([state_BCHW[:, east], state_BCHW[:, north]], 1), seconds / 2)
        wind_B2HW = self._at(torch.stack([padded_BCPQ[:, east], padded_BCPQ[:, north]], 1), halfway_B2HW)
        wind_B2HW = self._turned(wind_B2HW, halfway_B2HW)
        return self._at(padded_BCPQ, self._departure(wind_B2HW, seconds))

    def _departure(self, wind_B2HW: Tensor, seconds: float) -> Tensor:
        """Latitude, and longitude less the cell's own, from where a wind (m s-1) brings air to each cell, radians; (B, 2, H, W)."""
        arc_BHW = wind_B2HW * (seconds / (1e3 * EARTH_RADIUS_KM))
        east, north = arc_BHW.unbind(1)
        angle = (east.square() + north.square() + _TINY**2).sqrt()
        along, across = angle.cos(), angle.sin() / angle
        cos, sin = self.latitude_H1.cos(), self.latitude_H1.sin()
        x, y, z = along * cos + across * north * sin, -across * east, along * sin - across * north * cos
        x = torch.where(x.square() + y.square() < _TINY**2, _TINY, x)  # on a pole, where no longitude is right
        return torch.stack([torch.atan2(z, (x.square() + y.square()).sqrt()), torch.atan2(y, x)], dim=1)

    def _turned(self, wind_B2HW: Tensor, place_B2HW: Tensor) -> Tensor:
        """A wind at places as the cells they belong to see it: the vector in space, laid into the plane of the cell at its own length."""
        (east, north), (latitude, longitude) = wind_B2HW.unbind(1), place_B2HW.unbind(1)
        outward = north * latitude.sin()
        x = -east * longitude.sin() - outward * longitude.cos()
        y = east * longitude.cos() - outward * longitude.sin()
        turned_B2HW = torch.stack([y, north * latitude.cos() * self.latitude_H1.cos() - x * self.latitude_H1.sin()], dim=1)
        length, seen = ((v.square().sum(1, keepdim=True) + _TINY**2).sqrt() for v in (wind_B2HW, turned_B2HW))
        return turned_B2HW * (length / seen)

    def _at(self, padded_BCPQ: Tensor, place_B2HW: Tensor) -> Tensor:
        """Fields interpolated at latitudes, and longitudes less the cell's own, in radians; (B, C, H, W)."""
        latitude, longitude = place_B2HW[:, 0], place_B2HW[:, 1] + self.longitude_W
        if self.wraps:
            longitude = self.longitude_W[0] + torch.remainder(longitude - self.longitude_W[0], 2 * torch.pi)
        row, column = _position(latitude, self.rows_P), _position(longitude, self.columns_Q)
        place_BHW2 = torch.stack([2 * column / (len(self.columns_Q) - 1) - 1, 2 * row / (len(self.rows_P) - 1) - 1], dim=-1)
        return nn.functional.grid_sample(padded_BCPQ, place_BHW2, mode="bilinear", padding_mode="border", align_corners=True)


def _as_it_is(state_BCHW: Tensor) -> Tensor:
    return state_BCHW


def _component(name: str, channels: ChannelSet, axis: str) -> int:
    """Number of the channel of a wind's component. Raises ConfigError."""
    try:
        number = channels.index(name)
    except DataError as error:
        raise ConfigError(error.what, where="model.advected_by", fix=error.fix) from error
    channel = channels.channels[number]
    if not (channel.is_vector and channel.short.startswith(axis)):
        wanted = {"u": "eastward", "v": "northward"}[axis]
        raise ConfigError(f"'{name}' is not the {wanted} component of a wind", where="model.advected_by", fix="name pairs such as [u850, v850]")
    return number


def _continued(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending coordinates and one more on each side."""
    return np.concatenate([[2 * values[0] - values[1]], values, [2 * values[-1] - values[-2]]])


def _rows(grid: LatLonGrid) -> NDArray[np.float64]:
    """Latitudes, and where the padded rows before and after lie: over the pole, or one further where the area ends, which repeats its edge."""
    rows = _continued(grid.latitude)
    if grid.boundary == "sphere":
        rows[0], rows[-1] = -180 - grid.latitude[0], 180 - grid.latitude[-1]
    return rows


def _position(values: Tensor, axis: Tensor) -> Tensor:
    """Place on an ascending axis as a number of cells from its start, between 0 and its length less one."""
    before = (torch.searchsorted(axis, values.detach().contiguous(), right=True) - 1).clamp(0, len(axis) - 2)
    start = axis[before]
    return before + ((values - start) / (axis[before + 1] - start)).clamp(0, 1)
