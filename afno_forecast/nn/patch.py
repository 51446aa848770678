"""Between cells and patches: rearrangement and one matrix product, the same as a strided convolution and its transpose.

Axes: B batch, H row, W column, C channel; h, w rows and columns of patches; tokens have their channels last.
"""

from __future__ import annotations

from torch import Tensor, nn

from .padding import Boundary, pad
from .resample import embedding_weights, recovery_weights


class PatchEmbed(nn.Module):
    """Patches of cells to tokens: (B, H, W, C) to (B, ceil(H / rows), ceil(W / columns), D).

    A field that the patch does not divide is continued over its last row and column by the rule of the boundary; nothing is
    cut off. `PatchRecovery` drops what was added.

    Args:
        in_channels: channels of a cell.
        out_channels: channels of a token, D.
        patch: rows and columns of a patch.
        boundary: see `padding.pad`.
        parity_C: signs of the channels of a cell over a pole, see `padding.pad`.
        overlap: a token also sees so many cells around its patch.

    `patch` may be set to another one later: the weights, made for `weights_patch`, are then resampled by area (without overlap only).
    """

    parity_C: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, patch: tuple[int, int], boundary: Boundary, *, parity_C: Tensor | None = None,
                 overlap: int = 0) -> None:
        super().__init__()
        self.patch, self.weights_patch, self.boundary, self.overlap = patch, patch, boundary, overlap
        self.register_buffer("parity_C", parity_C, persistent=False)
        self.linear = nn.Linear((patch[0] + 2 * overlap) * (patch[1] + 2 * overlap) * in_channels, out_channels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Tokens, (B, h, w, D)."""
        rows, columns = self.patch
        around = self.overlap
        missing = (-x_BHWC.shape[1] % rows, -x_BHWC.shape[2] % columns)
        if around or any(missing):
            edges = [(around, missing_cells + around) for missing_cells in missing]
            x_BHWC = pad(x_BHWC.permute(0, 3, 1, 2), edges[0], edges[1], self.boundary, self.parity_C).permute(0, 2, 3, 1)
        if around:
            patches = x_BHWC.unfold(1, rows + 2 * around, rows).unfold(2, columns + 2 * around, columns).permute(0, 1, 2, 4, 5, 3).flatten(3)
        else:
            batch, num_rows, num_columns, channels = x_BHWC.shape
            patches = x_BHWC.reshape(batch, num_rows // rows, rows, num_columns // columns, columns, channels)
            patches = patches.permute(0, 1, 3, 2, 4, 5).flatten(3)
        if self.patch == self.weights_patch:
            tokens: Tensor = self.linear(patches)
            return tokens
        return nn.functional.linear(patches, embedding_weights(self.linear.weight, self.weights_patch, self.patch), self.linear.bias)


class PatchRecovery(nn.Module):
    """Tokens to patches of cells: (B, h, w, D) to (B, H, W, C), the first H rows and W columns of the patches.

    Args:
        in_channels: channels of a token, D.
        out_channels: channels of a cell.
        patch: rows and columns of a patch; may be set to another one later, as in `PatchEmbed`.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.weights_patch, self.out_channels = patch, patch, out_channels
        self.linear = nn.Linear(in_channels, patch[0] * patch[1] * out_channels)

    def forward(self, x_BhwD: Tensor, size: tuple[int, int]) -> Tensor:
        """Cells, (B, *size, C)."""
        rows, columns = self.patch
        patches = self._patches(x_BhwD).view(*x_BhwD.shape[:3], rows, columns, self.out_channels)
        cells: Tensor = patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return cells[:, : size[0], : size[1]]

    def _patches(self, x_BhwD: Tensor) -> Tensor:
        if self.patch == self.weights_patch:
            patches: Tensor = self.linear(x_BhwD)
            return patches
        weight, bias = (recovery_weights(values, self.weights_patch, self.patch) for values in (self.linear.weight, self.linear.bias))
        return nn.functional.linear(x_BhwD, weight, bias)
