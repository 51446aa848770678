"""TensorBoard and MLflow get the curves of a training, on this machine alone, and go on with it; a package that lacks is said first."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from afno_forecast.errors import ConfigError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.training.log import RunLog, ScoreRow
from afno_forecast.training.trackers import LogConfig

ROWS = [ScoreRow("z500", 24.0, {"persistence": 0.5, "climatology": 0.25})]


def tell(folder: Path, config: LogConfig, first: int, lines: list[str]) -> None:
    """Two updates and a validation of which one mean is not finite."""
    with RunLog(folder, train_step=first, echo=lines.append, to=config) as log:
        log.update(first + 1, 1, 0.75, 2.0, 1e-3)
        log.update(first + 2, 1, 0.5, 2.0, 1e-3)  # within a second of the one before
        log.validation(first + 2, 0.5, float("nan"), ROWS, best=True)


@pytest.mark.parametrize(("name", "override"), [("tensorboard", "training.log={tensorboard: true}"), ("mlflow", "training.log={mlflow: runs}")])
def test_a_package_that_lacks_is_said_before_anything_is_built(name: str, override: str, tiny_experiment: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"the package {name} is not installed") as error:
        run_training(load_experiment(tiny_experiment, [override, f"data.store={tmp_path / 'none.zarr'}"]), resume=False, echo=[].append)
    assert error.value.fix == f"pip install 'afno-forecast[{name}]'" and not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # of the package
def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tell(tmp_path, LogConfig(tensorboard=True), 0, [])
    tell(tmp_path, LogConfig(tensorboard=True), 2, [])
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("training/loss")] == [(1, 0.75), (3, 0.75)]
    assert [(e.step, e.value) for e in found.Scalars("validation_24h/z500/over_climatology")] == [(2, 0.25), (4, 0.25)]
    assert "validation/over_climatology" not in found.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore")  # of the package
def test_mlflow_gets_the_curves_in_one_run_although_the_training_is_resumed(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    lines: list[str] = []
    for first in (0, 2):
        tell(tmp_path, LogConfig(mlflow=str(tmp_path / "store")), first, lines)
    client = mlflow.MlflowClient((tmp_path / "store").as_uri())
    run = (tmp_path / "mlflow_run").read_text().strip()
    assert [(m.step, m.value) for m in client.get_metric_history(run, "training/loss")] == [(1, 0.75), (3, 0.75)]
    assert client.get_run(run).info.status == "FINISHED" and not any("gets nothing more" in line for line in lines)


@pytest.mark.filterwarnings("ignore")  # of the package
def test_an_mlflow_store_that_fails_is_said_once_and_the_training_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "blocked").write_text("")
    lines: list[str] = []
    tell(tmp_path, LogConfig(mlflow=str(tmp_path / "blocked" / "store")), 0, lines)
    assert sum("gets nothing more of this training" in line for line in lines) == 1
    assert json.loads((tmp_path / "events.jsonl").read_text())["event"] == "validation"


class StrictClient:
    """MLflow's client as far as it is used, with MLflow's limits: 1000 metrics at once, whose names are letters, digits and `_/. -`."""

    points: ClassVar[dict[str, float]] = {}

    def __init__(self, tracking_uri: str) -> None:
        self.points.clear()

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="7"))

    def log_batch(self, run: str, metrics: list[tuple[str, float, int, int]]) -> None:
        bad = [name for name, *_ in metrics if not re.fullmatch(r"[/\w.\- ]*", name)]
        if bad or len(metrics) > 1000:
            raise OSError(f"refused: {len(metrics)} metrics, {bad[:1]}")
        self.points.update({name: value for name, value, *_ in metrics})

    def log_param(self, run: str, name: str, value: str) -> None: ...

    def set_terminated(self, run: str, status: str) -> None: ...


def test_a_large_validation_stays_within_mlflows_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, holds in (("mlflow", {"MlflowClient": StrictClient}), ("mlflow.exceptions", {"MlflowException": OSError}),
                        ("mlflow.entities", {"Metric": lambda *point: point})):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**holds))  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object())
    lines: list[str] = []
    rows = [ScoreRow(channel, 24.0 * day, {"persistence": 0.5, "climatology": 0.25})
            for channel in (*(f"z{level}" for level in range(60)), "ozone@500") for day in range(1, 11)]
    with RunLog(tmp_path, train_step=0, echo=lines.append, to=LogConfig(mlflow="runs")) as log:
        log.validation(1, 0.5, 0.25, rows, best=True)
    assert len(StrictClient.points) == 2 + 61 * 10 * 2 and not any("gets nothing more" in line for line in lines)
    assert StrictClient.points["validation_240h/ozone_500/over_climatology"] == 0.25
