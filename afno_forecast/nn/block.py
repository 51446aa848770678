"""The parts that networks are stacked from. Inside a network channels come last.

Axes: B batch, H row, W column, C channel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .convolution import convolve
from .mixers import MIXERS, PERIODIC_MIXERS, MixerName, MixerOptions
from .mlp import norm_mlp
from .modulation import Norm
from .padding import Boundary, channel_parity, mirror, pad


class BoundaryConv(nn.Module):
    """3 x 3 convolution that sees over the edges by the rule of the boundary.

    Args:
        in_channels: channels before.
        out_channels: channels after.
        boundary: see `padding.pad`.
        zero: start from zero weights.
        parity_C: signs of the channels over a pole, see `padding.pad`.
        depthwise: each channel by itself, with as many channels after as before.
    """

    parity_C: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, boundary: Boundary, *, zero: bool = False, parity_C: Tensor | None = None,
                 depthwise: bool = False) -> None:
        super().__init__()
        self.boundary = boundary
        self.register_buffer("parity_C", parity_C, persistent=False)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, groups=in_channels if depthwise else 1)
        if zero:
            for parameter in self.conv.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Convolved field, (B, H, W, C')."""
        padded_BCHW = pad(x_BHWC.permute(0, 3, 1, 2), 1, 1, self.boundary, self.parity_C)
        if self.conv.groups > 1:
            own: Tensor = self.conv(padded_BCHW)
            return own.permute(0, 2, 3, 1)
        return convolve(padded_BCHW, self.conv.weight, self.conv.bias).permute(0, 2, 3, 1)


class Stack(nn.ModuleList):
    """Blocks one after another, all with the same features of the conditions.

    `checkpointing` (off) trades time for memory in training: each block keeps only its input for the backward pass.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.checkpointing = False

    def forward(self, x_BHWC: Tensor, features_BE: Tensor | None = None) -> Tensor:
        """Refined field, the same shape."""
        for block in self:
            if self.checkpointing and torch.is_grad_enabled():
                x_BHWC = checkpoint(block, x_BHWC, features_BE, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BHWC = block(x_BHWC, features_BE)
        return x_BHWC


class ResidualBlock(nn.Module):
    """x + conv(gelu(conv(norm(x)))); the second convolution starts from zero, so that the block starts as the identity."""

    def __init__(self, dim: int, boundary: Boundary, *, conditioned: bool = False, odd_share: float = 0.0) -> None:
        super().__init__()
        parity_C = channel_parity(dim, odd_share)
        self.norm = Norm(dim, conditioned=conditioned)
        self.first = BoundaryConv(dim, dim, boundary, parity_C=parity_C)
        self.second = BoundaryConv(dim, dim, boundary, zero=True, parity_C=parity_C)

    def forward(self, x_BHWC: Tensor, features_BE: Tensor | None = None) -> Tensor:
        """Refined field, the same shape."""
        refined: Tensor = x_BHWC + self.second(nn.functional.gelu(self.first(self.norm(x_BHWC, features_BE))))
        return refined


class MLP(nn.Module):
    """Two linear layers on each token with GELU between."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(dim * ratio))
        self.first = nn.Linear(dim, hidden)
        self.second = nn.Linear(hidden, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Mixed channels, the same shape."""
        mixed: Tensor = self.second(nn.functional.gelu(self.first(x_BHWC)))
        return mixed


class MixerBlock(nn.Module):
    """Mix tokens, then mix channels, each with a norm before and a skip around.

    x + mixer(u) + u with u = norm(x), where `local` adds a 3 x 3 convolution of u beside the mixer; then x + mlp(norm(x)).
    A mixer that takes its tokens for periodic gets them mirrored where the area ends, see `padding.mirror`; that part of the work
    doubles on a band and grows fourfold on a limited area.

    Args:
        options: the mixer's options; `options.dim` is the number of channels.
        mixer: name of the token mixer.
        mlp_ratio: hidden channels of the MLP as a multiple of its channels.
        boundary: see `padding.pad`.
        local: add the convolution, of all channels or depthwise.
        conditioned: scale and shift after both norms.
    """

    def __init__(self, options: MixerOptions, mixer: MixerName, mlp_ratio: float, boundary: Boundary, *, local: bool | Literal["depthwise"],
                 conditioned: bool = False) -> None:
        super().__init__()
        self.mixer_norm = Norm(options.dim, conditioned=conditioned)
        self.mixer = MIXERS[mixer](options)
        self.boundary, self.mirrors = boundary, mixer in PERIODIC_MIXERS
        self.local = None
        if local:
            self.local = BoundaryConv(options.dim, options.dim, boundary, parity_C=options.parity, depthwise=local == "depthwise")
        self.mlp_norm = Norm(options.dim, conditioned=conditioned)
        self.mlp = MLP(options.dim, mlp_ratio)

    def forward(self, x_BHWC: Tensor, features_BE: Tensor | None = None) -> Tensor:
        """Mixed tokens, the same shape."""
        normed = self.mixer_norm(x_BHWC, features_BE)
        rows, columns = x_BHWC.shape[1:3]
        spread = mirror(normed, self.boundary) if self.mirrors else normed
        x_BHWC = x_BHWC + normed + self.mixer(spread)[:, :rows, :columns]
        if self.local is not None:
            x_BHWC = x_BHWC + self.local(normed)
        if features_BE is None:
            return norm_mlp(x_BHWC, self.mlp_norm, self.mlp.first, self.mlp.second, overwrite=True)
        mixed: Tensor = x_BHWC + self.mlp(self.mlp_norm(x_BHWC, features_BE))
        return mixed
