"""Stages and the learning rate: what each word of the configuration does to a training."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from afno_forecast.distributed import Mesh
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.signals import StopFlag
from afno_forecast.times import TimeAxis
from afno_forecast.training.checkpoint import Progress
from afno_forecast.training.config import TrainingConfig
from afno_forecast.training.lockstep import TIME_LIMIT, Lockstep
from afno_forecast.training.optimizers import OptimizerConfig
from afno_forecast.training.saving import Checkpoints
from afno_forecast.training.schedule import Budget, RolloutGrowth, Stage, learning_rate_factor
from afno_forecast.training.stages import with_stages


def train(path: Path, *overrides: str) -> list[dict[str, str]]:
    run_training(load_experiment(path, overrides), resume=False, echo=lambda text: None)
    with (path.parent / "run" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_shapes_of_the_learning_rate() -> None:
    for shape in ("cosine", "linear", "constant", "plateau"):
        assert learning_rate_factor(0.05, 0.1, shape) == pytest.approx(0.5)
    assert [learning_rate_factor(s, 0.1, "cosine") for s in (0.1, 0.55, 1.0)] == pytest.approx([1, 0.5, 0])
    assert [learning_rate_factor(s, 0.1, "cosine") for s in (0.325, 0.775)] == pytest.approx([0.5 + 0.5**1.5, 0.5 - 0.5**1.5])
    assert [learning_rate_factor(s, 0.1, "linear") for s in (0.1, 0.325, 0.775, 1.0, 1.1)] == pytest.approx([1, 0.75, 0.25, 0, 0])
    assert learning_rate_factor(0.9, 0.1, "constant", 0.25) == 1 and learning_rate_factor(0.9, 0.1, "plateau", 0.25) == 0.25


def test_a_plateau_lowers_the_learning_rate_after_validations_without_a_best() -> None:
    progress = Progress()
    for better, reductions in ((True, 0), (False, 0), (False, 1), (False, 1), (True, 1), (False, 1), (False, 2)):
        progress.judge(better, 1)
        assert progress.reductions == reductions


def test_the_rollout_grows_with_the_epochs() -> None:
    growth = RolloutGrowth(start=1, epoch_increment=2, maximum=3)
    assert growth.stages(100, lambda length: 16 / 2**length) == (Stage(until=0.16, rollout=1), Stage(until=0.24, rollout=2),
                                                                  Stage(until=1, rollout=3))
    assert growth.stages(30, lambda length: 10) == (Stage(until=2 / 3, rollout=1), Stage(until=1, rollout=2))
    with pytest.raises(ValidationError, match="below the start"):
        RolloutGrowth(start=3, maximum=2)


def test_a_rollout_and_stages_are_not_given_both_nor_epochs_of_unknown_length() -> None:
    common = {"batch_size": 2, "rollout": RolloutGrowth(maximum=2)}
    with pytest.raises(ValidationError, match="say the same thing"):
        TrainingConfig(budget=Budget(train_steps=3), stages=(Stage(until=1, rollout=1),), **common)
    with pytest.raises(ValidationError, match=r"needs budget\.train_steps"):
        TrainingConfig(budget=Budget(minutes=3), **common)
    with pytest.raises(ValidationError, match="stages must end"):
        TrainingConfig(budget=Budget(minutes=3), batch_size=2)


def test_an_epoch_has_every_sample_of_each_time_step_and_growth_that_is_not_reached_is_told(tiny_experiment: Path) -> None:
    times = TimeAxis(np.arange(40, dtype=np.int64) * 21600)
    config = TrainingConfig(budget=Budget(train_steps=40), batch_size=3, rollout=RolloutGrowth(maximum=2))
    one, both = (with_stages(config, times, time_steps=steps, history=1, period=(0, 40 * 21600)).stages for steps in ((21600,), (21600, 43200)))
    assert [stage.until for stage in one] == pytest.approx([39 / 3 / 40, 1]) and both[0].until == pytest.approx((39 + 38) / 3 / 40)
    lines: list[str] = []
    run_training(load_experiment(tiny_experiment, ["training.budget.train_steps=2", "validation.count=1", "training.stages=[]",
                                                   "training.rollout={maximum: 3}"]), resume=False, echo=lines.append)
    assert "note: the training ends at a rollout of 1, before it has grown to the maximum of 3" in lines


@pytest.mark.parametrize(("settings", "idle"), [({"patience": 3}, "without schedule: plateau"), ({"factor": 0.1}, "without schedule: plateau"),
                                                ({"muon": False, "momentum": 0.9}, "momentum does nothing without muon")])
def test_settings_that_do_nothing_are_refused(settings: dict[str, object], idle: str) -> None:
    with pytest.raises(ValidationError, match=idle):
        OptimizerConfig.model_validate(settings)


def test_a_time_limit_leaves_room_for_the_longest_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("afno_forecast.training.lockstep.time.monotonic", lambda: clock[0])
    lockstep = Lockstep(Mesh().world, StopFlag(), Checkpoints(tmp_path), save_seconds=1e9, end=100.0)
    clock[0] = 1.0
    assert lockstep.beat(0.5).stop is None
    clock[0] = 31.0
    lockstep.validated()
    for now, stop in ((40.0, None), (72.0, TIME_LIMIT)):
        clock[0] = now - 1
        lockstep.restart()
        clock[0] = now
        assert lockstep.beat(0.5).stop == stop


def test_stages_have_their_own_learning_rate_and_batch(make_tiny_experiment: Callable[[Path], Path], tmp_path: Path) -> None:
    stages = "training.stages=[{until: 0.5, rollout: 1}, {until: 1, rollout: 2, learning_rate: 5e-5, batch_size: 5}]"
    rows = train(make_tiny_experiment(tmp_path), "training.budget.train_steps=4", "training.optimizer.warmup=0",
                 "training.optimizer.schedule=constant", "validation.count=1", stages)
    assert [float(r["learning_rate"]) for r in rows] == [1e-3, 1e-3, 5e-5, 5e-5]
    assert [r["rollout"] for r in rows] == ["1", "1", "2", "2"]
    state = (tmp_path / "run" / "checkpoints" / "step-4" / "state.json").read_text()
    assert '"position": 10,' in state


def test_a_plateau_follows_the_validations(make_tiny_experiment: Callable[[Path], Path], tmp_path: Path) -> None:
    rows = train(make_tiny_experiment(tmp_path), "training.budget.train_steps=8", "training.optimizer={schedule: plateau, patience: 0, factor: 0.25, "
                 "warmup: 0, learning_rate: 0.05, muon: false}", "validation.count=4", "training.rollout={maximum: 2}", "training.stages=[]")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    worse = [e["train_step"] for e in events if e["event"] == "validation" and not e["best"]]
    assert any(step < 8 for step in worse)
    assert [float(r["learning_rate"]) for r in rows] == [0.05 * 0.25**sum(step < n for step in worse) for n in range(1, 9)]
    assert {r["rollout"] for r in rows} == {"1"}  # an epoch is longer than these updates
