"""The training loop, one screen long, and the loss it descends."""

# B batch, T history, L lead, C channel, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import xarray as xr
from pydantic import Field, field_validator
from torch import Tensor

from ..config import Strict
from ..data.loader import Batch, Loader
from ..errors import DivergenceError, ResourceError, Stopped
from ..forecast.rollout import rollout
from ..forecaster import Forecaster
from ..losses import area_weighted_mse
from ..model_folder import load_weights
from ..signals import StopFlag
from ..times import format_instant
from .checkpoint import Progress, load_newest, save_checkpoint
from .log import RunLog
from .optimizers import OptimizerConfig, Optimizers, WeightAverage
from .schedule import Budget, Stage, check_stages, learning_rate_factor, stage_at
from .validation import ValidationConfig, Validator

Precision = Literal["float32", "bfloat16"]


class TrainingConfig(Strict):
    """How the forecaster is fitted."""

    budget: Budget
    """How long."""
    batch_size: int = Field(ge=1)
    """Samples in an update."""
    stages: tuple[Stage, ...]
    """Rollout length of the loss, in parts of the budget."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Muon and AdamW."""
    average: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the running average of weights, which is what is validated and kept; 0 keeps the last weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision of the network; auto measures which is faster here."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """Minutes between checkpoints."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; all cores when absent."""
    cache_megabytes: int = Field(default=1024, ge=1)
    """Memory for decoded states."""

    @field_validator("stages")
    @classmethod
    def _follow_each_other(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        check_stages(stages)
        return stages


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """The precision to use: what was asked for, or for `auto` bfloat16 where a matrix product is at least 1.5 times as fast in it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        matrix @ matrix
        began = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        seconds[dtype] = time.perf_counter() - began
    return "bfloat16" if seconds[torch.float32] > 1.5 * seconds[torch.bfloat16] else "float32"


def rollout_loss(forecaster: Forecaster, batch: Batch, num_steps: int) -> Tensor:
    """Mean over the steps of the area-weighted squared error in units of each channel's tendency standard deviation.

    Args:
        forecaster: the model step.
        batch: states (B, T + L, C, H, W), physical units, with L >= num_steps; their spacing is the step that the forecaster takes.
        num_steps: model steps; gradients flow through all of them.

    Returns:
        scalar, float32.
    """
    device = forecaster.area_weights_HW.device
    states_BTCHW = batch.states.to(device, non_blocking=True)
    history, time_step = forecaster.history, batch.time_step
    losses = [area_weighted_mse(state.fields_BCHW, states_BTCHW[:, history + state.step - 1], forecaster.area_weights_HW,
                                forecaster.tendency_std(time_step))
              for state in rollout(forecaster, states_BTCHW[:, :history], batch.seconds[:, history - 1], num_steps, time_steps=(time_step,))]
    return torch.stack(losses).mean()


@dataclass
class Run:
    """Everything that changes during a training, and where it is kept."""

    forecaster: Forecaster
    optimizers: Optimizers
    average: WeightAverage
    loader: Loader
    config: TrainingConfig
    folder: Path
    progress: Progress = field(default_factory=Progress)
    batches: Iterator[Batch] | None = None

    def next_batch(self, stage: int) -> Batch:
        """The next batch of a stage; a new stage starts its own order."""
        if self.batches is None or stage != self.progress.stage:
            position = self.progress.position if stage == self.progress.stage else 0
            self.close()
            self.progress.stage, self.progress.position = stage, position
            settings = self.config.stages[stage]
            self.batches = self.loader.batches(settings.rollout, stage=stage, position=position,
                                               time_steps=settings.step_seconds(self.forecaster.time_steps))
        return next(self.batches)

    def close(self) -> None:
        """Stop reading ahead."""
        if self.batches is not None:
            self.batches.close()  # type: ignore[attr-defined]
            self.batches = None

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser state and average, named."""
        return {**{f"model/{k}": v for k, v in self.forecaster.state_dict().items()},
                **{f"optimizer/{k}": v for k, v in self.optimizers.state_dict().items()},
                **{f"average/{k}": v for k, v in self.average.average.items()},
                "average_updates": torch.tensor(self.average.num_updates)}

    def save(self) -> Path:
        """Write a checkpoint."""
        return save_checkpoint(self.folder / "checkpoints", self.progress, self.tensors())

    def restore(self, echo: Callable[[str], None]) -> bool:
        """Continue from the newest valid checkpoint; False when there is none."""
        found = load_newest(self.folder / "checkpoints", echo)
        if found is None:
            return False
        self.progress, tensors = found
        load_weights(self.forecaster, _part(tensors, "model/"), self.folder / "checkpoints")
        self.optimizers.load_state_dict(_part(tensors, "optimizer/"))
        self.average.average = {name: tensor.to(self.average.average[name].device) for name, tensor in _part(tensors, "average/").items()}
        self.average.num_updates = int(tensors["average_updates"])
        return True


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


KeepModel = Callable[[dict[str, Tensor], float, xr.Dataset], None]


def fit(forecaster: Forecaster, loader: Loader, validator: Validator, config: TrainingConfig, folder: Path, *, keep_model: KeepModel, resume: bool,
        echo: Callable[[str], None]) -> Progress:
    """Train until the budget is spent; validate on the way; keep the best model.

    Args:
        forecaster: freshly built, on its device.
        loader, validator: training samples and validation rollouts.
        config: how.
        folder: run folder.
        keep_model: called with (averaged state dict, score, score table) whenever the validation score is the best so far.
        resume: continue from the newest valid checkpoint.
        echo: prints a line.

    Raises:
        Stopped: a signal came; everything is saved.
        DivergenceError: the loss or gradient is not finite; the last checkpoint is kept.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Run(forecaster, Optimizers(forecaster, config.optimizer), WeightAverage(forecaster, config.average), loader, config, folder)
    resumed = resume and run.restore(echo)
    progress = run.progress
    if not resumed:
        progress.precision = resolve_precision(config.precision, forecaster.area_weights_HW.device)
    autocast = torch.autocast(forecaster.area_weights_HW.device.type, torch.bfloat16, enabled=progress.precision == "bfloat16")
    with StopFlag() as stop, RunLog(folder, train_step=progress.train_step, echo=echo) as log, contextlib.closing(run):
        log.event("resume" if resumed else "start", train_step=progress.train_step, precision=progress.precision)
        last_save = time.monotonic()
        while (spent := progress.spent(config.budget)) < 1:
            began, core_began = time.monotonic(), time.process_time()
            batch = run.next_batch(stage_at(config.stages, spent))
            num_steps = config.stages[progress.stage].rollout
            learning_rate = config.optimizer.learning_rate * learning_rate_factor(spent, config.optimizer.warmup)
            run.optimizers.zero_grad()
            with autocast:
                loss = rollout_loss(forecaster, batch, num_steps)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = run.optimizers.clip()
            _require_finite(loss, norm, run, batch, log)
            run.optimizers.step(learning_rate)
            run.average.update(forecaster)
            progress.train_step += 1
            progress.position += len(batch.states)
            progress.seconds += time.monotonic() - began
            progress.core_seconds += time.process_time() - core_began
            log.update(progress.train_step, num_steps, loss.item(), norm.item(), learning_rate)
            _show(log, progress, config, loss.item(), num_steps)
            if _validation_due(progress, config, validator.config):
                _validate(run, validator, log, keep_model)
            if stop.name or time.monotonic() - last_save > 60 * config.checkpoint_minutes:
                log.flush()
                run.save()
                last_save = time.monotonic()
            if stop.name:
                log.event("stopped", signal=stop.name, train_step=progress.train_step)
                raise Stopped(f"stopped by {stop.name} after train step {progress.train_step}; everything is saved", where=str(folder),
                              fix="run the same command with --resume to go on")
        log.flush()
        run.save()
        if not (folder / "model").exists():
            raise DivergenceError("no validation gave a finite score, so no model was kept", where=str(folder / "events.jsonl"),
                                  fix="lower training.optimizer.learning_rate, or look at the channels' scores in events.jsonl")
        log.event("done", train_step=progress.train_step, seconds=round(progress.seconds, 1),
                  core_seconds=round(progress.core_seconds, 1), best_score=progress.best_score)
    return progress


def _validation_due(progress: Progress, config: TrainingConfig, validation: ValidationConfig) -> bool:
    spent = min(1.0, progress.spent(config.budget))
    return int(spent * validation.count + 1e-9) > progress.num_validations


def _validate(run: Run, validator: Validator, log: RunLog, keep_model: KeepModel) -> None:
    progress = run.progress
    weights = run.average.state_of(run.forecaster) if run.config.average else run.forecaster.state_dict()
    averaged = copy.deepcopy(run.forecaster)
    averaged.load_state_dict(weights)
    try:
        score, table = validator(averaged)
    except DivergenceError as error:
        score, table = float("inf"), xr.Dataset()
        log.say(f"validation: {error.what}")
    spent = min(1.0, progress.spent(run.config.budget))
    progress.num_validations = int(spent * validator.config.count + 1e-9)
    better = score < progress.best_score
    log.event("validation", train_step=progress.train_step, rmse_over_persistence=score, best=better,
              channels={str(name): [round(float(v), 4) for v in item.values] for name, item in table.data_vars.items()})
    log.say(f"validation at train step {progress.train_step}: RMSE / persistence {score:.4f}{'  (best)' if better else ''}")
    if better:
        progress.best_score = score
        keep_model(weights, score, table)
    run.forecaster.train()


def _show(log: RunLog, progress: Progress, config: TrainingConfig, loss: float, num_steps: int) -> None:
    spent = progress.spent(config.budget)
    left = progress.seconds * (1 - spent) / spent if spent else 0.0
    rate = config.batch_size / max(progress.seconds / progress.train_step, 1e-9)
    log.progress(spent, f"step {progress.train_step}  loss {loss:.4f}  rollout {num_steps}  {rate:.1f} samples/s", left)


def _require_finite(loss: Tensor, norm: Tensor, run: Run, batch: Batch, log: RunLog) -> None:
    """Stop at the first loss or gradient that is not finite, naming dates, layer and channel."""
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    dates = ", ".join(format_instant(int(s), run.forecaster.calendar) for s in batch.seconds[:, run.forecaster.history - 1])
    place = first_not_finite(run.forecaster, batch)
    step = run.progress.train_step + 1
    log.event("diverged", train_step=step, loss=repr(loss.item()), gradient_norm=repr(norm.item()), dates=dates, place=place)
    raise DivergenceError(f"the {'gradient' if torch.isfinite(loss) else 'loss'} of train step {step} is not finite: {place}",
                          where=f"{run.folder}: batch starting at {dates}",
                          fix="lower training.optimizer.learning_rate, or check these dates with: afno-forecast data inspect STORE")


@torch.no_grad()
def first_not_finite(forecaster: Forecaster, batch: Batch) -> str:
    """Where the first number that is not finite appears in one model step: an input channel, a layer, or an output channel."""
    history = forecaster.history
    states = batch.states[:, :history].to(forecaster.area_weights_HW.device)
    for name, values in zip(forecaster.channels.shorts, states.unbind(2), strict=True):
        if not torch.isfinite(values).all():
            return f"channel {name} of the input"
    for name, values in forecaster.named_parameters():
        if not torch.isfinite(values).all():
            return f"weights {name}"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not found and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in forecaster.named_modules() if name and not list(m.children())]
    try:
        state = forecaster(states, forecaster.forcing(batch.seconds[:, history - 1], batch.time_step), batch.time_step)
    finally:
        for handle in handles:
            handle.remove()
    channels = [n for n, v in zip(forecaster.channels.shorts, state.unbind(1), strict=True) if not torch.isfinite(v).all()]
    if found or channels:
        return f"layer {found[0] if found else 'backbone'}, channel {', '.join(channels) or 'none'}"
    return "not in the first step: in a later step of the rollout, or in the gradient"


def require_writable(folder: Path) -> None:
    """Make the run folder, or say before any data is loaded why not. Raises ResourceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ResourceError(f"the output folder cannot be written: {error.strerror or error}", where=str(folder),
                            fix="choose another with output=PATH") from error
