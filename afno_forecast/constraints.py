"""What a state must keep whatever the network says: a layer at the end of every model step, in training and in a forecast alike."""

# B batch, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from .channels import ChannelSet
from .config import Strict
from .distributed import Axis
from .errors import ConfigError, DataError


class ConstraintsConfig(Strict):
    """Named channels that every step keeps within bounds; none by default."""

    nonnegative: tuple[str, ...] = Field(default=())
    """Channels whose negative values become zero: amounts such as q700."""
    conserved: tuple[str, ...] = Field(default=())
    """Channels whose global mean stays what it was in the state before: by the same amount added everywhere, or, where they are nonnegative too,
    by a factor."""


class Constraints(nn.Module):
    """Sets negative values of some channels to zero and gives some channels the area mean of the state before.

    Args:
        channels: of the states.
        config: names of channels.

    Raises:
        ConfigError: no such channel.
    """

    nonnegative_C11: Tensor
    conserved_C11: Tensor

    def __init__(self, channels: ChannelSet, config: ConstraintsConfig) -> None:
        super().__init__()
        for kind, names in (("nonnegative", config.nonnegative), ("conserved", config.conserved)):
            self.register_buffer(f"{kind}_C11", _mask(channels, kind, names)[:, None, None], persistent=False)
        self.rows = Axis("spatial")
        """Processes that hold the other rows of the grid."""
        self._clips, self._conserves = bool(config.nonnegative), bool(config.conserved)

    def forward(self, state_BCHW: Tensor, before_BCHW: Tensor, area_weights_HW: Tensor) -> Tensor:
        """The state, put right.

        Args:
            state_BCHW: what the network made, physical units.
            before_BCHW: the state it was made from.
            area_weights_HW: areas of the cells.
        """
        if self._clips:
            state_BCHW = torch.where(self.nonnegative_C11, state_BCHW.clamp_min(0), state_BCHW)
        if not self._conserves:
            return state_BCHW
        with torch.autocast(state_BCHW.device.type, enabled=False):
            wanted, found = self._means(before_BCHW, area_weights_HW), self._means(state_BCHW, area_weights_HW)
            wanted = torch.where(self.nonnegative_C11, wanted.clamp_min(0), wanted)
            scaled = self.nonnegative_C11 & (found > 0)
            factor = torch.where(scaled, wanted / torch.where(scaled, found, 1.0), 1.0).to(state_BCHW.dtype)
            shift = torch.where(scaled, 0.0, wanted - found).to(state_BCHW.dtype)
            return torch.where(self.conserved_C11, state_BCHW * factor + shift, state_BCHW)

    def _means(self, state_BCHW: Tensor, area_weights_HW: Tensor) -> Tensor:
        """Over the whole area, in float64; (B, C, 1, 1)."""
        area = area_weights_HW.double()
        total = self.rows.sum(torch.stack([(state_BCHW.double() * area).sum((-2, -1)), area.sum().expand(state_BCHW.shape[:2])]), "global means")
        means: Tensor = total[0] / total[1]
        return means[:, :, None, None]


def _mask(channels: ChannelSet, kind: str, names: Sequence[str]) -> Tensor:
    mask = torch.zeros(len(channels), dtype=torch.bool)
    for name in names:
        try:
            mask[channels.index(name)] = True
        except DataError as error:
            raise ConfigError(f"{kind}: {error.what}", where="model.constraints", fix=error.fix) from error
    return mask
