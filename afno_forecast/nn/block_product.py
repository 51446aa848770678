"""Products of coefficients with a block-diagonal complex matrix, in real arithmetic.

Real and imaginary parts stand beside each other as the channels of one real matrix. In memory the modes are last by FFT, the
channels by DFT matrices (see `spectral.transform`); a matrix product reads and writes both alike, so that one field and one
block by FFT needs no rearrangement.

Axes: B batch, K kept mode, C channel, G block, i channels in and o channels out of a block; P pieces and N columns: with the modes
last P = B x G and N = K, else P = G and N = B x K. The axes of blocks are (P, 2, i, N) with the modes last, else (P, N, 2, i).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .scratch import lent


def into_blocks(z_B2KC: Tensor, num_blocks: int, modes_last: bool) -> Tensor:
    """Coefficients by blocks, (P, 2, i, N) or (P, N, 2, i)."""
    z_B2KGi = torch.unflatten(z_B2KC, 3, (num_blocks, -1))
    if modes_last:
        return z_B2KGi.permute(0, 3, 1, 4, 2).flatten(0, 1)
    return _copy(z_B2KGi.permute(3, 0, 2, 1, 4), "into blocks").flatten(1, 2)


def out_of_blocks(z: Tensor, batch: int, modes_last: bool, name: str = "out of blocks") -> Tensor:
    """The coefficients (B, 2, K, C) of blocks, in the memory layout that the inverse transform reads."""
    if modes_last:
        return torch.unflatten(z, 0, (batch, -1)).transpose(1, 2).flatten(2, 3).transpose(2, 3)
    return _copy(torch.unflatten(z, 1, (batch, -1)).permute(1, 3, 2, 0, 4), name).flatten(3)


def _copy(z: Tensor, name: str) -> Tensor:
    """Laid out in the order of its axes."""
    out = lent(name, tuple(z.shape), z)
    return z.contiguous() if out is None else out.copy_(z)


def over_pieces(weight_G: Tensor, num_pieces: int) -> Tensor:
    """Weights of blocks for each piece: repeated where every field of a batch has pieces of its own."""
    repeats = num_pieces // len(weight_G)
    return weight_G if repeats == 1 else weight_G.repeat(repeats, *(1 for _ in weight_G.shape[1:]))


def block_product(z: Tensor, weight_2Gio: Tensor, modes_last: bool, bias_2Go: Tensor | None = None, *, name: str) -> Tensor:
    """weight^T z + bias for each block and mode, (P, 2, o, N) or (P, N, 2, o); without a backward pass in the scratch of that name."""
    packed = over_pieces(_packed(weight_2Gio.to(z.dtype)), len(z))
    bias = None if bias_2Go is None else over_pieces(bias_2Go.to(z.dtype).transpose(0, 1).flatten(1), len(z))
    left, right = (packed.transpose(1, 2), z.flatten(1, 2)) if modes_last else (z.flatten(2, 3), packed)
    space = lent(name, (left.shape[0], left.shape[1], right.shape[2]), z)
    if bias is not None:
        bias = bias.unsqueeze(2 if modes_last else 1)
    out = torch.bmm(left, right, out=space) if bias is None else torch.baddbmm(bias, left, right, out=space)
    return torch.unflatten(out, 1 if modes_last else 2, (2, -1))


def _packed(weight_2Gio: Tensor) -> Tensor:
    """The real matrix (G, [real, imaginary] i, [real, imaginary] o) that multiplies rows as the complex one does."""
    real, imaginary = weight_2Gio
    return torch.cat([torch.cat([real, imaginary], 2), torch.cat([-imaginary, real], 2)], 1)
