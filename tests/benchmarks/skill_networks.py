"""The rows of the skill tables: our networks with options switched, and the rivals, each as a function that builds it.

A network maps (B, C_in, H, W) to (B, C_out, H, W) and gives the tendency in units of its standard deviation. The dense U-Net is
written here: 3 x 3 residual blocks at every level, the same padding over the poles as ours, so that what differs is the mixer and
the block, not the geometry. FNO and SFNO are neuraloperator's, where it is installed; FourCastNet's network is `nn.legacy`.

    pip install --no-deps neuraloperator tensorly tensorly-torch opt-einsum torch-harmonics==0.8.0
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from afno_forecast.nn.backbone import HierarchicalConfig, LegacyConfig, PlainConfig, build_backbone
from afno_forecast.nn.block import BoundaryConv, ResidualBlock
from afno_forecast.nn.padding import Boundary
from afno_forecast.training.loss import LossConfig
from afno_forecast.training.optimizers import OptimizerConfig

Build = Callable[[int, int, tuple[int, int], Boundary], nn.Module]
"""(channels in, channels out, grid, boundary) to a network."""


@dataclass(frozen=True)
class Recipe:
    """How a row is trained. Always: tendency target in its standard deviation, area weights, warm-up, clipping, the same inputs."""

    name: str
    stages: tuple[tuple[float, int], ...]
    """(share of the cost at which the stage ends, rollout)."""
    optimizer: OptimizerConfig
    average: float = 0.998
    batch: int = 4
    time_steps: tuple[str, ...] = ("6h",)
    """Steps the model can take; the network is told which one."""
    drawn: tuple[str, ...] = ()
    """Steps that the batches draw from; all equally often where empty."""
    loss: LossConfig = field(default_factory=LossConfig)
    advected_by: tuple[tuple[str, str], ...] = ()
    """Winds whose advection is an input."""
    history: int = 1
    """Input times."""
    calibrated: bool = False
    """The calibration is part of the forecaster: paid from the same cost, and what is scored."""


def cosine(**options: Any) -> OptimizerConfig:
    """With half a cosine after the warm-up: the rows that were there before the straight line keep it."""
    return OptimizerConfig(schedule="cosine", **options)


OURS = Recipe("ours", ((0.35, 1), (0.60, 2), (0.85, 4), (1.0, 8)), cosine(learning_rate=4e-3))
"""Muon + AdamW, rollouts of 1, 2, 4, 8 steps, averaged weights. The rate is for a few hundred updates: see the ablation."""
COMMON = Recipe("common", ((1.0, 1),), cosine(muon=False), average=0.0)
"""AdamW, one step, last weights."""

JET_AND_LOW = (("u250", "v250"), ("u850", "v850"))
ADVECTED = replace(OURS, name="ours, advection", advected_by=JET_AND_LOW)
"""Two winds tell the network where they would take the state."""

DAILY = ((0.5, 1), (0.8, 2), (1.0, 4))
"""Rollouts of models with steps of a day."""

WIDTHS = (32, 64, 128)
"""What pays at a few minutes of one core: see the ablation."""
WIDER = (48, 96, 192)


class DenseUNet(nn.Module):
    """Three levels of 3 x 3 residual blocks (LayerNorm, convolution, GELU, convolution), two at each level and side, with skips."""

    def __init__(self, in_channels: int, out_channels: int, widths: tuple[int, ...], boundary: Boundary, *, direct: bool = False) -> None:
        super().__init__()
        self.direct = nn.Conv2d(in_channels, out_channels, 1) if direct else None
        for parameter in [] if self.direct is None else self.direct.parameters():
            nn.init.zeros_(parameter)
        finer = range(len(widths) - 1)
        self.stem = BoundaryConv(in_channels, widths[0], boundary)
        self.before = nn.ModuleList(_pair(widths[i], boundary) for i in finer)
        self.down = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in finer)
        self.middle = _pair(widths[-1], boundary)
        self.up = nn.ModuleList(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2) for i in finer)
        self.join = nn.ModuleList(nn.Conv2d(2 * widths[i], widths[i], 1) for i in finer)
        self.after = nn.ModuleList(_pair(widths[i], boundary) for i in finer)
        self.norm = nn.LayerNorm(widths[0])
        self.head = BoundaryConv(widths[0], out_channels, boundary, zero=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W)."""
        x_BHWC = self.stem(x_BCHW.permute(0, 2, 3, 1).contiguous())
        skips: list[Tensor] = []
        for before, down in zip(self.before, self.down, strict=True):
            skips.append(before(x_BHWC))
            x_BHWC = _channels_first(down, skips[-1])
        x_BHWC = self.middle(x_BHWC)
        for skip, up, join, after in zip(reversed(skips), reversed(self.up), reversed(self.join), reversed(self.after), strict=True):
            x_BHWC = after(_channels_first(join, torch.cat([_channels_first(up, x_BHWC), skip], -1)))
        out_BCHW: Tensor = self.head(self.norm(x_BHWC)).permute(0, 3, 1, 2).float()
        return out_BCHW if self.direct is None else out_BCHW + self.direct(x_BCHW)


def _pair(width: int, boundary: Boundary) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(width, boundary), ResidualBlock(width, boundary))


def _channels_first(layer: nn.Module, x_BHWC: Tensor) -> Tensor:
    out: Tensor = layer(x_BHWC.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)


class SmallStart(nn.Module):
    """A rival's network with a learned gain for each channel on its output, small at first: ours starts from a tendency of zero."""

    def __init__(self, network: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.network = network
        self.gain_C11 = nn.Parameter(torch.full((out_channels, 1, 1), 0.1))
        self.register_state_dict_post_hook(_only_tensors)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W)."""
        out: Tensor = self.network(x_BCHW)
        return out.float() * self.gain_C11


def _only_tensors(_: nn.Module, state: dict[str, Any], *__: object) -> None:
    state.pop("_metadata", None)  # neuraloperator adds its arguments


def hierarchical(**options: Any) -> Build:
    """Ours: convolutional levels and mixer blocks on the coarsest."""
    config = HierarchicalConfig(**{"widths": WIDTHS, **options})
    return lambda num_in, num_out, _, boundary: build_backbone(config, num_in, num_out, boundary)


def plain(**options: Any) -> Build:
    """Ours: patches and blocks of one width."""
    config = PlainConfig(**options)
    return lambda num_in, num_out, _, boundary: build_backbone(config, num_in, num_out, boundary)


def unet(widths: tuple[int, ...] = WIDTHS, *, direct: bool = False) -> Build:
    """The dense U-Net."""
    return lambda num_in, num_out, _, boundary: DenseUNet(num_in, num_out, widths, boundary, direct=direct)


def fourcastnet(patch: int, embed_dim: int = 256, depth: int = 6) -> Build:
    """FourCastNet's network, its mode selection included."""
    def build(num_in: int, num_out: int, grid: tuple[int, int], boundary: Boundary) -> nn.Module:
        return build_backbone(LegacyConfig("legacy", grid, (patch, patch), embed_dim, depth), num_in, num_out, boundary)

    return build


def neuraloperator(name: str, **options: Any) -> Build:
    """neuraloperator's FNO or SFNO; ImportError where it is not installed."""
    def build(num_in: int, num_out: int, grid: tuple[int, int], _: Boundary) -> nn.Module:
        kind = getattr(importlib.import_module("neuralop.models"), name)
        return SmallStart(kind(in_channels=num_in, out_channels=num_out, **options), num_out)

    return build


DAY = replace(OURS, name="ours, 24 h", stages=DAILY, time_steps=("24h",))
DAY_ADVECTED = replace(DAY, name="24 h, advection", advected_by=JET_AND_LOW)
SEVERAL = replace(OURS, name="ours, 6/12/24 h", stages=DAILY, time_steps=("6h", "12h", "24h"), drawn=("6h", "12h", "24h", "24h", "24h", "24h"))

STRAIGHT = OptimizerConfig(learning_rate=4e-3)
"""A learning rate that falls in a straight line, which pays at a few hundred updates: see the ablation."""
ADVECTED_LINEAR = replace(ADVECTED, name="advection, linear", optimizer=STRAIGHT)
DAY_LINEAR = replace(DAY, name="24 h, linear", optimizer=STRAIGHT)
CALIBRATED = replace(ADVECTED_LINEAR, name="advection, linear, calibration paid", calibrated=True)
DAY_CALIBRATED = replace(DAY_LINEAR, name="24 h, linear, calibration paid", calibrated=True)
DAY_SHORT = replace(DAY_CALIBRATED, name="24 h, linear, 1, 2 from 70 %, calibration paid", stages=((0.7, 1), (1.0, 2)))
DAY_ONE_STEP = replace(DAY_CALIBRATED, name="24 h, linear, one step, calibration paid", stages=((1.0, 1),))
DAY_ADVECTED_LINEAR = replace(DAY_ADVECTED, name="24 h, advection, linear", optimizer=STRAIGHT)

LEAN: dict[str, Any] = {"local": False, "direct": True, "residual_blocks": (0, 1)}
"""The mixer alone, and at full resolution only stem, head and direct map."""

DEEPER: dict[str, Any] = {"local": False, "direct": True, "residual_blocks": (1, 2)}
"""The mixer alone, and two residual blocks a side at half resolution."""

SKILL_ROWS: dict[str, tuple[Build, Recipe]] = {
    "ours": (hierarchical(), OURS),
    "U-Net, our recipe": (unet(), OURS),
    "ours without mixer": (hierarchical(mixer="identity"), OURS),
    "ours, 48/96/192": (hierarchical(widths=WIDER), OURS),
    "ours without mixer, 48/96/192": (hierarchical(widths=WIDER, mixer="identity"), OURS),
    "U-Net, our recipe, 48/96/192": (unet(WIDER), OURS),
    "U-Net, common recipe, 48/96/192": (unet(WIDER), COMMON),
    "ours, steps of 6, 12, 24 h, 48/96/192": (hierarchical(widths=WIDER, conditions=1), replace(SEVERAL, drawn=())),
    "ours, steps of 6, 12, 24 h": (hierarchical(conditions=1), SEVERAL),
    "U-Net, common recipe": (unet(), COMMON),
    "FourCastNet, patch 4": (fourcastnet(4), COMMON),
    "FourCastNet, patch 2": (fourcastnet(2), COMMON),
    "ours, steps of 24 h": (hierarchical(), DAY),
    "U-Net, steps of 24 h": (unet(), DAY),
    "FNO": (neuraloperator("FNO", n_modes=(16, 32), hidden_channels=64, n_layers=4), COMMON),
    "SFNO": (neuraloperator("SFNO", n_modes=(32, 32), hidden_channels=64, n_layers=4), COMMON),
    "ours, common recipe": (hierarchical(), COMMON),
    "mixer alone, advection": (hierarchical(local=False, direct=True), ADVECTED),
    "mixer and convolution, advection": (hierarchical(direct=True), ADVECTED),
    "convolution alone, advection": (hierarchical(mixer="identity", direct=True), ADVECTED),
    "U-Net, our recipe, advection": (unet(direct=True), ADVECTED),
    "mixer alone, advection, steps of 24 h": (hierarchical(local=False, direct=True), DAY_ADVECTED),
    "mixer and convolution, advection, steps of 24 h": (hierarchical(direct=True), DAY_ADVECTED),
    "U-Net, advection, steps of 24 h": (unet(direct=True), DAY_ADVECTED),
    "mixer alone, advection, 48/96/192": (hierarchical(widths=WIDER, local=False, direct=True), ADVECTED),
    "mixer alone, advection, steps of 6, 24 h": (hierarchical(local=False, direct=True, conditions=1),
                                                 replace(SEVERAL, name="6/24 h, advection", time_steps=("6h", "24h"), drawn=("6h", "24h", "24h"),
                                                         advected_by=JET_AND_LOW)),
    "lean, steps of 24 h": (hierarchical(**LEAN), DAY_LINEAR),
    "lean, advection": (hierarchical(**LEAN), ADVECTED_LINEAR),
    "lean, advection, steps of 24 h": (hierarchical(**LEAN), DAY_ADVECTED_LINEAR),
    "mixer alone, linear, steps of 24 h": (hierarchical(local=False, direct=True), DAY_LINEAR),
    "mixer alone, advection, linear": (hierarchical(local=False, direct=True), ADVECTED_LINEAR),
    "mixer alone, advection, calibrated": (hierarchical(local=False, direct=True), CALIBRATED),
    "convolution alone, advection, calibrated": (hierarchical(mixer="identity", direct=True), CALIBRATED),
    "U-Net, advection, calibrated": (unet(direct=True), CALIBRATED),
    "mixer alone, steps of 24 h, calibrated": (hierarchical(local=False, direct=True), DAY_CALIBRATED),
    "convolution alone, steps of 24 h, calibrated": (hierarchical(mixer="identity", direct=True), DAY_CALIBRATED),
    "mixer alone, residual blocks 1, 2, advection, calibrated": (hierarchical(**DEEPER), CALIBRATED),
    "mixer alone, residual blocks 1, 2, steps of 24 h, calibrated": (hierarchical(**DEEPER), DAY_CALIBRATED),
    "mixer alone, residual blocks 1, 2, two steps at most, steps of 24 h, calibrated": (hierarchical(**DEEPER), DAY_SHORT),
    "mixer alone, residual blocks 1, 2, one step, steps of 24 h, calibrated": (hierarchical(**DEEPER), DAY_ONE_STEP),
    "mixer alone, residual blocks 1, 3, two steps at most, steps of 24 h, calibrated": (
        hierarchical(local=False, direct=True, residual_blocks=(1, 3)), DAY_SHORT),
    "convolution alone, residual blocks 1, 2, one step, steps of 24 h, calibrated": (
        hierarchical(mixer="identity", direct=True, residual_blocks=(1, 2)), DAY_ONE_STEP),
    "U-Net, one step, steps of 24 h, calibrated": (unet(direct=True), DAY_ONE_STEP),
    "mixer alone, one step, advection, calibrated": (hierarchical(local=False, direct=True), replace(
        CALIBRATED, name="advection, linear, one step, calibration paid", stages=((1.0, 1),))),
    "mixer alone, residual blocks 2, 2, steps of 24 h, calibrated": (hierarchical(local=False, direct=True, residual_blocks=2), DAY_CALIBRATED),
    "U-Net, steps of 24 h, calibrated": (unet(direct=True), DAY_CALIBRATED),
    "mixer alone, advection, linear, steps of 24 h": (hierarchical(local=False, direct=True), DAY_ADVECTED_LINEAR),
    "lean, 48/96/192, steps of 24 h": (hierarchical(widths=WIDER, **LEAN), DAY_LINEAR),
    "lean, advection, 48/96/192": (hierarchical(widths=WIDER, **LEAN), ADVECTED_LINEAR),
    "mixer alone, linear, 48/96/192, steps of 24 h": (hierarchical(widths=WIDER, local=False, direct=True), DAY_LINEAR),
    "mixer alone, advection, linear, 48/96/192": (hierarchical(widths=WIDER, local=False, direct=True), ADVECTED_LINEAR),
    "convolution alone, linear, steps of 24 h": (hierarchical(mixer="identity", direct=True), DAY_LINEAR),
    "convolution alone, advection, linear": (hierarchical(mixer="identity", direct=True), ADVECTED_LINEAR),
    "U-Net, linear, steps of 24 h": (unet(), DAY_LINEAR),
    "U-Net, advection, linear": (unet(direct=True), ADVECTED_LINEAR),
    "attention": (plain(mixer="attention", patch=(2, 2), width=192, depth=4), COMMON),
}
