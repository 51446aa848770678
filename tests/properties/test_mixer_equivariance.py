"""The mixer is the same everywhere: it commutes with shifts, makes no spike, and knows no neighbour in the batch."""

import pytest
import torch

from afno_forecast.nn.afno import AFNOMixer
from afno_forecast.nn.modes import band_of_wavenumber

OPTIONS = [
    {},
    {"shrink": 0.02},
    {"num_bands": 4, "fraction": 0.6, "hidden_factor": 1.5},
    {"activation": "modrelu", "num_bands": 2, "shrink": 0.01},
    {"activation": "none"},
    {"latitude": "double", "num_bands": 3},
    {"latitude": "double_with_poles", "shrink": 0.02},
]
GRIDS = [(9, 20), (12, 15), (33, 70)]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def make(**options) -> AFNOMixer:
    return AFNOMixer(24, 4, **options)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_a_shift_in_longitude_goes_through(options, rows: int, columns: int) -> None:
    mixer = make(**options)
    field = torch.randn(2, rows, columns, 24)
    mixed = mixer(field)
    assert mixed.norm() > 0.01 * field.norm()
    for shift in (1, 7):
        assert relative(mixer(field.roll(shift, 2)), mixed.roll(shift, 2)) <= 1e-5


@pytest.mark.parametrize("options", OPTIONS[:5])
def test_a_shift_in_periodic_latitude_goes_through(options) -> None:
    mixer = make(**options)
    field = torch.randn(2, 11, 16, 24)
    assert relative(mixer(field.roll(3, 1)), mixer(field).roll(3, 1)) <= 1e-5


@pytest.mark.parametrize("options", OPTIONS)
def test_no_input_makes_no_spike(options) -> None:
    mixer = make(**options)
    for parameter in mixer.parameters():
        parameter.add_(torch.randn_like(parameter))
    mixed = mixer(torch.zeros(2, 9, 14, 24))
    assert float(mixed.flatten(1, 2).std(1).max()) == 0.0


@pytest.mark.parametrize("options", OPTIONS)
def test_constant_in_longitude_stays_constant_in_longitude(options) -> None:
    mixed = make(**options)(torch.randn(2, 9, 1, 24).expand(2, 9, 14, 24))
    assert float(mixed.std(2).max()) <= 1e-6 * float(mixed.abs().max())


@pytest.mark.parametrize("options", OPTIONS)
def test_samples_of_a_batch_do_not_meet(options) -> None:
    mixer = make(**options)
    field = torch.randn(3, 9, 14, 24)
    apart = torch.cat([mixer(sample[None]) for sample in field])
    torch.testing.assert_close(mixer(field), apart, rtol=1e-5, atol=1e-5)


def test_blocks_do_not_meet_and_linear_means_linear() -> None:
    field = torch.randn(2, 9, 14, 24)
    changed = field.clone()
    changed[..., 6:12] += 1.0 + torch.randn(2, 9, 14, 6)
    for options in OPTIONS:
        mixer = make(**options)
        difference = (mixer(changed) - mixer(field)).abs().amax((0, 1, 2))
        assert difference[6:12].min() > 1e-3
        assert max(difference[:6].max(), difference[12:].max()) <= 1e-5
    linear = make(activation="none")
    torch.testing.assert_close(linear(2 * field - changed), 2 * linear(field) - linear(changed), rtol=1e-4, atol=1e-5)
    assert relative(make()(2 * field - changed), 2 * make()(field) - make()(changed)) > 0.1


def test_shrink_empties_modes_and_only_lowers_them() -> None:
    field = torch.randn(1, 12, 16, 24)
    plain, sparse = make(), make(shrink=0.1)
    sparse.load_state_dict(plain.state_dict())
    before, after = (torch.fft.rfft2(mixer(field), dim=(1, 2), norm="forward").abs() for mixer in (plain, sparse))
    inner = slice(1, -1)  # zonal wavenumbers whose conjugate is not stored, so that they come back as they were made
    assert (after[:, :, inner] < 1e-7).float().mean() > 0.3
    assert (after[:, :, inner] <= before[:, :, inner] + 1e-6).all()


def test_a_wavenumber_has_its_band_on_every_grid() -> None:
    assert [band_of_wavenumber(k, 4) for k in (0, 1, -1, 2, 3, -4, 7, 8, 15, 90)] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert {band_of_wavenumber(k, 1) for k in range(50)} == {0}
    mixer = make(num_bands=3)
    longitude = torch.arange(16) * (2 * torch.pi / 16)
    wave = (longitude * 2).cos()[None, None, :, None] * torch.randn(1, 1, 1, 24)
    expected = mixer(wave.expand(1, 12, 16, 24))
    for parameter in mixer.parameters():
        parameter[0] += 1.0
        parameter[2] += 1.0
    torch.testing.assert_close(mixer(wave.expand(1, 12, 16, 24)), expected, rtol=1e-4, atol=1e-5)
