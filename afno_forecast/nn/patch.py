"""Between cells and patches: rearrangement and one matrix product, the same as a strided convolution and its transpose.

Axes: B batch, H row, W column, C channel; h, w rows and columns of patches; tokens have their channels last.
"""

from __future__ import annotations

from torch import Tensor, nn

from .padding import Boundary, pad


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
    """

    parity_C: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, patch: tuple[int, int], boundary: Boundary, *, parity_C: Tensor | None = None) -> None:
        super().__init__()
        self.patch, self.boundary = patch, boundary
        self.register_buffer("parity_C", parity_C, persistent=False)
        self.linear = nn.Linear(patch[0] * patch[1] * in_channels, out_channels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Tokens, (B, h, w, D)."""
        rows, columns = self.patch
        missing = (-x_BHWC.shape[1] % rows, -x_BHWC.shape[2] % columns)
        if any(missing):
            x_BHWC = pad(x_BHWC.permute(0, 3, 1, 2), (0, missing[0]), (0, missing[1]), self.boundary, self.parity_C).permute(0, 2, 3, 1)
        batch, num_rows, num_columns, channels = x_BHWC.shape
        patches = x_BHWC.reshape(batch, num_rows // rows, rows, num_columns // columns, columns, channels)
        patches = patches.permute(0, 1, 3, 2, 4, 5).flatten(3)
        tokens: Tensor = self.linear(patches)
        return tokens


class PatchRecovery(nn.Module):
    """Tokens to patches of cells: (B, h, w, D) to (B, H, W, C), the first H rows and W columns of the patches.

    Args:
        in_channels: channels of a token, D.
        out_channels: channels of a cell.
        patch: rows and columns of a patch.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.out_channels = patch, out_channels
        self.linear = nn.Linear(in_channels, patch[0] * patch[1] * out_channels)

    def forward(self, x_BhwD: Tensor, size: tuple[int, int]) -> Tensor:
        """Cells, (B, *size, C)."""
        rows, columns = self.patch
        patches = self.linear(x_BhwD).view(*x_BhwD.shape[:3], rows, columns, self.out_channels)
        cells: Tensor = patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return cells[:, : size[0], : size[1]]
