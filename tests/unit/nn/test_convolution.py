"""The convolution is the library's, forward and back, whichever way its weight gradient is made."""

import pytest
import torch

from afno_forecast.nn import convolution
from afno_forecast.nn.convolution import convolve


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("needs_input_gradient", [True, False])
@pytest.mark.parametrize("channels_after", [24, 4])
def test_outputs_and_gradients_are_those_of_torch(layout: torch.memory_format, needs_input_gradient: bool, channels_after: int) -> None:
    field = torch.randn(2, 5, 8, 13).contiguous(memory_format=layout).requires_grad_(needs_input_gradient)
    weight, bias = torch.randn(channels_after, 5, 3, 3, requires_grad=True), torch.randn(channels_after, requires_grad=True)
    variables = [weight, bias, *([field] if needs_input_gradient else [])]
    ours, theirs = convolve(field, weight, bias), torch.nn.functional.conv2d(field, weight, bias)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    upstream = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, variables, upstream), torch.autograd.grad(theirs, variables, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        assert a.shape == b.shape


def test_gradients_of_gradients_are_right() -> None:
    field = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution._Convolve.apply, (field, weight, bias))
    assert torch.autograd.gradgradcheck(convolution._Convolve.apply, (field, weight, bias))


def test_few_channels_after_and_other_types_are_the_librarys() -> None:
    def own(field: torch.Tensor, channels_after: int) -> bool:
        weight = torch.randn(channels_after, field.shape[1], 3, 3, dtype=field.dtype, requires_grad=True)
        return "_Convolve" in type(convolve(field, weight, torch.zeros(channels_after, dtype=field.dtype)).grad_fn).__name__

    field = torch.randn(1, 2, 6, 7)
    assert own(field, 32) and not own(field, 11) and not own(field, 30) and not own(field.double(), 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not own(field, 32)
