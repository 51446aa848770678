"""A limited area is not taken for periodic, and weights trained on a larger domain mean the same on a part of it."""

import math

import pytest
import torch

from afno_forecast.nn.afno import AFNOMixer
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone
from afno_forecast.nn.block import MixerBlock
from afno_forecast.nn.mixers import MixerOptions
from afno_forecast.nn.padding import BOUNDARIES, mirror, mirrored_size

PLAIN = {"patch": (2, 2), "width": 32, "depth": 2}
HIERARCHICAL = {"widths": (16, 32), "depth": 2}


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def ramp(rows: int, columns: int, *, along_rows: bool = True) -> torch.Tensor:
    field = (torch.arange(rows)[:, None] / rows if along_rows else 0) - 2 * torch.arange(columns) / columns
    return field[None, :, :, None].expand(1, rows, columns, 4)


def high_share(tokens: torch.Tensor) -> float:
    """Share of the energy, without the mean, in the top third of the wavenumbers of either axis."""
    energy = torch.fft.fft2(tokens[0, :, :, 0]).abs().square()
    energy[0, 0] = 0
    rows, columns = (torch.fft.fftfreq(number).abs() > 1 / 3 for number in tokens.shape[1:3])
    return float(energy[rows[:, None] | columns[None]].sum() / energy.sum())


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_mirror_image_follows_where_the_area_ends(boundary) -> None:
    field = torch.randn(2, 5, 7, 3)
    mirrored = mirror(field, boundary)
    assert mirrored.shape[1:3] == mirrored_size((5, 7), boundary)
    torch.testing.assert_close(mirrored[:, :5, :7], field, rtol=0, atol=0)
    if boundary in ("band", "limited"):
        torch.testing.assert_close(mirrored[:, 5:, :7], field.flip(1), rtol=0, atol=0)
    if boundary == "limited":
        torch.testing.assert_close(mirrored[:, :, 7:], mirrored[:, :, :7].flip(2), rtol=0, atol=0)
        assert mirrored.shape[1:3] == (10, 14)
    elif boundary != "band":
        assert mirrored is field


def test_a_ramp_does_not_leak() -> None:
    for rows, columns in ((24, 40), (15, 33)):
        field = ramp(rows, columns)
        assert high_share(mirror(field, "limited")) < 1e-3 < 1e-2 < high_share(field)


@pytest.mark.parametrize("boundary", ["limited", "band"])
def test_a_low_pass_mixer_gives_the_ramp_back(boundary) -> None:
    """What a jump at the edges would do to it everywhere near them is more than 20 times as large."""
    field = ramp(24, 40) if boundary == "limited" else ramp(24, 1).expand(1, 24, 40, 4)
    mixed = {}
    for name in (boundary, "periodic"):
        block = MixerBlock(MixerOptions(4, fraction=0.5), "fno", 1.0, name, local=False)
        for weight in (block.mixer.weight_in_S2Gch, block.mixer.weight_out_S2Ghc):
            weight.zero_()
            weight[:, 0] = torch.eye(4)
        block.mixer_norm.forward = lambda x, features: x
        block.mlp.second.weight.zero_()
        block.mlp.second.bias.zero_()
        mixed[name] = block(field) - 2 * field
    errors = {name: float((values - field).abs().max()) for name, values in mixed.items()}
    assert errors[boundary] < 0.02 and errors["periodic"] > 20 * errors[boundary]


def build(kind, options, boundary, weights=None, **more) -> torch.nn.Module:
    torch.manual_seed(1)
    network = build_backbone(kind(**options), 3, 2, boundary, **more)
    if weights is not None:
        network.load_state_dict(weights)
        return network
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(("kind", "options"), [(PlainConfig, PLAIN), (HierarchicalConfig, HIERARCHICAL)])
def test_the_opposite_edge_is_far_away(kind, options) -> None:
    torus = build(kind, {**options, "mixer": "fno", "num_bands": 1}, "periodic")
    limited = build(kind, {**options, "mixer": "fno", "num_bands": 1}, "limited", torus.state_dict())
    field = torch.randn(1, 3, 16, 64)
    changed = field.clone()
    changed[..., -1] += 5.0
    answers = [(network(changed) - network(field)).abs() for network in (torus, limited)]
    across, away = (float(answer[..., :2].mean() / answer[..., -2:].mean()) for answer in answers)
    assert away < 0.3 * across


def smooth(rows: int, columns: int, highest: int = 6) -> torch.Tensor:
    """Random harmonics of the torus up to a wavenumber, (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    row, column = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
    field = torch.zeros(3, rows, columns)
    for k in range(-highest, highest + 1):
        for m in range(highest + 1):
            amplitude, phase = torch.randn(2, 3, 1, 1, generator=generator)
            field += amplitude / math.sqrt(1 + k * k + m * m) * (2 * math.pi * (k * row + m * column + phase)).cos()
    return field[None]


def distance_within(network: torch.nn.Module, cut: torch.Tensor, whole: torch.Tensor) -> float:
    """Difference from the run on the whole domain in the middle quarter of the cut, against that run's deviation there."""
    rows, columns = (slice(number // 4, -(number // 4)) for number in cut.shape[-2:])
    expected = whole[..., rows, columns]
    return float((network(cut)[..., rows, columns] - expected).norm() / (expected - expected.mean((-1, -2), keepdim=True)).norm())


CUT = (Ellipsis, slice(16, 48), slice(32, 96))


@pytest.mark.parametrize(("kind", "options"), [(PlainConfig, PLAIN), (HierarchicalConfig, HIERARCHICAL)])
@pytest.mark.parametrize(("mixer", "limit"), [("afno", 0.15), ("fno", 0.1)])
def test_a_cut_gives_what_the_whole_domain_gives_away_from_its_edges(kind, options, mixer: str, limit: float) -> None:
    """With one band; what remains is the reach of the complex weights, which is that of a Hilbert transform."""
    torus = build(kind, {**options, "mixer": mixer, "num_bands": 1}, "periodic")
    limited = build(kind, {**options, "mixer": mixer, "num_bands": 1}, "limited", torus.state_dict(), extent=(0.5, 0.5))
    field = smooth(64, 128)
    assert distance_within(limited, field[CUT], torus(field)[CUT]) <= limit


@pytest.mark.parametrize(("kind", "options"), [(PlainConfig, PLAIN), (HierarchicalConfig, HIERARCHICAL)])
def test_a_wave_has_its_band_on_a_cut_too(kind, options) -> None:
    torus = build(kind, {**options, "num_bands": 3}, "periodic")
    right, wrong = (build(kind, {**options, "num_bands": 3}, "limited", torus.state_dict(), extent=extent) for extent in ((0.5, 0.5), None))
    field = smooth(64, 128)
    whole = torus(field)[CUT]
    assert distance_within(right, field[CUT], whole) < 0.8 * min(distance_within(other, field[CUT], whole) for other in (wrong, torus))


@pytest.mark.parametrize("rows", [12, 15])
def test_bands_by_wavelength(rows: int) -> None:
    """Half of the torus, mirrored or not, sees a wave of the whole with the same weights."""
    whole = AFNOMixer(8, 2, num_bands=4)
    half = AFNOMixer(8, 2, num_bands=4, band_unit=(1.0, 2.0))
    half.load_state_dict(whole.state_dict())
    field = ((2 * torch.pi * 6 * torch.arange(40) / 40).cos()[:, None] * torch.randn(8)).expand(2, rows, 40, 8)
    torch.testing.assert_close(half(field[:, :, :20]), whole(field)[:, :, :20], rtol=1e-4, atol=1e-5)


def test_what_concerns_poles_is_left_out_only_in_a_transfer() -> None:
    config = PlainConfig(width=16, depth=1, latitude="double", odd_channels=0.5)
    sphere = build_backbone(config, 3, 2, "sphere")
    with pytest.raises(ValueError, match=r"latitude double and odd_channels 0\.5 are for rows that end at the poles"):
        build_backbone(config, 3, 2, "limited")
    limited = build_backbone(config, 3, 2, "limited", extent=(0.25, 0.5))
    limited.load_state_dict(sphere.state_dict())
    assert limited(torch.randn(1, 3, 9, 10)).shape == (1, 2, 9, 10)
    assert limited.blocks[0].mixer.band_unit == (4.0, 1.0)
    assert build_backbone(config, 3, 2, "sphere").blocks[0].mixer.band_unit == (1.0, 1.0)
    assert build_backbone(PlainConfig(width=16, depth=1), 3, 2, "band", extent=(0.5, 1.0)).blocks[0].mixer.band_unit == (1.0, 1.0)
    with pytest.raises(ValueError, match="extent"):
        build_backbone(config, 3, 2, "limited", extent=(0.0, 1.0))


def test_a_global_filter_belongs_to_the_mirrored_tokens() -> None:
    network = build_backbone(PlainConfig(patch=(2, 2), width=16, depth=1, mixer="gfn", tokens=(5, 8)), 3, 2, "limited")
    assert network(torch.randn(2, 3, 9, 15)).shape == (2, 2, 9, 15)
    assert network.blocks[0].mixer.modes.rows == 10
