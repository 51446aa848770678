"""Constraints hold exactly, at every step, in training and in forecasts alike."""

import numpy as np
import pytest
import torch

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.constraints import Constraints, ConstraintsConfig
from afno_forecast.errors import ConfigError
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.nn.backbone import HierarchicalConfig

CHANNELS = ChannelSet((Channel("geopotential", 500, "m2 s-2"), Channel("specific_humidity", 700, "kg kg-1"), Channel("surface_pressure", None, "Pa")))
GRID = LatLonGrid((np.arange(7) + 0.5) / 7 * 180 - 90, np.arange(12) * 30.0)
AREA = torch.from_numpy(GRID.area_weights())
MEAN, STD = torch.tensor([5e4, 1e-3, 1e5]), torch.tensor([3e3, 1e-3, 1e3])


def mean(state: torch.Tensor) -> torch.Tensor:
    return (state.double() * AREA).sum((-2, -1)) / AREA.sum()


def states(*shape: int) -> torch.Tensor:
    return MEAN[:, None, None] + STD[:, None, None] * torch.randn(*shape, 3, 7, 12)


@pytest.mark.parametrize(("nonnegative", "conserved"), [(("q700",), ()), ((), ("sp",)), (("q700",), ("sp", "q700")), (("q700", "sp"), ("sp",))])
def test_named_channels_are_kept_and_others_left_alone(nonnegative: tuple[str, ...], conserved: tuple[str, ...]) -> None:
    layer = Constraints(CHANNELS, ConstraintsConfig(nonnegative=nonnegative, conserved=conserved))
    before, state = states(4).clamp_min(0), states(4)
    kept = layer(state, before, AREA.float())
    for number, name in enumerate(CHANNELS.shorts):
        if name in nonnegative:
            assert kept[:, number].min() >= 0 and (name == "sp" or state[:, number].min() < 0)
        if name in conserved:
            np.testing.assert_allclose(mean(kept)[:, number], mean(before)[:, number], rtol=1e-7)
            assert (mean(state) - mean(before))[:, number].abs().min() > 1e-6 * STD[number]
        if name not in (*nonnegative, *conserved):
            assert torch.equal(kept[:, number], state[:, number])


def test_a_rollout_conserves_the_mean_of_its_start_and_its_gradient_knows() -> None:
    inputs = ModelInputs(CHANNELS, GRID, "standard", 21600, MEAN.double().numpy(), STD.double().numpy(), STD.double().numpy() / 3, {})
    torch.manual_seed(0)
    network = HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2)
    forecaster = build_forecaster(ModelConfig(forcings=(), static=(), backbone=network,
                                              constraints=ConstraintsConfig(nonnegative=("q700",), conserved=("sp", "q700"))), inputs)
    for parameter in forecaster.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    start = states(2, 1).clamp_min(0)
    steps = list(rollout(forecaster, start, np.asarray([0, 86400]), 12))
    for state in steps:
        np.testing.assert_allclose(mean(state.fields_BCHW.detach())[:, 1:], mean(start[:, 0])[:, 1:], rtol=1e-6)
        assert state.fields_BCHW[:, 1].detach().min() >= 0
    assert (mean(steps[-1].fields_BCHW.detach()) - mean(start[:, 0]))[:, 0].abs().min() > 1
    weight = forecaster.backbone.head.conv.weight
    sizes = [float(torch.autograd.grad(mean(steps[0].fields_BCHW)[0, c], [weight], retain_graph=True)[0].abs().max() / STD[c]) for c in (0, 2)]
    assert sizes[1] < 1e-5 * sizes[0]  # no weight moves a conserved mean


def test_a_channel_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="conserved: no channel 'q500'"):
        Constraints(CHANNELS, ConstraintsConfig(conserved=("q500",)))
