"""Networks from a configuration: (B, C_in, H, W) to (B, C_out, H, W) for any H and W.

Axes: B batch, C channel, H latitude row, W longitude column; inside, channels come last.

`PlainConfig` is the network of the paper: patches, blocks of one width, recovery. `HierarchicalConfig` keeps full resolution
in convolutions and puts the AFNO blocks on a coarse level. Both start from an output of exactly zero: the last layer does.
`LegacyConfig` is FourCastNet as published, for its weights.
Weights are drawn from torch's global generator: seed it, or fork it, before building.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .block import BoundaryConv, MixerBlock, ResidualBlock, Stack
from .config import BackboneConfig, BlockConfig, HierarchicalConfig, PlainConfig
from .legacy import LegacyBackbone, LegacyConfig, LegacyNetwork
from .mixers import USED_OPTIONS, MixerOptions
from .modulation import ConditionEmbed, Norm, check_condition
from .padding import BOUNDARIES, POLAR, Boundary, channel_parity, mirrored_size
from .patch import PatchEmbed, PatchRecovery
from .resample import coarsen, spread

__all__ = ["BackboneConfig", "HierarchicalConfig", "PlainConfig", "build_backbone", "muon_parameters", "num_parameters", "set_checkpointing",
           "set_patch"]


def build_backbone(config: BackboneConfig, in_channels: int, out_channels: int, boundary: Boundary, *,
                   parity: Sequence[float] | None = None, out_parity: Sequence[float] | None = None,
                   extent: tuple[float, float] | None = None) -> nn.Module:
    """The network of a configuration.

    Args:
        config: which network and its sizes.
        in_channels: C_in.
        out_channels: C_out.
        boundary: what lies beyond the edges of the grid, see `padding.pad`.
        parity: what a stem that sees over the poles makes of each input channel there: +1 for scalars, -1 for components of horizontal
            vectors such as the wind, which change sign; all +1 by default.
        out_parity: the same of each output channel, for an output that is spread from coarser cells (`coarsen`).
        extent: for a network trained on another domain, the rows and columns of this grid as shares of that domain's (of its lengths,
            not of its numbers of cells): wavenumber bands are then told by the wavelengths of training, and what concerns poles is left
            out where this grid has none. By default the domain of training is this grid's.

    Returns:
        A module from (B, C_in, H, W), and (B, D) scalars where the configuration has D `conditions`, to (B, C_out, H, W), float32 or
        wider. But for `LegacyConfig` it takes any H and W, and a new one gives 0.

    Raises:
        ValueError: boundary or sizes are out of range.
    """
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary {boundary!r} is not one of {', '.join(BOUNDARIES)}")
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"a network needs channels in and out, not {in_channels} and {out_channels}")
    if isinstance(config, LegacyConfig):
        return LegacyBackbone(config, in_channels, out_channels)
    unit = _band_unit(config, boundary, extent or (1.0, 1.0))
    config = _for_poles(config, boundary, transfer=extent is not None)
    signs = _signs(parity, in_channels, "input"), _signs(out_parity, out_channels, "output")
    if isinstance(config, PlainConfig):
        return PlainBackbone(config, in_channels, out_channels, boundary, signs, unit)
    return HierarchicalBackbone(config, in_channels, out_channels, boundary, signs, unit)


def _signs(parity: Sequence[float] | None, count: int, which: str) -> Tensor | None:
    """The parity of channels as a tensor; None where no channel changes sign. Raises ValueError."""
    if parity is not None and (len(parity) != count or {abs(sign) for sign in parity} - {1}):
        raise ValueError(f"parity is +1 or -1 for each of the {count} {which} channels, not {list(parity)}")
    return None if parity is None or min(parity) > 0 else torch.tensor(parity, dtype=torch.float32)


def _for_poles(config: PlainConfig | HierarchicalConfig, boundary: Boundary, *, transfer: bool) -> PlainConfig | HierarchicalConfig:
    """The network where the rows end as this boundary says; what does not fit is changed in a transfer, and else refused by ValueError."""
    polar = boundary in POLAR
    if transfer and not polar:
        return replace(config, latitude="periodic", odd_channels=0.0)
    if config.latitude == "double_with_poles" and (boundary != "sphere_with_poles" or _rows_of_token(config) > 1):
        if transfer:
            return replace(config, latitude="double")
        which = "this grid does not have" if boundary != "sphere_with_poles" else f"tokens of {_rows_of_token(config)} rows do not"
        raise ValueError(f"latitude double_with_poles is for rows that lie on the poles, which {which}; use double")
    if not polar and (config.latitude != "periodic" or config.odd_channels):
        raise ValueError(f"latitude {config.latitude} and odd_channels {config.odd_channels} are for rows that end at the poles, which a grid with "
                         f"boundary {boundary} does not have; leave both out")
    return config


def _rows_of_token(config: PlainConfig | HierarchicalConfig) -> int:
    """Rows of the grid in a token of the mixer."""
    return config.coarsen[0] * (config.patch[0] if isinstance(config, PlainConfig) else 2 ** (len(config.widths) - 1))


def _band_unit(config: BlockConfig, boundary: Boundary, extent: tuple[float, float]) -> tuple[float, float]:
    """The wavenumber of training that one cycle over the rows, and over the columns, of the mixer's tokens is."""
    if min(extent) <= 0:
        raise ValueError(f"extent, shares of the domain of training, must be positive, not {extent}")
    rows, columns = mirrored_size((1, 1), boundary)
    if config.latitude != "periodic" and boundary not in POLAR:
        rows = max(rows // 2, 1)  # training counted cycles over both halves of its meridians
    return 1 / (extent[0] * rows), 1 / (extent[1] * columns)


def _blocks(config: BlockConfig, width: int, boundary: Boundary, unit: tuple[float, float]) -> Stack:
    options = MixerOptions(
        dim=width,
        num_blocks=config.num_blocks if "num_blocks" in USED_OPTIONS[config.mixer] else 1,
        hidden_factor=config.hidden_factor,
        fraction=config.fraction,
        shrink=config.shrink,
        learned_shrink=config.learned_shrink,
        num_bands=config.num_bands,
        latitude=config.latitude,
        tokens=config.tokens if config.tokens is None else mirrored_size(config.tokens, boundary),
        odd_share=config.odd_channels,
        band_unit=unit,
    )
    conditioned = config.conditions > 0
    return Stack(
        MixerBlock(options, config.mixer, config.mlp_ratio, boundary, local=config.local, conditioned=conditioned) for _ in range(config.depth)
    )


def _coarse(boundary: Boundary) -> Boundary:
    """Boundary of a level made of patches: a patch that begins on the pole has its centre beside it."""
    return "sphere" if boundary == "sphere_with_poles" else boundary


class PlainBackbone(nn.Module):
    """Patch embedding (`stem`), blocks, norm and patch recovery (`head`), or patch recovery (`recover`) and a convolution (`head`)."""

    out_parity_C: Tensor | None

    def __init__(self, config: PlainConfig, in_channels: int, out_channels: int, boundary: Boundary, parity: tuple[Tensor | None, Tensor | None],
                 unit: tuple[float, float]) -> None:
        super().__init__()
        self.conditions, self.coarsen, self.boundary = config.conditions, config.coarsen, boundary
        parity_C, out_parity_C = parity
        self.register_buffer("out_parity_C", out_parity_C, persistent=False)
        inner = boundary if config.coarsen[0] == 1 else _coarse(boundary)
        self.latitude, self.inner = config.latitude, inner
        weights_patch = config.weights_patch or config.patch
        self.stem = PatchEmbed(in_channels, config.width, weights_patch, inner, parity_C=parity_C, overlap=config.overlap)
        self.blocks = _blocks(config, config.width, inner, unit)
        self.norm = Norm(config.width, conditioned=config.conditions > 0)
        recover = PatchRecovery(config.width, config.decoder_channels or out_channels, weights_patch)
        self.recover = recover if config.decoder_channels else None
        hidden_parity_C = channel_parity(config.decoder_channels, config.odd_channels)
        self.head = BoundaryConv(config.decoder_channels, out_channels, inner, parity_C=hidden_parity_C) if config.decoder_channels else recover
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.direct = _direct(in_channels, out_channels) if config.direct else None
        self.condition_embed = ConditionEmbed(config.conditions) if config.conditions else None
        set_patch(self, config.patch)

    def forward(self, x_BCHW: Tensor, condition_BD: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W), with the scalars of each sample where the network has `conditions`, to (B, C_out, H, W), float32 or wider."""
        check_condition(condition_BD, self.conditions, x_BCHW.shape[0])
        features_BE = self.condition_embed(condition_BD) if self.condition_embed else None
        cells_BCHW = coarsen(x_BCHW, self.coarsen, self.boundary)
        size = (cells_BCHW.shape[2], cells_BCHW.shape[3])
        tokens = self.norm(self.blocks(self.stem(cells_BCHW.permute(0, 2, 3, 1)), features_BE), features_BE)
        out_BHWC = self.head(tokens, size) if self.recover is None else self.head(nn.functional.gelu(self.recover(tokens, size)))
        return spread(_out(out_BHWC, cells_BCHW, self.direct), self.coarsen, (x_BCHW.shape[2], x_BCHW.shape[3]), _coarse(self.boundary),
                      self.out_parity_C)


class HierarchicalBackbone(nn.Module):
    """Stem, way down, blocks on the coarsest level, way up with skips, head."""

    out_parity_C: Tensor | None

    def __init__(self, config: HierarchicalConfig, in_channels: int, out_channels: int, boundary: Boundary,
                 parity: tuple[Tensor | None, Tensor | None], unit: tuple[float, float]) -> None:
        super().__init__()
        self.conditions, self.coarsen, self.boundary = config.conditions, config.coarsen, boundary
        parity_C, out_parity_C = parity
        self.register_buffer("out_parity_C", out_parity_C, persistent=False)
        widths = config.widths
        edges = [boundary if config.coarsen[0] == 1 else _coarse(boundary)] + [_coarse(boundary)] * (len(widths) - 1)
        finer = range(len(widths) - 1)

        conditioned, odd = config.conditions > 0, config.odd_channels

        def residual(level: int) -> Stack:
            return Stack(ResidualBlock(widths[level], edges[level], conditioned=conditioned, odd_share=odd)
                         for _ in range(config.residual_blocks_of_levels[level]))

        def down(level: int) -> PatchEmbed:
            return PatchEmbed(widths[level], widths[level + 1], (2, 2), edges[level], parity_C=channel_parity(widths[level], odd))

        self.stem = BoundaryConv(in_channels, widths[0], edges[0], parity_C=parity_C)
        self.refine_down = nn.ModuleList(residual(level) for level in finer)
        self.down = nn.ModuleList(down(level) for level in finer)
        self.blocks = _blocks(config, widths[-1], edges[-1], unit)
        self.up = nn.ModuleList(PatchRecovery(widths[level + 1], widths[level], (2, 2)) for level in finer)
        self.join = nn.ModuleList(nn.Linear(2 * widths[level], widths[level]) for level in finer)
        self.refine_up = nn.ModuleList(residual(level) for level in finer)
        self.norm = Norm(widths[0], conditioned=conditioned)
        self.head = BoundaryConv(widths[0], out_channels, edges[0], zero=True, parity_C=channel_parity(widths[0], odd))
        self.direct = _direct(in_channels, out_channels) if config.direct else None
        self.condition_embed = ConditionEmbed(config.conditions) if conditioned else None

    def forward(self, x_BCHW: Tensor, condition_BD: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W), with the scalars of each sample where the network has `conditions`, to (B, C_out, H, W), float32 or wider."""
        check_condition(condition_BD, self.conditions, x_BCHW.shape[0])
        features_BE = self.condition_embed(condition_BD) if self.condition_embed else None
        cells_BCHW = coarsen(x_BCHW, self.coarsen, self.boundary)
        x_BHWC = self.stem(cells_BCHW.permute(0, 2, 3, 1).contiguous())
        skips: list[Tensor] = []
        for refine, down in zip(self.refine_down, self.down, strict=True):
            skips.append(refine(x_BHWC, features_BE))
            x_BHWC = down(skips[-1])
        x_BHWC = self.blocks(x_BHWC, features_BE)
        for skip_BHWC, up, join, refine in zip(
            reversed(skips), reversed(self.up), reversed(self.join), reversed(self.refine_up), strict=True
        ):
            raised = up(x_BHWC, (skip_BHWC.shape[1], skip_BHWC.shape[2]))
            x_BHWC = refine(join(torch.cat([raised, skip_BHWC.to(raised.dtype)], -1)), features_BE)
        out_BCHW = _out(self.head(self.norm(x_BHWC, features_BE)), cells_BCHW, self.direct)
        return spread(out_BCHW, self.coarsen, (x_BCHW.shape[2], x_BCHW.shape[3]), _coarse(self.boundary), self.out_parity_C)


def _out(x_BHWC: Tensor, cells_BCHW: Tensor, direct: nn.Linear | None) -> Tensor:
    """Channels before rows again, float32 or wider, with the direct map of the inputs added where there is one."""
    x_BHWC = x_BHWC.to(torch.promote_types(x_BHWC.dtype, torch.float32))
    if direct is not None:
        with torch.autocast(x_BHWC.device.type, enabled=False):
            x_BHWC = x_BHWC + direct(cells_BCHW.permute(0, 2, 3, 1).to(direct.weight.dtype))
    return x_BHWC.permute(0, 3, 1, 2).contiguous()


def _direct(in_channels: int, out_channels: int) -> nn.Linear:
    """A linear map that starts from zero, drawn without touching the generator that the other weights are drawn from."""
    with torch.random.fork_rng(devices=[]):
        direct = nn.Linear(in_channels, out_channels)
    for parameter in direct.parameters():
        nn.init.zeros_(parameter)
    return direct


_NOT_FOR_MUON = frozenset({"stem", "head", "direct", "patch_embed", "condition_embed"})


def num_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def set_checkpointing(module: nn.Module, on: bool) -> None:
    """Let each block of the networks within keep only its input for the backward pass, and compute the rest again; or not."""
    for part in module.modules():
        if isinstance(part, Stack | LegacyNetwork):
            part.checkpointing = on


def set_patch(module: nn.Module, patch: tuple[int, int]) -> None:
    """Let the plain networks within work with another patch, for one checkpoint with several: their weights are resampled by area."""
    for network in module.modules():
        if isinstance(network, PlainBackbone):
            if network.latitude == "double_with_poles" and patch[0] > 1:
                raise ValueError(f"latitude double_with_poles is for rows that lie on the poles, which tokens of {patch[0]} rows do not")
            for part in network.blocks.modules():
                if isinstance(part, BoundaryConv):
                    part.boundary = network.inner if patch[0] == 1 else _coarse(network.inner)
            for part in network.modules():
                if isinstance(part, PatchEmbed | PatchRecovery):
                    if part.weights_patch != patch and isinstance(part, PatchEmbed) and part.overlap:
                        raise ValueError("weights of overlapping patches cannot be resampled for another patch")
                    part.patch = patch


def muon_parameters(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters that Muon takes, and of those that AdamW takes.

    Muon takes the matrices of linear layers and the kernels of convolutions (to be flattened to (out, in x rows x columns)),
    except those of stem, patch embedding, head, direct map and conditioning; AdamW takes these, the spectral weights,
    and all biases and norms. The names are those of `module.named_parameters()`, also when the backbone is part of a larger module.
    """
    matrices: set[str] = set()
    for prefix, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d) and not _NOT_FOR_MUON & set(prefix.split(".")):
            matrices.add(f"{prefix}.weight" if prefix else "weight")
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name in names if name in matrices], [name for name in names if name not in matrices]
