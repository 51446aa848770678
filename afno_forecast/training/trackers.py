"""TensorBoard and MLflow: curves of a training for people who use these programs. The files of `log.py` hold all numbers; these a selection."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..config import Strict
from ..errors import ConfigError

_RUN_FILE = "mlflow_run"
_MOST_METRICS = 1000  # that MLflow takes at once; of their names it takes no @


class LogConfig(Strict):
    """Where the curves of a training go beside its own files."""

    tensorboard: bool = False
    """TensorBoard files in the folder `tensorboard` of the run folder; needs the extra tensorboard."""
    mlflow: str | None = None
    """An MLflow store: a folder, or the URI of a server, which is the only thing here that uses a network; needs the extra mlflow."""


class Tracker(Protocol):
    """Takes numbers of a training by name."""

    def scalars(self, train_step: int, values: Mapping[str, float]) -> None:
        """Add them."""

    def close(self, finished: bool) -> None:
        """The training ends here, finished or to be gone on with."""


def require_packages(config: LogConfig) -> None:
    """Raise ConfigError, before anything is built, where a package that is asked for is not installed."""
    for name, asked in (("tensorboard", config.tensorboard), ("mlflow", config.mlflow)):
        if asked and importlib.util.find_spec(name) is None:
            raise ConfigError(f"the package {name} is not installed", where=f"training.log.{name}",
                              fix=f"pip install 'afno-forecast[{name}]'")


def open_trackers(config: LogConfig, folder: Path, *, train_step: int, echo: Callable[[str], None]) -> tuple[Tracker, ...]:
    """The trackers that are asked for, going on from a train step. Raises ConfigError."""
    require_packages(config)
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(_TensorBoard(folder / "tensorboard", train_step))
    if config.mlflow is not None:
        trackers.append(_MLflow(config.mlflow, folder, echo))
    return tuple(trackers)


class _TensorBoard:
    def __init__(self, folder: Path, train_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=train_step + 1 if train_step else None)

    def scalars(self, train_step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, train_step)

    def close(self, finished: bool) -> None:
        """Write what is left."""
        self._writer.close()


class _MLflow:
    """A run of an MLflow experiment, the same one again when the training is resumed. A store that fails is said once, and left alone."""

    def __init__(self, store: str, folder: Path, echo: Callable[[str], None]) -> None:
        for name, value in (("MLFLOW_DISABLE_TELEMETRY", "true"), ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
                            ("MLFLOW_ALLOW_FILE_STORE", "true")):
            os.environ.setdefault(name, value)
        from mlflow.exceptions import MlflowException

        self._failure, self._echo, self._where = MlflowException, echo, store
        self._client: Any = None
        self._run: str | None = None
        self._works = True
        self._try(lambda: self._begin(folder))

    def _begin(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._where if "://" in self._where else Path(self._where).absolute().as_uri())
        file = folder / _RUN_FILE
        if file.exists():
            run = file.read_text().strip()
            self._client.update_run(run, status="RUNNING")
        else:
            name = "afno_forecast"
            found = self._client.get_experiment_by_name(name)
            run = self._client.create_run(found.experiment_id if found else self._client.create_experiment(name), run_name=folder.name).info.run_id
            file.write_text(run + "\n")
            self._client.log_param(run, "config", str((folder / "config.yaml").absolute()))
        self._run = run

    def scalars(self, train_step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        points = [Metric(name.replace("@", "_"), value, now, train_step) for name, value in values.items()]
        self._try(lambda: [self._client.log_batch(self._run, points[k:k + _MOST_METRICS]) for k in range(0, len(points), _MOST_METRICS)])

    def close(self, finished: bool) -> None:
        """Mark the run as finished, or as killed: to be gone on with."""
        self._try(lambda: self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED"))

    def _try(self, action: Callable[[], object]) -> None:
        if not self._works:
            return
        try:
            action()
        except (self._failure, OSError) as error:
            self._works = False
            self._echo(f"note: MLflow at {self._where} gets nothing more of this training: {str(error).partition(chr(10))[0]}")
