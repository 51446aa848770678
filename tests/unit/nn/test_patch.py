"""Patches by rearrangement are the strided convolution and its transpose."""

import pytest
import torch
from torch.nn import functional

from afno_forecast.nn.padding import pad
from afno_forecast.nn.patch import PatchEmbed, PatchRecovery


@pytest.mark.parametrize("boundary", ["sphere", "limited"])
@pytest.mark.parametrize(("rows", "columns"), [(6, 12), (7, 13), (8, 11)])
def test_embedding_is_a_strided_convolution_of_the_continued_field(boundary, rows: int, columns: int) -> None:
    embed = PatchEmbed(3, 5, (2, 4), boundary)
    field = torch.randn(2, 3, rows, columns)
    kernel = embed.linear.weight.view(5, 2, 4, 3).permute(0, 3, 1, 2)
    expected = functional.conv2d(pad(field, (0, -rows % 2), (0, -columns % 4), boundary), kernel, embed.linear.bias, stride=(2, 4))
    torch.testing.assert_close(embed(field.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-5)


def test_recovery_is_the_transposed_convolution_cut_to_size() -> None:
    recover = PatchRecovery(5, 3, (2, 4))
    tokens = torch.randn(2, 4, 3, 5)
    with torch.no_grad():
        recover.linear.bias.zero_()
    kernel = recover.linear.weight.view(2, 4, 3, 5).permute(3, 2, 0, 1)
    expected = functional.conv_transpose2d(tokens.permute(0, 3, 1, 2), kernel, stride=(2, 4))[:, :, :7, :11]
    torch.testing.assert_close(recover(tokens, (7, 11)).permute(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-5)


def test_a_patch_is_put_back_where_it_was() -> None:
    embed, recover = PatchEmbed(2, 12, (2, 3), "sphere"), PatchRecovery(12, 2, (2, 3))
    with torch.no_grad():
        for layer in (embed.linear, recover.linear):
            layer.weight.copy_(torch.eye(12))
            layer.bias.zero_()
    field = torch.randn(2, 5, 7, 2)
    torch.testing.assert_close(recover(embed(field), (5, 7)), field, rtol=0, atol=0)
