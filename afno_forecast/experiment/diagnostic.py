"""An experiment that adds a diagnostic network to a finished model: one YAML file, trained by `afno-forecast train` as any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from .. import model_folder
from ..channels import ChannelSet
from ..config import Strict, load_config
from ..data.loader import Loader
from ..data.store import Store
from ..diagnostic import Diagnostic, DiagnosticConfig
from ..documents import load_document
from ..errors import CheckpointError, ConfigError, DataError
from ..times import format_duration, parse_duration
from ..training.config import TrainingConfig
from ..training.diagnostic import DiagnosticLoss, DiagnosticLossConfig, DiagnosticRun, DiagnosticValidator, fit_diagnostic
from ..training.loss import LossConfig
from ..training.parallel import Layout, ParallelConfig
from ..training.run_folder import require_new, run_folder
from ..training.trackers import require_packages
from ..training.validation import ValidationConfig
from .build import check_periods, require_enough
from .checks import beyond_types
from .config import Period, RunConfig
from .resume import require_same, write_config
from .steps import value_at

if TYPE_CHECKING:
    import xarray as xr

    from ..forecaster import Forecaster

LEARNT_ON = "forecaster.sha256"


class DiagnosticData(Strict):
    """What is learnt from."""

    store: str
    """Training store that holds the forecaster's channels and the amounts."""
    train: Period
    """Training period; statistics must come from inside it."""
    validation: Period
    """Validation period; must not overlap the training period, nor the forecaster's."""


class DiagnosticExperiment(RunConfig):
    """A diagnostic network on a model that stays as it is; the model folder in the run folder holds the forecaster and the network."""

    forecaster: str
    """Model folder whose states the network reads."""
    data: DiagnosticData
    """What is learnt from."""
    diagnostic: DiagnosticConfig
    """What is told, and by which network."""
    loss: DiagnosticLossConfig = DiagnosticLossConfig()
    """What is made small."""
    training: TrainingConfig
    """How; the rollout of a stage is how many steps of the forecaster it learns on, beside the analysis."""
    validation: ValidationConfig
    """How the best network is chosen."""


def load_diagnostic_experiment(path: Path, overrides: Sequence[str] = ()) -> DiagnosticExperiment:
    """Read and check an experiment file. Raises ConfigError with every problem, or for an option that would have no effect."""
    experiment = load_config(path, DiagnosticExperiment, overrides, check=beyond_types)
    _check(experiment)
    return experiment


def run_diagnostic_training(experiment: DiagnosticExperiment, *, resume: bool, echo: Callable[[str], None]) -> Path:
    """Train a diagnostic network into the run folder; returns the model folder, which forecasts the states and the amounts.

    Raises:
        ConfigError: periods overlap, also with the forecaster's training, an option that this training does not know, a used run folder without
            `resume`.
        DataError, CheckpointError, DivergenceError, Stopped: see errors.py.
    """
    folder, config = Path(experiment.output), experiment.training
    _check(experiment)
    require_packages(config.log)
    learnt_on = model_folder.weights_digest(Path(experiment.forecaster))  # before they are read: another forecaster from then on is found
    parts = _built(experiment, echo)
    forecaster, diagnostic = parts.forecaster, parts.diagnostic
    if parts.validator.without_climatology:
        echo(f"note: {parts.validator.without_climatology}; validations compare with persistence alone")

    def keep(weights: dict[str, torch.Tensor], score: float, table: xr.Dataset) -> None:
        model_folder.save_diagnostic(Path(experiment.forecaster), folder / "model", learnt_on=learnt_on, diagnostic=diagnostic,
                                     weights=weights, card=_card(experiment, diagnostic, forecaster, score, table))

    with run_folder(folder, echo):
        require_new(folder, resume=resume)
        require_same(folder, experiment, resume=resume)
        _require_same_forecaster(folder, experiment, learnt_on, resume=resume)
        write_config(folder, experiment)
        echo(f"{experiment.name}: {sum(p.numel() for p in diagnostic.parameters()):,} parameters tell {', '.join(diagnostic.outputs.shorts)} from "
             f"{len(forecaster.channels)} channels of {experiment.forecaster}, {parts.loader.num_samples(1):,} training samples")
        fit_diagnostic(DiagnosticRun(diagnostic, config), parts.loss, parts.loader, parts.validator, config, folder, keep=keep, resume=resume,
                       echo=echo)
    return folder / "model"


def try_out_diagnostic(experiment: DiagnosticExperiment) -> None:
    """Raise what `run_diagnostic_training` would raise of the experiment itself before it begins; nothing is written."""
    _built(experiment, lambda text: None)


@dataclass(frozen=True)
class _Parts:
    """What a training of a diagnostic network is made of."""

    forecaster: Forecaster
    diagnostic: Diagnostic
    loss: DiagnosticLoss
    loader: Loader
    validator: DiagnosticValidator


def _built(experiment: DiagnosticExperiment, echo: Callable[[str], None]) -> _Parts:
    config = experiment.training
    forecaster = model_folder.load(Path(experiment.forecaster))
    store = Store.open(Path(experiment.data.store))
    if not forecaster.grid.matches(store.grid):
        raise ConfigError(f"the model is for {forecaster.grid.describe()}, the store holds {store.grid.describe()}", where="data.store",
                          fix="give a store on the model's grid")
    train, validation = check_periods(experiment.data.train, experiment.data.validation, store)
    for note in _check_unseen(Path(experiment.forecaster), validation, store.times.calendar):
        echo(note)
    outputs = store.channels.select(experiment.diagnostic.channels)
    std_O = _spread_of(store, outputs)
    _check_leads(experiment, forecaster)
    torch.manual_seed(experiment.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forecaster.to(device)
    diagnostic = Diagnostic(experiment.diagnostic, forecaster, outputs).to(device)
    if config.threads:
        torch.set_num_threads(config.threads)
    loader = Loader(store, ChannelSet((*forecaster.channels, *outputs)), time_step=forecaster.time_step, history=forecaster.history,
                    batch_size=config.batch_size, seed=experiment.seed, period=train,
                    delivery=Layout().delivery(forecaster, cache_bytes=config.cache_megabytes << 20))
    longest = max(stage.rollout for stage in config.stages)
    require_enough(config, loader.num_samples(longest), f"rollout {longest}")
    validator = DiagnosticValidator(store, forecaster, diagnostic, experiment.validation, start=validation[0], end=validation[1])
    return _Parts(forecaster, diagnostic, DiagnosticLoss(experiment.loss, forecaster, diagnostic, std_O), loader, validator)


def _require_same_forecaster(folder: Path, experiment: DiagnosticExperiment, digest: str, *, resume: bool) -> None:
    """Note in the run folder which forecaster is learnt on. Raises CheckpointError where a training to be resumed learnt on another."""
    path = folder / LEARNT_ON
    if resume and (folder / "checkpoints").exists() and path.exists() and path.read_text().split()[:1] != [digest]:
        raise CheckpointError("the forecaster is another than the one that the stopped training learnt on", where=experiment.forecaster,
                              fix="put that one back, or train on this one with output=PATH")
    path.write_text(f"{digest}  {Path(experiment.forecaster) / model_folder.WEIGHTS}\n")


def _check(experiment: DiagnosticExperiment) -> None:
    """Raise ConfigError for what would have no effect here."""
    config = experiment.training
    for name, given, only in (("loss", config.loss, LossConfig()), ("parallel", config.parallel, ParallelConfig()),
                              ("accumulate", config.accumulate, 1), ("init_from", config.init_from, None), ("rollout", config.rollout, None),
                              ("checkpointing", config.checkpointing, False), ("compile", config.compile, False)):
        if given != only:
            fix = "leave it out; what is made small is the section loss, beside training" if name == "loss" else "leave it out"
            raise ConfigError(f"training.{name} has no effect on a diagnostic network", where=f"training.{name}", fix=fix)
    for number, stage in enumerate(config.stages):
        if stage.time_steps:
            raise ConfigError("a diagnostic network learns at the forecaster's shortest step", where=f"training.stages.{number}.time_steps",
                              fix="leave it out")
    if experiment.validation.pictures:
        raise ConfigError("no pictures are drawn of a diagnostic network", where="validation.pictures",
                          fix="leave it out; draw forecasts of the finished model with: afno-forecast plot")
    if config.precision == "bfloat16":
        raise ConfigError("a diagnostic network is trained in float32", where="training.precision", fix="leave it out, or use float32")


def _check_unseen(folder: Path, validation: tuple[int, int], calendar: str) -> list[str]:
    """Raise ConfigError where a forecaster was trained on dates of the validation (seconds); a note where its folder does not tell its training."""
    path = folder / model_folder.CONFIG
    try:
        seen = Period.model_validate(value_at(load_document(path).values, "data", "train"))
    except ValidationError:
        return [f"note: {path} names no data.train: whether the forecaster was trained on dates of data.validation is not known"]
    start, end = seen.seconds(calendar)
    if max(start, validation[0]) <= min(end, validation[1]):
        raise ConfigError(f"the forecaster was trained on {seen.start} to {seen.end}, which overlaps the validation: its forecasts are better there "
                          "than of dates that it has not seen", where="data.validation", fix="validate on dates outside the forecaster's training")
    return []


def _spread_of(store: Store, outputs: ChannelSet) -> NDArray[np.float64]:
    """Standard deviation of the amounts in the store's statistics, (O,). Raises DataError where one never changes."""
    std_O = store.statistics.std[store.channel_index(outputs)]
    still = [name for name, std in zip(outputs.shorts, std_O, strict=True) if not std > 0]
    if still:
        raise DataError(f"{', '.join(still)} never changes: there is nothing to learn", where=str(store.path),
                        fix="leave it out of diagnostic.channels")
    return std_O


def _check_leads(experiment: DiagnosticExperiment, forecaster: Forecaster) -> None:
    """Raise ConfigError where the network would read lead times that it is not trained on."""
    if experiment.diagnostic.longest_lead is None:
        return
    asked, steps = parse_duration(experiment.diagnostic.longest_lead), max(stage.rollout for stage in experiment.training.stages)
    if asked > steps * forecaster.time_step:
        raise ConfigError(f"the network is to read lead times up to {experiment.diagnostic.longest_lead}; its longest stage ends at "
                          f"{format_duration(steps * forecaster.time_step)}", where="diagnostic.longest_lead",
                          fix=f"give a stage rollout: {-(-asked // forecaster.time_step)}")


def _card(experiment: DiagnosticExperiment, diagnostic: Diagnostic, forecaster: Forecaster, score: float, table: xr.Dataset) -> str:
    leads = [format_duration(int(lead)) for lead in table["lead_time"].values / np.timedelta64(1, "s")]
    rows = [f"- {name}: " + ", ".join(f"{lead} {' / '.join(f'{v:.3f}' for v in of_lead)}"
                                       for lead, of_lead in zip(leads, item.transpose("lead_time", "rival").values, strict=True))
            for name, item in table.data_vars.items()]
    return "\n".join(["", f"## Diagnostic network {experiment.name}", f"- tells {diagnostic.describe()}",
                      f"- trained on {experiment.data.train.start} to {experiment.data.train.end}; chosen on {experiment.data.validation.start} to "
                      f"{experiment.data.validation.end}",
                      f"- RMSE divided by the RMSE of {' / of '.join(table['rival'].values)}, by lead time; "
                      f"mean over persistence {score:.4f}:", *rows, ""])
