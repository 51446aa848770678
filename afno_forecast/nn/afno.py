"""The Adaptive Fourier Neural Operator as a token mixer: one small complex network applied to every Fourier mode.

Axes: B batch, H token row, W token column, C channel, G block (group of channels), K kept mode; c channels of a block,
h its hidden channels; S wavenumber band.

After Guibas et al. 2021 (arXiv 2111.13587), with the three economies kept (block-diagonal weights, the same weights for all
modes, soft-shrink) and its defects left out: modes are chosen by true wavenumbers on both axes; activation and shrink act on
the modulus, so that the mixer commutes with a shift; nothing is added to the coefficients, so that a zero input has no spike;
coefficients are amplitudes, so that the same weights do the same on every grid.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from .spectral import LATITUDES, Latitude, Modes, inverse, kept_modes, mode_weights, transform

Activation = Literal["gate", "modrelu", "none"]
ACTIVATIONS: tuple[Activation, ...] = ("gate", "modrelu", "none")

_TINY = 1e-30
_SMALL_AMPLITUDE = 1e-6


class AFNOMixer(nn.Module):
    """Mix tokens by a block-diagonal complex two-layer network on every kept Fourier mode.

    Args:
        dim: number of channels, divisible by `num_blocks`.
        num_blocks: groups of channels that do not mix with each other.
        hidden_factor: hidden channels of a block as a multiple of its channels.
        fraction: modes with |wavenumber| <= fraction of Nyquist are kept, on each axis by itself; in (0, 1].
        shrink: soft-shrink threshold on the modulus, as a share of the root mean square of the block's mixed field; 0 is off.
        learned_shrink: a factor on `shrink`, learned for each band and block; it starts at 1.
        num_bands: number of wavenumber bands with weights of their own. Bands are octaves of max(|k_row|, |k_column|):
            0-1, 2-3, 4-7 and so on, the last one open; a wavenumber is in the same band on every grid.
        activation: between the layers, on the modulus. `gate`: each hidden channel by the sigmoid of its share of the block's
            modulus, so no amplitude is too small to be treated; `modrelu`: modulus less a learned threshold; `none`: linear.
        latitude: `periodic`, or over the poles by a double Fourier sphere, see `spectral.Modes`.
        parity_C: signs of the channels over the pole, see `spectral.transform`.
        band_unit: the wavenumber, for the choice of the band, of one cycle over the rows and over the columns of these tokens; (1, 1)
            but for tokens that are mirrored or a part of the domain of training.

    Raises:
        ValueError: an argument is out of range.
    """

    parity_C: Tensor | None

    def __init__(
        self,
        dim: int,
        num_blocks: int = 8,
        *,
        hidden_factor: float = 1.0,
        fraction: float = 1.0,
        shrink: float = 0.0,
        learned_shrink: bool = False,
        num_bands: int = 1,
        activation: Activation = "gate",
        latitude: Latitude = "periodic",
        parity_C: Tensor | None = None,
        band_unit: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        check_options(dim, num_blocks, fraction, shrink, num_bands)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if latitude not in LATITUDES:
            raise ValueError(f"latitude {latitude!r} is not one of {', '.join(LATITUDES)}")
        self.dim, self.num_blocks, self.num_bands, self.band_unit = dim, num_blocks, num_bands, band_unit
        self.fraction, self.shrink, self.activation, self.latitude = fraction, shrink, activation, latitude
        self.register_buffer("parity_C", parity_C, persistent=False)
        width = dim // num_blocks
        hidden = max(1, round(width * hidden_factor))
        self.weight_in_S2Gch = nn.Parameter(torch.randn(num_bands, 2, num_blocks, width, hidden) / math.sqrt(2 * width))
        self.weight_out_S2Ghc = nn.Parameter(torch.randn(num_bands, 2, num_blocks, hidden, width) / math.sqrt(2 * hidden))
        if activation == "gate":
            self.slope_SGh = nn.Parameter(torch.full((num_bands, num_blocks, hidden), 2.0))
            self.offset_SGh = nn.Parameter(torch.full((num_bands, num_blocks, hidden), -2.0))
        elif activation == "modrelu":
            self.threshold_SGh = nn.Parameter(torch.full((num_bands, num_blocks, hidden), -7.0))
        self.log_shrink_SG = nn.Parameter(torch.zeros(num_bands, num_blocks)) if learned_shrink else None

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Mixed tokens, (B, H, W, C), in float32 or wider whatever the autocast state."""
        with torch.autocast(x_BHWC.device.type, enabled=False):
            modes = kept_modes(x_BHWC.shape[1], x_BHWC.shape[2], self.fraction, self.latitude)
            z_B2KC = transform(x_BHWC, modes, parity_C=self.parity_C)
            return inverse(self._mix(z_B2KC, modes), modes)

    def _mix(self, z_B2KC: Tensor, modes: Modes) -> Tensor:
        order, back, sizes = _band_order(modes, self.num_bands, self.band_unit, z_B2KC.device)
        if self.num_bands > 1:
            z_B2KC = z_B2KC.index_select(2, order)
        parts = torch.split(z_B2KC, sizes, 2)
        mixed_GBK2c = torch.cat([self._mix_band(band, part) for band, part in enumerate(parts) if part.shape[2]], 2)
        if self.shrink:
            mixed_GBK2c = _soft_shrink(mixed_GBK2c, mode_weights(modes).to(z_B2KC)[order], self._shares(sizes))
        mixed_B2KC = mixed_GBK2c.permute(1, 3, 2, 0, 4).flatten(3)
        return mixed_B2KC.index_select(2, back) if self.num_bands > 1 else mixed_B2KC

    def _shares(self, sizes: list[int]) -> float | Tensor:
        """Share of the root mean square that each block's modes, in the order of the bands, are lowered by; (G, 1, K, 1) if learned."""
        if self.log_shrink_SG is None:
            return self.shrink
        factors = [self.log_shrink_SG[band].exp()[:, None].expand(-1, size) for band, size in enumerate(sizes)]
        return self.shrink * torch.cat(factors, 1)[:, None, :, None]

    def _mix_band(self, band: int, z_B2KC: Tensor) -> Tensor:
        """Both layers on the modes of one band as packed real products, (G, B, K, 2, c)."""
        batch, _, num_modes, _ = z_B2KC.shape
        packed = z_B2KC.reshape(batch, 2, num_modes, self.num_blocks, -1).permute(3, 0, 2, 1, 4).reshape(self.num_blocks, batch * num_modes, -1)
        hidden = torch.bmm(packed, pack_complex(self.weight_in_S2Gch[band].to(packed.dtype)))
        hidden = self._activate(band, hidden.view(self.num_blocks, batch * num_modes, 2, -1)).flatten(2)
        mixed = torch.bmm(hidden, pack_complex(self.weight_out_S2Ghc[band].to(packed.dtype)))
        return mixed.view(self.num_blocks, batch, num_modes, 2, -1)

    def _activate(self, band: int, z_GN2h: Tensor) -> Tensor:
        if self.activation == "none":
            return z_GN2h
        square_GNh = z_GN2h.square().sum(2)
        modulus_GNh = (square_GNh + _TINY).sqrt()
        if self.activation == "modrelu":
            threshold = nn.functional.softplus(self.threshold_SGh[band, :, None])
            gain = torch.relu(modulus_GNh - threshold) / modulus_GNh
        else:
            share = modulus_GNh * (square_GNh.mean(-1, keepdim=True) + _SMALL_AMPLITUDE**2).rsqrt()
            gain = torch.sigmoid(torch.addcmul(self.offset_SGh[band, :, None], self.slope_SGh[band, :, None], share))
        return z_GN2h * gain[:, :, None]


def check_options(dim: int, num_blocks: int, fraction: float, shrink: float, num_bands: int) -> None:
    """Raise ValueError where options of a spectral mixer are out of range."""
    if num_blocks < 1 or dim < 1 or dim % num_blocks:
        raise ValueError(f"{dim} channels cannot be divided into {num_blocks} equal blocks")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction of kept modes must be in (0, 1], not {fraction}")
    if shrink < 0.0:
        raise ValueError(f"shrink must not be negative, not {shrink}")
    if num_bands < 1:
        raise ValueError(f"at least one wavenumber band is needed, not {num_bands}")


def band_of_wavenumber(wavenumber: float, num_bands: int) -> int:
    """Octave of an absolute wavenumber: 0-1, 2-3, 4-7 and so on; the last band is open."""
    return min(max(int(abs(wavenumber)), 1).bit_length() - 1, num_bands - 1)


@lru_cache(maxsize=256)
def _band_order(modes: Modes, num_bands: int, unit: tuple[float, float], device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
    """An order of the kept modes in which each band is one piece, the way back, and the sizes of the pieces."""
    rows, columns = [abs(k) * unit[0] for k in modes.row_wavenumbers], [k * unit[1] for k in modes.column_wavenumbers]
    bands = [band_of_wavenumber(max(row, column), num_bands) for row in rows for column in columns]
    with torch.inference_mode(False):
        order = torch.tensor(bands).argsort(stable=True)
        back = order.argsort()
        order, back = order.to(device), back.to(device)
    return order, back, [bands.count(band) for band in range(num_bands)]


def pack_complex(weight_2Gio: Tensor) -> Tensor:
    """The real matrix (G, 2 in, 2 out) that multiplies rows [real, imaginary] as the complex matrix does."""
    real, imaginary = weight_2Gio
    return torch.cat([torch.cat([real, imaginary], 2), torch.cat([-imaginary, real], 2)], 1)


def _soft_shrink(z_GBK2c: Tensor, weights_K: Tensor, share: float | Tensor) -> Tensor:
    """Lower each modulus by a share of the root mean square of the block's field, zero where it would be negative."""
    square_GBKc = z_GBK2c.square().sum(3)
    mean_square_GB11 = torch.einsum("gbkc,k->gb", square_GBKc, weights_K)[:, :, None, None] / square_GBKc.shape[-1]
    modulus_GBKc = (square_GBKc + _TINY).sqrt()
    gain = torch.relu(modulus_GBKc - share * (mean_square_GB11 + _TINY).sqrt()) / modulus_GBKc
    return z_GBK2c * gain[:, :, :, None]
