"""Channel statistics as buffers: physical units in, numbers of order one out, and back."""

# B batch, S time step, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .errors import DataError


class Normalizer(nn.Module):
    """z-scores of states and scaled tendencies, by channel.

    Args:
        names: channel names, for messages; length C.
        mean, std: of the state, physical units; shape (C,).
        tendency_std: standard deviation of the change over one model step, physical units; shape (C,), or (S, C) for a model with S steps.

    A channel that is constant in the statistics (std 0) is only centred, never divided by zero; `constant` names such channels.
    Raises DataError when a statistic is missing, not finite, negative, or of another length.
    """

    mean_C: Tensor
    std_C: Tensor
    tendency_std_C: Tensor
    longer_tendency_std_SC: Tensor

    def __init__(self, names: Sequence[str], mean: ArrayLike, std: ArrayLike, tendency_std: ArrayLike) -> None:
        super().__init__()
        constant: set[str] = set()
        tendency_std_SC = np.atleast_2d(np.asarray(tendency_std, dtype=np.float64))
        checked: list[Tensor] = []
        for label, values in (("mean", mean), ("std", std), *(("tendency_std", row) for row in tendency_std_SC)):
            array = np.array(values, dtype=np.float64)
            if array.shape != (len(names),):
                raise DataError(f"statistic '{label}' has shape {array.shape}, wanted ({len(names)},) for {', '.join(names)}")
            bad = [n for n, v in zip(names, array, strict=True) if not np.isfinite(v) or (v < 0 and label != "mean")]
            if bad:
                raise DataError(f"statistic '{label}' is missing or not valid for {', '.join(bad)}",
                                fix="build the store again: afno-forecast data build")
            if label != "mean":
                constant |= {n for n, v in zip(names, array, strict=True) if v == 0}
                array[array == 0] = 1.0
            checked.append(torch.from_numpy(array).float())
        for label, tensor in zip(("mean_C", "std_C", "tendency_std_C"), checked[:3], strict=True):
            self.register_buffer(label, tensor)
        if len(checked) > 3:
            self.register_buffer("longer_tendency_std_SC", torch.stack(checked[3:]))
        self.num_steps = len(tendency_std_SC)
        self.constant = tuple(n for n in names if n in constant)

    def encode(self, state: Tensor) -> Tensor:
        """Physical (..., C, H, W) to z-scores of the same shape, in float32."""
        return (state.float() - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    def decode(self, scores: Tensor) -> Tensor:
        """z-scores (..., C, H, W) to physical units, in float32."""
        return scores.float() * self.std_C[:, None, None] + self.mean_C[:, None, None]

    def tendency_std(self, step: int = 0) -> Tensor:
        """Standard deviation of the change over the model's step number `step`, shortest first; physical units, shape (C,)."""
        return self.tendency_std_C if step == 0 else self.longer_tendency_std_SC[step - 1]

    def encode_change(self, change: Tensor) -> Tensor:
        """Change of a state (..., C, H, W), physical units, in units of the state's standard deviation, in float32."""
        return change.float() / self.std_C[:, None, None]

    def decode_tendency(self, scaled: Tensor, step: int = 0) -> Tensor:
        """Tendency in units of its standard deviation (..., C, H, W) to physical units a model step, in float32."""
        return scaled.float() * self.tendency_std(step)[:, None, None]
