"""The training loop, one screen long."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch
import xarray as xr

from ..errors import DivergenceError, Stopped
from ..signals import StopFlag
from .checkpoint import Progress
from .divergence import require_finite
from .lockstep import Lockstep
from .log import RunLog
from .run import Run, resolve_precision
from .schedule import stage_at
from .shown import Draw
from .validation import KeepModel, Validator, is_best, require_scored, validations_due


def fit(run: Run, validator: Validator, *, keep_model: KeepModel, resume: bool, echo: Callable[[str], None], end: float | None = None,
        draw: Draw | None = None) -> Progress:
    """Train until the budget is spent; validate on the way; keep the best model. With several processes, all call it.

    Args:
        run: forecaster, training samples, and how.
        validator: validation rollouts.
        keep_model: called with (averaged state dict, score, score table) whenever the validation score is the best so far, on the first process.
        resume: continue from the newest valid checkpoint.
        echo: prints a line.
        end: `time.monotonic()` at which to be saved and gone; None for no limit.
        draw: called with what a validation shows, on the first process, where the validator is asked for pictures.

    Raises:
        Stopped: a signal came to any process, or the time is over; everything is saved.
        DivergenceError: the loss or gradient is not finite; the last checkpoint is kept.
    """
    forecaster, config, folder, layout = run.forecaster, run.config, run.folder, run.layout
    if config.threads:
        torch.set_num_threads(config.threads)
    resumed = resume and run.restore(echo)
    progress = run.progress
    if not resumed:
        choice = resolve_precision(config.precision, forecaster.area_weights_HW.device)
        progress.precision = layout.mesh.world.texts(choice)[0]
    with (StopFlag() as stop, contextlib.closing(run), run.checkpoints as checkpoints,
          RunLog(folder, train_step=progress.train_step, echo=echo, writes=layout.mesh.first, to=config.log) as log):
        log.event("resume" if resumed else "start", train_step=progress.train_step, precision=progress.precision, processes=layout.mesh.world.size)
        lockstep = Lockstep(layout.mesh.world, stop, checkpoints, save_seconds=60 * config.checkpoint_minutes, end=end)
        while (spent := progress.spent(config.budget)) < 1:
            batch = run.next_batch(stage_at(config.stages, spent))
            num_steps = config.stages[progress.stage].rollout
            learning_rate = config.learning_rate_at(progress)
            part = run.differentiate(batch, num_steps, run.autocast())
            norm = run.optimizers.clip().item()
            beat = lockstep.beat(part)
            require_finite(beat.loss, norm, run, batch, log)
            run.optimizers.step(learning_rate)
            run.average.update(forecaster)
            progress.add(samples=config.batch_in(progress.stage), seconds=beat.seconds, core_seconds=beat.core_seconds)
            log.update(progress.train_step, num_steps, beat.loss, norm, learning_rate)
            _show(log, run, beat.loss, num_steps)
            due = validations_due(progress, config, validator.config) > progress.num_validations
            kept = due and _validate(run, validator, log, lockstep, keep_model, draw)
            if beat.stop or beat.save or kept:
                _save(run, log, lockstep, wait=beat.stop is not None)
            elif beat.written and checkpoints.complete():
                lockstep.restart()
            if beat.stop:
                log.event("stopped", signal=beat.stop, train_step=progress.train_step)
                raise Stopped(f"stopped by {beat.stop} after train step {progress.train_step}; everything is saved", where=str(folder),
                              fix="run the same command with --resume to go on")
        _save(run, log, lockstep, wait=True)
        _finish(run, log)
    return progress


def _finish(run: Run, log: RunLog) -> None:
    progress = run.progress
    require_scored(progress, run.folder)
    log.event("done", train_step=progress.train_step, seconds=round(progress.seconds, 1),
              core_seconds=round(progress.core_seconds, 1), best_score=progress.best_score, waiting_for_data=round(run.waiting(), 4))


def _save(run: Run, log: RunLog, lockstep: Lockstep, *, wait: bool) -> None:
    run.layout.mesh.world.together(log.flush)
    run.save()
    if wait:
        run.checkpoints.complete()
    lockstep.saved()
    lockstep.restart()


def _validate(run: Run, validator: Validator, log: RunLog, lockstep: Lockstep, keep_model: KeepModel, draw: Draw | None) -> bool:
    """Validate; whether the model was kept, so that a resumed training has to know its score."""
    progress, first = run.progress, run.layout.mesh.first
    with run.average.in_place(run.forecaster) if run.config.average else contextlib.nullcontext():
        try:
            score, table = validator(run.forecaster, run.layout)
        except DivergenceError as error:
            score, table = float("inf"), xr.Dataset()
            log.say(f"validation: {error.what}")
        score = run.layout.mesh.world.numbers([score if first else 0.0])[0]
        progress.num_validations = validations_due(progress, run.config, validator.config)
        if best := is_best(score, table, progress, run.config, log):
            weights = run.weights()
            run.layout.mesh.world.together(lambda: keep_model(weights, score, table) if first else None)
    if draw is not None and validator.shown is not None and math.isfinite(score):
        draw(validator.shown, progress.train_step)
    run.forecaster.train()
    lockstep.validated()
    return best


def _show(log: RunLog, run: Run, loss: float, num_steps: int) -> None:
    progress, config, rate = run.progress, run.config, run.rate()
    spent = progress.spent(config.budget)
    if config.budget.train_steps is None:
        left = progress.seconds * (1 - spent) / spent if spent else 0.0
    else:
        left = config.sample_steps_left(spent) / (rate * num_steps)
    log.progress(spent, f"step {progress.train_step}  loss {loss:.4f}  rollout {num_steps}  {rate:.1f} samples/s  "
                 f"{run.waiting():.1%} waiting for data", left)
