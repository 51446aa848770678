"""Numbers: float32 against float64, autocast, gradients at the awkward places."""

import copy

import pytest
import torch

from afno_forecast.nn.afno import AFNOMixer
from afno_forecast.nn.mixers import MIXERS, MixerOptions

OPTIONS = [{}, {"shrink": 0.02, "num_bands": 3}, {"activation": "modrelu"}, {"latitude": "double", "fraction": 0.5}]
GRIDS = [(9, 14), (40, 100)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_single_precision_is_close_to_double(options, rows: int, columns: int) -> None:
    mixer = AFNOMixer(16, 4, **options)
    exact = copy.deepcopy(mixer).double()
    field = torch.randn(2, rows, columns, 16)
    expected = exact(field.double())
    assert expected.dtype == torch.float64
    assert (mixer(field) - expected).norm() <= 2e-6 * expected.norm()
    mixer(field).square().sum().backward()
    expected.square().sum().backward()
    for (name, parameter), (_, other) in zip(mixer.named_parameters(), exact.named_parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None, name
        assert (parameter.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-6, name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_autocast_does_not_reach_the_spectrum(options, rows: int, columns: int) -> None:
    mixer = AFNOMixer(16, 4, **options)
    field = torch.randn(2, rows, columns, 16)
    expected = mixer(field)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mixer(field)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0)
    rounded = mixer(field.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, mixer(field.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e12])
def test_gradients_are_finite(options, scale: float) -> None:
    mixer = AFNOMixer(16, 4, **options)
    for field in (torch.full((2, 9, 14, 16), scale), scale * torch.randn(2, 9, 14, 16)):
        field = field.requires_grad_()
        mixed = mixer(field)
        mixed.mean().backward()
        assert mixed.isfinite().all()
        assert field.grad is not None and field.grad.isfinite().all()
        for name, parameter in mixer.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_noise_of_rounding_is_not_amplified() -> None:
    mixer = AFNOMixer(16, 4)
    limit = float(torch.linalg.svdvals(torch.complex(*mixer.weight_in_S2Gch[0].detach().unbind(0))).max())
    limit *= float(torch.linalg.svdvals(torch.complex(*mixer.weight_out_S2Ghc[0].detach().unbind(0))).max())
    for scale in (1e-12, 1e-8, 1e-4, 1.0):
        noise = scale * torch.randn(2, 9, 14, 16)
        assert mixer(noise).norm() <= 1.01 * limit * noise.norm()


@pytest.mark.parametrize("name", MIXERS)
def test_the_derivative_of_each_mixer_is_right(name) -> None:
    mixer = MIXERS[name](MixerOptions(dim=4, num_blocks=2, num_bands=2, shrink=0.01, tokens=(3, 5) if name == "gfn" else None)).double()
    field = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, field)


def test_a_forecast_does_not_spoil_the_training_after_it() -> None:
    mixer = AFNOMixer(16, 4, num_bands=3, shrink=0.01)
    field = torch.randn(2, 11, 13, 16)
    with torch.inference_mode():
        before = mixer(field)
    after = mixer(field)
    after.sum().backward()
    torch.testing.assert_close(before, after.detach(), rtol=0, atol=0)
