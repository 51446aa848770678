"""Components of vectors change sign over a pole: in the padding, in the stem, and in the double Fourier sphere of a network."""

import math

import pytest
import torch

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone
from afno_forecast.nn.modes import kept_modes
from afno_forecast.nn.padding import channel_parity, pad
from afno_forecast.nn.spectral import transform

ROWS = 33


def grid(columns: int, *, poles: bool, margin: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    step = math.pi / (ROWS - 1 if poles else ROWS)
    first = -math.pi / 2 + (0.0 if poles else step / 2)
    latitude = first + step * torch.arange(-margin, ROWS + margin, dtype=torch.float64)
    return latitude[:, None], 2 * math.pi / columns * torch.arange(-margin, columns + margin, dtype=torch.float64)[None]


def fields(latitude: torch.Tensor, longitude: torch.Tensor) -> torch.Tensor:
    """A smooth scalar and the two components of a smooth vector field on the sphere, (1, 3, H, W); formulas go on over the poles."""
    x, y = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin()
    z = latitude.sin().expand_as(x)
    scalar = torch.exp(0.6 * x - 0.8 * y + 0.5 * z) + x * z
    east = -0.8 * latitude.sin() * longitude.cos() + 0.5 * latitude.cos() - 0.3 * longitude.sin()
    north = 0.8 * longitude.sin() - 0.3 * latitude.sin() * longitude.cos()
    return torch.stack([scalar, east * scalar, north * scalar])[None]


PARITY = torch.tensor([1.0, -1.0, -1.0])


@pytest.mark.parametrize("poles", [False, True])
def test_a_vector_field_is_continued_exactly(poles: bool) -> None:
    boundary = "sphere_with_poles" if poles else "sphere"
    field, expected = fields(*grid(14, poles=poles)), fields(*grid(14, poles=poles, margin=3))
    torch.testing.assert_close(pad(field, 3, 3, boundary, PARITY), expected, rtol=0, atol=1e-12)
    assert (pad(field, 3, 3, boundary) - expected)[:, 1:].abs().max() > 0.5, "without their sign they jump"
    torch.testing.assert_close(pad(field, 3, 3, "band", PARITY), pad(field, 3, 3, "band"), rtol=0, atol=0)


@pytest.mark.parametrize("boundary", ["sphere", "sphere_with_poles"])
@pytest.mark.parametrize("columns", [6, 7])
def test_gradients_carry_the_sign(boundary, columns: int) -> None:
    field = torch.randn(2, 3, 4, columns, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, (2, 1), (1, 3), boundary, PARITY), field)
    assert torch.autograd.gradgradcheck(lambda x: pad(x, 1, 1, boundary, PARITY).square(), field)


def test_hidden_channels_of_each_block_share_the_signs() -> None:
    assert channel_parity(8, 0.5, groups=2).tolist() == [1, 1, -1, -1, 1, 1, -1, -1]
    assert channel_parity(8, 0.25).tolist() == [1] * 6 + [-1] * 2
    assert channel_parity(8, 0.0) is None and channel_parity(4, 0.01).tolist() == [1, 1, 1, -1]


@pytest.mark.parametrize(("latitude", "poles"), [("double", False), ("double_with_poles", True)])
@pytest.mark.parametrize("mixer", ["afno", "fno", "gfn"])
@pytest.mark.parametrize("columns", [64, 45])
def test_nothing_leaks_in_a_network(latitude, poles: bool, mixer, columns: int) -> None:
    """Tokens of one cell, scalars in even and wind in odd channels: the spectrum that the mixer of a network works on."""
    tokens = (ROWS, columns) if mixer == "gfn" else None
    config = PlainConfig(patch=(1, 1), width=6, depth=1, num_blocks=1 if mixer == "afno" else 8, mixer=mixer, latitude=latitude, odd_channels=0.5,
                         tokens=tokens)
    network = build_backbone(config, 3, 1, "sphere_with_poles" if poles else "sphere").double()
    with torch.no_grad():
        network.stem.linear.weight.zero_()
        network.stem.linear.bias.zero_()
        for hidden, channel in ((0, 0), (3, 1), (4, 2)):
            network.stem.linear.weight[hidden, channel] = 1.0
    mixer_of_the_network, seen = network.blocks[0].mixer, []
    network.blocks[0].mixer_norm.forward = lambda x, features: x
    mixer_of_the_network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(fields(*grid(columns, poles=poles)))
    modes = kept_modes(ROWS, columns, 1.0, latitude)
    for parity_C, leaks in ((mixer_of_the_network.parity_C, False), (None, True)):
        energy = transform(seen[0], modes, parity_C=parity_C).square().sum((0, 1)).view(len(modes.row_wavenumbers), -1, 6).sum(1)
        top = torch.tensor(modes.row_wavenumbers).abs() > modes.period / 3
        share = energy[top].sum(0) / energy.sum(0).clamp(min=1e-300)
        assert share[0] <= 1e-12
        assert (share[3:5] > 1e-5).all() if leaks else (share[3:5] <= 1e-12).all()


def last(x_BCHW: torch.Tensor) -> torch.Tensor:
    return x_BCHW.permute(0, 2, 3, 1)


@pytest.mark.parametrize("config", [HierarchicalConfig(widths=(8,), depth=0), PlainConfig(patch=(4, 3), width=8, depth=0, local=True)])
def test_the_stem_reads_wind_beyond_the_pole_with_its_sign(config) -> None:
    torch.manual_seed(0)
    plain = build_backbone(config, 3, 2, "sphere").double()
    torch.manual_seed(0)
    signed = build_backbone(config, 3, 2, "sphere", parity=(1, -1, -1)).double()
    assert signed.state_dict().keys() == plain.state_dict().keys(), "parity belongs to the data, not to the weights"
    field = fields(*grid(14, poles=False))
    with torch.no_grad():
        scalar = field * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
        torch.testing.assert_close(signed.stem(last(scalar)), plain.stem(last(scalar)), rtol=0, atol=0)
        difference = (signed.stem(last(field)) - plain.stem(last(field))).abs().amax((0, 2, 3))
    assert difference[-1] > 1e-3 and difference[2:-2].max() == 0


@pytest.mark.parametrize(("kind", "small"), [(PlainConfig, {"width": 8, "patch": (1, 1), "local": True}), (HierarchicalConfig, {"widths": (8,)}),
                                             (PlainConfig, {"width": 8, "patch": (1, 1), "decoder_channels": 6})])
def test_odd_hidden_channels_change_the_poles_alone(kind, small) -> None:
    outs = []
    for odd in (0.0, 0.5):
        torch.manual_seed(0)
        network = build_backbone(kind(**small, depth=1, mixer="identity", odd_channels=odd), 3, 2, "sphere")
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
        with torch.no_grad():
            outs.append(network(torch.randn(1, 3, 15, 10, generator=torch.Generator().manual_seed(0))))
    difference = (outs[0] - outs[1]).abs().amax((0, 1, 3))
    assert difference[0] > 1e-4 and difference[-1] > 1e-4 and difference[6:9].max() == 0


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match=r"parity is \+1 or -1 for each of the 3 input channels"):
        build_backbone(PlainConfig(), 3, 2, "sphere", parity=(1, -1))
    with pytest.raises(ValueError, match=r"parity is \+1 or -1"):
        build_backbone(PlainConfig(), 3, 2, "sphere", parity=(1, 0.5, 1))
    with pytest.raises(ValueError, match="odd_channels, a share"):
        HierarchicalConfig(odd_channels=1.5)
    with pytest.raises(ValueError, match="odd_channels: does nothing"):
        PlainConfig(odd_channels=0.5)
