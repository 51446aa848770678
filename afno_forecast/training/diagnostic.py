"""Training a diagnostic network on a finished forecaster, which stays as it is: on analyses, and on the forecaster's own states."""

# B batch, T time, C channel, O output, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..channels import ChannelSet
from ..config import Strict
from ..data.loader import Batch, Loader
from ..data.samples import find_windows
from ..data.store import Store
from ..diagnostic import Diagnostic
from ..distributed import shared_like
from ..errors import ConfigError, DivergenceError, Stopped
from ..forecast.rollout import State, rollout
from ..forecaster import Forecaster
from ..losses import area_weighted_mse
from ..signals import StopFlag
from ..times import format_duration, format_instant, parse_duration
from .checkpoint import Progress, load_newest, part_of
from .config import TrainingConfig
from .log import RunLog
from .optimizers import Optimizers, WeightAverage
from .saving import Checkpoints
from .schedule import stage_at
from .validation import KeepModel, ValidationConfig, climatology_of, is_best, mean_over, require_scored, validations_due


class DiagnosticLossConfig(Strict):
    """Which error of the amounts is made small. What is uncertain is told by its mean, of log(1 + x / scale) or of x: the first is a typical amount
    and lies below the second, which has the least root mean square error and the right mean over many cases."""

    transformed: float = Field(default=1.0, ge=0)
    """Weight of the squared error of log(1 + x / scale)."""
    amount: float = Field(default=0.0, ge=0)
    """Weight of the squared error of x, in units of its standard deviation in the store."""

    @model_validator(mode="after")
    def _something(self) -> DiagnosticLossConfig:
        if not self.transformed + self.amount > 0:
            raise ValueError("give transformed or amount a positive weight: nothing is made small")
        return self


class DiagnosticLoss:
    """Area-weighted mean square error of amounts, at the analysis and after each step of the frozen forecaster.

    Args:
        config: error of what.
        forecaster: on its device.
        diagnostic: what is trained.
        std_O: standard deviation of each amount, physical units, > 0.
    """

    def __init__(self, config: DiagnosticLossConfig, forecaster: Forecaster, diagnostic: Diagnostic, std_O: ArrayLike) -> None:
        self._config, self._forecaster, self._diagnostic = config, forecaster, diagnostic
        self.calendar = forecaster.calendar
        self._std_O = torch.as_tensor(np.asarray(std_O), dtype=torch.float32, device=forecaster.area_weights_HW.device)

    def __call__(self, batch: Batch, num_steps: int) -> Tensor:
        """The loss.

        Args:
            batch: states (B, T, C + O, H, W): those of the forecaster, then the amounts; T = history + num_steps. Its forcing, if it brings one,
                is the forecaster's.
            num_steps: steps of the forecaster.
        """
        forecaster, diagnostic = self._forecaster, self._diagnostic
        number, history = len(forecaster.channels), forecaster.history
        whole = batch.states.to(forecaster.area_weights_HW.device, non_blocking=True)
        past, instants = whole[:, :history, :number], batch.seconds[:, history - 1:]
        forcing_BLFHW = None if batch.forcing is None else batch.forcing.to(whole.device, non_blocking=True)
        with torch.no_grad():
            fields = [past[:, -1], *(s.fields_BCHW for s in rollout(forecaster, past, instants[:, 0], num_steps, time_steps=(batch.time_step,),
                                                                      forcing_BLFHW=forcing_BLFHW))]
        losses = []
        for lead, state_BCHW in enumerate(fields):
            forcing_BFHW = forecaster.forcing(instants[:, lead]) if forcing_BLFHW is None or lead == num_steps else forcing_BLFHW[:, lead]
            answer = diagnostic.transformed(state_BCHW, forcing_BFHW, lead * batch.time_step)
            losses.append(self._error(answer, whole[:, history - 1 + lead, number:]))
        return torch.stack(losses).mean()

    def _error(self, answer_BOHW: Tensor, truth_BOHW: Tensor) -> Tensor:
        """Of transformed amounts against amounts in physical units."""
        config, diagnostic, area_HW = self._config, self._diagnostic, self._forecaster.area_weights_HW
        error = answer_BOHW.new_zeros(())
        if config.transformed:
            unit_O = torch.ones_like(self._std_O)
            error = error + config.transformed * area_weighted_mse(answer_BOHW, diagnostic.transform(truth_BOHW), area_HW, unit_O)
        if config.amount:
            error = error + config.amount * area_weighted_mse(diagnostic.amount(answer_BOHW), truth_BOHW, area_HW, self._std_O)
        return error


class DiagnosticValidator:
    """RMSE of forecast amounts over that of persistence and of climatology, at each day or step of forecasts over the validation period.

    `without_climatology` says why there is no climatology to compare with; it is empty when there is one.

    Args:
        store: with all channels.
        forecaster: frozen.
        diagnostic: what is trained.
        config: init times and lead time.
        start, end: of the validation period, seconds.

    Raises ConfigError for a lead time that is no whole number of the forecaster's steps, or for members.
    """

    def __init__(self, store: Store, forecaster: Forecaster, diagnostic: Diagnostic, config: ValidationConfig, *, start: int, end: int) -> None:
        self.config = config
        self._forecaster, self._diagnostic, self._store = forecaster, diagnostic, store
        step, lead = forecaster.time_step, parse_duration(config.lead_time)
        if lead % step:
            raise ConfigError(f"validation.lead_time {config.lead_time} is not a multiple of the forecaster's step of {format_duration(step)}",
                              where="validation.lead_time", fix=f"use {format_duration(max(1, lead // step) * step)}")
        if config.members is not None:
            raise ConfigError("a diagnostic network is validated on one forecast from each init time, without noise", where="validation.members",
                              fix="leave it out")
        self._num_steps = lead // step
        windows = find_windows(store.times, time_step=step, history=forecaster.history, num_steps=self._num_steps, start=start, end=end)
        self._windows = windows.evenly(store.times, config.inits)
        self._index = store.channel_index(ChannelSet((*forecaster.channels.channels, *diagnostic.outputs.channels)))
        every = max(1, 86400 // step) if lead >= 86400 else 1
        self._scored = [k for k in range(1, self._num_steps + 1) if k % every == 0]
        inits = store.times.seconds[self._windows[:, forecaster.history - 1]]
        self._climatology, self.without_climatology = climatology_of(store, inits, [k * step for k in self._scored])

    def _read(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([self._store.read(int(row), self._index) for row in rows]))

    @torch.no_grad()
    def __call__(self) -> tuple[float, xr.Dataset]:
        """(mean over persistence of outputs and leads, the ratio to each `rival` for each output and `lead_time`)."""
        forecaster, number, history = self._forecaster, len(self._forecaster.channels), self._forecaster.history
        device, area = forecaster.area_weights_HW.device, forecaster.area_weights_HW.double()
        self._diagnostic.eval()
        rivals = ["persistence", "climatology"] if self._climatology else ["persistence"]
        sums = {k: torch.zeros(1 + len(rivals), len(self._diagnostic.outputs), dtype=torch.float64, device=device) for k in self._scored}
        for first in range(0, len(self._windows), self.config.batch_size):
            windows = self._windows[first:first + self.config.batch_size]
            past = torch.stack([self._read(w[:history]) for w in windows]).to(device)
            inits = self._store.times.seconds[windows[:, history - 1]]
            for state in rollout(forecaster, past[:, :, :number], inits, self._num_steps):
                if state.step in sums:
                    truth = self._read(windows[:, history - 1 + state.step])[:, number:].to(device)
                    answers = [tell(forecaster, self._diagnostic, state), past[:, -1, number:], *self._expected(state.valid_seconds, device)]
                    sums[state.step] += ((torch.stack(answers) - truth).double().square() * area).sum((-2, -1)).sum(1)
        tiny = torch.finfo(torch.float64).tiny
        ratio = torch.stack([(s[:1] / s[1:].clamp_min(tiny)).sqrt() for s in sums.values()], 1).cpu().numpy()
        leads = (np.asarray(self._scored) * forecaster.time_step).astype("timedelta64[s]").astype("timedelta64[ns]")
        table = xr.Dataset({name: (("rival", "lead_time"), ratio[..., o]) for o, name in enumerate(self._diagnostic.outputs.shorts)},
                           coords={"rival": rivals, "lead_time": leads})
        return mean_over(table, "persistence"), table

    def _expected(self, seconds: np.ndarray, device: torch.device) -> list[Tensor]:
        """The climatology's amounts at valid times, where there is one."""
        if self._climatology is None:
            return []
        index = self._index[len(self._forecaster.channels):]
        return [torch.from_numpy(self._climatology.at(seconds, self._forecaster.calendar)[:, index]).to(device)]


def tell(forecaster: Forecaster, diagnostic: Diagnostic, state: State) -> Tensor:
    """The amounts at a state of a rollout, physical units, (B, O, H, W)."""
    amounts: Tensor = diagnostic(state.fields_BCHW, forecaster.forcing(state.valid_seconds), state.lead_seconds)
    return amounts


def fit_diagnostic(run: DiagnosticRun, loss: DiagnosticLoss, loader: Loader, validator: DiagnosticValidator, config: TrainingConfig, folder: Path, *,
                   keep: KeepModel, resume: bool, echo: Callable[[str], None]) -> Progress:
    """Train until the budget is spent; keep the best network. One process.

    Args:
        run: what changes.
        loss, loader, validator: samples of states and amounts, and what is made small and compared.
        config: how.
        folder: run folder.
        keep: called with (averaged state dict, score, table) when the score is the best so far.
        resume: continue from the newest valid checkpoint.
        echo: prints a line.

    Raises Stopped when a signal came (everything is saved), DivergenceError when the loss or every score is not finite.
    """
    found = load_newest(folder / "checkpoints", echo) if resume else None
    progress = found[0] if found else Progress()
    if found:
        run.restore(found[1])
    with (StopFlag() as stop, RunLog(folder, train_step=progress.train_step, echo=echo, to=config.log) as log, contextlib.ExitStack() as stack,
          Checkpoints(folder / "checkpoints", beside=config.asynchronous_checkpoints) as checkpoints):
        stage, batches, saved = -1, None, time.monotonic()
        while (spent := progress.spent(config.budget)) < 1:
            if stage != (stage := stage_at(config.stages, spent)):
                progress.stage, progress.position = stage, progress.position if stage == progress.stage else 0
                stack.close()
                batches = loader.batches(config.stages[stage].rollout, stage=stage, position=progress.position, batch_size=config.batch_in(stage))
                stack.callback(batches.close)
            assert batches is not None
            began, core_began, batch = time.monotonic(), time.process_time(), next(batches)
            rate = config.learning_rate_at(progress)
            value, norm = run.update(loss, batch, config.stages[stage].rollout, rate)
            progress.add(samples=len(batch.states), seconds=time.monotonic() - began, core_seconds=time.process_time() - core_began)
            log.update(progress.train_step, config.stages[stage].rollout, value, norm, rate)
            spent = min(1.0, progress.spent(config.budget))
            log.progress(spent, f"step {progress.train_step}  loss {value:.4f}", progress.seconds * (1 - spent) / max(spent, 1e-9))
            kept = validations_due(progress, config, validator.config) > progress.num_validations and _validate(run, validator, progress, log, keep)
            if kept or stop.name or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                log.flush()
                checkpoints.save(progress, run.tensors())
                saved = time.monotonic()
            elif not checkpoints.writing:
                checkpoints.complete()
            if stop.name:  # what is under way is complete at the end of the context
                raise Stopped(f"stopped by {stop.name} after train step {progress.train_step}; everything is saved", where=str(folder),
                              fix="run the same command with --resume to go on")
        log.flush()
        checkpoints.save(progress, run.tensors())
    require_scored(progress, folder)
    return progress


def _validate(run: DiagnosticRun, validator: DiagnosticValidator, progress: Progress, log: RunLog, keep: KeepModel) -> bool:
    """Validate; whether the network was kept, so that a resumed training has to know its score."""
    config = run.config
    with run.average.in_place(run.diagnostic):
        score, table = validator()
        progress.num_validations = validations_due(progress, config, validator.config)
        if best := is_best(score, table, progress, config, log):
            keep(run.diagnostic.state_dict(), score, table)
    run.diagnostic.train()
    return best


class DiagnosticRun:
    """The moving parts of a training: network, optimiser, average; saved and restored as named tensors."""

    def __init__(self, diagnostic: nn.Module, config: TrainingConfig) -> None:
        self.diagnostic = diagnostic
        self.config = config
        self.optimizers = Optimizers(diagnostic, config.optimizer)
        self.average = WeightAverage(diagnostic, config.average)

    def update(self, loss: DiagnosticLoss, batch: Batch, num_steps: int, learning_rate: float) -> tuple[float, float]:
        """One step of the optimiser; returns the loss and the norm of its gradient. Raises DivergenceError when they are not finite."""
        self.optimizers.zero_grad()
        value = loss(batch, num_steps)
        value.backward()  # type: ignore[no-untyped-call]
        norm = self.optimizers.clip().item()
        if not (math.isfinite(value.item()) and math.isfinite(norm)):
            dates = ", ".join(format_instant(int(s), loss.calendar) for s in batch.seconds[:, 0])
            raise DivergenceError("the loss of the diagnostic network is not finite", where=f"batch starting at {dates}",
                                  fix="lower training.optimizer.learning_rate, or check the amounts with: afno-forecast data inspect STORE")
        self.optimizers.step(learning_rate)
        self.average.update(self.diagnostic)
        return value.item(), norm

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {**{f"model/{k}": v for k, v in self.diagnostic.state_dict().items()},
                **{f"optimizer/{k}": v for k, v in self.optimizers.state_dict().items()},
                **{f"average/{k}": v for k, v in self.average.average.items()},
                "average_updates": torch.tensor(self.average.num_updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What `tensors` gave."""
        self.diagnostic.load_state_dict(part_of(tensors, "model/"))
        self.optimizers.load_state_dict(part_of(tensors, "optimizer/"))
        own = self.average.average
        self.average.average = {name: shared_like(tensor, own[name]) for name, tensor in part_of(tensors, "average/").items()}
        self.average.num_updates = int(tensors["average_updates"])
