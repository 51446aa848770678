"""Losses: means over the exact area of the cells, each channel in its own unit.

Axes: B batch, L lead, C channel, H latitude row, W longitude column.
"""

from __future__ import annotations

import torch
from torch import Tensor


def area_weighted_mse(
    prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None = None
) -> Tensor:
    """Area-weighted mean square of the error in units of `scale_C`, over batch, lead and channel.

    Args:
        prediction: (..., C, H, W), physical units.
        target: the same shape and units.
        area_weights_HW: relative cell areas, >= 0 with a positive sum; (H, W), or (H, 1) where only the row matters.
        scale_C: unit of each channel, > 0, for example the standard deviation of its tendency, (C,).
        channel_weights_C: relative weight of each channel, >= 0 with a positive sum; equal by default, (C,).

    Returns:
        A scalar, float32 or wider. 1 means an error as large as the scale.

    Raises:
        ValueError: shapes do not fit.
    """
    _check_shapes(prediction, target, area_weights_HW, scale_C, channel_weights_C)
    wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    with torch.autocast(prediction.device.type, enabled=False):
        error = (prediction.to(wide) - target.to(wide)) / scale_C.to(wide)[:, None, None]
        area_HW = area_weights_HW.to(wide).expand(error.shape[-2:])
        by_channel = (error.square() * (area_HW / area_HW.sum())).sum((-2, -1)).reshape(-1, scale_C.shape[0]).mean(0)
        if channel_weights_C is None:
            return by_channel.mean()
        weights_C = channel_weights_C.to(wide)
        return (by_channel * weights_C).sum() / weights_C.sum()


def _check_shapes(
    prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None
) -> None:
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have the same shape (..., C, H, W)")
    channels, rows, columns = prediction.shape[-3:]
    if tuple(area_weights_HW.shape) not in ((rows, columns), (rows, 1)):
        raise ValueError(f"area weights {tuple(area_weights_HW.shape)} do not fit {rows} x {columns} cells")
    for name, values in (("scale", scale_C), ("channel weights", channel_weights_C)):
        if values is not None and tuple(values.shape) != (channels,):
            raise ValueError(f"{name} {tuple(values.shape)} do not fit {channels} channels")
