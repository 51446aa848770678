"""Scale and shift of normed channels by scalars that come with each sample, such as the lead time or the time of day.

Axes: B batch, H row, W column, C channel, D scalar, E feature of the scalars.

After adaptive normalisation in ModAFNO (Leinonen et al. 2024, arXiv 2410.18904) and DiT (Peebles and Xie 2022, arXiv 2212.09748).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 64


class ConditionEmbed(nn.Module):
    """Scalars (B, D) to the features (B, E) that every `Norm` of a network reads.

    Args:
        conditions: D, number of scalars; give them of order one.
    """

    def __init__(self, conditions: int) -> None:
        super().__init__()
        self.first = nn.Linear(conditions, FEATURES)
        self.second = nn.Linear(FEATURES, FEATURES)

    def forward(self, condition_BD: Tensor) -> Tensor:
        """Features (B, E), in the type of the weights whatever the autocast state."""
        with torch.autocast(condition_BD.device.type, enabled=False):
            hidden = nn.functional.silu(self.first(condition_BD.to(self.first.weight.dtype)))
            return nn.functional.silu(self.second(hidden))


class Norm(nn.LayerNorm):
    """Layer norm over the channels, then x (1 + scale) + shift with scale and shift of the sample.

    Scale and shift start at zero: a new norm is the layer norm, whatever it is given.

    Args:
        dim: number of channels.
        conditioned: read features of `ConditionEmbed`.
    """

    def __init__(self, dim: int, *, conditioned: bool = False) -> None:
        super().__init__(dim)
        self.modulation_weight = nn.Parameter(torch.zeros(2 * dim, FEATURES)) if conditioned else None
        self.modulation_bias = nn.Parameter(torch.zeros(2 * dim)) if conditioned else None

    def forward(self, input: Tensor, features_BE: Tensor | None = None) -> Tensor:
        """Normed channels, the shape of `input` (B, H, W, C). `features_BE` belongs to a conditioned norm, and only to one."""
        normed_BHWC = super().forward(input)
        assert (features_BE is None) == (self.modulation_weight is None)
        if self.modulation_weight is None or features_BE is None:
            return normed_BHWC
        with torch.autocast(input.device.type, enabled=False):
            modulation_B2C = nn.functional.linear(features_BE, self.modulation_weight, self.modulation_bias)
        scale, shift = modulation_B2C[:, None, None].to(normed_BHWC.dtype).chunk(2, -1)
        return torch.addcmul(normed_BHWC + shift, normed_BHWC, scale)


def check_condition(condition_BD: Tensor | None, conditions: int, batch: int) -> None:
    """Raise ValueError unless the scalars are there exactly where the network reads some, one row a sample."""
    given = None if condition_BD is None else tuple(condition_BD.shape)
    expected = (batch, conditions) if conditions else None
    if given != expected:
        raise ValueError(f"this network has conditions: {conditions}, so it reads {f'scalars of shape {expected}' if conditions else 'none'} "
                         f"beside the field, not {given}")
