"""One set of weights on a grid of half the spacing: what holds, and how far.

Exactly (to rounding): large scales with patches of one cell; cell means with a plain network whose patch is scaled with the grid.
Nearly: large scales with scaled patches or `coarsen`. Not at all: convolutions and patches over the same number of finer cells.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone, set_patch

PLAIN = PlainConfig(patch=(4, 4), width=32, depth=2, latitude="double")
HIERARCHICAL = HierarchicalConfig(widths=(16, 32), depth=2, latitude="double")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def smooth(rows: int, columns: int) -> torch.Tensor:
    """Smooth functions on the sphere at the cells' centres, (1, 3, H, W)."""
    latitude = math.pi * ((torch.arange(rows) + 0.5) / rows - 0.5)[:, None]
    longitude = 2 * math.pi * (torch.arange(columns) + 0.5)[None] / columns
    place = torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin().expand(rows, columns)], -1)
    return torch.sin(1.2 * place @ torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).permute(2, 0, 1)[None]


def large_scales(x_BCHW: torch.Tensor, highest: int = 4) -> torch.Tensor:
    """Coefficients of the double Fourier sphere up to a wavenumber, as if sampled at the same places, without the mean."""
    doubled = torch.cat([x_BCHW, x_BCHW.flip(-2).roll(x_BCHW.shape[-1] // 2, -1)], -2).double()
    spectrum = torch.fft.fft2(doubled, norm="forward")[..., : highest + 1, : highest + 1]
    wavenumber = torch.arange(highest + 1)
    spectrum = spectrum * torch.exp(-1j * math.pi * (wavenumber[:, None] / doubled.shape[-2] + wavenumber / doubled.shape[-1]))
    spectrum[..., 0, 0] = 0
    return spectrum


def awake(config) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_backbone(config, 3, 2, "sphere")
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def transferred(config, weights) -> torch.nn.Module:
    network = build_backbone(config, 3, 2, "sphere")
    network.load_state_dict(weights)
    return network


@pytest.mark.parametrize(
    ("trained", "used", "limit"),
    [
        (replace(PLAIN, patch=(1, 1)), {}, 1e-5),
        (PLAIN, {"patch": (8, 8), "weights_patch": (4, 4)}, 0.01),
        (PLAIN, {"coarsen": (2, 2)}, 0.02),
        (HIERARCHICAL, {"coarsen": (2, 2)}, 0.02),
        (replace(HIERARCHICAL, latitude="periodic"), {"coarsen": (2, 2)}, 0.02),
    ],
)
def test_large_scales_are_the_same_on_the_finer_grid(trained, used, limit: float) -> None:
    network = awake(trained)
    coarse = large_scales(network(smooth(32, 64)))
    fine = large_scales(transferred(replace(trained, **used), network.state_dict())(smooth(64, 128)))
    assert (fine - coarse).norm() <= limit * coarse.norm()


@pytest.mark.parametrize("boundary", ["periodic", "limited", "band"])
def test_rounding_of_the_lengths_changes_no_band(boundary) -> None:
    config = PlainConfig(patch=(1, 1), width=8, depth=1, num_blocks=2, num_bands=4)
    field, outputs = torch.randn(1, 3, 15, 24), []
    for extent in ((1.0, 1.0), (1.0000000000000002, 1.0000000000000002), (0.9999999999999998, 1.0000001)):
        torch.manual_seed(0)
        network = build_backbone(config, 3, 2, boundary, extent=extent)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        outputs.append(network(field))
    assert outputs[0].std() > 0.01 and all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("config", [PLAIN, HIERARCHICAL])
def test_without_them_cells_of_another_size_are_other_weights(config) -> None:
    """Why the options exist: 3 x 3 convolutions and patches count in cells."""
    network = awake(config)
    coarse = large_scales(network(smooth(32, 64)))
    assert (large_scales(network(smooth(64, 128))) - coarse).norm() > 0.1 * coarse.norm()


def test_with_the_patch_scaled_any_field_gives_the_same_means() -> None:
    network = awake(PLAIN)
    fine = transferred(replace(PLAIN, patch=(8, 8), weights_patch=(4, 4)), network.state_dict())
    field = torch.randn(2, 3, 64, 128)
    expected = network(functional.avg_pool2d(field, 2))
    assert (functional.avg_pool2d(fine(field), 2) - expected).norm() <= 1e-5 * expected.norm()


def test_one_checkpoint_with_several_patches() -> None:
    network = awake(PLAIN)
    field = smooth(32, 64)
    expected = network(field)
    outs = {}
    for patch in ((2, 2), (8, 8), (2, 4), (3, 5), (1, 1), (4, 4)):
        set_patch(torch.nn.ModuleDict({"backbone": network}), patch)
        outs[patch] = network(field)
        assert outs[patch].shape == expected.shape and outs[patch].isfinite().all()
        assert torch.equal(outs[patch], expected) == (patch == (4, 4))
        made = transferred(replace(PLAIN, patch=patch, weights_patch=(4, 4)), network.state_dict())
        torch.testing.assert_close(made(field), outs[patch])


def test_the_other_patch_learns_the_same_weights() -> None:
    network = awake(PLAIN)
    with torch.enable_grad():
        set_patch(network, (2, 8))
        network(torch.randn(1, 3, 16, 32)).square().mean().backward()
    assert all(parameter.grad is not None and (parameter.grad != 0).any() for parameter in network.parameters())
