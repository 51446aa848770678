"""What must be true of a forecaster that takes several time steps, shown with networks whose answer is known."""

import gc
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError
from afno_forecast.forcing import Forcing
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster, encode_steps
from afno_forecast.grid import LatLonGrid
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig
from afno_forecast.normalize import Normalizer
from afno_forecast.times import parse_instant

HOUR = 3600
ROWS, COLUMNS = 5, 14
GRID = LatLonGrid((np.arange(ROWS) + 0.5) * 36 - 90, np.arange(COLUMNS) * 360 / COLUMNS)
CHANNELS = ChannelSet((Channel("geopotential", 500, "m2 s-2"), Channel("2m_temperature", None, "K")))
MEAN, STD = [5.5e4, 280.0], [3e3, 20.0]
INITS = np.asarray([parse_instant("2001-12-30T06"), parse_instant("2000-02-28T18")])
SETS = [(6, 12, 24), (6, 24), (6, 18, 24), (6,), (24,), (6, 12, 18, 24, 48), (3, 15, 24)]


def tendency_stds(steps: tuple[int, ...]) -> np.ndarray:
    """Another one for each step, so that the wrong one shows."""
    return np.asarray([[100.0 + 7 * hours, 2.0 + hours / 5] for hours in steps])


class Known(nn.Module):
    """A network that knows which step it takes, from the condition alone."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.taken: list[int] = []

    def hours(self, condition: tuple[Tensor, ...]) -> int:
        if len(self.steps) == 1:
            assert not condition
            number = 0
        else:
            (condition_BD,) = condition
            assert condition_BD.shape[1] == 1 and (condition_BD == condition_BD[0]).all()
            number = int((encode_steps(self.steps)[:, 0] - condition_BD[0, 0]).abs().argmin())
        self.taken.append(self.steps[number])
        return self.steps[number]

    def scale(self, hours: int) -> Tensor:
        """A change in z-scores as a tendency in its own units."""
        return (torch.tensor(STD) / torch.from_numpy(tendency_stds((hours,))[0]).float())[:, None, None]

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        self.hours(condition)
        return torch.zeros_like(x[:, :2])


class Wave(Known):
    """Moves the state one column east in 3 hours and halves it in 48, exactly: the solution of advection with decay for a step of any length."""

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        hours = self.hours(condition)
        state = x[:, :2]
        return (torch.roll(state, hours // 3, dims=-1) * 0.5 ** (hours / 48) - state) * self.scale(hours)


class Signature(Known):
    """Writes the path into the state: ten times what was there, plus the number of the step."""

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        number = self.steps.index(self.hours(condition)) + 1
        return 10 * x[:, :2] + number


class AddsForcing(Known):
    """The tendency is the sine of the local time and nothing else."""

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        self.hours(condition)
        return x[:, -1:].expand(-1, 2, -1, -1)


def make(network: type[Known], steps: tuple[int, ...], *, state: bool = False) -> Forecaster:
    seconds = [hours * HOUR for hours in steps]
    forcing = Forcing(("sin_local_time",), {}, GRID, calendar="proleptic_gregorian", time_step=seconds[0])
    mean, std = ([0.0, 0.0], [1.0, 1.0]) if state else (MEAN, STD)
    return Forecaster(network(steps), Normalizer(CHANNELS.shorts, mean, std, tendency_stds(steps)), forcing, channels=CHANNELS,
                      time_steps=seconds, predicts="state" if state else "tendency")


def start() -> Tensor:
    noise = torch.randn(2, 1, 2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))
    return torch.tensor(MEAN)[:, None, None] + torch.tensor(STD)[:, None, None] * noise


def greedy(lead: int, steps: tuple[int, ...]) -> list[int]:
    """The longest steps first, counted out one by one."""
    path: list[int] = []
    while sum(path) < lead:
        path.append(max(s for s in steps if s <= lead - sum(path)))
    return path


@pytest.mark.parametrize("steps", SETS)
def test_each_lead_comes_once_in_order_by_the_longest_steps_first(steps: tuple[int, ...]) -> None:
    forecaster = make(Signature, steps, state=True)
    seen = list(rollout(forecaster, torch.zeros(2, 1, 2, ROWS, COLUMNS), INITS, 120 // steps[0]))
    assert [s.lead_seconds for s in seen] == [k * steps[0] * HOUR for k in range(1, len(seen) + 1)]
    assert [s.step for s in seen] == list(range(1, len(seen) + 1))
    for state in seen:
        path = greedy(state.lead_seconds // HOUR, steps)
        if len(path) <= 7:  # what float32 holds
            assert state.fields_BCHW.unique().tolist() == [float("".join(str(steps.index(s) + 1) for s in path))]
        assert np.array_equal(state.valid_seconds, INITS + state.lead_seconds)
    assert len(forecaster.backbone.taken) == len(seen), "one evaluation an output"


def test_the_examples_of_the_text() -> None:
    network = make(Signature, (6, 12, 24), state=True)
    codes = {s.lead_seconds // HOUR: s.fields_BCHW[0, 0, 0, 0].item() for s in rollout(network, torch.zeros(1, 1, 2, ROWS, COLUMNS), INITS[:1], 11)}
    assert codes[18] == 21 and codes[30] == 31 and codes[66] == 3321


@pytest.mark.parametrize("steps", SETS)
def test_a_network_without_change_is_persistence_at_every_lead(steps: tuple[int, ...]) -> None:
    first = start()
    for state in rollout(make(Known, steps), first, INITS, 96 // steps[0]):
        assert torch.equal(state.fields_BCHW, first[:, 0])


@pytest.mark.parametrize("steps", SETS)
def test_exact_steps_of_any_length_compose_to_the_exact_solution(steps: tuple[int, ...]) -> None:
    first, mean, std = start(), torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for state in rollout(make(Wave, steps), first, INITS, 96 // steps[0]):
        hours = state.lead_seconds // HOUR
        expected = torch.roll((first[:, 0] - mean) / std, hours // 3, dims=-1) * 0.5 ** (hours / 48)
        assert ((state.fields_BCHW - mean) / std - expected).abs().max() < 2e-4


@pytest.mark.parametrize("steps", SETS)
def test_the_forcing_of_each_step_is_that_of_the_state_it_starts_from(steps: tuple[int, ...]) -> None:
    first = start()
    for state in rollout(make(AddsForcing, steps), first, INITS, 72 // steps[0]):
        expected, at = first[:, 0].double(), INITS.copy()
        for hours in greedy(state.lead_seconds // HOUR, steps):
            phase = 2 * np.pi * (at % 86400)[:, None] / 86400 + np.deg2rad(GRID.longitude)
            expected = expected + torch.from_numpy(np.sin(phase))[:, None, None, :] * torch.from_numpy(tendency_stds((hours,))[0])[:, None, None]
            at = at + hours * HOUR
        error = (state.fields_BCHW - expected) / torch.from_numpy(tendency_stds(steps)[0])[:, None, None]
        assert error.abs().max() < 2e-2


def test_radiation_is_averaged_over_the_step_that_is_taken() -> None:
    forcing = Forcing(("toa_radiation",), {}, GRID, calendar="proleptic_gregorian", time_step=6 * HOUR)
    day = Forcing(("toa_radiation",), {}, GRID, calendar="proleptic_gregorian", time_step=24 * HOUR)
    assert torch.equal(forcing(INITS, 24 * HOUR), day(INITS)) and not torch.equal(forcing(INITS), day(INITS))
    seen: list[Tensor] = []
    model = make(Known, (6, 24))
    model.forcing = forcing
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 2:].clone()))
    list(rollout(model, start(), INITS, 6))
    assert torch.equal(seen[3], day(INITS)) and torch.equal(seen[4], forcing(INITS + 24 * HOUR)) and torch.equal(seen[0], forcing(INITS))


@pytest.mark.parametrize("steps", SETS)
def test_only_what_some_leads_need_is_made(steps: tuple[int, ...]) -> None:
    whole = {s.step: s.fields_BCHW for s in rollout(make(Wave, steps), start(), INITS, 120 // steps[0])}
    wanted = [k for k in whole if k * steps[0] in (24, 66, 72)]
    forecaster = make(Wave, steps)
    part = {s.step: s.fields_BCHW for s in rollout(forecaster, start(), INITS, 120 // steps[0], leads=wanted)}
    assert set(wanted) <= part.keys() and all(torch.equal(part[k], whole[k]) for k in part)
    paths = [greedy(k * steps[0], steps) for k in wanted]
    assert set(part) == {sum(path[:n + 1]) // steps[0] for path in paths for n in range(len(path))}
    assert len(forecaster.backbone.taken) == len(part)


def live_states() -> int:
    size = 2 * 2 * ROWS * COLUMNS
    return sum(1 for item in gc.get_objects() if type(item) is Tensor and item.numel() == size)


@pytest.mark.parametrize("steps", [(6, 12, 24), (6, 24), (6,)])
@torch.no_grad()
def test_memory_does_not_grow_with_the_lead(steps: tuple[int, ...]) -> None:
    def count(states: Iterator[object], number: int) -> int:
        for _ in range(number):
            next(states)
        return live_states()

    states = rollout(make(Known, steps), start(), INITS, 1000)
    few, many = count(states, 8), count(states, 400)  # both just after the longest step
    assert many <= few


def test_gradients_flow_through_steps_of_different_length() -> None:
    first = start()[:1].requires_grad_()
    *_, last = rollout(make(Wave, (6, 12, 24)), first, INITS[:1], 7)  # 24 + 12 + 6 h: 14 columns, once around
    gradient = torch.autograd.grad(last.fields_BCHW[0, 1, 2, 7], first)[0]
    assert gradient[0, 0, 1, 2, 7] == pytest.approx(0.5 ** (42 / 48), rel=1e-4)
    assert gradient.abs().sum() == pytest.approx(0.5 ** (42 / 48), rel=1e-3)


def test_some_of_the_steps_can_be_chosen() -> None:
    forecaster, first = make(Wave, (6, 12, 24)), start()
    days = list(rollout(forecaster, first, INITS, 3, time_steps=(24 * HOUR,)))
    assert [s.lead_seconds for s in days] == [86400, 172800, 259200] and forecaster.backbone.taken == [24, 24, 24]
    assert torch.equal(days[0].fields_BCHW, list(rollout(forecaster, first, INITS, 4))[-1].fields_BCHW)
    with pytest.raises(ConfigError, match="no step of 18h"):
        list(rollout(forecaster, first, INITS, 3, time_steps=(18 * HOUR,)))
    for wrong in ((12, 6, 42), (6, 24, 12), (6, 12, 12)):
        with pytest.raises(ConfigError, match="do not reach every lead time"):
            list(rollout(forecaster, first, INITS, 3, time_steps=tuple(hours * HOUR for hours in wrong)))


def built(backbone: PlainConfig | HierarchicalConfig, steps: tuple[int, ...], **config: object) -> Forecaster:
    first, *longer = steps
    stds = tendency_stds(steps)
    inputs = ModelInputs(CHANNELS, GRID, "proleptic_gregorian", first * HOUR, np.asarray(MEAN), np.asarray(STD), stds[0], {},
                         longer={hours * HOUR: row for hours, row in zip(longer, stds[1:], strict=True)})
    torch.manual_seed(0)
    return build_forecaster(ModelConfig(forcings=(), static=(), backbone=backbone, time_steps=tuple(f"{h}h" for h in steps), **config), inputs)


NETWORKS = [PlainConfig(patch=(2, 2), width=8, depth=1, num_blocks=2), HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2, num_bands=1)]


@pytest.mark.parametrize("network", NETWORKS, ids=["plain", "hierarchical"])
def test_a_built_network_learns_what_its_step_is(network: PlainConfig | HierarchicalConfig) -> None:
    """Fitted to states that fall by one unit in 6 h and rise by two in 24 h: only the condition tells them apart."""
    forecaster = built(network, (6, 24))
    first = start()
    optimizer = torch.optim.Adam(forecaster.parameters(), 1e-2)

    def errors() -> list[Tensor]:
        units = {step: forecaster.tendency_std(step)[:, None, None] for step in forecaster.time_steps}
        return [((forecaster(first, forecaster.forcing(INITS, step), step) - first[:, 0]) / units[step] - rise).square().mean()
                for step, rise in zip(forecaster.time_steps, (-1, 2), strict=True)]

    for _ in range(60):
        optimizer.zero_grad()
        sum(errors()).backward()
        optimizer.step()
    assert all(error < 1.2 for error in errors()), f"{errors()}: without the condition the best is 2.25 each"
    moved = [name for name, p in forecaster.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("modulation" in name for name in moved) and len(moved) == len(list(forecaster.parameters()))


def test_the_condition_is_the_logarithm_of_the_step() -> None:
    assert encode_steps((6, 12, 24)).flatten().tolist() == pytest.approx([-1, 0, 1])
    assert encode_steps((6, 18, 24)).flatten().tolist() == pytest.approx([-1, math.log2(3) - 1, 1])
    assert encode_steps((6,)).isfinite().all()


@pytest.mark.parametrize(("steps", "config", "words"), [
    ((6, 16), {}, "16h is not a multiple of the shortest step, 6h"), ((6, 6), {}, "the time steps 6h, 6h do not ascend"),
    ((6, 24), {"history": 2}, "a model with 2 time steps reads one state, not a history of 2")])
def test_steps_that_cannot_be_combined_are_refused(steps: tuple[int, ...], config: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        built(NETWORKS[0], steps, **config)


def test_one_step_longer_than_the_data_with_a_history() -> None:
    assert built(NETWORKS[0], (24,), history=2).time_step == 24 * HOUR


def test_conditions_of_the_network_follow_from_the_steps() -> None:
    with pytest.raises(ConfigError, match="is to read 2 conditions; a model with 2 time steps gives 1"):
        built(PlainConfig(width=8, depth=1, num_blocks=2, conditions=2), (6, 12))
    with pytest.raises(ConfigError, match="is to read 1 conditions; a model with 1 time step gives 0"):
        built(PlainConfig(width=8, depth=1, num_blocks=2, conditions=1), (6,))
