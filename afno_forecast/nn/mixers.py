"""The token mixers of the paper's comparison, made by name; each maps tokens (B, H, W, C) to the same shape.

Axes: B batch, H token row, W token column, C channel, K kept mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .afno import AFNOMixer
from .legacy import LegacyMixer
from .modes import Latitude, kept_modes
from .padding import channel_parity
from .spectral import inverse, transform

MixerName = Literal["afno", "legacy", "fno", "gfn", "attention", "identity"]


@dataclass(frozen=True)
class MixerOptions:
    """What a mixer may need to know; each takes what concerns it. See `AFNOMixer` for the meanings."""

    dim: int
    num_blocks: int = 8
    hidden_factor: float = 1.0
    fraction: float = 1.0
    shrink: float = 0.0
    learned_shrink: bool = False
    num_bands: int = 1
    latitude: Latitude = "periodic"
    tokens: tuple[int, int] | None = None
    """Token grid (rows, columns) that the weights of `gfn` belong to."""
    odd_share: float = 0.0
    """Share of the channels of each block that change sign over a pole."""

    band_unit: tuple[float, float] = (1.0, 1.0)
    """The wavenumber of training that one cycle over the rows and over the columns of the tokens is."""

    @property
    def parity(self) -> Tensor | None:
        """Signs of the channels over a pole; None where all are +1."""
        return channel_parity(self.dim, self.odd_share, self.num_blocks)


class GFNMixer(nn.Module):
    """Global filter: one complex weight for each kept mode and channel; belongs to one token grid."""

    parity_C: Tensor | None

    def __init__(self, dim: int, tokens: tuple[int, int], *, fraction: float = 1.0, latitude: Latitude = "periodic",
                 parity_C: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("parity_C", parity_C, persistent=False)
        self.modes = kept_modes(tokens[0], tokens[1], fraction, latitude)
        num_modes = len(self.modes.row_wavenumbers) * len(self.modes.column_wavenumbers)
        self.weight_2KC = nn.Parameter(torch.randn(2, num_modes, dim) / math.sqrt(2))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Filtered tokens in float32 or wider. Raises ValueError on another token grid."""
        if tuple(x_BHWC.shape[1:3]) != (self.modes.rows, self.modes.columns):
            raise ValueError(
                f"the gfn mixer belongs to {self.modes.rows} x {self.modes.columns} tokens, not {x_BHWC.shape[1]} x {x_BHWC.shape[2]}; "
                "the mixer afno runs on any grid"
            )
        with torch.autocast(x_BHWC.device.type, enabled=False):
            real, imaginary = transform(x_BHWC, self.modes, parity_C=self.parity_C).unbind(1)
            gain, turn = self.weight_2KC.to(real.dtype)
            return inverse(torch.stack([real * gain - imaginary * turn, real * turn + imaginary * gain], 1), self.modes)


class AttentionMixer(nn.Module):
    """Self-attention among all tokens, `num_heads` heads; costs the square of the number of tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be divided into {num_heads} equal heads")
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Attended tokens, (B, H, W, C)."""
        batch, rows, columns, dim = x_BHWC.shape
        query, key, value = self.query_key_value(x_BHWC).view(batch, rows * columns, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(attended.transpose(1, 2).reshape(batch, rows, columns, dim))
        return out


class IdentityMixer(nn.Module):
    """No mixing: returns zero, since every block adds its input to what the mixer returns."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Zero, (B, H, W, C)."""
        return torch.zeros_like(x_BHWC)


def _afno(options: MixerOptions) -> nn.Module:
    return AFNOMixer(
        options.dim,
        options.num_blocks,
        hidden_factor=options.hidden_factor,
        fraction=options.fraction,
        shrink=options.shrink,
        learned_shrink=options.learned_shrink,
        num_bands=options.num_bands,
        latitude=options.latitude,
        parity_C=options.parity,
        band_unit=options.band_unit,
    )


def _legacy(options: MixerOptions) -> nn.Module:
    """As published, errors included; `shrink` is absolute here."""
    return LegacyMixer(options.dim, options.num_blocks, hidden_factor=options.hidden_factor, fraction=options.fraction, shrink=options.shrink)


def _fno(options: MixerOptions) -> nn.Module:
    """Linear and dense in the channels: one block, no activation, no shrink."""
    return AFNOMixer(options.dim, 1, fraction=options.fraction, num_bands=options.num_bands, activation="none", latitude=options.latitude,
                     parity_C=options.parity, band_unit=options.band_unit)


def _gfn(options: MixerOptions) -> nn.Module:
    if options.tokens is None:
        raise ValueError("the mixer gfn has weights for each mode: give its token grid, tokens: [rows, columns]")
    return GFNMixer(options.dim, options.tokens, fraction=options.fraction, latitude=options.latitude, parity_C=options.parity)


def _attention(options: MixerOptions) -> nn.Module:
    return AttentionMixer(options.dim, options.num_blocks)


def _identity(options: MixerOptions) -> nn.Module:
    return IdentityMixer()


USED_OPTIONS: dict[MixerName, frozenset[str]] = {
    "afno": frozenset({"num_blocks", "hidden_factor", "fraction", "shrink", "learned_shrink", "num_bands", "latitude"}),
    "legacy": frozenset({"num_blocks", "hidden_factor", "fraction", "shrink"}),
    "fno": frozenset({"fraction", "num_bands", "latitude"}),
    "gfn": frozenset({"fraction", "latitude", "tokens"}),
    "attention": frozenset({"num_blocks"}),
    "identity": frozenset(),
}
"""The options of a configuration that do something with each mixer."""

PERIODIC_MIXERS: frozenset[MixerName] = frozenset({"afno", "fno", "gfn"})
"""The mixers that take their tokens for periodic and are to be spared the edges of an area; `legacy` stays as published."""

MIXERS: dict[MixerName, Callable[[MixerOptions], nn.Module]] = {
    "afno": _afno,
    "legacy": _legacy,
    "fno": _fno,
    "gfn": _gfn,
    "attention": _attention,
    "identity": _identity,
}
