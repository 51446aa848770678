"""Continue a field over its edges: around the globe, over the poles, or by its last row and column.

Axes: B batch, C channel, H latitude row, W longitude column. Works alike for latitude running up or down.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

Boundary = Literal["sphere", "sphere_with_poles", "band", "periodic", "limited"]
BOUNDARIES: tuple[Boundary, ...] = ("sphere", "sphere_with_poles", "band", "periodic", "limited")
EDGE_ROWS = ("band", "limited")


POLAR: tuple[Boundary, ...] = ("sphere", "sphere_with_poles")
"""The boundaries whose rows end at poles."""


def pad(x_BCHW: Tensor, rows: int | tuple[int, int], columns: int | tuple[int, int], boundary: Boundary, parity_C: Tensor | None = None) -> Tensor:
    """Pad rows and columns by what lies beyond the edge.

    Over a pole a meridian goes on as the meridian half a turn away, so beyond the first row lie the first rows again, in
    reverse order and rolled by half a turn. With an odd number of columns the half turn falls between two columns: their mean.

    Args:
        x_BCHW: field; the memory format (channels last or first) is kept.
        rows: rows to add before and after, one number or (before, after).
        columns: columns to add before and after, one number or (before, after).
        boundary: `sphere`: cell centres, the poles lie half a row beyond the outermost rows. `sphere_with_poles`: the outermost
            rows lie on the poles, so they are not repeated. `band`: all longitudes but not both poles, such as a hemisphere: the
            outermost rows are repeated. `periodic`: both axes wrap around. `limited`: a limited area, edges are repeated. Longitude
            wraps around in all but the last.
        parity_C: the sign that each channel takes over a pole: +1 scalars, -1 horizontal components of vectors; +1 by default.

    Returns:
        (B, C, H + rows, W + columns), the same type.

    Raises:
        ValueError: the boundary is unknown, or the field is too small to be continued so far.
    """
    edges = (*_both(rows), *_both(columns))
    _check(x_BCHW, edges, boundary)
    if not any(edges):
        return x_BCHW
    padded: Tensor = _Pad.apply(x_BCHW, edges, boundary, None if parity_C is None else parity_C.to(x_BCHW)[:, None, None])  # type: ignore[no-untyped-call]
    return padded


def mirror(x_BHWC: Tensor, boundary: Boundary) -> Tensor:
    """Make tokens periodic where the area ends: continued by their mirror image, so that what meets is equal.

    The even continuation of a cosine transform: rows on a `band`, rows and columns on a `limited` area, whose tokens thus become
    twice and four times as many; elsewhere nothing. The first H rows and W columns are the tokens themselves.
    """
    if boundary in EDGE_ROWS:
        x_BHWC = torch.cat([x_BHWC, x_BHWC.flip(1)], 1)
    if boundary == "limited":
        x_BHWC = torch.cat([x_BHWC, x_BHWC.flip(2)], 2)
    return x_BHWC


def mirrored_size(size: tuple[int, int], boundary: Boundary) -> tuple[int, int]:
    """Rows and columns of `mirror`'s result for tokens of that many."""
    return size[0] * (2 if boundary in EDGE_ROWS else 1), size[1] * (2 if boundary == "limited" else 1)


def channel_parity(num_channels: int, odd_share: float, groups: int = 1) -> Tensor | None:
    """Signs over a pole for hidden channels: -1 for the last `odd_share` of each group of channels, rounded up, else +1; None if all are."""
    width = num_channels // groups
    num_odd = math.ceil(width * odd_share)
    return torch.tensor([1.0] * (width - num_odd) + [-1.0] * num_odd).repeat(groups) if num_odd else None


def _both(amount: int | tuple[int, int]) -> tuple[int, int]:
    return (amount, amount) if isinstance(amount, int) else amount


def _check(x_BCHW: Tensor, edges: tuple[int, int, int, int], boundary: Boundary) -> None:
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary {boundary!r} is not one of {', '.join(BOUNDARIES)}")
    if x_BCHW.ndim != 4:
        raise ValueError(f"a field to pad has the axes (batch, channel, row, column), not the shape {tuple(x_BCHW.shape)}")
    if min(edges) < 0:
        raise ValueError(f"padding cannot be negative: {edges}")
    if boundary == "limited":
        return
    num_rows, num_columns = x_BCHW.shape[-2:]
    most_rows = num_rows - 1 if boundary == "sphere_with_poles" else num_rows
    if boundary == "band":
        most_rows = max(edges[:2])
    if max(edges[:2]) > most_rows or max(edges[2:]) > num_columns:
        raise ValueError(
            f"{num_rows} x {num_columns} cells are too few to pad by {max(edges[:2])} rows and {max(edges[2:])} columns with "
            f"boundary {boundary!r} (at most {most_rows} and {num_columns})"
        )


def _half_turn(x_BCHW: Tensor) -> Tensor:
    num_columns = x_BCHW.shape[-1]
    turned = torch.roll(x_BCHW, num_columns // 2, -1)
    return turned if num_columns % 2 == 0 else (turned + torch.roll(x_BCHW, num_columns // 2 + 1, -1)) / 2


def _half_turn_back(x_BCHW: Tensor) -> Tensor:
    """The transpose of `_half_turn`."""
    num_columns = x_BCHW.shape[-1]
    turned = torch.roll(x_BCHW, -(num_columns // 2), -1)
    return turned if num_columns % 2 == 0 else (turned + torch.roll(x_BCHW, -(num_columns // 2 + 1), -1)) / 2


def _signed(x_BCHW: Tensor, parity_C11: Tensor | None) -> Tensor:
    return x_BCHW if parity_C11 is None else x_BCHW * parity_C11


def _row_sources(num_rows: int, top: int, bottom: int, boundary: Boundary) -> tuple[slice, slice]:
    """Which rows lie beyond the first and beyond the last row; over a pole they come in reverse order."""
    if boundary == "periodic":
        return slice(num_rows - top, num_rows), slice(0, bottom)
    skip = 1 if boundary == "sphere_with_poles" else 0
    return slice(skip, skip + top), slice(num_rows - skip - bottom, num_rows - skip)


class _Pad(torch.autograd.Function):
    """One allocation forward and one backward; what slices and `cat` would do in ten full-size copies."""

    @staticmethod
    def forward(x_BCHW: Tensor, edges: tuple[int, int, int, int], boundary: Boundary, parity_C11: Tensor | None) -> Tensor:
        top, bottom, left, right = edges
        batch, channels, num_rows, num_columns = x_BCHW.shape
        channels_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
        padded = torch.empty(
            (batch, channels, top + num_rows + bottom, left + num_columns + right),
            dtype=x_BCHW.dtype,
            device=x_BCHW.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        middle = padded[..., left : left + num_columns]
        middle[..., top : top + num_rows, :] = x_BCHW
        if boundary in EDGE_ROWS:
            middle[..., :top, :] = x_BCHW[..., :1, :]
            middle[..., top + num_rows :, :] = x_BCHW[..., -1:, :]
        if boundary == "limited":
            padded[..., :left] = middle[..., :1]
            padded[..., left + num_columns :] = middle[..., -1:]
            return padded
        for source, place in zip(_row_sources(num_rows, top, bottom, boundary), (slice(0, top), slice(top + num_rows, None)), strict=True):
            if source.start < source.stop and boundary not in EDGE_ROWS:
                beyond = x_BCHW[..., source, :]
                middle[..., place, :] = beyond if boundary == "periodic" else _signed(_half_turn(beyond.flip(-2)), parity_C11)
        padded[..., :left] = middle[..., num_columns - left :]
        padded[..., left + num_columns :] = middle[..., :right]
        return padded

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, int, int, int], Boundary, Tensor | None], output: Tensor) -> None:
        x_BCHW, ctx.edges, ctx.boundary, ctx.parity = inputs
        ctx.size = x_BCHW.shape[-2:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        top, bottom, left, right = ctx.edges
        num_rows, num_columns = ctx.size
        middle = gradient[..., left : left + num_columns].clone()
        before, after = gradient[..., :left], gradient[..., left + num_columns :]
        if ctx.boundary == "limited":
            middle[..., :1] += before.sum(-1, keepdim=True)
            middle[..., -1:] += after.sum(-1, keepdim=True)
        else:
            middle[..., num_columns - left :] += before
            middle[..., :right] += after
        inner = middle[..., top : top + num_rows, :].contiguous(memory_format=_format(gradient))
        above, below = middle[..., :top, :], middle[..., top + num_rows :, :]
        if ctx.boundary in EDGE_ROWS:
            inner[..., :1, :] += above.sum(-2, keepdim=True)
            inner[..., -1:, :] += below.sum(-2, keepdim=True)
            return inner, None, None, None
        for source, part in zip(_row_sources(num_rows, top, bottom, ctx.boundary), (above, below), strict=True):
            if source.start < source.stop:
                inner[..., source, :] += part if ctx.boundary == "periodic" else _signed(_half_turn_back(part), ctx.parity).flip(-2)
        return inner, None, None, None


def _format(x_BCHW: Tensor) -> torch.memory_format:
    return torch.channels_last if x_BCHW.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
