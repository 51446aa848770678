"""Padding continues a field as the sphere, the torus or the edge would."""

import math

import pytest
import torch
from torch.nn import functional

from afno_forecast.nn.padding import BOUNDARIES, pad


def spherical_field(latitude: torch.Tensor, longitude: torch.Tensor) -> torch.Tensor:
    """A smooth function of the place on the sphere, (1, 2, H, W); latitudes beyond 90 degrees go on over the pole."""
    x = latitude.cos()[:, None] * longitude.cos()
    y = latitude.cos()[:, None] * longitude.sin()
    z = latitude.sin()[:, None].expand_as(x)
    return torch.stack([torch.exp(0.7 * x - 0.4 * y + 0.3 * z), x * y + z])[None]


def extended(rows: int, columns: int, margin: tuple[int, int], *, poles: bool) -> torch.Tensor:
    step = math.pi / (rows - 1 if poles else rows)
    first = -math.pi / 2 + (0.0 if poles else step / 2)
    latitude = first + step * torch.arange(-margin[0], rows + margin[0], dtype=torch.float64)
    longitude = 2 * math.pi / columns * torch.arange(-margin[1], columns + margin[1], dtype=torch.float64)
    return spherical_field(latitude, longitude)


@pytest.mark.parametrize("poles", [False, True])
def test_a_function_on_the_sphere_is_continued_exactly(poles: bool) -> None:
    field = extended(9, 14, (0, 0), poles=poles)
    padded = pad(field, 3, 5, "sphere_with_poles" if poles else "sphere")
    torch.testing.assert_close(padded, extended(9, 14, (3, 5), poles=poles), rtol=0, atol=1e-12)


@pytest.mark.parametrize("poles", [False, True])
def test_half_a_turn_between_two_columns_is_their_mean(poles: bool) -> None:
    coarse, fine = [
        (pad(extended(20, columns, (0, 0), poles=poles), 2, 1, "sphere_with_poles" if poles else "sphere")
         - extended(20, columns, (2, 1), poles=poles)).abs().max()
        for columns in (31, 63)
    ]
    assert fine < 2e-3
    assert 3.5 < coarse / fine < 4.7, "the error of a mean of two neighbours falls with the square of their distance"


def test_each_end_has_its_own_margin() -> None:
    field = torch.randn(2, 3, 5, 8)
    whole = pad(field, 3, 4, "sphere")
    torch.testing.assert_close(pad(field, (0, 3), (1, 0), "sphere"), whole[:, :, 3:, 3:-4], rtol=0, atol=0)
    assert pad(field, 0, 0, "sphere") is field


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_torus_and_edge_agree_with_torch(layout: torch.memory_format) -> None:
    field = torch.randn(2, 3, 5, 7).contiguous(memory_format=layout)
    torch.testing.assert_close(pad(field, (2, 1), (0, 3), "periodic"), functional.pad(field, (0, 3, 2, 1), mode="circular"), rtol=0, atol=0)
    torch.testing.assert_close(pad(field, (2, 1), (0, 3), "limited"), functional.pad(field, (0, 3, 2, 1), mode="replicate"), rtol=0, atol=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("columns", [6, 7])
def test_gradients_are_those_of_the_values(boundary, columns: int) -> None:
    field = torch.randn(2, 2, 4, columns, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, (2, 1), (1, 3), boundary), field)
    assert torch.autograd.gradgradcheck(lambda x: pad(x, 1, 1, boundary).square(), field)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_memory_format_is_kept(boundary) -> None:
    field = torch.randn(2, 3, 5, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    padded = pad(field, 1, 1, boundary)
    assert padded.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(padded.square().sum(), field)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    plain = pad(field.contiguous(), 1, 1, boundary)
    assert plain.is_contiguous()
    torch.testing.assert_close(plain, padded, rtol=0, atol=0)


def test_what_cannot_be_continued_is_refused() -> None:
    field = torch.randn(1, 1, 3, 4)
    assert pad(field, 3, 4, "sphere").shape == (1, 1, 9, 12)
    assert pad(field, 9, 9, "limited").shape == (1, 1, 21, 22)
    with pytest.raises(ValueError, match="3 x 4 cells are too few to pad by 3 rows"):
        pad(field, 3, 0, "sphere_with_poles")
    with pytest.raises(ValueError, match="5 columns"):
        pad(field, 0, 5, "periodic")
    with pytest.raises(ValueError, match="'globe' is not one of sphere"):
        pad(field, 1, 1, "globe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        pad(field, -1, 0, "sphere")
    with pytest.raises(ValueError, match="axes"):
        pad(field[0], 1, 1, "sphere")
