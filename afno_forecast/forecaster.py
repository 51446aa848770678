"""The only definition of a model step, in physical units."""

# B batch, T history, S time step, C channel, F forcing, N noise channel, K wind, D condition, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from . import vocabulary
from .advection import Advection
from .channels import ChannelSet
from .config import Strict
from .constraints import Constraints, ConstraintsConfig
from .errors import ConfigError, ForecastError, is_out_of_memory
from .forcing import FORCINGS, Forcing
from .grid import Grid
from .nn.backbone import BackboneConfig, HierarchicalConfig, PlainConfig, build_backbone
from .nn.jitter import rolled
from .nn.legacy import LegacyConfig
from .nn.padding import POLAR
from .noise import NoiseFields
from .normalize import Normalizer
from .times import format_duration, parse_duration

ForcingName = Literal["toa_radiation", "sin_latitude", "cos_latitude", "sin_longitude", "cos_longitude", "sin_day_of_year", "cos_day_of_year",
                      "sin_local_time", "cos_local_time"]
Predicts = Literal["tendency", "state"]
assert set(get_args(ForcingName)) == set(FORCINGS)


class Forecaster(nn.Module):
    """Reads a history of states and forcings, gives the state one step later.

    The network predicts the tendency in units of its standard deviation, or the normalised next state; states are normalised only in here.
    A model with several steps tells the network which one to take by a condition: the logarithm of the step, from -1 for the shortest to 1 for
    the longest.

    Args:
        backbone: maps (B, T * C + F + N + K * C, H, W) to (B, C, H, W); with several steps it also takes a condition (B, 1).
        normalizer: statistics of the channels, with the tendency's for each step.
        forcing: gives the forcing at any time; its grid is the forecaster's.
        channels: prognostic channels, in tensor order.
        time_steps: seconds, multiples of the first, ascending; the shortest is the spacing of history and outputs.
        history: T, how many past states are read.
        predicts: what the network gives.
        constraints: what every step keeps; nothing by default.
        noise: fields that members of an ensemble differ by; none by default.
        advection: the change that K winds alone would bring about, which the network reads in units of the state's standard deviation; none by
            default.

    Raises ConfigError for steps that cannot be combined (see `check_steps`), or whose statistics are missing.
    """

    area_weights_HW: Tensor
    conditions_SD: Tensor

    def __init__(self, backbone: nn.Module, normalizer: Normalizer, forcing: Forcing, *, channels: ChannelSet, time_steps: Sequence[int],
                 history: int = 1, predicts: Predicts = "tendency", constraints: Constraints | None = None,
                 noise: NoiseFields | None = None, advection: Advection | None = None) -> None:
        super().__init__()
        if history < 1:
            raise ConfigError(f"history must be at least 1, got {history}")
        self.time_steps = tuple(time_steps)
        check_steps(self.time_steps, history)
        if normalizer.num_steps != len(self.time_steps):
            raise ConfigError(f"statistics of tendencies for {normalizer.num_steps} time steps do not fit a model with {len(self.time_steps)}")
        self.backbone = backbone
        self.normalizer = normalizer
        self.forcing = forcing
        self.channels = channels
        self.grid = forcing.grid
        self.time_step = self.time_steps[0]
        self.history = history
        self.predicts = predicts
        self.constraints = constraints or Constraints(channels, ConstraintsConfig())
        self.noise = noise
        self.advection = advection
        self.register_buffer("area_weights_HW", torch.from_numpy(self.grid.area_weights()).float(), persistent=False)
        self.register_buffer("conditions_SD", encode_steps(self.time_steps), persistent=False)

    @property
    def calendar(self) -> str:
        """Calendar of the instants it was trained on."""
        return self.forcing.calendar

    @property
    def num_inputs(self) -> int:
        """Channels that the network reads: T * C + F + N + K * C."""
        others = (self.noise, self.advection)
        return self.history * len(self.channels) + self.forcing.num_channels + sum(part.num_channels for part in others if part is not None)

    def tendency_std(self, time_step: int) -> Tensor:
        """Standard deviation of the change over one of the model's steps (seconds), physical units, shape (C,). Raises ConfigError."""
        return self.normalizer.tendency_std(self._number_of(time_step))

    def condition(self, time_step: int, count: int) -> tuple[Tensor, ...]:
        """What the network is given beside its channels to take a step: the condition (count, D), or nothing for a model with one step."""
        number = self._number_of(time_step)
        return (self.conditions_SD[number].expand(count, -1),) if len(self.time_steps) > 1 else ()

    def _number_of(self, time_step: int) -> int:
        if time_step not in self.time_steps:
            raise ConfigError(f"the model has no step of {format_duration(time_step)}",
                              fix=f"use {' or '.join(map(format_duration, self.time_steps))}")
        return self.time_steps.index(time_step)

    def forward(self, history_BTCHW: Tensor, forcing_BFHW: Tensor, time_step: int | None = None, *, noise_BNHW: Tensor | None = None,
                roll: tuple[int, int] = (0, 0)) -> Tensor:
        """The next state.

        Args:
            history_BTCHW: past states in physical units, oldest first, `self.time_step` apart.
            forcing_BFHW: `self.forcing` at the instant of the newest state, for this step.
            time_step: seconds, one of `self.time_steps`; the shortest by default.
            noise_BNHW: `self.noise` at the instant of the next state; zeros by default, which is the unperturbed step.
            roll: rows and columns by which all that the network reads is rolled, and its answer rolled back; see `nn.jitter`.

        Returns:
            state (B, C, H, W), one step after the newest, physical units, float32, within the constraints.
        """
        step = self.time_step if time_step is None else time_step
        inputs = [self.normalizer.encode(history_BTCHW).flatten(1, 2), forcing_BFHW]
        if self.noise is not None:
            silence = forcing_BFHW.new_zeros(len(forcing_BFHW), self.noise.num_channels, *forcing_BFHW.shape[2:])
            inputs.append(silence if noise_BNHW is None else noise_BNHW)
        if self.advection is not None:
            change_BKCHW = self.advection(history_BTCHW[:, -1], step).unflatten(1, (-1, len(self.channels)))
            inputs.append(self.normalizer.encode_change(change_BKCHW).flatten(1, 2))
        network_input, condition = torch.cat(inputs, dim=1), self.condition(step, len(history_BTCHW))
        scaled_BCHW = rolled(self.backbone, network_input, *condition, roll=roll) if any(roll) else self.backbone(network_input, *condition)
        if self.predicts == "state":
            state_BCHW = self.normalizer.decode(scaled_BCHW)
        else:
            state_BCHW = history_BTCHW[:, -1] + self.normalizer.decode_tendency(scaled_BCHW, self._number_of(step))
        kept_BCHW: Tensor = self.constraints(state_BCHW, history_BTCHW[:, -1], self.area_weights_HW)
        return kept_BCHW


def encode_steps(time_steps: Sequence[int]) -> Tensor:
    """Steps as numbers for the network: their logarithm, from -1 for the shortest to 1 for the longest; float32, shape (S, 1)."""
    logarithms = torch.tensor([math.log2(step / time_steps[0]) for step in time_steps])
    return (2 * logarithms / logarithms[-1].clamp(min=1e-6) - 1)[:, None]


def check_steps(time_steps: Sequence[int], history: int) -> None:
    """Raise ConfigError unless the steps (seconds) ascend, are multiples of the first, and are one only where the history is longer than one state.

    With a longer history, a long step would need states between its own that only shorter steps can make: training would cost as much as theirs.
    """
    texts = [format_duration(step) for step in time_steps]
    if list(time_steps) != sorted(set(time_steps)):
        raise ConfigError(f"the time steps {', '.join(texts)} do not ascend", where="model.time_steps", fix="name each step once, the shortest first")
    uneven = [text for text, step in zip(texts, time_steps, strict=True) if step % time_steps[0]]
    if uneven:
        raise ConfigError(f"{', '.join(uneven)} is not a multiple of the shortest step, {texts[0]}: no forecast could combine them",
                          where="model.time_steps", fix=f"use multiples of {texts[0]}, or name a shorter step that divides all")
    if history > 1 and len(time_steps) > 1:
        raise ConfigError(f"a model with {len(time_steps)} time steps reads one state, not a history of {history}", where="model.history",
                          fix="set model.history=1, or name one step in model.time_steps")


class ModelConfig(Strict):
    """What the forecaster reads and which network it passes through."""

    history: int = Field(default=1, ge=1, le=8)
    """Past states read, one time step apart; 1 for a model with several time steps."""
    time_steps: tuple[str, ...] = ()
    """Steps the model can take, for example [6h, 12h, 24h]: multiples of data.time_step and of the shortest of them, which is the spacing of the
    forecast. A forecast takes the longest steps first. Empty: data.time_step alone."""
    forcings: tuple[ForcingName, ...]
    """Computed inputs, in order."""
    static: tuple[str, ...]
    """Static fields of the store that are inputs, in order."""
    predicts: Predicts = "tendency"
    """What the network gives: the tendency, or the next state itself (published weights that were trained so)."""
    vector_parity: bool = False
    """Where the network's first layer sees over a pole, components of the wind change sign. Their mean is then not taken off."""
    noise_lengths_km: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """An input of noise for each: random fields on the sphere, new at every step, smooth over this length (km), for example [500, 1000, 2000].
    Members of an ensemble differ by them; train with training.loss.kind crps. Empty: a model without noise."""
    advected_by: tuple[tuple[str, str], ...] = ()
    """Winds, eastward and northward component, for example [[u250, v250], [u850, v850]]: for each the network also reads how the state would change
    if that wind carried it, for one step. Empty: nothing."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    """What every step keeps: channels that are never negative, global means that do not change."""
    backbone: Annotated[PlainConfig | HierarchicalConfig | LegacyConfig, Field(discriminator="kind")]
    """The network."""

    @field_validator("forcings", "static")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        canonical = [vocabulary.split_name(name)[0] for name in names]
        if repeated := dict.fromkeys(name for name in canonical if canonical.count(name) > 1):
            raise ValueError(f"{', '.join(repeated)} is given twice (name each input once)")
        return names


@dataclass(frozen=True)
class ModelInputs:
    """What a store tells a forecaster about the states it will read.

    Args:
        channels: prognostic channels, in order; C of them.
        grid: canonical.
        calendar: of all instants.
        time_step: seconds; the shortest step of the model.
        mean, std, tendency_std: by channel, physical units; shape (C,). The last is NaN where published weights come without it.
        static: name -> field (H, W), in the model's order.
        attrs: where the data come from (title, institution, source, license, statistics period).
        longer: the model's other steps, ascending: seconds -> standard deviation of the change over it, shape (C,).
        static_scales: mean and standard deviation of the training's static fields, on another grid than the training's; None takes this one's.
        trained_on: the grid of training, where it is not `grid`.
    """

    channels: ChannelSet
    grid: Grid
    calendar: str
    time_step: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    tendency_std: NDArray[np.float64]
    static: Mapping[str, NDArray[np.float32]]
    attrs: Mapping[str, str] = field(default_factory=dict)
    longer: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    static_scales: Mapping[str, tuple[float, float]] | None = None
    trained_on: Grid | None = None

    @property
    def time_steps(self) -> tuple[int, ...]:
        """Every step, seconds, ascending."""
        return (self.time_step, *self.longer)


def time_steps_of(config: ModelConfig, time_step: int) -> tuple[int, ...]:
    """The steps a model is asked to take, seconds, ascending; `time_step` (seconds) alone unless it names its own.

    Raises ConfigError for what is no duration, or steps that cannot be combined.
    """
    steps = tuple(sorted(parse_duration(text) for text in config.time_steps)) or (time_step,)
    check_steps(steps, config.history)
    return steps


def build_forecaster(config: ModelConfig, inputs: ModelInputs) -> Forecaster:
    """A forecaster with freshly drawn weights (seed torch before calling). Raises ConfigError when parts do not fit."""
    missing = [name for name in config.static if name not in inputs.static]
    if missing:
        raise ConfigError(f"no static field {', '.join(missing)}; there are {', '.join(inputs.static) or 'none'}", where="model.static")
    forcing = Forcing(config.forcings, {name: inputs.static[name] for name in config.static}, inputs.grid, calendar=inputs.calendar,
                      time_step=inputs.time_step, scales=inputs.static_scales)
    steps = time_steps_of(config, inputs.time_step)
    if steps != inputs.time_steps:
        raise ConfigError(f"the model is to step {', '.join(map(format_duration, steps))}; the statistics are for "
                          f"{', '.join(map(format_duration, inputs.time_steps))}", where="model.time_steps", fix="use the steps it was trained with")
    num_channels = len(inputs.channels)
    noise = NoiseFields(config.noise_lengths_km, inputs.grid) if config.noise_lengths_km else None
    advection = Advection(config.advected_by, inputs.channels, inputs.grid) if config.advected_by else None
    num_others, num_carried = forcing.num_channels + len(config.noise_lengths_km), len(config.advected_by)
    if isinstance(config.backbone, LegacyConfig) and config.backbone.grid != inputs.grid.shape:
        raise ConfigError(f"the network's position table is for {config.backbone.grid[0]}x{config.backbone.grid[1]} cells; the data are on "
                          f"{inputs.grid.describe()}", where="model.backbone.grid", fix="give data on that grid, or use the backbone plain")
    network, extent = on_grid(_conditioned(config.backbone, len(steps)), inputs.grid, inputs.trained_on)
    signs = [-1 if channel.is_vector else 1 for channel in inputs.channels]
    parity = signs if config.vector_parity else None
    signs_known = config.predicts == "tendency" or config.vector_parity  # a normalised state has its zero elsewhere
    backbone = build_backbone(network, (config.history + num_carried) * num_channels + num_others, num_channels, inputs.grid.boundary,
                              parity=None if parity is None else [*parity * config.history, *[1] * num_others, *parity * num_carried],
                              out_parity=signs if signs_known else None, extent=extent)
    mean = inputs.mean if parity is None else np.where(np.array(parity) < 0, 0.0, inputs.mean)  # a sign changes about zero
    scale_unknown = config.predicts == "state" and bool(np.isnan(inputs.tendency_std).all())
    tendency_std = inputs.std if scale_unknown else inputs.tendency_std  # of a loss only, where the network gives the state
    normalizer = Normalizer(inputs.channels.shorts, mean, inputs.std, np.stack([tendency_std, *inputs.longer.values()]))
    return Forecaster(backbone, normalizer, forcing, channels=inputs.channels, time_steps=inputs.time_steps, history=config.history,
                      predicts=config.predicts, constraints=Constraints(inputs.channels, config.constraints), noise=noise,
                      advection=advection)


def require_parity_used(config: ModelConfig, inputs: ModelInputs) -> None:
    """Raise ConfigError where a training's `vector_parity` would do nothing but give up the winds' means; finished models run as they are."""
    network, reason = config.backbone, ""
    if not config.vector_parity:
        return
    if isinstance(network, LegacyConfig):
        reason = "published networks do not look over the poles"
    elif not any(channel.is_vector for channel in inputs.channels):
        reason = "no channel is a component of the wind"
    elif inputs.grid.boundary not in POLAR:
        reason = f"{inputs.grid.describe()} does not reach over the poles"
    elif isinstance(network, PlainConfig) and not network.overlap and not -(-inputs.grid.shape[0] // network.coarsen[0]) % network.patch[0]:
        reason = f"patches of {network.patch[0]} rows without overlap end at the poles"
    if reason:
        raise ConfigError(f"vector_parity does nothing here: {reason}", where="model.vector_parity", fix="leave it out")


def cells_as_one(grid: Grid, trained_on: Grid) -> tuple[int, int]:
    """How many rows and columns of a grid make about one cell of the grid of training; at least 1."""
    rows, columns = (max(round(trained_on.lengths[axis] / trained_on.shape[axis] * grid.shape[axis] / grid.lengths[axis]), 1) for axis in (0, 1))
    return rows, columns


def on_grid(config: BackboneConfig, grid: Grid, trained_on: Grid | None) -> tuple[BackboneConfig, tuple[float, float] | None]:
    """The network for a grid it was not trained on, and that grid's share of the training's; on the grid of training (None) the network as it is.

    Where cells are half as large or smaller, as many as make one of the training's are read as one: convolutions and patches count in cells.
    """
    if trained_on is None or isinstance(config, LegacyConfig):
        return config, None
    if config.mixer == "gfn" and grid.boundary != trained_on.boundary:
        raise ConfigError(f"the mixer gfn belongs to {trained_on.describe()}; the data are on {grid.describe()}", where="model.backbone.mixer",
                          fix="give data on the model's grid, or train with the mixer afno")
    extent = grid.lengths[0] / trained_on.lengths[0], grid.lengths[1] / trained_on.lengths[1]
    rows, columns = cells_as_one(grid, trained_on)
    return replace(config, coarsen=(rows * config.coarsen[0], columns * config.coarsen[1])), extent


@contextlib.contextmanager
def told_if_unfit(grid: Grid) -> Iterator[None]:
    """Raises ConfigError for what goes wrong when a network meets a grid that it does not fit."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ForecastError) or is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        raise ConfigError(f"the network does not fit the data on {grid.describe()}: {first}", where="model.backbone") from error


def try_network(forecaster: Forecaster) -> None:
    """One pass of zeros."""
    with torch.no_grad():
        forecaster.backbone(torch.zeros(1, forecaster.num_inputs, *forecaster.grid.shape, device=forecaster.area_weights_HW.device),
                            *forecaster.condition(forecaster.time_step, 1))


def _conditioned(config: BackboneConfig, num_steps: int) -> BackboneConfig:
    """The network with an input for the time step where there are several. Raises ConfigError for one that has none, or for others' inputs."""
    conditions = int(num_steps > 1)
    if isinstance(config, LegacyConfig):
        if conditions:
            raise ConfigError("published networks take one time step", where="model.time_steps", fix="use the backbone plain or hierarchical")
        return config
    if config.conditions not in (0, conditions):
        raise ConfigError(f"the network is to read {config.conditions} conditions; a model with {num_steps} time step{'s' * conditions} gives "
                          f"{conditions}", where="model.backbone.conditions", fix="leave it out: it follows from model.time_steps")
    return replace(config, conditions=conditions)
