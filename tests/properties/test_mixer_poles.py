"""A double Fourier sphere makes what is smooth on the sphere smooth in the transform; a plain one does not."""

import math

import pytest
import torch

from afno_forecast.nn.modes import kept_modes
from afno_forecast.nn.spectral import transform


def grid(rows: int, columns: int, *, poles: bool) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(rows, dtype=torch.float64)
    latitude = math.pi * (index / (rows - 1) - 0.5 if poles else (index + 0.5) / rows - 0.5)
    return latitude[:, None], 2 * math.pi * torch.arange(columns, dtype=torch.float64)[None] / columns


def scalar(latitude: torch.Tensor, longitude: torch.Tensor) -> torch.Tensor:
    x, y, z = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin().expand(len(latitude), longitude.shape[1])
    return torch.exp(0.6 * x - 0.8 * y + 0.5 * z) + x * z


def wind(latitude: torch.Tensor, longitude: torch.Tensor) -> torch.Tensor:
    """Eastward and northward component of a rotation about a tilted axis plus a gradient, times a smooth factor."""
    east = -0.8 * latitude.sin() * longitude.cos() + 0.5 * latitude.cos() - 0.3 * longitude.sin()
    north = 0.8 * longitude.sin() + 0.0 * latitude - 0.3 * latitude.sin() * longitude.cos()
    return torch.stack([east, north], -1) * scalar(latitude, longitude)[..., None]


def leakage(field_HWC: torch.Tensor, latitude: str, parity: float = 1.0) -> float:
    """Share of the energy in the top third of the meridional wavenumbers."""
    modes = kept_modes(field_HWC.shape[0], field_HWC.shape[1], 1.0, latitude)  # type: ignore[arg-type]
    signs = torch.full((field_HWC.shape[-1],), parity, dtype=torch.float64)
    energy = transform(field_HWC[None], modes, parity_C=signs).square().sum((0, 1, 3)).view(len(modes.row_wavenumbers), -1).sum(1)
    top = torch.tensor(modes.row_wavenumbers).abs() > modes.period / 3
    return float(energy[top].sum() / energy.sum())


@pytest.mark.parametrize("columns", [64, 45])
@pytest.mark.parametrize(("latitude", "poles"), [("double", False), ("double_with_poles", True)])
def test_a_smooth_scalar_leaks_nothing(latitude: str, poles: bool, columns: int) -> None:
    field = scalar(*grid(33, columns, poles=poles))[..., None]
    assert leakage(field, latitude) <= 1e-12
    assert leakage(field, "periodic") > 1e-5


@pytest.mark.parametrize("columns", [64, 45])
@pytest.mark.parametrize(("latitude", "poles"), [("double", False), ("double_with_poles", True)])
def test_components_of_a_vector_change_sign_over_the_pole(latitude: str, poles: bool, columns: int) -> None:
    field = wind(*grid(33, columns, poles=poles))
    assert leakage(field, latitude, parity=-1.0) <= 1e-12
    assert leakage(field, latitude, parity=1.0) > 1e-5
