"""What a forecast tells beside its states and is never fed back: amounts such as precipitation, by a second network on the forecaster's state.

The network reads what the forecaster reads, the normalised state and the forcing, both at the instant that it tells of, and gives log(1 + x / scale):
amounts are non-negative and heavy-tailed, and this is of order one where x is and grows slowly beyond. Negative answers are no amount: zero.
The longer a forecast has run, the less its state tells: a network that also reads the lead time can lean to what is usual.
"""

# B batch, C channel, F forcing, O output, H latitude row, W longitude column

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from .channels import Channel, ChannelSet
from .config import Strict
from .errors import ConfigError
from .forecaster import Forecaster, on_grid
from .grid import Grid
from .nn.backbone import HierarchicalConfig, PlainConfig, build_backbone
from .times import parse_duration


class DiagnosticConfig(Strict):
    """Amounts that are told beside the forecast, and the network that tells them."""

    channels: tuple[str, ...] = Field(min_length=1)
    """Channels of the store that no state holds, for example pr."""
    scale: tuple[Annotated[float, Field(gt=0)], ...]
    """Of each channel, in its units: the network gives log(1 + x / scale). About the median of what is not nothing."""
    accumulation: str
    """Over what the amounts are taken, which the forecast's attributes repeat: instant for rates at the instant, or a duration before it (6h)."""
    longest_lead: str | None = None
    """The network also reads how long the forecast has run, up to this duration (5d); longer counts as this. Absent: it reads the state alone."""
    backbone: Annotated[PlainConfig | HierarchicalConfig, Field(discriminator="kind")]
    """The network."""


class Diagnostic(nn.Module):
    """Amounts at the instant of a state.

    Args:
        config: network and transform.
        forecaster: whose states it reads, whose statistics and forcing it shares; it is no part of this module.
        outputs: channels that are told, in the order of the configuration.
        trained_on: the grid of training, where it is not the forecaster's.

    Raises ConfigError when the configuration does not fit the outputs, the forecaster's channels or itself.
    """

    scale_O11: Tensor

    def __init__(self, config: DiagnosticConfig, forecaster: Forecaster, outputs: ChannelSet, trained_on: Grid | None = None) -> None:
        super().__init__()
        if len(config.scale) != len(outputs):
            raise ConfigError(f"{len(config.scale)} scales do not fit {len(outputs)} channels", where="diagnostic.scale",
                              fix="give one for each channel")
        both = set(outputs.names) & set(forecaster.channels.names)
        if both:
            raise ConfigError(f"the state already holds {', '.join(sorted(both))}", where="diagnostic.channels", fix="leave it out")
        self.config = config
        self.outputs = ChannelSet(tuple(Channel(c.variable, c.level, c.units, "diagnostic") for c in outputs))
        self._shared = (forecaster.normalizer, forecaster.forcing)  # in a tuple: no parts of this module
        num_inputs = len(forecaster.channels) + forecaster.forcing.num_channels
        self._longest = None if config.longest_lead is None else parse_duration(config.longest_lead)
        conditions = int(self._longest is not None)
        if config.backbone.conditions not in (0, conditions):
            raise ConfigError(f"the network is to read {config.backbone.conditions} conditions and is given {conditions}",
                              where="diagnostic.backbone.conditions", fix="leave it out: it follows from diagnostic.longest_lead")
        network, extent = on_grid(replace(config.backbone, conditions=conditions), forecaster.grid, trained_on)
        self.backbone = build_backbone(network, num_inputs, len(outputs), forecaster.grid.boundary, extent=extent)
        self.register_buffer("scale_O11", torch.tensor(config.scale, dtype=torch.float32)[:, None, None], persistent=False)

    def transform(self, amount: Tensor) -> Tensor:
        """log(1 + x / scale) of amounts (..., O, H, W); what lies below zero counts as zero."""
        return torch.log1p(amount.float().clamp_min(0) / self.scale_O11)

    def amount(self, transformed: Tensor) -> Tensor:
        """What `transform` makes these numbers of; below zero where they are, which is no amount; (..., O, H, W)."""
        return self.scale_O11 * torch.expm1(transformed)

    def transformed(self, state_BCHW: Tensor, forcing_BFHW: Tensor, lead_seconds: int) -> Tensor:
        """What the network gives for states in physical units, the forcing at their instants and their lead time; (B, O, H, W)."""
        normalizer, _ = self._shared
        answer: Tensor = self.backbone(torch.cat([normalizer.encode(state_BCHW), forcing_BFHW], dim=1), *self._condition(state_BCHW, lead_seconds))
        return answer.float()

    def _condition(self, state_BCHW: Tensor, lead_seconds: int) -> tuple[Tensor, ...]:
        """The lead time from -1 at the analysis to 1 at the longest, (B, 1); nothing for a network that does not read it."""
        if self._longest is None:
            return ()
        return (state_BCHW.new_full((len(state_BCHW), 1), 2 * min(lead_seconds / self._longest, 1) - 1),)

    def forward(self, state_BCHW: Tensor, forcing_BFHW: Tensor, lead_seconds: int) -> Tensor:
        """Amounts in physical units, >= 0, float32 (B, O, H, W)."""
        return self.amount(self.transformed(state_BCHW, forcing_BFHW, lead_seconds).clamp_min(0))

    def describe(self) -> str:
        """What a file says of its diagnostic channels."""
        names = (f"{c.name} [{c.units}] as log(1 + x / {s:g})" for c, s in zip(self.outputs, self.config.scale, strict=True))
        return f"{', '.join(names)}; accumulated over: {self.config.accumulation}"
