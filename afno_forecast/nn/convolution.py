"""3 x 3 convolution whose weight gradient is nine matrix products where that is faster.

Axes: B batch, C channel, H row, W column, O channel after.

With channels last, a shift over the padded grid is an offset into its rows of channels: the gradient of each of the nine weights is one
product of a part of the field, which is not copied, and the gradient of the output on the same padded grid. On a CPU in float32 the library
takes 1.0 to 1.5 times as long (one core, batch 4: 32 to 32 channels on 32 x 64 cells 3.6 ms against 2.7; 64 on 32 x 64 14.9 against 10.2;
128 on 8 x 16 2.9 against 2.7), but is faster for few channels, or a number that does not fill its registers, after (64 to 11 channels on
32 x 64 3.5 against 12.7). Everywhere else this is `torch.nn.functional.conv2d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_FEWEST_CHANNELS, _REGISTER = 24, 8


def convolve(x_BCHW: Tensor, weight_OC33: Tensor, bias_O: Tensor | None) -> Tensor:
    """The valid 3 x 3 convolution of a padded field, (B, O, H - 2, W - 2)."""
    num_after = weight_OC33.shape[0]
    faster = num_after >= _FEWEST_CHANNELS and num_after % _REGISTER == 0
    trains = torch.is_grad_enabled() and weight_OC33.requires_grad
    single_on_cpu = x_BCHW.device.type == "cpu" and x_BCHW.dtype == weight_OC33.dtype == torch.float32
    if faster and trains and bias_O is not None and single_on_cpu and not torch.is_autocast_enabled("cpu"):
        convolved: Tensor = _Convolve.apply(x_BCHW, weight_OC33, bias_O)  # type: ignore[no-untyped-call]
        return convolved
    return nn.functional.conv2d(x_BCHW, weight_OC33, bias_O)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(x_BCHW: Tensor, weight_OC33: Tensor, bias_O: Tensor) -> Tensor:
        return nn.functional.conv2d(x_BCHW, weight_OC33, bias_O)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        x_BCHW, weight_OC33, _ = inputs
        ctx.save_for_backward(x_BCHW, weight_OC33)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (gradient_BOHW,) = gradients
        x_BCHW, weight_OC33 = ctx.saved_tensors
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.ops.aten.convolution_backward(
                gradient_BOHW, x_BCHW, weight_OC33, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        x_BHWC, gradient_BHWO = x_BCHW.permute(0, 2, 3, 1), gradient_BOHW.permute(0, 2, 3, 1)
        columns, flat_x = x_BHWC.shape[2], x_BHWC.flatten(0, 2)
        offsets = [row * columns + column for row in range(3) for column in range(3)]
        count = flat_x.shape[0] - offsets[-1]
        flat_gradient = nn.functional.pad(gradient_BHWO, (0, 0, 0, 2, 0, 2)).flatten(0, 2)[:count]
        kernel_9OC = torch.stack([flat_gradient.T @ flat_x[offset : offset + count] for offset in offsets])
        kernel_X9 = kernel_9OC.flatten(1).T.contiguous()  # a matrix is transposed several times as fast as axes are permuted
        return x_gradient, kernel_X9.view(weight_OC33.shape), gradient_BHWO.flatten(0, 2).sum(0)
