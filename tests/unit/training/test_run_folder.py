"""A run folder: one training at a time, whoever died before; nothing left of a training that was refused."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from afno_forecast.errors import ConfigError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.experiment.resume import write_config
from afno_forecast.training.run_folder import LOCK, run_folder

HOLD = ("import sys, time; from pathlib import Path; from afno_forecast.training.run_folder import run_folder\n"
        "with run_folder(Path(sys.argv[1]), print):\n    print('held', flush=True)\n    time.sleep(60)")


def notes(text: str) -> None:
    raise AssertionError(text)


def test_a_second_training_is_refused_and_a_dead_one_is_not_in_the_way(tiny_experiment: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        for resume in (False, True):
            with pytest.raises(ConfigError, match=f"another process trains .* host {socket.gethostname()}, pid {process.pid}, since 20") as refused:
                run_training(load_experiment(tiny_experiment), resume=resume, echo=notes)
            assert refused.value.exit_code == 2 and str(run) in refused.value.where
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (run / LOCK).exists()
    with run_folder(run, notes):
        assert f"pid {os.getpid()}," in (run / LOCK).read_text()
    assert run.exists() and not (run / LOCK).exists()  # the folder was there before


def test_folders_made_for_nothing_are_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_folder(tmp_path / "a" / "b", notes):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists() and tmp_path.exists()
    with run_folder(tmp_path / "a" / "b", notes):
        (tmp_path / "a" / "b" / "config.yaml").write_text("")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["config.yaml"]


def test_a_refused_training_leaves_no_folder(tiny_experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a batch of 5000 is larger than the training period's [0-9]+ samples at rollout") as refused:
        run_training(load_experiment(tiny_experiment, ["training.batch_size=5000"]), resume=False, echo=[].append)
    assert "training.batch_size=" in refused.value.fix
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without)
    told: list[str] = []
    with run_folder(tmp_path / "run", told.append):
        assert "no locks" in told[0]


def test_a_kept_model_is_not_overwritten_by_another_training(tiny_experiment: Path, tmp_path: Path) -> None:
    """Where a model has been kept there is a checkpoint that knows its score, and without checkpoints no new training begins."""
    model = run_training(load_experiment(tiny_experiment, ["training.budget.train_steps=2"]), resume=False, echo=[].append)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="already holds a training"):
        run_training(load_experiment(tiny_experiment), resume=False, echo=notes)
    assert model.is_dir()


def test_the_configuration_is_whole_at_any_moment(tmp_path: Path, tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(tiny_experiment)
    text = write_config(tmp_path, experiment)
    assert (tmp_path / "config.yaml").read_text() == text and [p.name for p in tmp_path.glob("*config*")] == ["config.yaml"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("afno_forecast.experiment.resume.fsync_file", full)
    assert write_config(tmp_path, experiment) == text, "the same is not written again"
    with pytest.raises(OSError, match="No space"):
        write_config(tmp_path, experiment.model_copy(update={"seed": 99}))
    assert (tmp_path / "config.yaml").read_text() == text
