"""The tree of an experiment file: the owners' configs composed into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator

from ..config import Strict, load_config
from ..errors import ConfigError
from ..forecaster import ModelConfig
from ..times import any_date, format_instant, parse_instant
from ..training.config import TrainingConfig
from ..training.validation import ValidationConfig
from .checks import beyond_types


class Period(Strict):
    """A span of time, both ends included."""

    start: str
    """First instant, ISO."""
    end: str
    """Last instant, ISO."""

    @field_validator("start", "end")
    @classmethod
    def _is_a_date(cls, text: str) -> str:
        any_date(text)  # the store's own calendar decides when it is read
        return text

    def seconds(self, calendar: str) -> tuple[int, int]:
        """(first, last) in the calendar. Raises ConfigError when the period is empty."""
        start, end = parse_instant(self.start, calendar), parse_instant(self.end, calendar)
        if end <= start:
            raise ConfigError(f"the period {self.start} to {self.end} is empty", fix="put the earlier date first")
        return start, end


def separate_periods(train: Period, validation: Period, calendar: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(first, last) of training and of validation, in seconds of the calendar. Raises ConfigError when one is empty or they overlap."""
    spans = train.seconds(calendar), validation.seconds(calendar)
    first, last = max(start for start, _ in spans), min(end for _, end in spans)
    if first <= last:
        raise ConfigError(f"training and validation overlap from {format_instant(first, calendar)} to {format_instant(last, calendar)}",
                          where="data.train and data.validation", fix="move data.train.end before data.validation.start")
    return spans


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


class RunConfig(Strict):
    """What every experiment says of its run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names what is trained, in files and titles."""
    seed: int = Field(ge=0)
    """Of the weights and of the order of samples."""
    output: str
    """Run folder; the model folder lies in it."""


class Experiment(RunConfig):
    """A whole experiment."""

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
    return load_config(path, Experiment, overrides, check=beyond_types)
