"""Noise that a network reads, so that the members of an ensemble differ at every step: random fields on the sphere, smooth over a stated length.

Each channel is a Gaussian field of mean 0 and variance 1 everywhere, with the spectrum of `sphere.py` for its length scale, up to the grid's
truncation; channels, members and instants are independent. A field is a function of (seed, channel, member, valid time) alone: its harmonics are
drawn by a counter-based generator (Philox) whose key is made of the first two and whose counter starts at the last two. So it is the same in any
batch, on any process, after any resume, and every step of a rollout gets its own.
"""

# B batch, N noise channel, K field, L total wavenumber, M zonal wavenumber, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import ConfigError
from .grid import Grid, LatLonGrid
from .sphere import legendre, matern_spectrum, truncation

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class NoiseDraw:
    """Which fields a batch reads.

    Args:
        seed: of all draws, at least 0.
        members: number of each row's member, from 0; shape (B,).
    """

    seed: int
    members: NDArray[np.int64]


class NoiseFields(nn.Module):
    """Random fields on a grid, one channel for each length scale.

    Args:
        lengths_km: length scale of each channel, km.
        grid: on the sphere.

    Raises:
        ConfigError: the grid is a box.
    """

    legendre_MLH: Tensor
    waves_2MW: Tensor
    scale_NL: Tensor

    def __init__(self, lengths_km: Sequence[float], grid: Grid) -> None:
        super().__init__()
        if not isinstance(grid, LatLonGrid):
            raise ConfigError(f"noise channels are fields on the sphere, not on a {grid.describe()}", where="model.noise_lengths_km",
                              fix="leave it out")
        degree = truncation(grid)
        polynomials = np.zeros((degree + 1, degree + 1, grid.shape[0]))
        sine = np.sin(np.deg2rad(grid.latitude))
        for order in range(degree + 1):
            for total, values in legendre(order, degree, sine):
                polynomials[order, total] = values
        angles = np.arange(degree + 1)[:, None] * np.deg2rad(grid.longitude)
        waves = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)])
        waves[:, 0] /= np.sqrt(2)
        scale = np.sqrt(np.stack([matern_spectrum(degree, length) for length in lengths_km]))
        for name, values in (("legendre_MLH", polynomials), ("waves_2MW", waves), ("scale_NL", scale)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)).float(), persistent=False)

    @property
    def num_channels(self) -> int:
        """N."""
        return len(self.scale_NL)

    def forward(self, draw: NoiseDraw, valid_seconds: NDArray[np.int64]) -> Tensor:
        """The fields of each row of a batch.

        Args:
            draw: seed and members.
            valid_seconds: instants that the rows are to be stepped to; shape (B,).

        Returns:
            float32 (B, N, H, W) on the module's device.
        """
        number, size = self.scale_NL.shape
        drawn = np.stack([_generator(draw.seed, channel, int(member), int(instant)).standard_normal((2, size, size), dtype=np.float32)
                          for member, instant in zip(draw.members, valid_seconds, strict=True) for channel in range(number)])
        with torch.autocast(self.scale_NL.device.type, enabled=False):
            coefficients_K2LM = torch.from_numpy(drawn).to(self.scale_NL.device) * self.scale_NL.repeat(len(draw.members), 1)[:, None, :, None]
            rows_K2MH = torch.einsum("kslm,mlh->ksmh", coefficients_K2LM, self.legendre_MLH)
            fields_KHW = torch.einsum("ksmh,smw->khw", rows_K2MH, self.waves_2MW)
        return fields_KHW.view(len(draw.members), number, *fields_KHW.shape[1:])

    def keep_rows(self, rows: slice) -> None:
        """Make the fields of some rows of the grid alone, from now on."""
        self.legendre_MLH = self.legendre_MLH[..., rows].clone()


def _generator(seed: int, channel: int, member: int, seconds: int) -> np.random.Generator:
    key = np.array([seed & _MASK, channel], dtype=np.uint64)
    counter = np.array([0, 0, member & _MASK, seconds & _MASK], dtype=np.uint64)  # the generator counts up the first
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
