"""One YAML file is one whole experiment: the owners' configs composed into one tree, and the training built from it."""

from __future__ import annotations

import contextlib
import html
import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field, field_validator

from . import __version__, distributed, model_folder, vocabulary
from .config import Strict, dump_config, load_config
from .data.direct import DirectStore, open_direct
from .data.loader import Loader
from .data.sources_files import is_zarr
from .data.store import Store, is_store
from .data.tendencies import tendency_std
from .distributed import Mesh
from .documents import nearest
from .errors import ConfigError, DataError, ForecastError, printable
from .experiment_pictures import draw_validation
from .experiment_steps import Problems, value_at, wrong_steps
from .forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster, time_steps_of
from .times import format_duration, format_instant, parse_duration, parse_instant
from .training.config import TrainingConfig
from .training.estimate import estimate, where_time_goes
from .training.finetune import start_from
from .training.parallel import Layout, parallelize, plan_mesh
from .training.run import Run
from .training.run_folder import run_folder
from .training.stages import with_stages
from .training.trackers import require_packages
from .training.train import fit
from .training.validation import ValidationConfig, Validator


class Period(Strict):
    """A span of time, both ends included."""

    start: str
    """First instant, ISO."""
    end: str
    """Last instant, ISO."""

    @field_validator("start", "end")
    @classmethod
    def _is_a_date(cls, text: str) -> str:
        parse_instant(text, "all_leap")  # any date of any calendar; the store's own calendar decides when it is read
        return text

    def seconds(self, calendar: str) -> tuple[int, int]:
        """(first, last) in the calendar. Raises ConfigError when the period is empty."""
        start, end = parse_instant(self.start, calendar), parse_instant(self.end, calendar)
        if end <= start:
            raise ConfigError(f"the period {self.start} to {self.end} is empty", fix="put the earlier date first")
        return start, end


class DataConfig(Strict):
    """What is learnt from."""

    store: str
    """Training store made by `afno-forecast data build`, or a gridded zarr to train on as it is (WeatherBench 2, ARCO-ERA5)."""
    channels: tuple[str, ...] = Field(min_length=1)
    """Prognostic channels in tensor order, for example z500, t850, t2m."""
    time_step: str
    """The model's step, for example 6h; a multiple of the store's. See also model.time_steps."""
    train: Period
    """Training period; statistics must come from inside it."""
    validation: Period
    """Validation period; must not overlap the training period."""


def _beyond_types(values: dict[str, Any]) -> Problems:
    """What is wrong although each value has its type: names, durations, periods, decay rates. The values may be malformed."""
    yield from _unknown_names(values)
    yield from wrong_steps(values)
    yield from _wrong_periods(value_at(values, "data"))


def _unknown_names(values: dict[str, Any]) -> Problems:
    """Channels and static fields that the store lacks; before it is built, channels that look like a misspelt name of the vocabulary."""
    path = Path(str(value_at(values, "data", "store") or ""))
    store = Store.open(path) if path.is_dir() and is_store(path) else None
    channels = list(store.channels.shorts if store else vocabulary.known_names())
    static = list(store.static_channels.shorts if store else (v.short for v in vocabulary.VARIABLES if v.constant))
    for kind, key, known in (("channel", ("data", "channels"), channels), ("static field", ("model", "static"), static)):
        names = value_at(values, *key)
        spellings = known if kind == "channel" else [*known, *(vocabulary.split_name(name)[0] for name in known)]
        for position, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and _short(name) not in known:
                if store is None and kind == "channel" and nearest(name, spellings, 0.75) is None:
                    continue  # a quantity of its own, which only the store can know
                near = nearest(name, spellings, 0.5)
                hint = f" (did you mean '{near}'?)" if near else f"; there are {', '.join(known) or 'none'}"
                yield (*key, position), f"unknown {kind} '{name}'{hint}"


def _wrong_periods(data: Any) -> Problems:
    """Periods that end before they start, and validation inside training, as far as the dates can be read."""
    whole: list[tuple[int, int]] = []
    for part in ("train", "validation"):
        start, end = (_order(value_at(data, part, key)) for key in ("start", "end"))
        if start is None or end is None:
            continue
        if end <= start:
            yield ("data", part, "end"), f"the period ends before it has begun, at {value_at(data, part, 'start')}"
        else:
            whole.append((start, end))
    if len(whole) == 2:
        train, validation = whole
        if max(train[0], validation[0]) <= min(train[1], validation[1]):
            key = "start" if validation[0] >= train[0] else "end"
            yield ("data", "validation", key), f"overlaps the training period, {value_at(data, 'train', 'start')} to {value_at(data, 'train', 'end')}"


def _order(text: Any) -> int | None:
    """A number that orders dates of whatever calendar; None where it is no date."""
    with contextlib.suppress(ConfigError):
        return parse_instant(text, "all_leap") if isinstance(text, str) else None
    return None


def _short(name: str) -> str:
    return vocabulary.short_name(*vocabulary.split_name(name))


class Experiment(Strict):
    """A whole experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the model in files and titles."""
    seed: int = Field(ge=0)
    """Of the weights and of the order of samples."""
    output: str
    """Run folder."""
    data: DataConfig
    """What is learnt from."""
    model: ModelConfig
    """What learns."""
    training: TrainingConfig
    """How it learns."""
    validation: ValidationConfig
    """How the best model is chosen."""


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file. Raises one ConfigError with every problem, each with file, line and nearest name."""
    return load_config(path, Experiment, overrides, check=_beyond_types)


def run_training(experiment: Experiment, *, resume: bool, echo: Callable[[str], None], max_seconds: float | None = None) -> Path:
    """Train an experiment into its run folder. Started several times by torchrun or srun, the processes divide the work.

    Args:
        experiment: resolved.
        resume: go on from the newest valid checkpoint of the run folder.
        echo: prints a line.
        max_seconds: wall-clock seconds from now in which to have saved and stopped; None for no limit.

    Returns:
        the model folder of the best validation.

    Raises:
        ConfigError: periods overlap, the batch is larger than the training samples, another process trains in the run folder, or it already
            holds a run and `resume` was not asked for.
        DataError, CheckpointError, ResourceError, DivergenceError, Stopped: see errors.py.
    """
    end = None if max_seconds is None else time.monotonic() + max_seconds
    folder, config = Path(experiment.output), experiment.training
    require_packages(config.log)
    with distributed.session():
        mesh = plan_mesh(config.parallel, batch_sizes=config.batch_sizes, accumulate=config.accumulate)
        if not mesh.first:
            mesh.world.texts("")  # the first process holds the folder and has looked into it
            _train_into(folder, experiment, resume, _say_nothing, mesh=mesh, end=end)
            return folder / "model"
        with run_folder(folder, echo):
            if (folder / "checkpoints").exists() and not resume:
                raise ConfigError("the run folder already holds a training", where=str(folder),
                                  fix="add --resume to go on, or choose another with output=PATH")
            _require_same_experiment(folder, experiment, resume)
            mesh.world.texts("")
            _train_into(folder, experiment, resume, echo, mesh=mesh, end=end)
    return folder / "model"


def _say_nothing(text: str) -> None:
    """For all processes but the first."""


def _train_into(folder: Path, experiment: Experiment, resume: bool, echo: Callable[[str], None], *, mesh: Mesh, end: float | None) -> None:
    store = _open_store(experiment, cache=folder, echo=echo)
    train, validation = check_periods(experiment, store)
    others = [step for step in time_steps_of(experiment.model, parse_duration(experiment.data.time_step)) if step != store.time_step]
    if others:
        echo(f"note: the change over {', '.join(map(format_duration, others))} is measured on the store's states, as its statistics lack it")
    inputs = model_inputs(experiment, store)
    forecaster = _build(experiment, inputs)
    for name in forecaster.normalizer.constant:
        echo(f"note: channel {name} is constant in the statistics; it is centred, not scaled")
    if experiment.training.init_from is not None:
        for line in start_from(forecaster, experiment.model, Path(experiment.training.init_from)):
            echo(line)
    experiment, given = _staged(experiment, store, train), experiment
    config = experiment.training
    layout = parallelize(forecaster, mesh, sharded=config.parallel.sharded, checkpointing=config.checkpointing, compile_blocks=config.compile)
    loader = _loader(experiment, store, forecaster, train, layout)
    for step, rollout in _longest_rollouts(experiment, forecaster).items():
        windows = loader.windows(rollout, step)
        if windows.dropped:
            echo(f"note: {windows.reason}; they are left out")
    validator = Validator(store, forecaster, experiment.validation, start=validation[0], end=validation[1])
    for name in validator.unscored:
        echo(f"note: channel {name} does not change over the validation period; it does not count in the validation score")
    if validator.without_climatology:
        echo(f"note: {validator.without_climatology}; validations compare with persistence alone")
    config_text = dump_config(given)
    if mesh.first:
        (folder / "config.yaml").write_text(config_text)
    echo(f"{experiment.name}: {sum(p.numel() for p in forecaster.parameters()):,} parameters, {len(forecaster.channels)} channels on "
         f"{inputs.grid.describe()}, {loader.num_samples(1):,} training samples, {len(validator.init_seconds)} validation inits")

    def keep_model(weights: dict[str, torch.Tensor], score: float, table: xr.Dataset) -> None:
        card = model_card(experiment, forecaster, inputs, score, table)
        model_folder.save(folder / "model", config_text=config_text, inputs=inputs, weights=weights, card=card)

    fit(Run(forecaster, loader, config, folder, layout), validator, keep_model=keep_model, resume=resume, echo=echo, end=end,
        draw=partial(draw_validation, folder / "pictures", inputs.attrs, echo))


def try_out(experiment: Experiment) -> None:
    """Raise what `run_training` would raise of the experiment itself before it begins: store, periods, inputs, and network on the data."""
    store = _open_store(experiment, measure=False)
    train, _ = check_periods(experiment, store)
    experiment = _staged(experiment, store, train)
    _loader(experiment, store, _build(experiment, model_inputs(experiment, store, measure=False)), train, Layout())


def dry_run(experiment: Experiment, *, profile: bool = False) -> str:
    """What the training would cost, measured on one update; or, with `profile`, where the time of an update goes. Nothing is written."""
    store = _open_store(experiment, measure=False)
    train, _ = check_periods(experiment, store)
    experiment = _staged(experiment, store, train)
    forecaster = _build(experiment, model_inputs(experiment, store, measure=False))
    loader = _loader(experiment, store, forecaster, train, Layout())
    if profile:
        return where_time_goes(forecaster, loader, experiment.training)
    return "\n".join(estimate(forecaster, loader, experiment.training))


def _staged(experiment: Experiment, store: Store | DirectStore, train: tuple[int, int]) -> Experiment:
    """The experiment with the stages of its training written out."""
    step = time_steps_of(experiment.model, parse_duration(experiment.data.time_step))[0]
    training = with_stages(experiment.training, store.times, time_step=step, history=experiment.model.history, period=train)
    return experiment.model_copy(update={"training": training})


def _loader(experiment: Experiment, store: Store | DirectStore, forecaster: Forecaster, train: tuple[int, int], layout: Layout) -> Loader:
    """The training samples of this process. Raises ConfigError when a batch would hold a sample twice."""
    config = experiment.training
    delivery = layout.delivery(forecaster, cache_bytes=config.cache_megabytes << 20)
    loader = Loader(store, forecaster.channels, time_step=forecaster.time_step, history=forecaster.history, start=train[0], end=train[1],
                    batch_size=config.batch_size, seed=experiment.seed, delivery=delivery)
    for step, rollout in _longest_rollouts(experiment, forecaster).items():
        largest = loader.num_samples(rollout, step)
        if max(config.batch_sizes) > largest:
            raise ConfigError(f"a batch of {max(config.batch_sizes)} is larger than the training period's {largest} samples at rollout {rollout}"
                              f"{f' of {format_duration(step)}' if len(forecaster.time_steps) > 1 else ''}", where="training.batch_size",
                              fix=f"use at most training.batch_size={largest}, or a longer training period")
    return loader


def _longest_rollouts(experiment: Experiment, forecaster: Forecaster) -> dict[int, int]:
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


def _open_store(experiment: Experiment, *, cache: Path | None = None, measure: bool = True,
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


def _build(experiment: Experiment, inputs: ModelInputs) -> Forecaster:
    """The forecaster with its first weights, on its device, after one pass of zeros. Raises ConfigError when the network does not fit the data."""
    torch.manual_seed(experiment.seed)
    try:
        forecaster = build_forecaster(experiment.model, inputs)
        forecaster.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        with torch.no_grad():
            forecaster.backbone(torch.zeros(1, forecaster.num_inputs, *inputs.grid.shape, device=forecaster.area_weights_HW.device),
                                *forecaster.condition(forecaster.time_step, 1))
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ForecastError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise
        first = str(error).partition("\n")[0]
        raise ConfigError(f"the network does not fit the data on {inputs.grid.describe()}: {first}", where="model.backbone") from error
    return forecaster


def _require_same_experiment(folder: Path, experiment: Experiment, resume: bool) -> None:
    path = folder / "config.yaml"
    if resume and path.exists() and (folder / "checkpoints").exists():
        before = load_config(path, Experiment)
        if _decisive(before) != _decisive(experiment):
            raise ConfigError("the experiment differs from the one that was stopped", where=str(path),
                              fix=f"resume with: afno-forecast train {path} --resume, or choose another run folder with output=PATH")


def _decisive(experiment: Experiment) -> dict[str, Any]:
    """What decides the numbers of a training, which must not change over a resume."""
    values = experiment.model_dump(exclude={"output", "name"})
    for name in ("parallel", "threads", "cache_megabytes", "checkpoint_minutes", "asynchronous_checkpoints", "log"):
        del values["training"][name]
    del values["validation"]["pictures"]
    return values


def check_periods(experiment: Experiment, store: Store | DirectStore) -> tuple[tuple[int, int], tuple[int, int]]:
    """Training and validation periods in seconds. Raises ConfigError when they overlap or statistics leak from outside training."""
    calendar = store.times.calendar
    train, validation = experiment.data.train.seconds(calendar), experiment.data.validation.seconds(calendar)
    first, last = max(train[0], validation[0]), min(train[1], validation[1])
    if first <= last:
        raise ConfigError(f"training and validation overlap from {format_instant(first, calendar)} to {format_instant(last, calendar)}",
                          where="data.train and data.validation", fix="move data.train.end before data.validation.start")
    start, end = store.statistics.period
    if start < train[0] or end > train[1]:
        covered = f"{format_instant(start, calendar)} to {format_instant(end, calendar)}"
        raise ConfigError(f"the store's statistics cover {covered}, which reaches outside the training period "
                          f"{experiment.data.train.start} to {experiment.data.train.end}", where=experiment.data.store,
                          fix=f"build the store with --statistics {experiment.data.train.start}/{experiment.data.train.end}")
    return train, validation


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


def _inert(text: object) -> str:
    """A source's own words for Markdown: on one line, nothing for a terminal to obey, no HTML."""
    return html.escape(printable(str(text)), quote=False)


def model_card(experiment: Experiment, forecaster: Forecaster, inputs: ModelInputs, score: float, table: xr.Dataset) -> str:
    """Markdown that says what the model is, what it was trained on, and how it scored."""
    hours = [int(v / np.timedelta64(1, "h")) for v in table["lead_time"].values]
    rows = [f"| {_inert(name)} | " + " | ".join(" / ".join(f"{v:.3f}" for v in lead) for lead in item.transpose("lead_time", "rival").values) + " |"
            for name, item in table.data_vars.items()]
    about = [f"- {key}: {_inert(inputs.attrs[key])}" for key in ("title", "institution", "source", "license") if key in inputs.attrs]
    data = experiment.data
    return "\n".join([
        f"# {experiment.name}", "",
        f"Forecaster trained with afno_forecast {__version__}: {sum(p.numel() for p in forecaster.parameters()):,} parameters, "
        f"steps of {', '.join(map(format_duration, inputs.time_steps))}, {inputs.grid.describe()}.", "",
        "## Data", *about,
        f"- trained on {data.train.start} to {data.train.end}; chosen on {data.validation.start} to {data.validation.end}",
        f"- channels: {', '.join(_inert(f'{c.short} [{c.units}]') for c in inputs.channels)}",
        f"- other inputs: {', '.join([*experiment.model.static, *experiment.model.forcings]) or 'none'}", "",
        "## Validation", f"RMSE divided by the RMSE of {' / of '.join(table['rival'].values)} (below 1 is better), by lead time; "
        f"mean over persistence {score:.4f}:", "",
        "| channel | " + " | ".join(f"{h} h" for h in hours) + " |", "|" + "---|" * (len(hours) + 1), *rows, "",
        "## Use", "`afno-forecast rollout THIS_FOLDER --data STORE --init last --lead-time 10d --out forecast.zarr`", ""])
