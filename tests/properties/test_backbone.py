"""Whole networks: any size, the right neighbours at every edge, one set of weights on many grids."""

from dataclasses import replace

import pytest
import torch

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone, muon_parameters, num_parameters
from afno_forecast.nn.padding import BOUNDARIES, POLAR

PLAIN = PlainConfig(patch=(2, 3), width=16, depth=2, num_blocks=4)
HIERARCHICAL = HierarchicalConfig(widths=(8, 12, 16), depth=1, num_blocks=4)
LOCAL_ONLY = HierarchicalConfig(widths=(8, 12), depth=1, mixer="identity")
CONFIGS = [PLAIN, HIERARCHICAL, HierarchicalConfig(widths=(8,), num_blocks=2, latitude="double")]


def awake(config, in_channels: int = 3, out_channels: int = 2, boundary="sphere") -> torch.nn.Module:
    """A network whose zero-initialised layers have been given weights."""
    network = build_backbone(config, in_channels, out_channels, boundary)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (9, 14), (13, 22), (11, 23), (6, 5)])
def test_any_size_goes_in_and_comes_out(config, boundary, rows: int, columns: int) -> None:
    network = awake(config if boundary in POLAR else replace(config, latitude="periodic"), boundary=boundary)
    field = torch.randn(2, 3, rows, columns, requires_grad=True)
    out = network(field)
    assert out.shape == (2, 2, rows, columns)
    assert out.dtype == torch.float32 and out.isfinite().all() and out.is_contiguous()
    out.square().mean().backward()
    assert field.grad is not None and (field.grad != 0).all(), "every cell, the last row and column too, takes part"


@pytest.mark.parametrize("config", CONFIGS)
def test_a_new_network_gives_exactly_zero_and_can_learn(config) -> None:
    network = build_backbone(config, 3, 2, "sphere")
    out = network(torch.randn(2, 3, 9, 14))
    assert (out == 0).all()
    (out - 1).square().mean().backward()
    head = [parameter for name, parameter in network.named_parameters() if name.startswith("head.")]
    assert head and all(parameter.grad is not None and (parameter.grad != 0).any() for parameter in head)


@pytest.mark.parametrize(("config", "step"), [(PLAIN, 3), (HIERARCHICAL, 4)])
@pytest.mark.parametrize("boundary", ["sphere", "sphere_with_poles", "periodic"])
def test_longitude_has_no_seam(config, step: int, boundary) -> None:
    network = awake(config, boundary=boundary)
    field = torch.randn(2, 3, 13, 24)
    with torch.no_grad():
        out = network(field)
        assert (network(field.roll(step, -1)) - out.roll(step, -1)).norm() <= 1e-5 * out.norm()


@pytest.mark.parametrize("boundary", ["sphere", "sphere_with_poles"])
def test_the_neighbour_beyond_the_pole_is_half_a_turn_away(boundary) -> None:
    network = awake(LOCAL_ONLY, boundary=boundary)
    field = torch.randn(1, 3, 40, 80)
    changed = field.clone()
    changed[0, :, 1, 10] += 5.0
    with torch.no_grad():
        difference = (network(changed) - network(field)).abs().amax((0, 1))
    assert difference[0, 50] > 1e-5, "seen on the other side of the pole"
    assert difference[0, 30] == 0 and difference[0, 70] == 0, "not seen a quarter of a turn away"
    assert (difference[-5:] == 0).all(), "the other pole is far"


def test_a_limited_area_does_not_wrap() -> None:
    field = torch.randn(1, 3, 40, 80)
    changed = field.clone()
    changed[..., -1] += 5.0
    with torch.no_grad():
        limited, periodic = (awake(LOCAL_ONLY, boundary=boundary) for boundary in ("limited", "periodic"))
        assert ((limited(changed) - limited(field))[..., :5] == 0).all()
        assert ((periodic(changed) - periodic(field))[..., :5] != 0).all()


@pytest.mark.parametrize("config", CONFIGS)
def test_one_set_of_weights_runs_on_other_grids(config) -> None:
    network = awake(config)
    weights = network.state_dict()
    other = build_backbone(config, 3, 2, "limited", extent=(0.25, 0.25))
    other.load_state_dict(weights)
    with torch.no_grad():
        assert other(torch.randn(1, 3, 21, 30)).shape == (1, 2, 21, 30)
    assert not any("matrix" in name or "matrices" in name for name in weights), "nothing of the grid is in the weights"


def test_a_plain_network_does_not_depend_on_the_batch() -> None:
    for config in CONFIGS:
        network = awake(config)
        field = torch.randn(3, 3, 9, 14)
        with torch.no_grad():
            torch.testing.assert_close(network(field), torch.cat([network(sample[None]) for sample in field]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_single_precision_and_bfloat16_stay_close_to_double(config) -> None:
    network = awake(config)
    field = torch.randn(2, 3, 9, 14)
    with torch.no_grad():
        single = network(field)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(field)
        exact = network.double()(field.double())
    assert exact.dtype == torch.float64 and rounded.dtype == torch.float32
    assert (single - exact).norm() <= 1e-5 * exact.norm()
    assert (rounded - exact).norm() <= 0.05 * exact.norm()


@pytest.mark.parametrize("mixer", ["afno", "fno", "gfn", "attention", "identity"])
@pytest.mark.parametrize("local", [False, True])
def test_every_mixer_fits_the_same_network(mixer, local: bool) -> None:
    tokens = (5, 8) if mixer == "gfn" else None
    network = awake(PlainConfig(patch=(2, 2), width=16, depth=2, mixer=mixer, tokens=tokens, local=local))
    out = network(torch.randn(2, 3, 9, 15))
    out.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_seed_decides_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(5)
    first = build_backbone(HIERARCHICAL, 3, 2, "sphere")
    torch.manual_seed(5)
    second = build_backbone(HIERARCHICAL, 3, 2, "sphere")
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    state = torch.get_rng_state()
    first(torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert torch.equal(state, torch.get_rng_state())


def test_every_parameter_is_used_and_has_one_optimiser() -> None:
    for config in [*CONFIGS, PlainConfig(width=16, depth=1, mixer="gfn", tokens=(3, 4))]:
        network = torch.nn.ModuleDict({"backbone": awake(config)})
        network["backbone"](torch.randn(1, 3, 9, 14)).square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        muon, adamw = muon_parameters(network)
        names = dict(network.named_parameters())
        assert sorted(muon + adamw) == sorted(names) and muon
        assert all(names[name].ndim in (2, 4) for name in muon)
        assert not any("stem" in name or "head" in name or "mixer.weight" in name for name in muon)
        assert {name for name in adamw if names[name].ndim in (2, 4)} <= {
            "backbone.stem.linear.weight", "backbone.head.linear.weight", "backbone.stem.conv.weight", "backbone.head.conv.weight"
        }
        assert num_parameters(network) == sum(parameter.numel() for parameter in network.parameters())
