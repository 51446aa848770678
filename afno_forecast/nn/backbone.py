"""Networks from a configuration: (B, C_in, H, W) to (B, C_out, H, W) for any H and W.

Axes: B batch, C channel, H latitude row, W longitude column; inside, channels come last.

`PlainConfig` is the network of the paper: patches, blocks of one width, recovery. `HierarchicalConfig` keeps full resolution
in convolutions and puts the AFNO blocks on a coarse level. Both start from an output of exactly zero: the last layer does.
`LegacyConfig` is FourCastNet as published, for its weights.
Weights are drawn from torch's global generator: seed it, or fork it, before building.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .block import BoundaryConv, MixerBlock, ResidualBlock
from .legacy import LegacyBackbone, LegacyConfig
from .mixers import MIXERS, USED_OPTIONS, MixerName, MixerOptions
from .padding import BOUNDARIES, Boundary
from .patch import PatchEmbed, PatchRecovery
from .spectral import LATITUDES, Latitude

_STRICT = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True)
class PlainConfig:
    """Patch embedding, blocks of one width, patch recovery."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    kind: Literal["plain"] = "plain"
    """Which network."""
    patch: tuple[int, int] = (4, 4)
    """Rows and columns of a patch, in cells; they need not divide the grid."""
    width: int = 256
    """Channels of a token."""
    depth: int = 6
    """Number of blocks."""
    num_blocks: int = 8
    """Groups of channels in the spectral weights (heads of the attention)."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP as a multiple of the width."""
    mixer: MixerName = "afno"
    """Token mixer: afno, legacy (FourCastNet's, for comparison), fno, gfn, attention or identity."""
    hidden_factor: float = 1.0
    """Hidden channels of a block in the spectral weights, as a multiple of its channels."""
    fraction: float = 1.0
    """Modes with |wavenumber| <= fraction of Nyquist are kept, per axis; in (0, 1]."""
    shrink: float = 0.0
    """Soft-shrink threshold as a share of the mixed field's root mean square; 0 is off."""
    num_bands: int = 1
    """Wavenumber bands (octaves) with spectral weights of their own."""
    latitude: Latitude = "periodic"
    """How the transform continues latitude: periodic, or over the poles as a double Fourier sphere (double, double_with_poles)."""
    local: bool = False
    """A 3 x 3 convolution beside the mixer."""
    tokens: tuple[int, int] | None = None
    """Token grid (rows, columns) of the mixer gfn; the other mixers run on any grid."""

    def __post_init__(self) -> None:
        if min(self.patch) < 1 or self.width < 1 or self.depth < 0:
            raise ValueError(f"patch, width and depth must be positive, not {self.patch}, {self.width}, {self.depth}")
        _check_blocks(self, self.width)


@dataclass(frozen=True)
class HierarchicalConfig:
    """A convolutional stem, coarser levels with skips, and AFNO blocks on the coarsest."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    kind: Literal["hierarchical"] = "hierarchical"
    """Which network."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Channels of each level; each level has half the rows and columns of the one before."""
    depth: int = 2
    """Number of blocks on the coarsest level."""
    residual_blocks: int = 1
    """Convolutional residual blocks on each finer level, on the way down and again on the way up."""
    num_blocks: int = 8
    """Groups of channels in the spectral weights (heads of the attention)."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP as a multiple of the width."""
    mixer: MixerName = "afno"
    """Token mixer: afno, legacy (FourCastNet's, for comparison), fno, gfn, attention or identity."""
    hidden_factor: float = 1.0
    """Hidden channels of a block in the spectral weights, as a multiple of its channels."""
    fraction: float = 1.0
    """Modes with |wavenumber| <= fraction of Nyquist are kept, per axis; in (0, 1]."""
    shrink: float = 0.0
    """Soft-shrink threshold as a share of the mixed field's root mean square; 0 is off."""
    num_bands: int = 4
    """Wavenumber bands (octaves) with spectral weights of their own."""
    latitude: Latitude = "periodic"
    """How the transform continues latitude: periodic, or over the poles as a double Fourier sphere (double, double_with_poles)."""
    local: bool = True
    """A 3 x 3 convolution beside the mixer."""
    tokens: tuple[int, int] | None = None
    """Token grid (rows, columns) of the mixer gfn; the other mixers run on any grid."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.depth < 0 or self.residual_blocks < 0:
            raise ValueError(
                f"widths needs at least one positive number, depth and residual_blocks none below zero, "
                f"not {self.widths}, {self.depth}, {self.residual_blocks}"
            )
        _check_blocks(self, self.widths[-1])


BackboneConfig = PlainConfig | HierarchicalConfig | LegacyConfig


def _check_blocks(config: PlainConfig | HierarchicalConfig, width: int) -> None:
    if config.mixer not in MIXERS:
        raise ValueError(f"mixer {config.mixer!r} is not one of {', '.join(MIXERS)}")
    if config.latitude not in LATITUDES:
        raise ValueError(f"latitude {config.latitude!r} is not one of {', '.join(LATITUDES)}")
    if config.num_blocks < 1 or (width % config.num_blocks and "num_blocks" in USED_OPTIONS[config.mixer]):
        raise ValueError(f"num_blocks: {width} channels cannot be divided into {config.num_blocks} equal blocks")
    if not 0.0 < config.fraction <= 1.0:
        raise ValueError(f"fraction must be in (0, 1], not {config.fraction}")
    if config.shrink < 0.0 or config.hidden_factor <= 0.0 or config.mlp_ratio <= 0.0 or config.num_bands < 1:
        raise ValueError("shrink must not be negative; hidden_factor, mlp_ratio and num_bands must be positive")
    if (config.mixer == "gfn") != (config.tokens is not None):
        raise ValueError("tokens (the token grid, rows and columns) belongs to the mixer gfn: give both or neither")
    idle = frozenset().union(*USED_OPTIONS.values()) - USED_OPTIONS[config.mixer]
    changed = [f.name for f in fields(config) if f.name in idle and getattr(config, f.name) != f.default]
    if changed:
        raise ValueError(f"{', '.join(changed)}: does nothing with the mixer {config.mixer}; leave it out")


def build_backbone(config: BackboneConfig, in_channels: int, out_channels: int, boundary: Boundary) -> nn.Module:
    """The network of a configuration.

    Args:
        config: which network and its sizes.
        in_channels: C_in.
        out_channels: C_out.
        boundary: what lies beyond the edges of the grid, see `padding.pad`.

    Returns:
        A module from (B, C_in, H, W) to (B, C_out, H, W), with a float32 (or wider) output, for any H and W but for `LegacyConfig`. A new one
        gives 0, but for `LegacyConfig`.

    Raises:
        ValueError: boundary or sizes are out of range.
    """
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary {boundary!r} is not one of {', '.join(BOUNDARIES)}")
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"a network needs channels in and out, not {in_channels} and {out_channels}")
    if isinstance(config, LegacyConfig):
        return LegacyBackbone(config, in_channels, out_channels)
    if config.latitude == "double_with_poles" and boundary != "sphere_with_poles":
        raise ValueError("latitude double_with_poles is for rows that lie on the poles, which this grid does not have; use double")
    if isinstance(config, PlainConfig):
        return PlainBackbone(config, in_channels, out_channels, boundary)
    return HierarchicalBackbone(config, in_channels, out_channels, boundary)


def _blocks(config: PlainConfig | HierarchicalConfig, width: int, boundary: Boundary) -> nn.Sequential:
    options = MixerOptions(
        dim=width,
        num_blocks=config.num_blocks,
        hidden_factor=config.hidden_factor,
        fraction=config.fraction,
        shrink=config.shrink,
        num_bands=config.num_bands,
        latitude=config.latitude,
        tokens=config.tokens,
    )
    blocks = (MixerBlock(options, config.mixer, config.mlp_ratio, boundary, local=config.local) for _ in range(config.depth))
    return nn.Sequential(*blocks)


def _coarse(boundary: Boundary) -> Boundary:
    """Boundary of a level made of patches: a patch that begins on the pole has its centre beside it."""
    return "sphere" if boundary == "sphere_with_poles" else boundary


class PlainBackbone(nn.Module):
    """Patch embedding (`stem`), blocks, norm and patch recovery (`head`)."""

    def __init__(self, config: PlainConfig, in_channels: int, out_channels: int, boundary: Boundary) -> None:
        super().__init__()
        self.stem = PatchEmbed(in_channels, config.width, config.patch, boundary)
        self.blocks = _blocks(config, config.width, _coarse(boundary))
        self.norm = nn.LayerNorm(config.width)
        self.head = PatchRecovery(config.width, out_channels, config.patch)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W), float32 or wider."""
        tokens = self.blocks(self.stem(x_BCHW.permute(0, 2, 3, 1)))
        rows, columns = x_BCHW.shape[-2:]
        return _out(self.head(self.norm(tokens), (rows, columns)))


class HierarchicalBackbone(nn.Module):
    """Stem, way down, blocks on the coarsest level, way up with skips, head."""

    def __init__(self, config: HierarchicalConfig, in_channels: int, out_channels: int, boundary: Boundary) -> None:
        super().__init__()
        widths = config.widths
        edges = [boundary] + [_coarse(boundary)] * (len(widths) - 1)
        finer = range(len(widths) - 1)

        def residual(level: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(widths[level], edges[level]) for _ in range(config.residual_blocks)))

        self.stem = BoundaryConv(in_channels, widths[0], boundary)
        self.refine_down = nn.ModuleList(residual(level) for level in finer)
        self.down = nn.ModuleList(PatchEmbed(widths[level], widths[level + 1], (2, 2), edges[level]) for level in finer)
        self.blocks = _blocks(config, widths[-1], edges[-1])
        self.up = nn.ModuleList(PatchRecovery(widths[level + 1], widths[level], (2, 2)) for level in finer)
        self.join = nn.ModuleList(nn.Linear(2 * widths[level], widths[level]) for level in finer)
        self.refine_up = nn.ModuleList(residual(level) for level in finer)
        self.norm = nn.LayerNorm(widths[0])
        self.head = BoundaryConv(widths[0], out_channels, boundary, zero=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W), float32 or wider."""
        x_BHWC = self.stem(x_BCHW.permute(0, 2, 3, 1).contiguous())
        skips: list[Tensor] = []
        for refine, down in zip(self.refine_down, self.down, strict=True):
            skips.append(refine(x_BHWC))
            x_BHWC = down(skips[-1])
        x_BHWC = self.blocks(x_BHWC)
        for skip_BHWC, up, join, refine in zip(
            reversed(skips), reversed(self.up), reversed(self.join), reversed(self.refine_up), strict=True
        ):
            raised = up(x_BHWC, (skip_BHWC.shape[1], skip_BHWC.shape[2]))
            x_BHWC = refine(join(torch.cat([raised, skip_BHWC.to(raised.dtype)], -1)))
        return _out(self.head(self.norm(x_BHWC)))


def _out(x_BHWC: Tensor) -> Tensor:
    """Channels before rows again, float32 or wider."""
    return x_BHWC.permute(0, 3, 1, 2).to(torch.promote_types(x_BHWC.dtype, torch.float32)).contiguous()


def num_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def muon_parameters(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters that Muon takes, and of those that AdamW takes.

    Muon takes the matrices of linear layers and the kernels of convolutions (to be flattened to (out, in x rows x columns)),
    except those of stem, patch embedding and head; AdamW takes these, the spectral weights, and all biases and norms. The names are those of
    `module.named_parameters()`, also when the backbone is part of a larger module.
    """
    matrices: set[str] = set()
    for prefix, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d) and not {"stem", "head", "patch_embed"} & set(prefix.split(".")):
            matrices.add(f"{prefix}.weight" if prefix else "weight")
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name in names if name in matrices], [name for name in names if name not in matrices]
