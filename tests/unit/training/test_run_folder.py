"""A run folder: one training at a time, whoever died before; nothing left of a training that was refused."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from afno_forecast.errors import ConfigError
from afno_forecast.experiment import load_experiment, run_training
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
