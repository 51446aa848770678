"""Between grids of different spacing: weights of patches, and whole fields.

Axes: B batch, C channel, H row, W column; p rows or columns of a patch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from .padding import POLAR, Boundary, pad


@lru_cache(maxsize=256)
def area_matrix(old: int, new: int) -> Tensor:
    """Means over `new` equal intervals of a line from values on `old` equal intervals of it, (new, old), float64; rows sum to 1.

    The overlap of new interval i with old interval j as a share of the new one.
    """
    start_new, start_old = (torch.arange(number, dtype=torch.float64) / number for number in (new, old))
    overlap = torch.minimum(start_new[:, None] + 1 / new, start_old + 1 / old) - torch.maximum(start_new[:, None], start_old)
    shares = overlap.clamp(min=0)
    with torch.inference_mode(False):
        return shares / shares.sum(1, keepdim=True)


def embedding_weights(weight_OI: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Weights of a patch embedding for patches of another number of cells, (O, rows x columns x C).

    Tokens are those of the old weights on the area means of the new cells. Where the new number is a multiple of the old one this is
    the pseudo-inverse resizing of FlexiViT (Beyer et al. 2022, arXiv 2212.08013) for fields that are repeated.
    """
    weight_OrcC = weight_OI.view(len(weight_OI), *old, -1)
    rows, columns = area_matrix(new[0], old[0]).to(weight_OI), area_matrix(new[1], old[1]).to(weight_OI)
    return torch.einsum("orcx,rs,cd->osdx", weight_OrcC, rows, columns).flatten(1)


def recovery_weights(weight_IO: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Weights (rows x columns x C, ...) or biases of a patch recovery for another number of cells: area means of what the old ones give."""
    weight_rcCO = weight_IO.view(*old, weight_IO.shape[0] // (old[0] * old[1]), -1)
    rows, columns = area_matrix(old[0], new[0]).to(weight_IO), area_matrix(old[1], new[1]).to(weight_IO)
    return torch.einsum("rcxo,sr,dc->sdxo", weight_rcCO, rows, columns).flatten(0, 2).view(-1, *weight_IO.shape[1:])


def coarsen(x_BCHW: Tensor, cells: tuple[int, int], boundary: Boundary) -> Tensor:
    """Means over `cells` rows x columns, (B, C, ceil(H / rows), ceil(W / columns)).

    What is missing in the last ones lies beyond the edge, but for rows beyond a pole: there the mean is over those that are left, since what lies
    beyond has another sign for components of vectors.
    """
    if cells == (1, 1):
        return x_BCHW
    missing_rows = 0 if boundary in POLAR else -x_BCHW.shape[-2] % cells[0]
    around = pad(x_BCHW, (0, missing_rows), (0, -x_BCHW.shape[-1] % cells[1]), boundary)
    return nn.functional.avg_pool2d(around, cells, ceil_mode=True, count_include_pad=False)


def spread(x_BCHW: Tensor, cells: tuple[int, int], size: tuple[int, int], boundary: Boundary, parity_C: Tensor | None = None) -> Tensor:
    """Linear interpolation between centres to `cells` rows x columns for each, cut to `size`, (B, C, *size); over poles with `pad`'s parity."""
    if cells == (1, 1):
        return x_BCHW
    around = pad(x_BCHW, 1, 1, boundary, parity_C)
    fine = nn.functional.interpolate(around, scale_factor=(float(cells[0]), float(cells[1])), mode="bilinear", align_corners=False)
    return fine[..., cells[0] : cells[0] + size[0], cells[1] : cells[1] + size[1]]
