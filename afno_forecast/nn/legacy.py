"""The network of FourCastNet as it was published, its errors included: it exists to run published weights, never as a default.

FourCastNet's `AFNONet` and PhysicsNeMo's `AFNO` are the same function. What a new model should not copy: the number of zonal
modes follows from the number of rows; a fraction below 1 keeps the modes around Nyquist and drops the mean; biases are added
to every mode, a spike in token (0, 0); ReLU and soft-shrink act on real and imaginary parts, so the mixer does not commute with
a shift. Parameters have the published names. The mathematics is the same, the way is not: only the kept modes are transformed
and mixed, by one packed real product a layer; the MLP runs in pieces that stay in cache and keeps its input and hidden values
for the backward pass, nothing else.

Axes: B batch, C channel in or out, H row, W column; h, w row and column of tokens; D embedding; N tokens of a batch;
G block, K kept mode, c channels of a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .afno import check_options
from .block_product import block_product, into_blocks, out_of_blocks
from .mlp import norm_mlp
from .modes import Modes, kept_modes
from .spectral import filter_blocks

_EPSILON = 1e-6
_INITIAL_SCALE = 0.02


@dataclass(frozen=True)
class LegacyConfig:
    """FourCastNet's network, under the names of its publication."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: Literal["legacy"]
    """Which network: FourCastNet as published, to run its weights."""
    grid: tuple[int, int]
    """Rows and columns in cells; the position table belongs to this grid."""
    patch: tuple[int, int]
    """Rows and columns of a patch, in cells; they divide the grid."""
    embed_dim: int
    """Channels of a token."""
    depth: int
    """Number of blocks."""
    num_blocks: int = 8
    """Groups of channels in the spectral weights."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP as a multiple of embed_dim."""
    hard_thresholding_fraction: float = 1.0
    """Share of the modes that are kept, selected as published."""
    sparsity_threshold: float = 0.01
    """Soft-shrink threshold of real and imaginary parts, absolute."""
    double_skip: bool = True
    """A skip around the mixer besides the one around the block."""
    north_first: bool = True
    """The weights read latitude from north to south: rows are turned before and after."""

    def __post_init__(self) -> None:
        if min(*self.grid, *self.patch, self.embed_dim) < 1 or self.depth < 0 or self.mlp_ratio <= 0:
            raise ValueError(f"sizes must be positive: grid {self.grid}, patch {self.patch}, embed_dim {self.embed_dim}, mlp_ratio {self.mlp_ratio}")
        if self.grid[0] % self.patch[0] or self.grid[1] % self.patch[1]:
            raise ValueError(f"a patch of {self.patch[0]} x {self.patch[1]} cells does not divide a grid of {self.grid[0]} x {self.grid[1]}")
        check_options(self.embed_dim, self.num_blocks, self.hard_thresholding_fraction, self.sparsity_threshold, 1)

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.grid[0] // self.patch[0], self.grid[1] // self.patch[1]


class LegacyMixer(nn.Module):
    """FourCastNet's AFNO2D without the skip around it.

    Args:
        dim: channels, divisible by `num_blocks`.
        num_blocks: groups of channels.
        hidden_factor: hidden channels of a block as a multiple of its channels.
        fraction: share of the modes kept, by the published selection.
        shrink: threshold on real and imaginary parts of coefficients normalised by the root of the number of tokens.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, dim: int, num_blocks: int = 8, *, hidden_factor: float = 1.0, fraction: float = 1.0, shrink: float = 0.01) -> None:
        super().__init__()
        check_options(dim, num_blocks, fraction, shrink, 1)
        self.fraction, self.shrink = fraction, shrink
        width = dim // num_blocks
        hidden = max(1, round(width * hidden_factor))
        self.w1 = nn.Parameter(_INITIAL_SCALE * torch.randn(2, num_blocks, width, hidden))
        self.b1 = nn.Parameter(_INITIAL_SCALE * torch.randn(2, num_blocks, hidden))
        self.w2 = nn.Parameter(_INITIAL_SCALE * torch.randn(2, num_blocks, hidden, width))
        self.b2 = nn.Parameter(_INITIAL_SCALE * torch.randn(2, num_blocks, width))

    def forward(self, x_BHWD: Tensor, into: Tensor | None = None) -> Tensor:
        """What the mixer adds to its input, the same shape, float32 or wider whatever the autocast state.

        Without a backward pass it is added to `into` where that is given, which is returned.
        """
        modes = kept_modes(x_BHWD.shape[1], x_BHWD.shape[2], self.fraction, legacy=True)
        if not modes.column_wavenumbers:
            return torch.zeros_like(x_BHWD) if into is None else into
        with torch.autocast(x_BHWD.device.type, enabled=False):
            return filter_blocks(x_BHWD, modes, self.w1.shape[1], partial(self._mix, modes), into=into)

    def _mix(self, modes: Modes, z_B2KD: Tensor, blocks: slice) -> Tensor:
        # Published coefficients are `root` times ours; ReLU and shrink scale with their argument, so biases and threshold are divided.
        root = math.sqrt(modes.rows * modes.columns)
        modes_last = modes.method == "fft"
        z = into_blocks(z_B2KD, blocks.stop - blocks.start, modes_last)
        hidden = torch.relu_(block_product(z, self.w1[:, blocks], modes_last, self.b1[:, blocks] / root, name="hidden"))
        mixed = block_product(hidden, self.w2[:, blocks], modes_last, self.b2[:, blocks] / root, name="mixed")
        return out_of_blocks(nn.functional.softshrink(mixed, self.shrink / root), z_B2KD.shape[0], modes_last)


class _PatchEmbed(nn.Module):
    """Strided convolution, done as a rearrangement and one matrix product."""

    def __init__(self, in_channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        batch, channels, num_rows, num_columns = x_BCHW.shape
        rows, columns = self.patch
        patches = x_BCHW.reshape(batch, channels, num_rows // rows, rows, num_columns // columns, columns)
        patches_BhwX = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        tokens: Tensor = nn.functional.linear(patches_BhwX, self.proj.weight.flatten(1), self.proj.bias)
        return tokens


class _MLP(nn.Module):
    """Holds the weights; `LegacyBlock` runs them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)


class LegacyBlock(nn.Module):
    """Norm, mixer, skip, norm, MLP, skip."""

    def __init__(self, config: LegacyConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.double_skip = config.double_skip
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.filter = LegacyMixer(dim, config.num_blocks, fraction=config.hard_thresholding_fraction, shrink=config.sparsity_threshold)
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = _MLP(dim, int(dim * config.mlp_ratio + 1e-6))  # a ratio of whole numbers comes back to them

    def forward(self, x_BhwD: Tensor, keep_hidden: bool) -> Tensor:
        """Without a backward pass the tokens are written over."""
        normed = self.norm1(x_BhwD)
        if torch.is_grad_enabled():
            mixed = self.filter(normed).add_(normed)
            mixed = mixed.add_(x_BhwD) if self.double_skip else mixed
        else:
            mixed = self.filter(normed, x_BhwD.add_(normed) if self.double_skip else normed.clone())
        return norm_mlp(mixed, self.norm2, self.mlp.fc1, self.mlp.fc2, residual=None if self.double_skip else x_BhwD, keep_hidden=keep_hidden,
                        overwrite=True)


class LegacyNetwork(nn.Module):
    """FourCastNet's network; a new one has weights drawn as published, from torch's global generator.

    Args:
        config: its sizes; `north_first` is for `LegacyBackbone`.
        in_channels: C_in.
        out_channels: C_out.

    `checkpointing` (off) trades time for memory in training: each block keeps only its input for the backward pass.
    """

    def __init__(self, config: LegacyConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.config, self.in_channels, self.out_channels = config, in_channels, out_channels
        self.checkpointing = False
        dim, (rows, columns) = config.embed_dim, config.patch
        self.patch_embed = _PatchEmbed(in_channels, dim, config.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(config.tokens), dim))
        self.blocks = nn.ModuleList(LegacyBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.norm.requires_grad_(False)  # published, and used by nothing
        self.head = nn.Linear(dim, out_channels * rows * columns, bias=False)
        nn.init.trunc_normal_(self.pos_embed, std=_INITIAL_SCALE)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=_INITIAL_SCALE)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W). Raises ValueError for another grid or number of channels."""
        expected = (self.in_channels, *self.config.grid)
        if tuple(x_BCHW.shape[1:]) != expected:
            raise ValueError(f"the legacy network reads (batch, {', '.join(map(str, expected))}), not {tuple(x_BCHW.shape)}")
        tokens: Tensor = self.patch_embed(x_BCHW).to(self.pos_embed.dtype)  # what blocks add to stays wide under autocast
        tokens = tokens.add_(self.pos_embed.view(1, *self.config.tokens, -1))
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, False, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, True)
        rows, columns = self.config.patch
        patches = self.head(tokens).view(*tokens.shape[:3], rows, columns, self.out_channels)
        out: Tensor = patches.permute(0, 5, 1, 3, 2, 4).reshape(x_BCHW.shape[0], self.out_channels, *self.config.grid)
        return out


class LegacyBackbone(nn.Module):
    """The legacy network where latitude ascends: rows are turned for it and back when it reads north first."""

    def __init__(self, config: LegacyConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.network = LegacyNetwork(config, in_channels, out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W), float32 or wider, latitude ascending."""
        turn = self.network.config.north_first
        out: Tensor = self.network(x_BCHW.flip(-2) if turn else x_BCHW)
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        return out.flip(-2) if turn else out


_BUILD_KEYS = ("in_channels", "out_channels", "grid", "patch", "embed_dim", "depth", "num_blocks", "mlp_ratio", "hard_thresholding_fraction",
               "sparsity_threshold", "double_skip")


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """A legacy network with published weights.

    Args:
        config: `in_channels`, `out_channels`, `grid` (rows, columns), `patch` (one number or rows, columns), `embed_dim`, `depth`,
            `num_blocks`, `mlp_ratio`, `hard_thresholding_fraction`, `sparsity_threshold`, `double_skip`; all of them, no others.
        state_dict: weights under FourCastNet's names, or PhysicsNeMo's; they are copied.

    Returns:
        A module from (B, in_channels, H, W) to (B, out_channels, H, W), in the published order of rows.

    Raises:
        ValueError: a key or a weight is missing, unknown, or of another shape; it is named.
    """
    missing, unknown = sorted(set(_BUILD_KEYS) - set(config)), sorted(set(config) - set(_BUILD_KEYS))
    if missing or unknown:
        raise ValueError(f"the legacy configuration lacks {', '.join(missing) or 'nothing'}; it does not know {', '.join(unknown) or 'nothing'}")
    options = {key: value for key, value in config.items() if key not in ("in_channels", "out_channels")}
    patch = options["patch"]
    options["patch"] = (int(patch), int(patch)) if isinstance(patch, int) else tuple(patch)
    options["grid"] = tuple(options["grid"])
    weights = published_names(state_dict)
    with torch.device("meta"):
        network = LegacyNetwork(LegacyConfig(kind="legacy", **options), int(config["in_channels"]), int(config["out_channels"]))
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [f"{k} {tuple(weights[k].shape)} instead of {tuple(own[k].shape)}" for k in own if k in weights and weights[k].shape != own[k].shape]
    if missing or unknown or shapes:
        raise ValueError(f"the weights do not fit the legacy network: missing {', '.join(missing) or 'none'}; "
                         f"unknown {', '.join(unknown) or 'none'}; of another shape {', '.join(shapes) or 'none'}")
    device = next(iter(weights.values())).device
    network = network.to_empty(device=device).to(weights["pos_embed"].dtype)
    network.load_state_dict(dict(weights))
    return network


def published_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under FourCastNet's own names.

    A prefix `module.` of all names (data-parallel training) is taken off. PhysicsNeMo has the same names without the unused
    `norm.*`, which is filled with the values of a new one, and in older versions empty `device_buffer` entries, which are left out.
    """
    weights = dict(state_dict)
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    weights = {name: value for name, value in weights.items() if name.rpartition(".")[2] != "device_buffer" or value.numel()}
    table = weights.get("pos_embed")
    if table is not None and "norm.weight" not in weights and "norm.bias" not in weights:
        weights["norm.weight"], weights["norm.bias"] = table.new_ones(table.shape[-1]), table.new_zeros(table.shape[-1])
    return weights
