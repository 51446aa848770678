"""Modes are chosen by their true wavenumbers on both axes, and both ways of transforming agree."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afno_forecast.nn.afno import AFNOMixer
from afno_forecast.nn.modes import LATITUDES, kept_modes, kept_wavenumbers, mode_weights
from afno_forecast.nn.spectral import inverse, transform

GRIDS = [(9, 20), (12, 7), (16, 32), (5, 5)]


def pass_through(fraction: float, num_bands: int = 1) -> AFNOMixer:
    """A mixer whose complex weights are the identity: what is left is the choice of modes."""
    mixer = AFNOMixer(6, 3, fraction=fraction, num_bands=num_bands, activation="none")
    with torch.no_grad():
        for weight in (mixer.weight_in_S2Gch, mixer.weight_out_S2Ghc):
            weight.zero_()
            weight[:, 0] = torch.eye(2)
    return mixer.double()


def harmonic(rows: int, columns: int, k_row: int, k_column: int) -> torch.Tensor:
    row, column = (torch.arange(number, dtype=torch.float64) / number for number in (rows, columns))
    phase = 2 * math.pi * (k_row * row[:, None] + k_column * column)
    return torch.stack([phase.cos(), (phase + 0.7).cos()])[:, :, :, None].expand(2, rows, columns, 6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 1.0), st.booleans())
def test_kept_wavenumbers_are_those_up_to_the_fraction_of_nyquist(num_points: int, fraction: float, half: bool) -> None:
    all_of_them = range(num_points // 2 + 1) if half else range(-(num_points // 2), (num_points + 1) // 2)
    expected = {k for k in all_of_them if abs(k) <= fraction * num_points / 2 + 1e-9}
    assert set(kept_wavenumbers(num_points, fraction, half=half)) == expected
    assert 0 in expected


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.8])
def test_each_harmonic_passes_or_is_stopped_whole(rows: int, columns: int, fraction: float) -> None:
    mixer = pass_through(fraction)
    for k_row in range(-((rows - 1) // 2), rows // 2 + 1):
        for k_column in range(columns // 2 + 1):
            field = harmonic(rows, columns, k_row, k_column)
            kept = abs(k_row) <= fraction * rows / 2 and k_column <= fraction * columns / 2
            torch.testing.assert_close(mixer(field), field if kept else torch.zeros_like(field), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
def test_a_constant_passes_at_every_fraction(rows: int, columns: int, fraction: float) -> None:
    field = torch.randn(3, 1, 1, 6, dtype=torch.float64).expand(3, rows, columns, 6)
    torch.testing.assert_close(pass_through(fraction)(field), field, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [*GRIDS, (1, 8), (6, 1), (40, 90)])
@pytest.mark.parametrize("num_bands", [1, 3])
def test_fraction_one_keeps_everything(rows: int, columns: int, num_bands: int) -> None:
    noise = torch.randn(2, rows, columns, 6, dtype=torch.float64)
    torch.testing.assert_close(pass_through(1.0, num_bands)(noise), noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("latitude", LATITUDES)
@pytest.mark.parametrize(("rows", "columns"), [(5, 8), (6, 7), (7, 9), (8, 6), (2, 2), (1, 3)])
@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_fft_and_matrices_agree(rows: int, columns: int, fraction: float, latitude) -> None:
    modes = kept_modes(rows, columns, fraction, latitude)
    field = torch.randn(2, rows, columns, 3, dtype=torch.float64)
    spectrum = transform(field, modes, method="fft")
    torch.testing.assert_close(transform(field, modes, method="matmul"), spectrum, rtol=0, atol=1e-13)
    other = torch.randn(spectrum.shape, dtype=torch.float64)
    torch.testing.assert_close(inverse(other, modes, method="matmul"), inverse(other, modes, method="fft"), rtol=0, atol=1e-13)
    if fraction == 1.0:
        torch.testing.assert_close(inverse(spectrum, modes), field, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(9, 16), (32, 33), (45, 90)])
def test_both_ways_agree_to_1e_5_in_float32(rows: int, columns: int) -> None:
    modes = kept_modes(rows, columns)
    field = torch.randn(2, rows, columns, 8)
    exact = transform(field.double(), modes, method="fft")
    for method in ("fft", "matmul"):
        spectrum = transform(field, modes, method=method)
        assert (spectrum - exact).norm() <= 1e-5 * exact.norm()
        assert (inverse(spectrum, modes, method=method) - field).norm() <= 1e-5 * field.norm()


@pytest.mark.parametrize("method", ["fft", "matmul"])
@pytest.mark.parametrize("latitude", LATITUDES)
def test_the_gradient_of_both_ways_is_right(method, latitude) -> None:
    modes = kept_modes(4, 6, 0.7, latitude)
    field = torch.randn(1, 4, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: transform(x, modes, method=method), field)
    spectrum = transform(field, modes).detach().contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: inverse(z, modes, method=method), spectrum)


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_the_energy_of_the_modes_is_that_of_the_field(rows: int, columns: int) -> None:
    field = torch.randn(2, rows, columns, 3, dtype=torch.float64)
    modes = kept_modes(rows, columns)
    energy = (transform(field, modes).square().sum(1) * mode_weights(modes)[:, None]).sum(1)
    torch.testing.assert_close(energy, field.square().mean((1, 2)))


def test_small_grids_go_by_matrices_and_large_ones_by_fft() -> None:
    assert kept_modes(8, 16).method == "matmul"
    assert kept_modes(90, 180).method == "fft"
    assert kept_modes(90, 180, 0.2).method == "matmul"
