"""What a training will cost, measured on one update before anything is started; and where the time of an update goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ..data.loader import Batch, Loader
from ..forecaster import Forecaster
from .checkpoint import KEPT
from .config import TrainingConfig
from .parallel import pieces
from .run import Run, resolve_precision

_PROFILED_UPDATES = 3
_MEGA, _GIGA = 1e6, 1e9


def estimate(forecaster: Forecaster, loader: Loader, config: TrainingConfig) -> list[str]:
    """Size, floating-point operations, memory, updates, hours and disk of a training, one line each.

    One update of the first stage is made and measured; others are taken to cost in proportion to steps and samples. The forecaster is spent:
    its weights stay, its optimiser has moved.

    Args:
        forecaster: freshly built, on its device.
        loader: of its samples.
        config: with its stages written out.
    """
    run, autocast, precision = _prepare(forecaster, loader, config)
    with _batches(loader, config) as batches:
        batch = next(batches)
        steps, samples = config.stages[0].rollout, len(batch.states)
        kept: dict[int, int] = {}  # of a piece of the update: that is what is held at a time

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        piece = next(pieces(batch, config.accumulate))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast:
            run.loss(piece, steps)
        with FlopCounterMode(display=False) as counter:
            _update(run, batch, autocast, steps)
        began = time.perf_counter()
        _update(run, next(batches), autocast, steps)
        seconds = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in forecaster.parameters())
    state = run.optimizers.state_bytes()
    share = (sum(kept.values()) - weights) * max(s.rollout * config.batch_in(i) for i, s in enumerate(config.stages)) / (steps * samples)
    updates, hours = _length(config, seconds / (steps * samples))
    return [
        f"network     {sum(p.numel() for p in forecaster.parameters()):,} parameters, {weights / _MEGA:.1f} MB",
        f"operations  {counter.get_total_flops() / samples / steps / _GIGA:.3g} GFLOP a sample and model step, forwards and backwards "
        "(products of matrices and convolutions; transforms not counted)",
        f"memory      {(3 * weights + state + max(share, 0)) / _MEGA:,.0f} MB at the largest stage: weights, gradients, average, optimiser, "
        f"and {max(share, 0) / _MEGA:,.0f} MB kept for the backward pass; data {config.cache_megabytes:,} MB at most",
        f"time        {seconds:.2f} s an update of {samples} samples and {steps} steps in {precision}, measured on {run_on(forecaster)}",
        f"training    {updates:,.0f} updates, {hours:.2f} h, validation not counted ({loader.num_samples(1):,} samples in the training period)",
        f"disk        {(KEPT + 1) * run.checkpoint_bytes() / _MEGA:,.0f} MB of checkpoints while one is written, {weights / _MEGA:,.0f} MB of model",
    ]


def run_on(forecaster: Forecaster) -> str:
    """The device in words."""
    device = forecaster.area_weights_HW.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def where_time_goes(forecaster: Forecaster, loader: Loader, config: TrainingConfig) -> str:
    """A table of the operators that take most of some updates of the first stage, after one to warm up."""
    run, autocast, _ = _prepare(forecaster, loader, config)
    on_gpu = forecaster.area_weights_HW.device.type == "cuda"
    with _batches(loader, config) as batches:
        _update(run, next(batches), autocast, config.stages[0].rollout)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
            for _ in range(_PROFILED_UPDATES):
                _update(run, next(batches), autocast, config.stages[0].rollout)
    table = profiler.key_averages().table(sort_by=f"self_{'device' if on_gpu else 'cpu'}_time_total", row_limit=15, max_name_column_width=40)
    return f"{_PROFILED_UPDATES} updates; waiting for data {loader.wait_seconds:.2f} s\n{table}"


@contextlib.contextmanager
def _batches(loader: Loader, config: TrainingConfig) -> Iterator[Iterator[Batch]]:
    """Batches of the first stage, whose threads stop at the end of the context."""
    inner = loader.batches(config.stages[0].rollout, stage=0, batch_size=config.batch_in(0))
    try:
        yield inner
    finally:
        inner.close()


def _prepare(forecaster: Forecaster, loader: Loader, config: TrainingConfig) -> tuple[Run, torch.autocast, str]:
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Run(forecaster, loader, config, Path())
    run.progress.precision = resolve_precision(config.precision, forecaster.area_weights_HW.device)
    return run, run.autocast(), run.progress.precision


def _update(run: Run, batch: Batch, autocast: torch.autocast, num_steps: int) -> None:
    run.differentiate(batch, num_steps, autocast)
    run.optimizers.clip()
    run.optimizers.step(0.0)
    run.average.update(run.forecaster)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _length(config: TrainingConfig, seconds: float) -> tuple[float, float]:
    """Updates and hours of the whole training, at so many seconds a sample and model step; core minutes are taken as minutes of all threads."""
    budget = config.budget
    if budget.train_steps is not None:
        return budget.train_steps, seconds * config.sample_steps_left(0.0) / 3600
    begins = [0.0, *(s.until for s in config.stages[:-1])]
    costs = [seconds * s.rollout * config.batch_in(i) for i, s in enumerate(config.stages)]
    parts = [s.until - begin for s, begin in zip(config.stages, begins, strict=True)]
    wall = 60 * (budget.minutes if budget.minutes is not None else (budget.core_minutes or 0) / torch.get_num_threads())
    return sum(p * wall / c for p, c in zip(parts, costs, strict=True)), wall / 3600
