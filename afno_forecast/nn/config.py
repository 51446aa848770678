"""Configurations of the networks, checked on the spot; `backbone.build_backbone` builds from them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from .legacy import LegacyConfig
from .mixers import MIXERS, USED_OPTIONS, MixerName
from .modes import LATITUDES, Latitude

Local = bool | Literal["depthwise"]


def _doc(description: str) -> dict[str, str]:
    """What a field is for, where other configurations inherit it (a docstring below the field would be lost to them)."""
    return {"description": description}


@dataclass(frozen=True)
class BlockConfig:
    """What the blocks of every network have; the networks below inherit it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: Literal["plain", "hierarchical"] = field(default="plain", metadata=_doc("Which network."))
    depth: int = field(default=6, metadata=_doc("Number of AFNO blocks."))
    num_blocks: int = field(default=8, metadata=_doc(
        "Groups of channels in the spectral weights, the first of the paper's three economies (1: none); heads of the attention."))
    mlp_ratio: float = field(default=4.0, metadata=_doc("Hidden channels of the MLP as a multiple of the width."))
    mixer: MixerName = field(default="afno", metadata=_doc(
        "Token mixer: afno, legacy (FourCastNet's, for comparison), fno, gfn, attention or identity."))
    hidden_factor: float = field(default=1.0, metadata=_doc("Hidden channels of a block in the spectral weights, as a multiple of its channels."))
    fraction: float = field(default=1.0, metadata=_doc(
        "Modes with |wavenumber| <= fraction of Nyquist are kept, per axis; in (0, 1]. With the mixer legacy: the published selection."))
    shrink: float = field(default=0.0, metadata=_doc(
        "Soft-shrink threshold as a share of the mixed field's root mean square, the third economy; 0 is off. With the mixer legacy it is absolute."))
    learned_shrink: bool = field(default=False, metadata=_doc("Learn a factor on shrink for each band and block."))
    num_bands: int = field(default=1, metadata=_doc(
        "Wavenumber bands (octaves) with spectral weights of their own; 1: the same weights for all modes, the second economy."))
    latitude: Latitude = field(default="periodic", metadata=_doc(
        "How the transform continues latitude: periodic, or over the poles as a double Fourier sphere (double, double_with_poles)."))
    odd_channels: float = field(default=0.0, metadata=_doc(
        "Share of the hidden channels that change sign over a pole, as components of vectors do; in [0, 1]."))
    local: Local = field(default=False, metadata=_doc("A 3 x 3 convolution beside the mixer: true, or depthwise (each channel by itself)."))
    tokens: tuple[int, int] | None = field(default=None, metadata=_doc(
        "Token grid (rows, columns) of the mixer gfn; the other mixers run on any grid."))
    direct: bool = field(default=False, metadata=_doc(
        "Add a linear map of the inputs of each cell to its outputs, zero at first: damping and advection need no layers then."))
    conditions: int = field(default=0, metadata=_doc(
        "Scalars given with each sample (lead time, time of day), by which channels are scaled and shifted after every norm; 0 is none."))
    coarsen: tuple[int, int] = field(default=(1, 1), metadata=_doc(
        "Rows and columns of the grid that the network takes for one cell: it reads their mean, and its output is spread smoothly. Runs weights "
        "of a coarse grid on a finer one."))


@dataclass(frozen=True)
class PlainConfig(BlockConfig):
    """Patch embedding, blocks of one width, patch recovery."""

    kind: Literal["plain"] = "plain"
    """Which network."""
    patch: tuple[int, int] = (4, 4)
    """Rows and columns of a patch, in cells; they need not divide the grid."""
    width: int = 256
    """Channels of a token."""
    weights_patch: tuple[int, int] | None = None
    """The patch that the weights are for, where it is not `patch`; they are resampled by area. By default `patch`."""
    overlap: int = 0
    """Cells around its patch that a token sees too."""
    decoder_channels: int = 0
    """Channels of a cell between patch recovery and a 3 x 3 convolution over the seams of patches; 0: patch recovery alone."""

    def __post_init__(self) -> None:
        if min(self.patch) < 1 or self.width < 1 or self.depth < 0:
            raise ValueError(f"patch, width and depth must be positive, not {self.patch}, {self.width}, {self.depth}")
        if min(self.weights_patch or self.patch) < 1 or self.overlap < 0 or self.decoder_channels < 0:
            raise ValueError(f"weights_patch must be positive, overlap and decoder_channels not below zero, not {self.weights_patch}, {self.overlap} "
                             f"and {self.decoder_channels}")
        if self.overlap and self.weights_patch not in (None, self.patch):
            raise ValueError("overlap: weights of overlapping patches cannot be resampled; leave out overlap or weights_patch")
        if self.odd_channels and self.latitude == "periodic" and not self.local and not self.decoder_channels:
            raise ValueError("odd_channels: does nothing in a plain network without local, without decoder_channels and with latitude periodic")
        _check_blocks(self, self.width)


@dataclass(frozen=True)
class HierarchicalConfig(BlockConfig):
    """A convolutional stem, coarser levels with skips, and AFNO blocks on the coarsest."""

    kind: Literal["hierarchical"] = "hierarchical"
    """Which network."""
    depth: int = 2
    """Number of AFNO blocks, on the coarsest level."""
    num_bands: int = 4
    """Wavenumber bands (octaves) with spectral weights of their own."""
    local: Local = True
    """A 3 x 3 convolution beside the mixer: true, or depthwise (each channel by itself)."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Channels of each level; each level has half the rows and columns of the one before."""
    residual_blocks: int | tuple[int, ...] = 1
    """Convolutional residual blocks on the way down and again on the way up: of every finer level, or of each, the finest first."""

    def __post_init__(self) -> None:
        blocks = self.residual_blocks
        if not self.widths or min(self.widths) < 1 or self.depth < 0 or min((blocks,) if isinstance(blocks, int) else blocks, default=0) < 0:
            raise ValueError(
                f"widths needs at least one positive number, depth and residual_blocks none below zero, "
                f"not {self.widths}, {self.depth}, {self.residual_blocks}"
            )
        if len(self.residual_blocks_of_levels) != len(self.widths) - 1:
            raise ValueError(f"residual_blocks: {len(self.widths)} levels have {len(self.widths) - 1} finer ones, not the "
                             f"{len(self.residual_blocks_of_levels)} of {list(self.residual_blocks_of_levels)}")
        _check_blocks(self, self.widths[-1])

    @property
    def residual_blocks_of_levels(self) -> tuple[int, ...]:
        """Residual blocks of each finer level, the finest first."""
        blocks = self.residual_blocks
        return (blocks,) * (len(self.widths) - 1) if isinstance(blocks, int) else blocks


BackboneConfig = PlainConfig | HierarchicalConfig | LegacyConfig


def _check_blocks(config: BlockConfig, width: int) -> None:
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
    if config.learned_shrink and not config.shrink:
        raise ValueError("learned_shrink: a factor on shrink does nothing while shrink is 0; give shrink, such as 0.01, or leave it out")
    if min(config.coarsen) < 1:
        raise ValueError(f"coarsen, rows and columns of the grid for one cell of the network, must be positive, not {config.coarsen}")
    if not 0.0 <= config.odd_channels <= 1.0:
        raise ValueError(f"odd_channels, a share of the channels, must be in [0, 1], not {config.odd_channels}")
    if config.conditions < 0:
        raise ValueError(f"conditions, the number of scalars given with a sample, must not be negative, not {config.conditions}")
    if (config.mixer == "gfn") != (config.tokens is not None):
        raise ValueError("tokens (the token grid, rows and columns) belongs to the mixer gfn: give both or neither")
    idle = frozenset().union(*USED_OPTIONS.values()) - USED_OPTIONS[config.mixer]
    changed = [f.name for f in fields(config) if f.name in idle and getattr(config, f.name) != f.default]
    if changed:
        raise ValueError(f"{', '.join(changed)}: does nothing with the mixer {config.mixer}; leave it out")
