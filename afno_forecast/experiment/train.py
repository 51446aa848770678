"""Training an experiment into its run folder, by one process or several."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import xarray as xr

from .. import distributed, model_folder
from ..distributed import Mesh
from ..forecaster import time_steps_of
from ..times import format_duration, parse_duration
from ..training.checkpoint import any_saved
from ..training.finetune import start_from
from ..training.parallel import parallelize, plan_mesh
from ..training.run import Run
from ..training.run_folder import require_new, run_folder
from ..training.trackers import require_packages
from ..training.train import fit
from ..training.validation import Validator
from .build import check_periods, first_forecaster, longest_rollouts, model_inputs, open_store, staged, training_samples
from .config import Experiment
from .model_card import model_card
from .pictures import draw_validation
from .resume import require_same, write_config


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
            require_new(folder, resume=resume)
            require_same(folder, experiment, resume=resume)
            mesh.world.texts("")
            _train_into(folder, experiment, resume, echo, mesh=mesh, end=end)
    return folder / "model"


def _say_nothing(text: str) -> None:
    """For all processes but the first."""


def _train_into(folder: Path, experiment: Experiment, resume: bool, echo: Callable[[str], None], *, mesh: Mesh, end: float | None) -> None:
    store = open_store(experiment, cache=folder, echo=echo)
    train, validation = check_periods(experiment.data.train, experiment.data.validation, store)
    others = [step for step in time_steps_of(experiment.model, parse_duration(experiment.data.time_step)) if step != store.time_step]
    if others:
        echo(f"note: the change over {', '.join(map(format_duration, others))} is measured on the store's states, as its statistics lack it")
    inputs = model_inputs(experiment, store)
    forecaster = first_forecaster(experiment, inputs)
    for name in forecaster.normalizer.constant:
        echo(f"note: channel {name} is constant in the statistics; it is centred, not scaled")
    if experiment.training.init_from is not None and not (resume and any_saved(folder / "checkpoints")):
        for line in start_from(forecaster, experiment.model, Path(experiment.training.init_from)):
            echo(line)
    experiment, given = staged(experiment, store, train), experiment
    config, growth = experiment.training, given.training.rollout
    if growth is not None and (longest := config.stages[-1].rollout) < growth.maximum:
        echo(f"note: the training ends at a rollout of {longest}, before it has grown to the maximum of {growth.maximum}")
    layout = parallelize(forecaster, mesh, sharded=config.parallel.sharded, checkpointing=config.checkpointing, compile_blocks=config.compile)
    loader = training_samples(experiment, store, forecaster, train, layout)
    for step, rollout in longest_rollouts(experiment, forecaster).items():
        windows = loader.windows(rollout, step)
        if windows.dropped:
            echo(f"note: {windows.reason}; they are left out")
    validator = Validator(store, forecaster, experiment.validation, start=validation[0], end=validation[1])
    for name in validator.unscored:
        echo(f"note: channel {name} does not change over the validation period; it does not count in the validation score")
    if validator.without_climatology:
        echo(f"note: {validator.without_climatology}; validations compare with persistence alone")
    config_text = write_config(folder, given) if mesh.first else ""
    echo(f"{experiment.name}: {sum(p.numel() for p in forecaster.parameters()):,} parameters, {len(forecaster.channels)} channels on "
         f"{inputs.grid.describe()}, {loader.num_samples(1):,} training samples, {len(validator.init_seconds)} validation inits")

    def keep_model(weights: dict[str, torch.Tensor], score: float, table: xr.Dataset) -> None:
        card = model_card(experiment, forecaster, inputs, score, table)
        model_folder.save(folder / "model", config_text=config_text, inputs=inputs, weights=weights, card=card)

    run = Run(forecaster, loader, config, folder, layout)
    run.require_space()
    fit(run, validator, keep_model=keep_model, resume=resume, echo=echo, end=end,
        draw=partial(draw_validation, folder / "pictures", inputs.attrs, echo))
