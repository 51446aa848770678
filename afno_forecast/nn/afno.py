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
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from .block_product import block_product, into_blocks, out_of_blocks, over_pieces
from .modes import LATITUDES, Latitude, Modes, kept_modes, table
from .spectral import filter_blocks

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
        num_bands: number of wavenumber bands with weights of their own. Bands are octaves of max(|k_row|, |k_column|):
            0-1, 2-3, 4-7 and so on, the last one open; a wavenumber is in the same band on every grid.
        activation: between the layers, on the modulus. `gate`: each hidden channel by the sigmoid of its share of the block's
            modulus, so no amplitude is too small to be treated; `modrelu`: modulus less a learned threshold; `none`: linear.
        latitude: `periodic`, or over the poles by a double Fourier sphere, see `modes.Modes`.
        learned_shrink: a factor on `shrink`, learned for each band and block; it starts at 1.
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
        num_bands: int = 1,
        activation: Activation = "gate",
        latitude: Latitude = "periodic",
        learned_shrink: bool = False,
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
        self.log_shrink_SG = nn.Parameter(torch.zeros(num_bands, num_blocks)) if learned_shrink else None
        width = dim // num_blocks
        hidden = max(1, round(width * hidden_factor))
        self.weight_in_S2Gch = nn.Parameter(torch.randn(num_bands, 2, num_blocks, width, hidden) / math.sqrt(2 * width))
        self.weight_out_S2Ghc = nn.Parameter(torch.randn(num_bands, 2, num_blocks, hidden, width) / math.sqrt(2 * hidden))
        if activation == "gate":
            self.slope_SGh = nn.Parameter(torch.full((num_bands, num_blocks, hidden), 2.0))
            self.offset_SGh = nn.Parameter(torch.full((num_bands, num_blocks, hidden), -2.0))
        elif activation == "modrelu":
            self.threshold_SGh = nn.Parameter(torch.full((num_bands, num_blocks, hidden), -7.0))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Mixed tokens, (B, H, W, C), in float32 or wider whatever the autocast state."""
        with torch.autocast(x_BHWC.device.type, enabled=False):
            modes = kept_modes(x_BHWC.shape[1], x_BHWC.shape[2], self.fraction, self.latitude)
            return filter_blocks(x_BHWC, modes, self.num_blocks, partial(self._mix, modes), parity_C=self.parity_C)

    def _mix(self, modes: Modes, z_B2KC: Tensor, blocks: slice) -> Tensor:
        modes_last = modes.method == "fft" and self.num_bands == 1
        if self.num_bands == 1:
            mixed_B2KC = self._mix_band(0, z_B2KC, blocks, modes_last)
        else:
            *members, back = table("bands", modes, z_B2KC, self.num_bands, self.band_unit)
            parts = [self._mix_band(band, z_B2KC.index_select(2, chosen), blocks, modes_last) for band, chosen in enumerate(members) if len(chosen)]
            mixed_B2KC = torch.cat(parts, 2).index_select(2, back)
        return _soft_shrink(mixed_B2KC, modes, self._shares(modes, mixed_B2KC, blocks)) if self.shrink else mixed_B2KC

    def _shares(self, modes: Modes, like: Tensor, blocks: slice) -> Tensor:
        """Share of the root mean square of a block that each of its modes is lowered by, (K or 1, G)."""
        if self.log_shrink_SG is None:
            return like.new_full((1, blocks.stop - blocks.start), self.shrink)
        *members, back = table("bands", modes, like, self.num_bands, self.band_unit)
        factors = [self.log_shrink_SG[band, blocks].to(like.dtype).exp().expand(len(chosen), -1) for band, chosen in enumerate(members)]
        return self.shrink * torch.cat(factors).index_select(0, back)

    def _mix_band(self, band: int, z_B2KC: Tensor, blocks: slice, modes_last: bool) -> Tensor:
        """Both layers on the modes of one band."""
        z = into_blocks(z_B2KC, blocks.stop - blocks.start, modes_last)
        hidden = self._activate(band, block_product(z, self.weight_in_S2Gch[band, :, blocks], modes_last, name="hidden"), blocks,
                                1 if modes_last else 2)
        mixed = block_product(hidden, self.weight_out_S2Ghc[band, :, blocks], modes_last, name="mixed")
        return out_of_blocks(mixed, z_B2KC.shape[0], modes_last, f"band {band} out of blocks")

    def _activate(self, band: int, z: Tensor, blocks: slice, axis: int) -> Tensor:
        """Scale hidden channels; real and imaginary parts stand along `axis`, the channels along the next."""
        if self.activation == "none":
            return z

        def each(parameter_SGh: Tensor) -> Tensor:
            return over_pieces(parameter_SGh[band, blocks], len(z)).unsqueeze(3 - axis)

        square = z.square().sum(axis)
        if self.activation == "modrelu":
            modulus = (square + _TINY).sqrt()
            gain = torch.relu(modulus - nn.functional.softplus(each(self.threshold_SGh))) / modulus
        else:
            share = ((square + _TINY) / (square.mean(axis, keepdim=True) + _SMALL_AMPLITUDE**2)).sqrt()
            gain = torch.sigmoid(torch.addcmul(each(self.offset_SGh), each(self.slope_SGh), share))
        return z * gain.unsqueeze(axis)


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


def _soft_shrink(z_B2KC: Tensor, modes: Modes, shares_KG: Tensor) -> Tensor:
    """Lower each modulus by a share of the root mean square of the block's field, zero where it would be negative."""
    (weights_K,) = table("weights", modes, z_B2KC)
    num_blocks = shares_KG.shape[1]
    square_BKC = z_B2KC.square().sum(1)
    mean_square_BG = torch.unflatten(torch.einsum("bkc,k->bc", square_BKC, weights_K), 1, (num_blocks, -1)).mean(-1)
    threshold_BKG = shares_KG * (mean_square_BG + _TINY).sqrt().unsqueeze(1)
    threshold_BKC = threshold_BKG.repeat_interleave(z_B2KC.shape[-1] // num_blocks, 2)
    modulus_BKC = (square_BKC + _TINY).sqrt()
    return z_B2KC * (torch.relu(modulus_BKC - threshold_BKC) / modulus_BKC).unsqueeze(1)
