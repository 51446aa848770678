"""The training loop, one screen long."""

# B batch, T history, L lead, C channel, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
import xarray as xr
from pydantic import Field, model_validator
from torch import Tensor

from ..config import Strict
from ..data.loader import Batch, Loader
from ..distributed import own_share, shared_like, whole
from ..errors import DivergenceError, ResourceError, Stopped
from ..forecaster import Forecaster
from ..model_folder import load_weights
from ..signals import StopFlag
from ..times import format_instant
from .checkpoint import Progress, load_newest, save_checkpoint
from .lockstep import Lockstep
from .log import RunLog
from .loss import LossConfig, RolloutLoss
from .optimizers import OptimizerConfig, Optimizers, WeightAverage
from .parallel import Layout, ParallelConfig, pieces
from .schedule import Budget, RolloutGrowth, Stage, check_stages, learning_rate_factor, stage_at
from .validation import ValidationConfig, Validator

Precision = Literal["float32", "bfloat16"]


class TrainingConfig(Strict):
    """How the forecaster is fitted."""

    budget: Budget
    """How long."""
    batch_size: int = Field(ge=1)
    """Samples in an update."""
    stages: tuple[Stage, ...] = ()
    """Rollout length of the loss, learning rate and batch, in parts of the budget."""
    rollout: RolloutGrowth | None = None
    """Instead of stages: a rollout that grows with the epochs."""
    init_from: str | None = None
    """Model folder whose weights the training starts from, as far as they fit; what does not is said."""
    loss: LossConfig = LossConfig()
    """What is made small."""
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
    accumulate: int = Field(default=1, ge=1)
    """Pieces in which the samples of an update pass the network, one after the other; saves memory, not time."""
    checkpointing: bool = False
    """Blocks keep only their input for the backward pass and compute the rest again; saves memory, costs time."""
    compile: bool = False
    """Compile each block of the network with torch.compile."""
    parallel: ParallelConfig = ParallelConfig()
    """How several processes divide the work."""

    @model_validator(mode="after")
    def _follow_each_other(self) -> TrainingConfig:
        if self.rollout is None:
            check_stages(self.stages)
        elif self.stages:
            raise ValueError("stages and rollout say the same thing: give one of them")
        elif self.budget.train_steps is None:
            raise ValueError("a rollout that grows with the epochs needs budget.train_steps; with another budget write stages")
        return self

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Samples in an update, of every stage."""
        return tuple(stage.batch_size or self.batch_size for stage in self.stages) or (self.batch_size,)

    def batch_in(self, stage: int) -> int:
        """Samples in an update of a stage."""
        return self.stages[stage].batch_size or self.batch_size

    def learning_rate_at(self, progress: Progress) -> float:
        """The learning rate of the next update."""
        optimizer, stage = self.optimizer, self.stages[progress.stage]
        factor = learning_rate_factor(progress.spent(self.budget), optimizer.warmup, optimizer.schedule, optimizer.factor**progress.reductions)
        return (stage.learning_rate or optimizer.learning_rate) * factor


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


@dataclass
class Run:
    """Everything that changes during a training, and where it is kept."""

    forecaster: Forecaster
    optimizers: Optimizers
    average: WeightAverage
    loader: Loader
    config: TrainingConfig
    folder: Path
    layout: Layout = field(default_factory=Layout)
    seed: int = 0
    progress: Progress = field(default_factory=Progress)
    batches: Generator[Batch, None, None] | None = None
    seconds_before: float = 0.0

    def __post_init__(self) -> None:
        self.loss = RolloutLoss(self.config.loss, self.forecaster, seed=self.seed, layout=self.layout)

    def next_batch(self, stage: int) -> Batch:
        """The next batch of a stage; a new stage starts its own order."""
        if self.batches is None or stage != self.progress.stage:
            position = self.progress.position if stage == self.progress.stage else 0
            self.close()
            self.progress.stage, self.progress.position = stage, position
            settings = self.config.stages[stage]
            self.batches = self.loader.batches(settings.rollout, stage=stage, position=position, batch_size=self.config.batch_in(stage),
                                               time_steps=settings.step_seconds(self.forecaster.time_steps))
        return next(self.batches)

    def waiting(self) -> float:
        """Share of the time of this process' updates that went by waiting for data."""
        return self.loader.wait_seconds / max(self.progress.seconds - self.seconds_before, 1e-9)

    def close(self) -> None:
        """Stop reading ahead."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def differentiate(self, batch: Batch, num_steps: int, autocast: torch.autocast) -> float:
        """Leave the gradient of the batch's loss in the parameters; returns this process' part of the loss, whose mean over all is the loss."""
        self.optimizers.zero_grad()
        scale = self.layout.loss_scale / self.config.accumulate
        parts = []
        for piece in pieces(batch, self.config.accumulate):
            with autocast:
                loss = self.loss(piece, num_steps, self.progress.train_step)
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach() * scale)
        self.layout.average_gradients(self.forecaster)
        return torch.stack(parts).sum().item()

    def weights(self) -> dict[str, Tensor]:
        """The forecaster's state dict, gathered; all processes call it."""
        return {name: whole(value) for name, value in self.forecaster.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser state, average and random states of all processes, gathered and named; all processes call it."""
        random = self.layout.mesh.world.exchange_all(torch.get_rng_state())
        return {**{f"model/{k}": v for k, v in self.weights().items()},
                **{f"optimizer/{k}": v for k, v in self.optimizers.state_dict().items()},
                **{f"average/{k}": whole(v) for k, v in self.average.average.items()},
                **{f"random/torch/{rank}": state for rank, state in enumerate(random)},
                "average_updates": torch.tensor(self.average.num_updates)}

    def save(self) -> None:
        """Write a checkpoint that is whole, whatever the layout; all processes call it, the first one writes."""
        self.progress.num_processes = self.layout.mesh.world.size
        tensors = self.tensors()
        if self.layout.mesh.first:
            save_checkpoint(self.folder / "checkpoints", self.progress, tensors)

    def restore(self, echo: Callable[[str], None]) -> bool:
        """Continue from the newest valid checkpoint of any layout; False when there is none. The first process reads for all."""
        world = self.layout.mesh.world
        found = load_newest(self.folder / "checkpoints", echo) if self.layout.mesh.first else None
        progress = json.loads(world.texts(json.dumps(found and asdict(found[0])))[0])
        tensors = world.from_first(found and found[1])
        if tensors is None:
            return False
        self.progress = Progress(**progress)
        if self.progress.num_processes != world.size:
            echo(f"note: the checkpoint was written by {self.progress.num_processes} processes, this is {world.size}: every sample still comes once "
                 "an epoch, but the numbers are not the same to the last bit")
        _load_weights(self.forecaster, _part(tensors, "model/"), self.folder / "checkpoints")
        self.optimizers.load_state_dict(_part(tensors, "optimizer/"))
        own = self.average.average
        self.average.average = {name: shared_like(tensor, own[name]) for name, tensor in _part(tensors, "average/").items()}
        self.average.num_updates = int(tensors["average_updates"])
        random = _part(tensors, "random/torch/")
        torch.set_rng_state(random[str(world.rank)] if str(world.rank) in random else tensors.get("random/torch", torch.get_rng_state()))
        return True


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_weights(forecaster: Forecaster, weights: dict[str, Tensor], where: Path) -> None:
    """Strictly load whole weights into a forecaster whose own may be divided."""
    own = forecaster.state_dict()
    load_weights(forecaster, {k: shared_like(v, own[k]) if k in own and own[k].shape == v.shape else v for k, v in weights.items()}, where)


KeepModel = Callable[[dict[str, Tensor], float, xr.Dataset], None]


def fit(forecaster: Forecaster, loader: Loader, validator: Validator, config: TrainingConfig, folder: Path, *, keep_model: KeepModel, resume: bool,
        echo: Callable[[str], None], layout: Layout | None = None, end: float | None = None) -> Progress:
    """Train until the budget is spent; validate on the way; keep the best model. With several processes, all call it.

    Args:
        forecaster: freshly built, on its device, laid over the processes.
        loader, validator: training samples and validation rollouts.
        config: how.
        folder: run folder.
        keep_model: called with (averaged state dict, score, score table) whenever the validation score is the best so far, on the first process.
        resume: continue from the newest valid checkpoint.
        echo: prints a line.
        layout: from `parallelize`; None alone.
        end: `time.monotonic()` at which to be saved and gone; None for no limit.

    Raises:
        Stopped: a signal came to any process, or the time is over; everything is saved.
        DivergenceError: the loss or gradient is not finite; the last checkpoint is kept.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    layout = layout or Layout()
    run = Run(forecaster, Optimizers(forecaster, config.optimizer), WeightAverage(forecaster, config.average), loader, config, folder, layout,
              loader.seed)
    resumed = resume and run.restore(echo)
    progress = run.progress
    run.seconds_before = progress.seconds
    if not resumed:
        choice = resolve_precision(config.precision, forecaster.area_weights_HW.device)
        progress.precision = layout.mesh.world.texts(choice)[0]
    autocast = torch.autocast(forecaster.area_weights_HW.device.type, torch.bfloat16, enabled=progress.precision == "bfloat16")
    with (StopFlag() as stop, RunLog(folder, train_step=progress.train_step, echo=echo, writes=layout.mesh.first) as log, contextlib.closing(run)):
        log.event("resume" if resumed else "start", train_step=progress.train_step, precision=progress.precision, processes=layout.mesh.world.size)
        lockstep = Lockstep(layout.mesh.world, stop, save_seconds=60 * config.checkpoint_minutes, end=end)
        while (spent := progress.spent(config.budget)) < 1:
            batch = run.next_batch(stage_at(config.stages, spent))
            num_steps = config.stages[progress.stage].rollout
            learning_rate = config.learning_rate_at(progress)
            part = run.differentiate(batch, num_steps, autocast)
            norm = run.optimizers.clip().item()
            beat = lockstep.beat(part)
            _require_finite(beat.loss, norm, run, batch, log)
            run.optimizers.step(learning_rate)
            run.average.update(forecaster)
            progress.add(samples=config.batch_in(progress.stage), seconds=beat.seconds, core_seconds=beat.core_seconds)
            log.update(progress.train_step, num_steps, beat.loss, norm, learning_rate)
            _show(log, run, beat.loss, num_steps)
            if _validation_due(progress, config, validator.config):
                _validate(run, validator, log, keep_model)
                lockstep.restart()
            if beat.stop or beat.save:
                _save(run, log, lockstep)
            if beat.stop:
                log.event("stopped", signal=beat.stop, train_step=progress.train_step)
                raise Stopped(f"stopped by {beat.stop} after train step {progress.train_step}; everything is saved", where=str(folder),
                              fix="run the same command with --resume to go on")
        _save(run, log, lockstep)
        if not math.isfinite(progress.best_score):
            raise DivergenceError("no validation gave a finite score, so no model was kept", where=str(folder / "events.jsonl"),
                                  fix="lower training.optimizer.learning_rate, or look at the channels' scores in events.jsonl")
        log.event("done", train_step=progress.train_step, seconds=round(progress.seconds, 1),
                  core_seconds=round(progress.core_seconds, 1), best_score=progress.best_score, waiting_for_data=round(run.waiting(), 4))
    return progress


def _save(run: Run, log: RunLog, lockstep: Lockstep) -> None:
    began = time.monotonic()
    log.flush()
    run.save()
    lockstep.saved(began)
    lockstep.restart()


def _validation_due(progress: Progress, config: TrainingConfig, validation: ValidationConfig) -> bool:
    spent = min(1.0, progress.spent(config.budget))
    return int(spent * validation.count + 1e-9) > progress.num_validations


def _validate(run: Run, validator: Validator, log: RunLog, keep_model: KeepModel) -> None:
    progress, first = run.progress, run.layout.mesh.first
    with run.average.in_place(run.forecaster) if run.config.average else contextlib.nullcontext():
        try:
            score, table = validator(run.forecaster, run.layout)
        except DivergenceError as error:
            score, table = float("inf"), xr.Dataset()
            log.say(f"validation: {error.what}")
        score = run.layout.mesh.world.numbers([score * first])[0]
        spent = min(1.0, progress.spent(run.config.budget))
        progress.num_validations = int(spent * validator.config.count + 1e-9)
        better = score < progress.best_score
        if run.config.optimizer.schedule == "plateau":
            progress.judge(better, run.config.optimizer.patience)
        log.event("validation", train_step=progress.train_step, rmse_over_persistence=score, best=better,
                  channels={str(name): [round(float(v), 4) for v in item.values] for name, item in table.data_vars.items()})
        log.say(f"validation at train step {progress.train_step}: RMSE / persistence {score:.4f}{'  (best)' if better else ''}")
        if better:
            progress.best_score = score
            weights = run.weights()
            if first:
                keep_model(weights, score, table)
    run.forecaster.train()


def _show(log: RunLog, run: Run, loss: float, num_steps: int) -> None:
    progress = run.progress
    spent = progress.spent(run.config.budget)
    left = progress.seconds * (1 - spent) / spent if spent else 0.0
    rate = run.config.batch_in(run.progress.stage) / max(progress.seconds / progress.train_step, 1e-9)
    log.progress(spent, f"step {progress.train_step}  loss {loss:.4f}  rollout {num_steps}  {rate:.1f} samples/s  "
                 f"{run.waiting():.1%} waiting for data", left)


def _require_finite(loss: float, norm: float, run: Run, batch: Batch, log: RunLog) -> None:
    """Stop at the first loss or gradient that is not finite, naming dates, layer and channel; the same words on every process."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    dates = ", ".join(format_instant(int(s), run.forecaster.calendar) for s in batch.seconds[:, run.forecaster.history - 1])
    place, dates = _first_told(run, not_finite_at_rest(run.forecaster, batch), dates)
    if not place:
        place, dates = _first_told(run, not_finite_in_a_step(run.forecaster, batch), dates)
    place = place or "not in the first step: in a later step of the rollout, or in the gradient"
    step = run.progress.train_step + 1
    log.event("diverged", train_step=step, loss=repr(loss), gradient_norm=repr(norm), dates=dates, place=place)
    raise DivergenceError(f"the {'gradient' if math.isfinite(loss) else 'loss'} of train step {step} is not finite: {place}",
                          where=f"{run.folder}: batch starting at {dates}",
                          fix="lower training.optimizer.learning_rate, or check these dates with: afno-forecast data inspect STORE")


def _first_told(run: Run, place: str, dates: str) -> tuple[str, str]:
    """The place and dates of the first process that has a place to tell; without any, the dates of all."""
    told = [json.loads(text) for text in run.layout.mesh.world.texts(json.dumps([place, dates]))]
    found = next(((p, d) for p, d in told if p), None)
    return found or ("", ", ".join(dict.fromkeys(d for _, d in told)))


@torch.no_grad()
def not_finite_at_rest(forecaster: Forecaster, batch: Batch) -> str:
    """The input channel, or else the weights, in which a number is not finite; empty when there is none."""
    states = batch.states[:, :forecaster.history]
    for name, values in zip(forecaster.channels.shorts, states.unbind(2), strict=True):
        if not torch.isfinite(values).all():
            return f"channel {name} of the input"
    for name, values in forecaster.named_parameters():
        if not torch.isfinite(own_share(values)).all():
            return f"weights {name}"
    return ""


@torch.no_grad()
def not_finite_in_a_step(forecaster: Forecaster, batch: Batch) -> str:
    """The layer and output channels in which one model step's first number that is not finite appears; empty when there is none."""
    history = forecaster.history
    states = batch.states[:, :history].to(forecaster.area_weights_HW.device)
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
    return ""


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
