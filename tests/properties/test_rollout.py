"""What must be true of any forecaster stepped by the one rollout, shown with networks whose answer is known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import DataError
from afno_forecast.forcing import Forcing
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.normalize import Normalizer
from afno_forecast.times import parse_instant

ROWS, COLUMNS, STEP = 5, 14, 21600
GRID = LatLonGrid((np.arange(ROWS) + 0.5) * 36 - 90, np.arange(COLUMNS) * 360 / COLUMNS)
CHANNELS = ChannelSet((Channel("geopotential", 500, "m2 s-2"), Channel("2m_temperature", None, "K"), Channel("specific_humidity", 700, "kg kg-1")))
MEAN, STD, TENDENCY = [5.5e4, 280.0, 2e-3], [3e3, 20.0, 1e-3], [150.0, 2.0, 3e-4]


class Still(nn.Module):
    """Predicts no change."""

    def __init__(self, history: int) -> None:
        super().__init__()
        self.history = history

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :3])


class Advection(nn.Module):
    """Moves the newest state one column east a step, exactly: the solution of a linear advection equation at Courant number one."""

    def __init__(self, history: int) -> None:
        super().__init__()
        self.newest = slice(3 * (history - 1), 3 * history)
        self.ratio = torch.tensor(STD) / torch.tensor(TENDENCY)

    def forward(self, x: Tensor) -> Tensor:
        state = x[:, self.newest]
        return (torch.roll(state, 1, dims=-1) - state) * self.ratio[:, None, None]


class AddsForcing(nn.Module):
    """The tendency is the sine of the local time and nothing else."""

    def __init__(self, history: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1:].expand(-1, 3, -1, -1)


def make(network: type[nn.Module], history: int = 1) -> Forecaster:
    forcing = Forcing(("cos_latitude", "sin_local_time"), {}, GRID, calendar="proleptic_gregorian", time_step=STEP)
    return Forecaster(network(history), Normalizer(CHANNELS.shorts, MEAN, STD, TENDENCY), forcing, channels=CHANNELS, time_steps=(STEP,),
                      history=history)


def states(batch: int, history: int) -> Tensor:
    noise = torch.randn(batch, history, 3, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))
    return torch.tensor(MEAN)[:, None, None] + torch.tensor(STD)[:, None, None] * noise


INITS = np.asarray([parse_instant("2001-12-30T06"), parse_instant("2000-02-28T18"), parse_instant("2001-07-01")])


@pytest.mark.parametrize("history", [1, 2, 3])
def test_an_identity_network_is_persistence(history: int) -> None:
    start = states(3, history)
    for state in rollout(make(Still, history), start, INITS, 7):
        assert torch.equal(state.fields_BCHW, start[:, -1])


@pytest.mark.parametrize("history", [1, 2])
def test_an_exact_advection_network_gives_the_analytic_wave_at_every_lead(history: int) -> None:
    longitude = torch.linspace(0, 2 * torch.pi, COLUMNS + 1)[:-1]
    wave = lambda step: torch.sin(3 * longitude - 3 * step * 2 * torch.pi / COLUMNS)  # noqa: E731
    scale, mean = torch.tensor(STD)[:, None, None], torch.tensor(MEAN)[:, None, None]
    start = torch.stack([mean + scale * wave(k).expand(3, ROWS, COLUMNS) for k in range(1 - history, 1)])[None].expand(3, -1, -1, -1, -1)
    for state in rollout(make(Advection, history), start, INITS, 3 * COLUMNS):
        expected = mean + scale * wave(state.step).expand(3, ROWS, COLUMNS)
        assert ((state.fields_BCHW - expected) / scale).abs().max() < 2e-4


def test_leads_and_valid_times_advance_together() -> None:
    seen = list(rollout(make(Still), states(3, 1), INITS, 4))
    assert [s.step for s in seen] == [1, 2, 3, 4]
    for state in seen:
        assert state.lead_seconds == state.step * STEP
        assert np.array_equal(state.valid_seconds, INITS + state.lead_seconds)


def test_the_forcing_of_each_step_is_that_of_its_own_time() -> None:
    """One step late or early turns the sine of the local time by 90 degrees: this fails for any shift."""
    forecaster = make(AddsForcing)
    start = states(3, 1)
    expected = start[:, 0].double()
    for state in rollout(forecaster, start, INITS, 6):
        begin = state.valid_seconds - STEP
        phase = 2 * np.pi * (begin % 86400)[:, None] / 86400 + np.deg2rad(GRID.longitude)
        expected = expected + torch.from_numpy(np.sin(phase))[:, None, None, :] * torch.tensor(TENDENCY)[:, None, None]
        assert ((state.fields_BCHW - expected) / torch.tensor(TENDENCY)[:, None, None]).abs().max() < 2e-2


@pytest.mark.parametrize("network", [Advection, AddsForcing])
def test_the_forecast_does_not_depend_on_the_batch(network: type[nn.Module]) -> None:
    start = states(3, 2)
    together = [s.fields_BCHW for s in rollout(make(network, 2), start, INITS, 5)]
    for b in range(3):
        alone = [s.fields_BCHW for s in rollout(make(network, 2), start[b:b + 1], INITS[b:b + 1], 5)]
        assert all(torch.equal(a[0], t[b]) for a, t in zip(alone, together, strict=True))


def test_gradients_flow_through_all_steps() -> None:
    start = states(1, 1).requires_grad_()
    *_, last = rollout(make(Advection), start, INITS[:1], 3)
    gradient = torch.autograd.grad(last.fields_BCHW[0, 1, 2, 7], start)[0]
    assert gradient[0, 0, 1, 2, 4] == pytest.approx(1, rel=1e-4) and gradient.abs().sum() == pytest.approx(1, rel=1e-3)


def test_a_history_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="do not fit a model that reads 2 states"):
        next(rollout(make(Still, 2), states(3, 1), INITS, 1))
    with pytest.raises(DataError, match="2 init times"):
        next(rollout(make(Still), states(3, 1), INITS[:2], 1))
