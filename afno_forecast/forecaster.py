"""The only definition of a model step, in physical units."""

# B batch, T history, C channel, F forcing, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from .channels import ChannelSet
from .config import Strict
from .errors import ConfigError
from .forcing import FORCINGS, Forcing
from .grid import Grid
from .nn.backbone import HierarchicalConfig, PlainConfig, build_backbone
from .nn.legacy import LegacyConfig
from .normalize import Normalizer

ForcingName = Literal["toa_radiation", "sin_latitude", "cos_latitude", "sin_longitude", "cos_longitude", "sin_day_of_year", "cos_day_of_year",
                      "sin_local_time", "cos_local_time"]
Predicts = Literal["tendency", "state"]
assert set(get_args(ForcingName)) == set(FORCINGS)


class Forecaster(nn.Module):
    """Reads a history of states and forcings, gives the state one `time_step` later.

    The network predicts the tendency in units of its standard deviation, or the normalised next state; states are normalised only in here.

    Args:
        backbone: maps (B, T * C + F, H, W) to (B, C, H, W).
        normalizer: statistics of the channels.
        forcing: gives the forcing at any time.
        channels: prognostic channels, in tensor order.
        grid: the grid of training, canonical.
        time_step: seconds.
        history: T, how many past states are read.
        predicts: what the network gives.
    """

    area_weights_HW: Tensor

    def __init__(self, backbone: nn.Module, normalizer: Normalizer, forcing: Forcing, *, channels: ChannelSet, grid: Grid, time_step: int,
                 history: int = 1, predicts: Predicts = "tendency") -> None:
        super().__init__()
        if history < 1:
            raise ConfigError(f"history must be at least 1, got {history}")
        self.backbone = backbone
        self.normalizer = normalizer
        self.forcing = forcing
        self.channels = channels
        self.grid = grid
        self.time_step = time_step
        self.history = history
        self.predicts = predicts
        self.register_buffer("area_weights_HW", torch.from_numpy(grid.area_weights()).float(), persistent=False)

    @property
    def calendar(self) -> str:
        """Calendar of the instants it was trained on."""
        return self.forcing.calendar

    def forward(self, history_BTCHW: Tensor, forcing_BFHW: Tensor) -> Tensor:
        """The next state.

        Args:
            history_BTCHW: past states in physical units, oldest first, `time_step` apart.
            forcing_BFHW: `self.forcing` at the instant of the newest state.

        Returns:
            state (B, C, H, W), physical units, float32.
        """
        scores_BDHW = self.normalizer.encode(history_BTCHW).flatten(1, 2)
        scaled_BCHW = self.backbone(torch.cat([scores_BDHW, forcing_BFHW], dim=1))
        if self.predicts == "state":
            return self.normalizer.decode(scaled_BCHW)
        return history_BTCHW[:, -1] + self.normalizer.decode_tendency(scaled_BCHW)


class ModelConfig(Strict):
    """What the forecaster reads and which network it passes through."""

    history: int = Field(default=1, ge=1, le=8)
    """Past states read, one time step apart."""
    forcings: tuple[ForcingName, ...]
    """Computed inputs, in order."""
    static: tuple[str, ...]
    """Static fields of the store that are inputs, in order."""
    predicts: Predicts = "tendency"
    """What the network gives: the tendency, or the next state itself (published weights that were trained so)."""
    backbone: Annotated[PlainConfig | HierarchicalConfig | LegacyConfig, Field(discriminator="kind")]
    """The network."""


@dataclass(frozen=True)
class ModelInputs:
    """What a store tells a forecaster about the states it will read.

    Args:
        channels: prognostic channels, in order; C of them.
        grid: canonical.
        calendar: of all instants.
        time_step: seconds.
        mean, std, tendency_std: by channel, physical units; shape (C,). The last is NaN where published weights come without it.
        static: name -> field (H, W), in the model's order.
        attrs: where the data come from (title, institution, source, license, statistics period).
    """

    channels: ChannelSet
    grid: Grid
    calendar: str
    time_step: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    tendency_std: NDArray[np.float64]
    static: Mapping[str, NDArray[np.float32]]
    attrs: Mapping[str, str] = field(default_factory=dict)


def build_forecaster(config: ModelConfig, inputs: ModelInputs) -> Forecaster:
    """A forecaster with freshly drawn weights (seed torch before calling). Raises ConfigError when parts do not fit."""
    missing = [name for name in config.static if name not in inputs.static]
    if missing:
        raise ConfigError(f"no static field {', '.join(missing)}; there are {', '.join(inputs.static) or 'none'}", where="model.static")
    forcing = Forcing(config.forcings, {name: inputs.static[name] for name in config.static}, inputs.grid, calendar=inputs.calendar,
                      time_step=inputs.time_step)
    num_channels = len(inputs.channels)
    if isinstance(config.backbone, LegacyConfig) and config.backbone.grid != inputs.grid.shape:
        raise ConfigError(f"the network's position table is for {config.backbone.grid[0]}x{config.backbone.grid[1]} cells; the data are on "
                          f"{inputs.grid.describe()}", where="model.backbone.grid", fix="give data on that grid, or use the backbone plain")
    backbone = build_backbone(config.backbone, config.history * num_channels + forcing.num_channels, num_channels, inputs.grid.boundary)
    scale_unknown = config.predicts == "state" and bool(np.isnan(inputs.tendency_std).all())
    tendency_std = inputs.std if scale_unknown else inputs.tendency_std  # of a loss only, where the network gives the state
    normalizer = Normalizer(inputs.channels.shorts, inputs.mean, inputs.std, tendency_std)
    return Forecaster(backbone, normalizer, forcing, channels=inputs.channels, grid=inputs.grid, time_step=inputs.time_step,
                      history=config.history, predicts=config.predicts)
