"""What a training is made of, built from an experiment: store, periods, the model's inputs, the forecaster, the samples."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .. import vocabulary
from ..data.direct import DirectStore, open_direct
from ..data.loader import Loader
from ..data.sources_files import is_zarr
from ..data.store import Store, is_store
from ..data.tendencies import tendency_std
from ..errors import ConfigError, DataError
from ..forecaster import Forecaster, ModelInputs, build_forecaster, require_parity_used, time_steps_of, told_if_unfit, try_network
from ..times import format_duration, format_instant, parse_duration
from ..training.config import TrainingConfig
from ..training.parallel import Layout
from ..training.stages import with_stages
from .config import Experiment, Period, separate_periods


def open_store(experiment: Experiment, *, cache: Path | None = None, measure: bool = True,
               echo: Callable[[str], None] | None = None) -> Store | DirectStore:
    """The training store, or a gridded zarr as it is; statistics of the latter are kept in `cache`. Raises DataError for anything else."""
    data = experiment.data
    if not is_store(Path(data.store)):
        if is_zarr(Path(data.store)):
            return open_direct(Path(data.store), channels=data.channels, static=experiment.model.static, period=(data.train.start, data.train.end),
                               time_step=parse_duration(data.time_step), cache=cache, measure=measure, echo=echo)
        raise DataError("this is not a training store", where=data.store,
                        fix=f"make one: afno-forecast data build SOURCE {shlex.quote(data.store)} --statistics {data.train.start}/{data.train.end}")
    return Store.open(Path(data.store))


def check_periods(train: Period, validation: Period, store: Store | DirectStore) -> tuple[tuple[int, int], tuple[int, int]]:
    """Training and validation periods in seconds. Raises ConfigError when they overlap or statistics leak from outside training."""
    calendar = store.times.calendar
    spans = separate_periods(train, validation, calendar)
    start, end = store.statistics.period
    if start < spans[0][0] or end > spans[0][1]:
        covered = f"{format_instant(start, calendar)} to {format_instant(end, calendar)}"
        raise ConfigError(f"the store's statistics cover {covered}, which reaches outside the training period {train.start} to {train.end}",
                          where=str(store.path), fix=f"build the store with --statistics {train.start}/{train.end}")
    return spans


def model_inputs(experiment: Experiment, store: Store | DirectStore, *, measure: bool = True) -> ModelInputs:
    """Channels, grid, statistics and static fields of the experiment, from the store.

    The standard deviation of the change over a step that is not the store's own is measured on its states; without `measure`, for checks that
    need no right number, the store's own stands in for it.
    """
    channels = store.channels.select(experiment.data.channels)
    index = np.asarray([store.channels.index(name) for name in channels.names])
    time_step = parse_duration(experiment.data.time_step)
    if time_step % store.time_step:
        raise ConfigError(f"the model steps {experiment.data.time_step}, which is not a multiple of the store's {format_duration(store.time_step)}",
                          where="data.time_step", fix=f"use a multiple, or build the store with --time-step {experiment.data.time_step}")
    steps = time_steps_of(experiment.model, time_step)
    static_names = {vocabulary.split_name(name)[0]: name for name in experiment.model.static}
    fields = dict(zip(store.static_channels.names, store.static(), strict=True))
    static = {asked: fields[name] for name, asked in static_names.items() if name in fields}
    statistics = store.statistics
    calendar = store.times.calendar
    attrs = {key: text for key, text in store.source_attrs.items() if key in ("title", "institution", "source", "license")}
    attrs["statistics_period"] = "/".join(format_instant(s, calendar) for s in statistics.period)
    spread = dict.fromkeys(steps, statistics.tendency_std[index])
    others = [step for step in steps if step != store.time_step]
    if others and measure:
        spread |= tendency_std(store, index, others)
    shortest, *longer = steps
    return ModelInputs(channels, store.grid, calendar, shortest, statistics.mean[index], statistics.std[index], spread[shortest], static, attrs,
                       {step: spread[step] for step in longer})


def first_forecaster(experiment: Experiment, inputs: ModelInputs) -> Forecaster:
    """The forecaster with its first weights, on its device, after one pass of zeros. Raises ConfigError when the network does not fit the data."""
    torch.manual_seed(experiment.seed)
    require_parity_used(experiment.model, inputs)
    with told_if_unfit(inputs.grid):
        forecaster = build_forecaster(experiment.model, inputs)
        forecaster.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        try_network(forecaster)
    return forecaster


def staged(experiment: Experiment, store: Store | DirectStore, train: tuple[int, int]) -> Experiment:
    """The experiment with the stages of its training written out."""
    steps = time_steps_of(experiment.model, parse_duration(experiment.data.time_step))
    training = with_stages(experiment.training, store.times, time_steps=steps, history=experiment.model.history, period=train)
    return experiment.model_copy(update={"training": training})


def training_samples(experiment: Experiment, store: Store | DirectStore, forecaster: Forecaster, train: tuple[int, int], layout: Layout) -> Loader:
    """The training samples of this process. Raises ConfigError when a batch would hold a sample twice."""
    config = experiment.training
    delivery = layout.delivery(forecaster, cache_bytes=config.cache_megabytes << 20)
    loader = Loader(store, forecaster.channels, time_step=forecaster.time_step, history=forecaster.history,
                    batch_size=config.batch_in(0), seed=experiment.seed, period=train, delivery=delivery)
    for step, rollout in longest_rollouts(experiment, forecaster).items():
        of_step = f" of {format_duration(step)}" if len(forecaster.time_steps) > 1 else ""
        require_enough(config, loader.num_samples(rollout, step), f"rollout {rollout}{of_step}")
    return loader


def require_enough(config: TrainingConfig, num_samples: int, rollout: str) -> None:
    """Raise ConfigError where a batch would hold a sample twice, with so many samples at a rollout (in words)."""
    name, size = max(config.batch_sizes.items(), key=lambda item: item[1])
    if size > num_samples:
        raise ConfigError(f"a batch of {size} is larger than the training period's {num_samples} samples at {rollout}", where=name,
                          fix=f"use at most {name}={num_samples}, or a longer training period")


def longest_rollouts(experiment: Experiment, forecaster: Forecaster) -> dict[int, int]:
    """Model steps in the longest loss of each time step (seconds) that some stage trains. Raises ConfigError for a step that none trains."""
    longest: dict[int, int] = {}
    for stage in experiment.training.stages:
        for step in stage.step_seconds(forecaster.time_steps):
            longest[step] = max(stage.rollout, longest.get(step, 0))
    idle = [format_duration(step) for step in forecaster.time_steps if step not in longest]
    if idle:
        raise ConfigError(f"no stage trains the time step {', '.join(idle)}", where="training.stages",
                          fix="name it in the time_steps of a stage, or take it out of model.time_steps")
    return longest
