"""The configured loss: every option does what it says, which a test would miss if it did nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from pydantic import ValidationError

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.loader import Batch
from afno_forecast.errors import ConfigError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.forecast.perturb import Perturbation
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.losses import amplitude_aware_mse, area_weighted_mse, fair_crps, log_spectrum_error, spectral_crps
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig
from afno_forecast.noise import NoiseDraw
from afno_forecast.training.loss import LossConfig, RolloutLoss, channel_weights, patch_size

CHANNELS = ChannelSet((Channel("temperature", 850, "K"), Channel("temperature", 500, "K"), Channel("surface_pressure", None, "Pa"),
                       Channel("2m_temperature", None, "K")))
GRID = LatLonGrid((np.arange(6) + 0.5) / 6 * 180 - 90, np.arange(12) * 30.0)
STEP = 21600


def make(*, grid: LatLonGrid = GRID, backbone: Any = None, **config: Any) -> Forecaster:
    backbone = backbone or HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2)
    inputs = ModelInputs(CHANNELS, grid, "standard", STEP, np.arange(1.0, 5), np.array([2.0, 4, 1, 3]), np.array([1.0, 1, 0.5, 2]), {})
    torch.manual_seed(0)
    forecaster = build_forecaster(ModelConfig(forcings=("sin_latitude",), static=(), backbone=backbone, **config), inputs)
    for parameter in forecaster.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return forecaster


def batch(size: int = 2, grid: LatLonGrid = GRID) -> Batch:
    seconds = np.arange(size)[:, None] * 864000 + np.arange(4) * STEP
    return Batch(torch.randn(size, 4, 4, *grid.shape, generator=torch.Generator().manual_seed(4)), seconds)


def loss(forecaster: Forecaster, samples: Batch | None = None, *, num_steps: int = 2, train_step: int = 0, seed: int = 0,
         **config: Any) -> torch.Tensor:
    samples = samples or batch()
    return RolloutLoss(LossConfig(**config), forecaster, seed=seed)(samples, num_steps, train_step)


def gradient(value: torch.Tensor, forecaster: Forecaster) -> torch.Tensor:
    parameters = list(forecaster.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)])


def test_the_terms_are_those_of_the_rollout() -> None:
    forecaster, samples = make(), batch()
    steps = [s.fields_BCHW for s in rollout(forecaster, samples.states[:, :1], samples.seconds[:, 0], 2)]
    area, tendency, std = forecaster.area_weights_HW, forecaster.tendency_std(STEP), forecaster.normalizer.std_C
    for config, term in [
        ({}, lambda x, y: area_weighted_mse(x, y, area, tendency)),
        ({"unit": "state"}, lambda x, y: area_weighted_mse(x, y, area, std)),
        ({"area": "equal"}, lambda x, y: area_weighted_mse(x, y, torch.ones(6, 12), tendency)),
        ({"kind": "amse"}, lambda x, y: amplitude_aware_mse(x, y, area, tendency)),
        ({"spectrum": 0.3}, lambda x, y: area_weighted_mse(x, y, area, tendency) + 0.3 * log_spectrum_error(x, y, area, tendency)),
        ({"channels": {"t2m": 3.0, "sp": 0.0}}, lambda x, y: area_weighted_mse(x, y, area, tendency, torch.tensor([1.0, 1, 0, 3]))),
    ]:
        expected = torch.stack([term(x, samples.states[:, 1 + i]) for i, x in enumerate(steps)]).mean()
        torch.testing.assert_close(loss(forecaster, samples, **config), expected)


@pytest.mark.parametrize("config", [{"kind": "crps", "members": 3}, {"roll": "longitude", "checkpoint_steps": True}])
def test_a_forcing_that_the_batch_brings_counts_for_every_member_and_is_rolled_along(config: dict[str, Any]) -> None:
    forecaster = make(noise_lengths_km=(3000.0,)) if "members" in config else make()
    samples = batch()
    moving = torch.randn(2, 3, 1, 6, 12)
    forecaster.forcing.forward = lambda seconds, step: torch.stack(  # type: ignore[method-assign]
        [moving[int(s // 864000), int(s % 864000 // STEP)] for s in seconds])
    brought = Batch(samples.states, samples.seconds, moving)
    torch.testing.assert_close(loss(forecaster, brought, **config), loss(forecaster, samples, **config), rtol=0, atol=0)
    other = Batch(samples.states, samples.seconds, moving.flip(0))
    assert not torch.equal(loss(forecaster, other, **config), loss(forecaster, samples, **config))


def test_weights_of_levels_and_names() -> None:
    def weights(**config: Any) -> list[float]:
        return channel_weights(LossConfig(**config), CHANNELS).tolist()

    assert weights() == [1, 1, 1, 1]
    assert weights(levels="variables") == [0.5, 0.5, 1, 1]
    assert weights(levels="pressure") == pytest.approx([850 / 675, 500 / 675, 0.1, 1])
    assert weights(channels={"temperature": 2.0, "t500": 0.25, "2m_temperature": 3.0}) == [2, 0.5, 1, 3]
    with pytest.raises(ConfigError, match="no channel 't700'"):
        weights(channels={"t700": 1.0})
    with pytest.raises(ConfigError, match="no channel counts"):
        weights(channels=dict.fromkeys(CHANNELS.shorts, 0.0))


def test_a_short_name_weighs_its_own_variable_alone() -> None:
    winds = ChannelSet((Channel("u_component_of_wind", 500, "m s-1"), Channel("10m_u_component_of_wind", None, "m s-1"),
                        Channel("u_component_of_wind", 850, "m s-1"), Channel("field1", None, "1"), Channel("field2", None, "1")))

    def weights(**channels: float) -> list[float]:
        return channel_weights(LossConfig(channels=channels), winds).tolist()

    assert weights(u=3.0) == [3, 1, 3, 1, 1], "the wind at 10 m, u10, is not the variable u"
    assert weights(u10=3.0) == weights(**{"10u": 3.0}) == [1, 3, 1, 1, 1]
    assert weights(field2=3.0) == [1, 1, 1, 1, 3]
    with pytest.raises(ConfigError, match="no channel 'field'"):
        weights(field=3.0)


def test_members_differ_by_noise_that_depends_on_seed_update_and_dates() -> None:
    forecaster, samples = make(noise_lengths_km=(2000.0, 5000.0)), batch()
    value = loss(forecaster, samples, kind="crps", members=3, fairness=1.0, spectrum=0.1, train_step=7)
    states = []
    for member in range(3):
        noise = NoiseDraw(0, np.full(2, 21 + member))
        states.append([s.fields_BCHW for s in rollout(forecaster, samples.states[:, :1], samples.seconds[:, 0], 2, noise=noise)])
    assert (states[0][0] - states[1][0]).abs().max() > 0.01
    area, scale = forecaster.area_weights_HW, forecaster.tendency_std(STEP)
    members = [torch.stack([s[lead] for s in states]) for lead in range(2)]
    expected = torch.stack([fair_crps(m, samples.states[:, 1 + i], area, scale) + 0.1 * spectral_crps(m, samples.states[:, 1 + i], area, scale)
                            for i, m in enumerate(members)]).mean()
    torch.testing.assert_close(value, expected)
    same, other = {"kind": "crps", "members": 3, "fairness": 1.0, "spectrum": 0.1}, []
    other = [loss(forecaster, samples, **same, train_step=8), loss(forecaster, samples, **same, train_step=7, seed=1)]
    assert all(float((o - value).abs().detach()) > 1e-6 for o in other)
    halves = [loss(forecaster, Batch(samples.states[i:i + 1], samples.seconds[i:i + 1]), **same, train_step=7) for i in range(2)]
    torch.testing.assert_close(torch.stack(halves).mean(), value)


def test_the_ensemble_of_a_model_without_noise_is_refused_and_idle_options_are_too() -> None:
    with pytest.raises(ConfigError, match="reads none"):
        loss(make(), kind="crps")
    with pytest.raises(ValidationError, match="do nothing without kind: crps"):
        LossConfig(members=4)


def test_pushed_forward_the_loss_is_the_same_and_no_gradient_comes_through_earlier_steps() -> None:
    forecaster, samples = make(), batch()
    whole, pushed = loss(forecaster, samples, num_steps=3), loss(forecaster, samples, num_steps=3, push_forward=True)
    torch.testing.assert_close(pushed, whole)
    through, single = gradient(whole, forecaster), gradient(pushed, forecaster)
    assert (through - single).norm() > 0.1 * through.norm()
    states = [s.fields_BCHW.detach() for s in rollout(forecaster, samples.states[:, :1], samples.seconds[:, 0], 3)]
    inputs = [samples.states[:, 0], *states[:2]]
    alone = torch.stack([
        area_weighted_mse(next(rollout(forecaster, x[:, None], samples.seconds[:, i], 1)).fields_BCHW, samples.states[:, 1 + i],
                          forecaster.area_weights_HW, forecaster.tendency_std(STEP)) for i, x in enumerate(inputs)]).mean()
    torch.testing.assert_close(single, gradient(alone, forecaster))


def test_recomputed_steps_keep_less_and_give_the_same_gradient() -> None:
    forecaster, kept = make(noise_lengths_km=(2000.0,)), []
    gradients = []
    for again in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            value = loss(forecaster, num_steps=3, kind="crps", roll="longitude", checkpoint_steps=again)
        kept.append(sum(sizes))
        gradients.append(gradient(value, forecaster))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < 0.3 * kept[0]


def test_noise_of_the_input_has_the_size_asked_for_and_depends_on_the_update() -> None:
    seen: list[torch.Tensor] = []
    forecaster, samples = make(history=2), batch(8)
    forecaster.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    for train_step in (0, 0, 1):
        loss(forecaster, samples, num_steps=1, input_noise=0.3, train_step=train_step)
    noise = (seen[0] - samples.states[:, :2]) / forecaster.normalizer.std_C[:, None, None]
    assert torch.equal(seen[0], seen[1]) and (seen[0] - seen[2]).abs().max() > 0.1
    assert noise.std((0, 1, 3, 4)).tolist() == pytest.approx([0.3] * 4, rel=0.1) and float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float((noise[:, 0] * noise[:, 1]).mean()) == pytest.approx(0, abs=0.01)


def test_rolls_move_the_patches_and_by_whole_patches_nothing() -> None:
    backbone = PlainConfig(patch=(2, 3), width=16, depth=1, num_blocks=2)
    forecaster = make(backbone=backbone)
    assert patch_size(forecaster) == (2, 3) and patch_size(make()) == (2, 2)
    still = float(loss(forecaster).detach())
    for kind, number in (("patch", 3**2), ("longitude", 12**2)):
        values = [float(loss(forecaster, roll=kind, train_step=t).detach()) for t in range(12)]
        assert values[3] == float(loss(forecaster, roll=kind, train_step=3).detach())
        assert 2 < len({round(v, 5) for v in values}) <= number
        assert max(abs(v - still) for v in values) > 1e-4 * still
    area = LatLonGrid(-25 + 3.0 * np.arange(6), 150 + 3.0 * np.arange(12))
    with pytest.raises(ConfigError, match="whole circles"):
        loss(make(grid=area), roll="patch")


def test_an_ensemble_is_trained_chosen_and_rolled_out_by_the_models_own_noise(tiny_experiment: Path, tiny_store: Path, tmp_path: Path) -> None:
    overrides = ["model.noise_lengths_km=[3000]", "training.loss={kind: crps}", "training.budget.train_steps=4", "validation={count: 1, inits: 2, "
                 "lead_time: 1d, members: 3}"]
    model = run_training(load_experiment(tiny_experiment, overrides), resume=False, echo=lambda text: None)
    out = [tmp_path / name for name in ("one.nc", "other.nc")]
    for path, size in zip(out, (2, 3), strict=True):
        produce_forecast(model, tiny_store, init="2001-01-26/2001-01-27/12h", lead_time=2 * STEP, out=path, batch_size=size, echo=lambda text: None,
                         options=Options(members=3, perturbation=Perturbation("model", seed=4)))
    with xr.open_dataset(out[0], decode_timedelta=True) as one, xr.open_dataset(out[1], decode_timedelta=True) as other:
        t2m = one["2m_temperature"].transpose("number", ...)
        assert float(t2m.std("number").min()) > 0 and one.attrs["perturbation"] == "model"
        np.testing.assert_allclose(t2m.values, other["2m_temperature"].transpose("number", ...).values, rtol=1e-6)
    with pytest.raises(ConfigError, match="reads no noise"):
        run_training(load_experiment(tiny_experiment, ["validation.members=3", f"output={tmp_path / 'other'}"]), resume=False, echo=lambda text: None)
