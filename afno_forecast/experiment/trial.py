"""An experiment tried out and its cost measured, before it is trained; nothing is written."""

from __future__ import annotations

from pathlib import Path

from ..data.loader import Loader
from ..distributed import Mesh
from ..forecaster import Forecaster
from ..training.estimate import estimate, where_time_goes
from ..training.finetune import start_from
from ..training.loss import RolloutLoss
from ..training.parallel import Layout, parallelize, require_divisible
from ..training.validation import plan_validation
from .build import check_periods, first_forecaster, model_inputs, open_store, staged, training_samples
from .config import Experiment


def try_out(experiment: Experiment) -> None:
    """Raise what `run_training` would raise of the experiment itself before it begins: store, periods, inputs, network on the data,
    the weights it starts from, samples, validation and loss."""
    _built(experiment)


def dry_run(experiment: Experiment, *, profile: bool = False) -> str:
    """What the training would cost, measured on one update; or, with `profile`, where the time of an update goes."""
    experiment, forecaster, loader = _built(experiment)
    if profile:
        return where_time_goes(forecaster, loader, experiment.training)
    return "\n".join(estimate(forecaster, loader, experiment.training))


def _built(experiment: Experiment) -> tuple[Experiment, Forecaster, Loader]:
    """The experiment with its stages written out, its forecaster and its samples, for one process."""
    store = open_store(experiment, measure=False)
    train, (start, end) = check_periods(experiment.data.train, experiment.data.validation, store)
    forecaster = first_forecaster(experiment, model_inputs(experiment, store, measure=False))
    if experiment.training.init_from is not None:
        start_from(forecaster, experiment.model, Path(experiment.training.init_from))
    experiment = staged(experiment, store, train)
    config = experiment.training
    require_divisible(config.batch_sizes, config.parallel.data or 1, config.accumulate)
    parallelize(forecaster, Mesh(), checkpointing=config.checkpointing, compile_blocks=config.compile)
    loader = training_samples(experiment, store, forecaster, train, Layout())
    plan_validation(store, forecaster, experiment.validation, start=start, end=end)
    RolloutLoss(config.loss, forecaster)
    return experiment, forecaster, loader
