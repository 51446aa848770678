"""What must hold for each token mixer where the mathematics allows it, and where it does not, that this is so."""

import math

import pytest
import torch

from afno_forecast.nn.mixers import MIXERS, MixerOptions
from afno_forecast.nn.padding import channel_parity

SPECTRAL = ["afno", "fno", "gfn"]
OURS = [*SPECTRAL, "attention", "identity"]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def make(name: str, tokens: tuple[int, int], **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return MIXERS[name](MixerOptions(16, 4, tokens=tokens if name == "gfn" else None, **options))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("rows", "columns"), [(9, 20), (12, 15)])
def test_a_shift_in_longitude_goes_through(name, rows: int, columns: int) -> None:
    mixer = make(name, (rows, columns))
    field = torch.randn(2, rows, columns, 16)
    mixed = mixer(field)
    for shift in (1, 7):
        assert (mixer(field.roll(shift, 2)) - mixed.roll(shift, 2)).norm() <= 1e-5 * mixed.norm()
    assert name == "identity" or mixed.norm() > 0.01 * field.norm()


def test_the_legacy_mixer_is_not_equivariant_as_published() -> None:
    mixer = make("legacy", (9, 20))
    field = torch.randn(2, 9, 20, 16)
    assert relative(mixer(field.roll(1, 2)), mixer(field).roll(1, 2)) > 0.1


@pytest.mark.parametrize("name", OURS)
def test_no_input_makes_no_spike_and_samples_do_not_meet(name) -> None:
    mixer = make(name, (9, 14))
    for parameter in mixer.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    assert float(mixer(torch.zeros(2, 9, 14, 16)).flatten(1, 2).std(1).max()) <= 1e-6
    field = torch.randn(3, 9, 14, 16)
    torch.testing.assert_close(mixer(field), torch.cat([mixer(sample[None]) for sample in field]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize(("rows", "columns"), [(9, 20), (12, 7)])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 1.0])
def test_modes_are_kept_by_their_wavenumber(name, rows: int, columns: int, fraction: float) -> None:
    mixer = make(name, (rows, columns), fraction=fraction).double()
    amplitude = torch.fft.fft2(mixer(torch.randn(2, rows, columns, 16, dtype=torch.float64)), dim=(1, 2), norm="forward").abs().amax((0, 3))
    row, column = (torch.fft.fftfreq(number, dtype=torch.float64).abs() * 2 <= fraction + 1e-12 for number in (rows, columns))
    kept = row[:, None] & column
    assert amplitude[kept].min() > 1e-4 and kept[0, 0]
    assert (~kept).sum() == 0 or amplitude[~kept].max() <= 1e-12
    constant = torch.randn(1, 1, 1, 16, dtype=torch.float64).expand(1, rows, columns, 16)
    assert mixer(constant).abs().max() > 1e-3 and mixer(constant).flatten(0, 2).std(0).max() <= 1e-12


def band_limited(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    row, column = (torch.arange(number, dtype=torch.float64) / number for number in (rows, columns))
    field = torch.zeros(1, rows, columns, 16, dtype=torch.float64)
    for k in range(-5, 6):
        for m in range(6):
            amplitude, phase = torch.randn(2, 1, 1, 1, 16, generator=generator, dtype=torch.float64)
            field = field + amplitude * (2 * math.pi * ((k * row[:, None] + m * column)[None, :, :, None] + phase)).cos()
    return field.float()


@pytest.mark.parametrize("name", ["afno", "fno", "identity"])
@pytest.mark.parametrize("options", [{}, {"num_bands": 3}, {"shrink": 0.02, "learned_shrink": True}])
def test_weights_mean_the_same_on_a_finer_grid(name, options) -> None:
    mixer = make(name, (0, 0), **options)
    for coarse, fine, step in (((32, 32), (64, 64), 2), ((13, 16), (39, 48), 3)):
        expected = mixer(band_limited(*coarse))
        assert (mixer(band_limited(*fine))[:, ::step, ::step] - expected).norm() <= 1e-5 * expected.norm()


def test_weights_of_single_modes_do_not_go_to_another_grid_in_silence() -> None:
    with pytest.raises(ValueError, match="belongs to 9 x 14 tokens, not 18 x 28"):
        make("gfn", (9, 14))(torch.randn(1, 18, 28, 16))


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("latitude", ["periodic", "double", "double_with_poles"])
def test_autocast_does_not_reach_the_spectrum(name, latitude) -> None:
    mixer = make(name, (9, 14), latitude=latitude, odd_share=0.0 if latitude == "periodic" else 0.5)
    field = torch.randn(2, 9, 14, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixer(field)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, mixer(field), rtol=0, atol=0)
    exact = mixer.double()(field.double())
    assert exact.dtype == torch.float64 and relative(inside.double(), exact) <= 2e-6


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("latitude", ["double", "double_with_poles"])
@pytest.mark.parametrize("columns", [14, 15])
def test_the_sign_over_the_pole_is_that_of_the_field_continued(name, latitude, columns: int) -> None:
    """A mixer on the sphere is a mixer on the torus of rows continued over both poles, each channel with its sign.

    With bands: linear weights shared by all modes do not look along a meridian.
    """
    rows, parity, num_bands = 9, channel_parity(16, 0.5, 4), 1 if name == "gfn" else 3
    sphere = make(name, (rows, columns), latitude=latitude, odd_share=0.5, num_bands=num_bands)
    field = torch.randn(2, rows, columns, 16)
    sign = torch.tensor([1.0 - 2.0 * (k % 2) for k in range(columns // 2 + 1)])[:, None]
    beyond = torch.fft.irfft(torch.fft.rfft(field.flip(1), dim=2) * sign, n=columns, dim=2) * parity
    doubled = torch.cat([field, beyond if latitude == "double" else beyond[:, 1:-1]], 1)
    torus = make(name, (doubled.shape[1], columns), num_bands=num_bands)
    torus.load_state_dict(sphere.state_dict())
    mixed = sphere(field)
    assert relative(mixed, torus(doubled)[:, :rows]) <= 1e-5
    sphere.parity_C = None
    assert relative(sphere(field), mixed) > 0.01
