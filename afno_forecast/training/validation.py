"""Validation by short rollouts over the whole validation period, with the one scorer."""

# B batch, T history, C channel, H latitude row, W longitude column

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..channels import ChannelSet
from ..config import Strict
from ..data.climatology import Climatology
from ..data.direct import DirectStore
from ..data.samples import find_windows
from ..data.store import Store
from ..errors import ConfigError, DataError, DivergenceError
from ..forecast.rollout import rollout
from ..forecaster import Forecaster
from ..noise import NoiseDraw
from ..times import format_duration, parse_duration
from ..verify.scores import Scorer, pick
from .checkpoint import Progress
from .config import TrainingConfig
from .log import RunLog, ScoreRow
from .parallel import Layout
from .shown import Shown, Watcher, shown_channels

_DAY = 86400

KeepModel = Callable[[dict[str, Tensor], float, xr.Dataset], None]
"""Called with the averaged weights, the score and its table when the score is the best so far."""


class ValidationConfig(Strict):
    """How a model is chosen: rollouts from init times spread evenly over the validation period and over the hours of the day."""

    count: int = Field(ge=1)
    """Validations over the whole budget; the last one is at its end."""
    inits: int = Field(ge=1)
    """Init times of each validation."""
    lead_time: str
    """Length of each rollout, for example 5d."""
    batch_size: int = Field(default=8, ge=1)
    """Init times stepped together."""
    members: int | None = Field(default=None, ge=2)
    """For a model with noise channels: forecasts from each init time, whose mean is scored; one without noise when absent."""
    pictures: bool | tuple[str, ...] = False
    """At each validation, a map of a forecast beside the truth and energy spectra in the run folder: of these channels, of some with true."""


class Validator:
    """Scores a forecaster against the analyses of the validation period, beside persistence and climatology.

    The score of a model is the mean over channels and scored leads of RMSE divided by the RMSE of persistence (exact cell areas):
    below 1 is better than persistence. Leads are as many steps apart as fit into a day, or one
    when the lead time is under a day. Channels that do not
    change over the validation period cannot be compared with persistence; they are named in `unscored` and left out of the mean.
    `without_climatology` says why there is no climatology to compare with; it is empty when there is one. `shown` holds what of the last
    validation can be drawn, on the first process, where `pictures` are asked for.
    """

    def __init__(self, store: Store | DirectStore, forecaster: Forecaster, config: ValidationConfig, *, start: int, end: int) -> None:
        self.config = config
        self._store = store
        self._channels = forecaster.channels
        self._index_C = store.channel_index(forecaster.channels)
        step, lead = forecaster.time_step, parse_duration(config.lead_time)
        self._num_steps = lead // step
        self._history = forecaster.history
        self._shown_channels, self._windows = plan_validation(store, forecaster, config, start=start, end=end)
        self.shown: Shown | None = None
        self.init_seconds = store.times.seconds[self._windows[:, self._history - 1]]
        every = max(1, _DAY // step) if lead >= _DAY else 1
        self._scored = {k for k in range(1, self._num_steps + 1) if k % every == 0}
        self._climatology, self.without_climatology = climatology_of(store, self.init_seconds, [k * step for k in self._scored])
        self._rivals = self._score_rivals(forecaster)
        self.unscored = tuple(name for name, item in self._rivals["persistence"].items() if not bool((item > 0).all()))
        if len(self.unscored) == len(self._channels):
            raise DataError("no channel changes over the validation period: there is nothing to choose a model by",
                            fix="choose another validation period or other channels")

    def _states(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._store.read(int(i), self._index_C) for i in rows]))

    def _score_rivals(self, forecaster: Forecaster) -> dict[str, dict[str, xr.DataArray]]:
        """By rival and channel, RMSE against lead time."""
        names = ("persistence", "climatology") if self._climatology else ("persistence",)
        scorers = {name: Scorer(self._channels, forecaster.grid, regions=("global",), calendar=forecaster.calendar, missing_ok=True)
                   for name in names}
        for step in sorted(self._scored):
            for window, init in zip(self._windows, self.init_seconds, strict=True):
                initial, truth = self._states(window[[self._history - 1, self._history - 1 + step]])
                scorers["persistence"].update(np.asarray([init]), step * forecaster.time_step, initial[None], truth[None], None)
                if self._climatology:
                    expected = self._climatology.at(init + step * forecaster.time_step, forecaster.calendar)[:, self._index_C]
                    scorers["climatology"].update(np.asarray([init]), step * forecaster.time_step, expected, truth[None], None)
        return {name: self._by_channel(scorer.finalize()) for name, scorer in scorers.items()}

    @torch.no_grad()
    def __call__(self, forecaster: Forecaster, layout: Layout) -> tuple[float, xr.Dataset]:
        """(mean RMSE over that of persistence, RMSE over that of each `rival` by channel and `lead_time`); on all processes.

        Raises DivergenceError when a rollout is not finite.
        """
        scorer = Scorer(self._channels, forecaster.grid, regions=("global",), calendar=forecaster.calendar)
        watcher = Watcher(self._shown_channels, forecaster) if self._shown_channels and layout.mesh.first else None
        device = forecaster.area_weights_HW.device
        forecaster.eval()
        for first in range(0, len(self._windows), self.config.batch_size):
            windows = self._windows[first:first + self.config.batch_size]
            inits = self.init_seconds[first:first + self.config.batch_size]
            history_BTCHW = torch.stack([self._states(w[:self._history]) for w in windows]).to(device)
            members = self.config.members or 1
            noise = NoiseDraw(0, np.arange(members).repeat(len(inits))) if self.config.members else None
            start_BTCHW = layout.own_rows(history_BTCHW).repeat(members, 1, 1, 1, 1)
            for state in rollout(forecaster, start_BTCHW, np.tile(inits, members), self._num_steps, noise=noise):
                if state.step in self._scored:
                    truth_BCHW = self._states(windows[:, self._history - 1 + state.step])
                    mean_BCHW = state.fields_BCHW.view(members, -1, *state.fields_BCHW.shape[1:]).mean(0)
                    whole_BCHW = layout.all_rows(mean_BCHW).cpu()
                    scorer.update(inits, state.lead_seconds, whole_BCHW, truth_BCHW, None)
                    if watcher is not None:
                        watcher.update(inits, state.lead_seconds, whole_BCHW, truth_BCHW)
        self.shown = None if watcher is None else watcher.shown(self._states(self._windows[0, self._history - 1:self._history])[0])
        return self._relative(scorer.finalize())

    def _relative(self, scores: xr.Dataset) -> tuple[float, xr.Dataset]:
        own = {name: item for name, item in self._by_channel(scores).items() if name not in self.unscored}
        rivals = xr.Variable("rival", list(self._rivals))
        table = xr.Dataset({name: xr.concat([item / rival[name].where(rival[name] > 0) for rival in self._rivals.values()], rivals)
                            for name, item in own.items()})
        return mean_over(table, "persistence"), table

    def _by_channel(self, scores: xr.Dataset) -> dict[str, xr.DataArray]:
        """Global RMSE of each channel against lead time."""
        found = {c.short: pick(scores, c.short, "rmse") for c in self._channels}
        return {name: item.drop_vars(["level", "metric", "region"], errors="ignore") for name, item in found.items() if item is not None}


def plan_validation(store: Store | DirectStore, forecaster: Forecaster, config: ValidationConfig, *, start: int,
                    end: int) -> tuple[ChannelSet, NDArray[np.int64]]:
    """The channels to draw and the windows of the rollouts, before a state is read.

    Raises:
        ConfigError: members without noise, a lead time of no whole number of steps, a picture of a channel that the model has not.
        DataError: the period is shorter than a rollout.
    """
    if config.members and forecaster.noise is None:
        raise ConfigError("the model reads no noise: members would be copies of each other", where="validation.members",
                          fix="leave it out, or set model.noise_lengths_km")
    step, lead = forecaster.time_step, parse_duration(config.lead_time)
    if lead % step:
        raise ConfigError(f"validation.lead_time {config.lead_time} is not a multiple of the time step of {format_duration(step)}")
    shown = shown_channels(config.pictures, forecaster.channels)
    windows = find_windows(store.times, time_step=step, history=forecaster.history, num_steps=lead // step, start=start, end=end)
    return shown, windows.evenly(store.times, config.inits)


def validations_due(progress: Progress, config: TrainingConfig, validation: ValidationConfig) -> int:
    """How many validations belong before this point of the budget."""
    return int(min(1.0, progress.spent(config.budget)) * validation.count + 1e-9)


def climatology_of(store: Store | DirectStore, init_seconds: NDArray[np.int64], leads: Sequence[int]) -> tuple[Climatology | None, str]:
    """The store's climatology if it holds the hours of all valid times, and otherwise why there is none to compare with."""
    climatology = store.climatology()
    if climatology is None:
        return None, "the store has no climatology"
    hours = {int(init + lead) % _DAY / 3600 for init in init_seconds for lead in leads}
    absent = sorted(hours - set(climatology.hours.tolist()))
    if absent:
        return None, f"the store's climatology lacks the hours {', '.join(f'{hour:g}' for hour in absent)} UTC"
    return climatology, ""


def mean_over(table: xr.Dataset, rival: str) -> float:
    """Mean over channels and leads of RMSE over that of a rival; NaN where it was not compared with."""
    if "rival" not in table.coords or rival not in table["rival"].values:
        return float("nan")
    return float(np.mean([item.sel(rival=rival).mean(skipna=False) for item in table.data_vars.values()]))


def require_scored(progress: Progress, folder: Path) -> None:
    """Raise DivergenceError where no validation of a training gave a finite score."""
    if not math.isfinite(progress.best_score):
        raise DivergenceError("no validation gave a finite score, so no model was kept", where=str(folder / "events.jsonl"),
                              fix="lower training.optimizer.learning_rate, or look at the channels' scores in events.jsonl")


def is_best(score: float, table: xr.Dataset, progress: Progress, config: TrainingConfig, log: RunLog) -> bool:
    """Log a validation and count it in the progress; whether its score is the best so far."""
    better = score < progress.best_score
    if config.optimizer.schedule == "plateau":
        progress.judge(better, config.optimizer.patience)
    log.validation(progress.train_step, score, mean_over(table, "climatology"), _rows(table), best=better)
    if better:
        progress.best_score = score
    return better


def _rows(table: xr.Dataset) -> list[ScoreRow]:
    """A row for each channel and lead time."""
    rivals = [str(rival) for rival in table["rival"].values] if "rival" in table.coords else []
    hours = table["lead_time"].values / np.timedelta64(1, "h") if rivals else ()
    return [ScoreRow(str(name), float(hour), {rival: float(item.sel(rival=rival).values[i]) for rival in rivals})
            for name, item in table.data_vars.items() for i, hour in enumerate(hours)]
