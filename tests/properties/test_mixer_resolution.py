"""The same weights do the same to the same field, whatever grid it is sampled on."""

import math

import pytest
import torch

from afno_forecast.nn.afno import AFNOMixer

OPTIONS = [{}, {"shrink": 0.05}, {"num_bands": 4, "hidden_factor": 2.0}, {"activation": "modrelu", "num_bands": 2}, {"activation": "none"}]


def band_limited(rows: int, columns: int, seed: int = 3) -> torch.Tensor:
    """Random harmonics with wavenumbers up to 7, sampled at the grid's points, (2, H, W, 16)."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(rows, dtype=torch.float64)[:, None] / rows
    column = torch.arange(columns, dtype=torch.float64)[None] / columns
    field = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64).expand(2, rows, columns, 16)
    for k_row in range(-7, 8):
        for k_column in range(8):
            amplitude, phase = torch.randn(2, 2, 1, 1, 16, generator=generator, dtype=torch.float64)
            angle = 2 * math.pi * (k_row * row + k_column * column)
            field = field + amplitude / (1 + k_row**2 + k_column**2) * (angle[None, :, :, None] + 2 * math.pi * phase).cos()
    return field.float()


@pytest.mark.parametrize("options", OPTIONS)
def test_32_and_64_squared_tokens_agree(options) -> None:
    mixer = AFNOMixer(16, 4, **options)
    coarse, fine = mixer(band_limited(32, 32)), mixer(band_limited(64, 64))
    assert (fine[:, ::2, ::2] - coarse).norm() <= 1e-5 * coarse.norm()


@pytest.mark.parametrize("options", OPTIONS)
def test_odd_and_oblong_grids_agree(options) -> None:
    mixer = AFNOMixer(16, 4, **options)
    coarse, fine = mixer(band_limited(17, 20)), mixer(band_limited(51, 60))
    assert (fine[:, ::3, ::3] - coarse).norm() <= 1e-5 * coarse.norm()


@pytest.mark.parametrize("options", OPTIONS)
def test_over_the_poles_the_large_scales_agree(options) -> None:
    """Cell centres of the two grids differ, so the fields are compared by the coefficients of their sphere."""
    mixer = AFNOMixer(16, 4, latitude="double", **options)
    mixed = []
    for rows, columns in ((24, 48), (48, 96)):
        latitude = math.pi * ((torch.arange(rows, dtype=torch.float64) + 0.5) / rows - 0.5)[:, None]
        longitude = 2 * math.pi * torch.arange(columns, dtype=torch.float64)[None] / columns
        place = torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin().expand(rows, columns)], -1)
        field = torch.sin(place @ torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).float()
        out = mixer(field[None])[0].double()
        coefficients = torch.fft.fft2(torch.cat([out, out.flip(0).roll(columns // 2, 1)]), dim=(0, 1), norm="forward")
        wavenumber = torch.arange(8, dtype=torch.float64)[:, None, None]
        mixed.append(coefficients[:8, :8] * torch.exp(-1j * math.pi * wavenumber * 0.5 / rows))
    assert (mixed[0] - mixed[1]).norm() <= 1e-5 * mixed[0].norm()
