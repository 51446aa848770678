"""Training: learns, resumes to the last bit, keeps the best, stops on signals."""

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from afno_forecast.data.loader import Batch, Loader
from afno_forecast.errors import ConfigError, Stopped
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.training.lockstep import Lockstep
from afno_forecast.training.log import RunLog
from afno_forecast.training.run import Run


def quiet(text: str) -> None:
    """Print nothing."""


def train(path: Path, *overrides: str, resume: bool = False, lines: list[str] | None = None) -> Path:
    return run_training(load_experiment(path, overrides), resume=resume, echo=quiet if lines is None else lines.append)


def final_state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(str(run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip() / "state.safetensors"))


def losses(run: Path) -> list[list[str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.reader(file))


def progress(run: Path) -> dict[str, object]:
    state = json.loads((run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip() / "state.json").read_text())
    return {k: v for k, v in state.items() if k not in ("seconds", "core_seconds")}


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert progress(one) == progress(other)
    first, second = final_state(one), final_state(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first), [k for k in first if not torch.equal(first[k], second[k])]
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(make_tiny_experiment: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_experiment(tmp_path_factory.mktemp("unbroken"))
    train(path)
    return path.parent / "run"


class StopsAfter:
    """Sends a signal to this process while the loader hands out a certain batch, and puts the loader back afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, number: int) -> None:
        original = Loader.batches
        seen = 0

        def batches(loader: Loader, num_steps: int, **options):  # type: ignore[no-untyped-def]
            nonlocal seen
            inner = original(loader, num_steps, **options)
            try:
                for batch in inner:
                    assert isinstance(batch, Batch)
                    seen += 1
                    if seen == count:
                        os.kill(os.getpid(), number)
                    yield batch
            finally:
                inner.close()  # type: ignore[attr-defined]

        monkeypatch.setattr(Loader, "batches", batches)


@pytest.mark.parametrize("count", [1, 4, 6, 7, 11, 12])
def test_stopped_after_any_step_and_resumed_equals_uninterrupted(count: int, unbroken: Path, tiny_experiment: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the change of stage (6), at a validation (4), before the last step (11) and at the last (12)."""
    with monkeypatch.context() as patch:
        StopsAfter(patch, count, signal.SIGTERM)
        with pytest.raises(Stopped, match=f"stopped by SIGTERM after train step {count}") as stopped:
            train(tiny_experiment)
    assert stopped.value.exit_code == 75 and "--resume" in str(stopped.value)
    train(tiny_experiment, resume=True)
    assert_same_run(tmp_path / "run", unbroken)


def test_resuming_a_finished_run_changes_nothing(unbroken: Path, tiny_experiment: Path, tmp_path: Path) -> None:
    train(tiny_experiment)
    train(tiny_experiment, resume=True)
    assert_same_run(tmp_path / "run", unbroken)


def test_a_second_interrupt_stops_at_once_and_the_last_checkpoint_is_intact(tiny_experiment: Path, tmp_path: Path, unbroken: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        StopsAfter(patch, 5, signal.SIGINT)
        with pytest.raises(Stopped):
            train(tiny_experiment)
        StopsAfter(patch, 2, signal.SIGINT)
        StopsAfter(patch, 2, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_experiment, resume=True)
    train(tiny_experiment, resume=True)
    assert_same_run(tmp_path / "run", unbroken)


def test_training_lowers_the_loss_and_beats_persistence(tiny_experiment: Path, tmp_path: Path) -> None:
    train(tiny_experiment, "training.budget.train_steps=150", "training.stages=[{until: 1, rollout: 1}]", "training.optimizer.learning_rate=3e-3",
          "training.average=0.9")
    values = [float(row[2]) for row in losses(tmp_path / "run")[1:]]
    assert sum(values[-10:]) < 0.5 * sum(values[:10])
    assert progress(tmp_path / "run")["best_score"] < 1  # type: ignore[operator]


def test_events_and_metrics_tell_the_whole_run(unbroken: Path) -> None:
    rows = losses(unbroken)
    assert rows[0] == ["train_step", "rollout", "loss", "gradient_norm", "learning_rate"]
    assert [int(r[0]) for r in rows[1:]] == list(range(1, 13))
    assert [int(r[1]) for r in rows[1:]] == [1] * 6 + [2] * 6
    events = [json.loads(line) for line in (unbroken / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", "validation", "validation", "validation", "done"]
    assert {"z500", "t2m", "u250"} == set(events[1]["channels"])
    assert {p.name for p in (unbroken / "model").iterdir()} == {"config.yaml", "model.safetensors", "statistics.nc", "README.md", "manifest.json"}


def test_a_used_run_folder_needs_resume_and_the_same_experiment(tiny_experiment: Path) -> None:
    train(tiny_experiment)
    with pytest.raises(ConfigError, match="already holds a training"):
        train(tiny_experiment)
    with pytest.raises(ConfigError, match="differs from the one that was stopped"):
        train(tiny_experiment, "training.batch_size=2", resume=True)


def test_the_seed_decides_everything(tiny_experiment: Path, tmp_path: Path, unbroken: Path) -> None:
    train(tiny_experiment, "seed=4")
    assert losses(tmp_path / "run")[1][2] != losses(unbroken)[1][2]


def test_windows_that_meet_a_gap_are_said_to_be_left_out(tiny_experiment: Path) -> None:
    lines: list[str] = []
    train(tiny_experiment, lines=lines)
    assert any("windows meet a missing time" in line and "2001-01-15" in line for line in lines), lines


def test_pace_and_time_left_are_those_of_the_stage_and_of_what_its_updates_cost(tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second for each sample and model step, by a clock that is put in place of the real one: the display is exact at every update."""
    costs, shown, differentiate, beat = [0.0], [], Run.differentiate, Lockstep.beat

    def counted(run: Run, batch: Batch, num_steps: int, autocast: torch.autocast) -> float:
        costs.append(0.1 * num_steps * len(batch.states))
        return differentiate(run, batch, num_steps, autocast)

    monkeypatch.setattr(Run, "differentiate", counted)
    monkeypatch.setattr(Lockstep, "beat", lambda lockstep, loss: replace(beat(lockstep, loss), seconds=costs[-1]))
    monkeypatch.setattr(RunLog, "progress", lambda log, spent, text, left: shown.append((float(text.split(" samples/s")[0].split()[-1]), left)))
    stages = "training.stages=[{until: 0.5, rollout: 1}, {until: 1.0, rollout: 4, batch_size: 2}]"
    train(tiny_experiment, stages, "training.budget.train_steps=8", "validation.count=1")
    rates, left = zip(*shown, strict=True)
    assert rates == (10.0,) * 4 + (2.5,) * 4
    assert left == pytest.approx([sum(costs) - sum(costs[:n + 1]) for n in range(1, 9)], abs=1e-9)
