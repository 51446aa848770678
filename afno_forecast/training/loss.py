"""The loss that training descends: a rollout from each sample's history, compared with the truth at every step, as the configuration weighs it.

Whatever is drawn (noise of members, of the input, rolls) is a function of the experiment's seed, the number of the update and the sample's dates,
so that neither batches, pieces and processes nor a resume change it.
"""

# B batch, E member, T history, L lead, C channel, F forcing, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import vocabulary
from ..channels import ChannelSet
from ..config import Strict
from ..data.loader import Batch
from ..errors import ConfigError, DataError
from ..forecast.rollout import State, rollout
from ..forecaster import Forecaster
from ..losses import amplitude_aware_mse, area_weighted_mse, fair_crps, log_spectrum_error, spectral_crps
from ..nn.backbone import HierarchicalBackbone, PlainBackbone
from ..nn.jitter import draw_roll
from ..noise import NoiseDraw
from .parallel import Layout

_MASK = (1 << 63) - 1
_SURFACE_OF_GRAPHCAST = 0.1


class LossConfig(Strict):
    """Which error is made small, how its parts are weighed, and how the rollout is trained through."""

    kind: Literal["mse", "amse", "crps"] = "mse"
    """mse: mean square error. amse: the same, without its reward for smooth forecasts (zonal spectra; arXiv 2501.19374). crps: of an ensemble of
    members that differ by the model's noise channels; fair, whatever their number."""
    area: Literal["exact", "equal"] = "exact"
    """Cells count by their exact area, or all the same (which overrates the poles)."""
    unit: Literal["tendency", "state"] = "tendency"
    """An error counts in standard deviations of the channel's change over the step, or of the channel itself."""
    levels: Literal["equal", "variables", "pressure"] = "equal"
    """equal: every channel counts the same. variables: every variable does, shared by its levels. pressure: levels in proportion to their pressure,
    with a mean of 1 a variable; 2 m temperature 1 and other surface variables 0.1, as GraphCast has it."""
    channels: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """Factors on top of it, by channel or variable: {q700: 0.5, temperature: 2}."""
    spectrum: float = Field(default=0.0, ge=0)
    """Weight of a second term. With mse and amse: the squared logarithm of predicted over true energy at each zonal wavenumber. With crps: the CRPS
    of the zonal coefficients."""
    members: int = Field(default=2, ge=2)
    """Members of the ensemble, for crps: each costs as much as a sample."""
    fairness: float = Field(default=0.95, ge=0, le=1)
    """For crps: 1 is fair; a little less, almost fair, ties every member to the truth (arXiv 2412.15832)."""
    push_forward: bool = False
    """States are fed back without gradient: each step learns from inputs that the model made."""
    checkpoint_steps: bool = False
    """Steps of the rollout keep only their input for the backward pass and are computed again: memory of one step, a third more time."""
    input_noise: float = Field(default=0.0, ge=0)
    """White noise added to the history, in standard deviations (root of the mean square anomaly) of each channel; see arXiv 2403.03542."""
    roll: Literal["none", "patch", "longitude"] = "none"
    """Each step with the fields and their coordinates rolled at random, by less than a patch or by any longitude: patches then begin anywhere."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> LossConfig:
        fields = type(self).model_fields
        if self.kind != "crps" and any(getattr(self, name) != fields[name].default for name in ("members", "fairness")):
            raise ValueError("members and fairness do nothing without kind: crps")
        return self


class RolloutLoss:
    """The loss of a batch, in the forecaster's physical units.

    Args:
        config: how.
        forecaster: the model step, laid over the processes.
        seed: of what is drawn.
        layout: which rows of the grid are here.

    Raises:
        ConfigError: something that the forecaster, its grid or the layout does not allow.
    """

    def __init__(self, config: LossConfig, forecaster: Forecaster, *, seed: int = 0, layout: Layout | None = None) -> None:
        self._config, self._forecaster, self._seed, self._layout = config, forecaster, seed, layout or Layout()
        _check(config, forecaster, self._layout)
        self._members = config.members if config.kind == "crps" else 1
        weights = channel_weights(config, forecaster.channels)
        device = forecaster.area_weights_HW.device
        self._weights_C = None if weights.eq(weights[0]).all() else weights.to(device)
        self._area_HW = forecaster.area_weights_HW if config.area == "exact" else torch.ones_like(forecaster.area_weights_HW)
        self._most = None if config.roll != "patch" else patch_size(forecaster)

    def __call__(self, batch: Batch, num_steps: int, train_step: int = 0) -> Tensor:
        """Mean over the steps of the weighted error.

        Args:
            batch: states (B, T + L, C, H, W), physical units, with L >= num_steps; their spacing is the step that the forecaster takes. Its
                forcing, if it brings one, is the forecaster's.
            num_steps: model steps; gradients flow through all of them unless pushed forward.
            train_step: number of the update, which the draws depend on.

        Returns:
            scalar, float32.
        """
        forecaster, history, members = self._forecaster, self._forecaster.history, self._members
        states_BTCHW = batch.states.to(forecaster.area_weights_HW.device, non_blocking=True)
        start_BTCHW, init_seconds = self._disturbed(states_BTCHW[:, :history], batch, train_step), batch.seconds[:, history - 1]
        noise = None
        if forecaster.noise is not None:
            numbers = train_step * members + np.arange(members).repeat(len(init_seconds))
            start_BTCHW, init_seconds = start_BTCHW.repeat(members, 1, 1, 1, 1), np.tile(init_seconds, members)
            noise = NoiseDraw(self._seed, numbers)
        forcing_BLFHW = batch.forcing
        if forcing_BLFHW is not None:
            forcing_BLFHW = forcing_BLFHW[:, :num_steps].to(states_BTCHW.device, non_blocking=True).repeat(members, 1, 1, 1, 1)
        steps = rollout(forecaster, start_BTCHW, init_seconds, num_steps, time_steps=(batch.time_step,), noise=noise, step=self._step(train_step),
                        forcing_BLFHW=forcing_BLFHW)
        return torch.stack([self._error(state, states_BTCHW[:, history + state.step - 1], batch.time_step) for state in steps]).mean()

    def _error(self, state: State, truth_BCHW: Tensor, time_step: int) -> Tensor:
        config = self._config
        scale_C = self._forecaster.tendency_std(time_step) if config.unit == "tendency" else self._forecaster.normalizer.std_C
        weighing = (truth_BCHW, self._area_HW, scale_C, self._weights_C)
        if config.kind == "crps":
            fields_EBCHW = state.fields_BCHW.view(self._members, -1, *truth_BCHW.shape[1:])
            error = fair_crps(fields_EBCHW, *weighing, fairness=config.fairness)
            return error + config.spectrum * spectral_crps(fields_EBCHW, *weighing, fairness=config.fairness) if config.spectrum else error
        error = (amplitude_aware_mse if config.kind == "amse" else area_weighted_mse)(state.fields_BCHW, *weighing)
        return error + config.spectrum * log_spectrum_error(state.fields_BCHW, *weighing) if config.spectrum else error

    def _disturbed(self, history_BTCHW: Tensor, batch: Batch, train_step: int) -> Tensor:
        """The history with noise of its own for every state."""
        if not self._config.input_noise:
            return history_BTCHW
        grid, channels = self._forecaster.grid.shape, history_BTCHW.shape[2]
        draws = [_generator(self._seed, train_step, int(s)).standard_normal((channels, *grid), dtype=np.float32)
                 for s in batch.seconds[:, :history_BTCHW.shape[1]].ravel()]
        noise = self._layout.own_rows(torch.from_numpy(np.stack(draws))).to(history_BTCHW.device).view_as(history_BTCHW)
        return history_BTCHW + self._config.input_noise * self._forecaster.normalizer.std_C[:, None, None] * noise

    def _step(self, train_step: int) -> Callable[..., Tensor] | None:
        """What takes a step in place of the forecaster, where anything but its answer is asked for."""
        config, forecaster = self._config, self._forecaster
        if not (config.push_forward or config.checkpoint_steps or config.roll != "none"):
            return None
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + train_step) & _MASK)

        def take(history_BTCHW: Tensor, forcing_BFHW: Tensor, time_step: int, **drawn: Tensor) -> Tensor:
            options: dict[str, Any] = dict(drawn)
            if config.roll != "none":
                options["roll"] = draw_roll(forecaster.grid.boundary, forecaster.grid.shape, generator, most=self._most)
            arguments = (history_BTCHW.detach() if config.push_forward else history_BTCHW, forcing_BFHW, time_step)
            if config.checkpoint_steps:
                again: Tensor = checkpoint(forecaster, *arguments, use_reentrant=False, **options)
                return again
            state: Tensor = forecaster(*arguments, **options)
            return state

        return take


def channel_weights(config: LossConfig, channels: ChannelSet) -> Tensor:
    """Weight of each channel, float32 (C,). Raises ConfigError for a name that is no channel or variable, or weights that are all zero."""
    weights = torch.ones(len(channels))
    for number, channel in enumerate(channels):
        levels = [c.level for c in channels if c.variable == channel.variable and c.level is not None]
        if config.levels == "variables":
            weights[number] = 1 / max(1, len(levels))
        elif config.levels == "pressure":
            is_surface = channel.level is None and channel.variable != "2m_temperature"
            weights[number] = _SURFACE_OF_GRAPHCAST if is_surface else (channel.level or 1) * len(levels or [1]) / sum(levels or [1])
    for name, factor in config.channels.items():
        weights[_numbers_of(name, channels)] *= factor
    if not weights.sum() > 0:
        raise ConfigError("no channel counts in the loss", where="training.loss.channels", fix="give some channel a positive weight")
    return weights


def _numbers_of(name: str, channels: ChannelSet) -> list[int]:
    """Positions of a channel, or of all levels of a variable."""
    known = vocabulary.find_variable(name)
    variable = name if known is None else known.name
    same = [number for number, channel in enumerate(channels) if channel.variable == variable]
    if same:
        return same
    try:
        return [channels.index(name)]
    except DataError as error:
        raise ConfigError(error.what, where="training.loss.channels", fix=error.fix) from error


def patch_size(forecaster: Forecaster) -> tuple[int, int]:
    """Rows and columns that the network reads as one: its patch, or the cell of its coarsest level."""
    network = forecaster.backbone
    if isinstance(network, PlainBackbone):
        return network.stem.patch[0] * network.coarsen[0], network.stem.patch[1] * network.coarsen[1]
    assert isinstance(network, HierarchicalBackbone)
    rows, columns = network.coarsen
    return rows << len(network.down), columns << len(network.down)


def _check(config: LossConfig, forecaster: Forecaster, layout: Layout) -> None:
    boundary = forecaster.grid.boundary
    if config.kind == "crps" and forecaster.noise is None:
        raise ConfigError("the members of a CRPS differ by noise that the model reads, and it reads none", where="training.loss.kind",
                          fix="set model.noise_lengths_km, for example [500, 1000, 2000]")
    if boundary == "limited" and (config.kind == "amse" or config.spectrum or config.roll != "none"):
        raise ConfigError("zonal spectra and rolls need whole circles of longitude, which a limited area has not", where="training.loss",
                          fix="use kind mse or crps, spectrum 0 and roll none")
    if config.roll != "none" and not isinstance(forecaster.backbone, PlainBackbone | HierarchicalBackbone):
        raise ConfigError("a network with a table of positions cannot be rolled", where="training.loss.roll", fix="leave it out")
    if layout.rows is not None and config.roll != "none" and boundary == "periodic":
        raise ConfigError("rows that are divided among processes are not rolled", where="training.loss.roll", fix="use training.parallel.spatial=1")
    if layout.rows is not None and config.spectrum and config.kind != "crps":
        raise ConfigError("the energy of a wavenumber is taken over all rows, which are divided among processes", where="training.loss.spectrum",
                          fix="use training.parallel.spatial=1")


def _generator(seed: int, train_step: int, seconds: int) -> np.random.Generator:
    counter = np.array([0, 0, train_step, seconds & (2 * _MASK + 1)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed & _MASK, _MASK], dtype=np.uint64), counter=counter))
