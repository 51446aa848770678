"""FAULTS 1, 2, 3, 5, 7, 9, 18, 27, 28, 30: what goes wrong in training, and what must happen."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from afno_forecast.data.loader import Batch, Loader
from afno_forecast.errors import CheckpointError, ConfigError, DivergenceError, ResourceError, Stopped
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.model_folder import sha256
from afno_forecast.training.checkpoint import Progress, load_newest
from afno_forecast.training.optimizers import Optimizers
from afno_forecast.training.saving import Checkpoints
from afno_forecast.training.validation import Validator

RUN = ("import sys; from pathlib import Path; from afno_forecast.experiment import *; "
       "run_training(load_experiment(Path(sys.argv[1]), sys.argv[2:]), resume={resume}, echo=print)")


def train(path: Path, *overrides: str, resume: bool = False, lines: list[str] | None = None) -> Path:
    return run_training(load_experiment(path, overrides), resume=resume, echo=[].append if lines is None else lines.append)


def save_checkpoint(folder: Path, progress: Progress, tensors: dict[str, torch.Tensor]) -> Path:
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(progress, tensors)
    return folder / f"step-{progress.train_step}"


def newest_state(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints"
    return load_file(str(folder / (folder / "latest").read_text().strip() / "state.safetensors"))


def seconds_of_an_update(run: Path) -> float:
    """On the average over a training, its checkpoint included: so that kills fall alike on a fast and on a slow machine."""
    seconds = (run / "checkpoints" / "latest").stat().st_mtime - (run / "config.yaml").stat().st_mtime
    return seconds / len((run / "metrics.csv").read_text().splitlines())


@pytest.mark.parametrize(("most_kills", "steps"), [(3, 20), pytest.param(30, 240, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_killed_at_any_moment_training_goes_on_bit_exactly(most_kills: int, steps: int, make_tiny_experiment: Callable[[Path], Path],
                                                           tmp_path: Path) -> None:
    """SIGKILL at random moments of one run, in saves too (a checkpoint after every step), until it ends by itself.

    With accumulation, averaged weights, two stages, shuffling, checkpoints written beside the training, a thread that reads ahead, and two
    threads that compute: with one the numbers are others.
    """
    settings = ("training.checkpoint_minutes=1e-6", f"training.budget.train_steps={steps}", "training.accumulate=3", "training.threads=2",
                "training.stages=[{until: 0.1, rollout: 1}, {until: 1.0, rollout: 2}]", "training.asynchronous_checkpoints=true")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, broken = make_tiny_experiment(tmp_path / "a"), make_tiny_experiment(tmp_path / "b")

    def start(path: Path, resume: bool) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait spin otherwise, and stand in the way of others
        return subprocess.Popen([sys.executable, "-c", RUN.format(resume=resume), str(path), *settings], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    unbroken = start(whole, resume=False)
    output, _ = unbroken.communicate(timeout=120 + 3 * steps)
    assert unbroken.returncode == 0, output
    metrics, latest = broken.parent / "run" / "metrics.csv", broken.parent / "run" / "checkpoints" / "latest"
    seconds = seconds_of_an_update(whole.parent / "run")
    rng = np.random.default_rng(11)
    kills = 0
    for attempt in range(most_kills + 1):
        resume = (broken.parent / "run" / "checkpoints").exists()
        process = start(broken, resume)
        if attempt < most_kills:
            before = latest.read_text() if latest.exists() else ""
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline and (not latest.exists() or latest.read_text() == before):
                time.sleep(0.002)
            time.sleep(float(rng.uniform(0, 2 * seconds)))
            process.kill()
        output, _ = process.communicate(timeout=120 + 3 * steps)
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output
    assert kills >= (1 if most_kills < 30 else 30)
    first, second = newest_state(whole.parent / "run"), newest_state(broken.parent / "run")
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert (whole.parent / "run" / "metrics.csv").read_text() == metrics.read_text()
    assert (whole.parent / "run/model/model.safetensors").read_bytes() == (broken.parent / "run/model/model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "empty", "altered", "missing", "manifest"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(damage: str, tmp_path: Path) -> None:
    weights = {"model/w": torch.arange(5000.0)}
    for step in (1, 2):
        newest = save_checkpoint(tmp_path, Progress(train_step=step), {k: v * step for k, v in weights.items()})
    target = newest / ("manifest.json" if damage == "manifest" else "state.safetensors")
    content = bytearray(target.read_bytes())
    if damage == "truncated":
        target.write_bytes(content[:-1000])
    elif damage == "empty":
        target.write_bytes(b"")
    elif damage == "missing":
        target.unlink()
    else:
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    lines: list[str] = []
    found = load_newest(tmp_path, lines.append)
    assert found is not None and found[0].train_step == 1 and torch.equal(found[1]["model/w"], weights["model/w"])
    assert len(lines) == 1 and "checkpoint step-2 is not used" in lines[0]
    if damage == "altered":
        assert "sha256 is" in lines[0] and "the manifest says" in lines[0] and "state.safetensors" in lines[0]


class Unpickled:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("attack", ["pickle", "outside", "absolute", "link"])
def test_a_checkpoint_that_holds_a_pickle_or_leaves_its_folder_is_refused_though_its_hashes_are_right(attack: str, tmp_path: Path,
                                                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for step in (1, 2):
        newest = save_checkpoint(tmp_path / "checkpoints", Progress(train_step=step), {"model/w": torch.ones(3) * step})
    target, manifest = newest / "state.safetensors", json.loads((newest / "manifest.json").read_text())
    if attack == "pickle":
        target.write_bytes(pickle.dumps(Unpickled()))
        manifest["files"]["state.safetensors"] = {"bytes": target.stat().st_size, "sha256": sha256(target)}
    else:
        elsewhere = Path(shutil.move(target, tmp_path / "elsewhere"))
        if attack == "link":
            target.symlink_to(elsewhere)
        else:
            name = "../../elsewhere" if attack == "outside" else str(elsewhere)
            manifest["files"][name] = manifest["files"].pop("state.safetensors")
    (newest / "manifest.json").write_text(json.dumps(manifest))
    lines: list[str] = []
    found = load_newest(tmp_path / "checkpoints", lines.append)
    assert found is not None and found[0].train_step == 1 and torch.equal(found[1]["model/w"], torch.ones(3))
    assert len(lines) == 1 and "checkpoint step-2 is not used" in lines[0] and not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_in_a_validation_stops_after_it_and_the_rest_is_exact(number: signal.Signals, tiny_experiment: Path, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    original = Validator.__call__

    def interrupted(self: Validator, *arguments: Any) -> object:
        os.kill(os.getpid(), number)
        return original(self, *arguments)

    settings = ("training.budget.train_steps=4", "validation.count=2")
    train(tiny_experiment, *settings, f"output={tmp_path / 'whole'}")
    with monkeypatch.context() as patch:
        patch.setattr(Validator, "__call__", interrupted)
        with pytest.raises(Stopped, match=f"stopped by {number.name} after train step [23]; everything is saved"):
            train(tiny_experiment, *settings)
    train(tiny_experiment, *settings, resume=True)
    first, second = newest_state(tmp_path / "whole"), newest_state(tmp_path / "run")
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert (tmp_path / "whole" / "validation.csv").read_text() == (tmp_path / "run" / "validation.csv").read_text()


def test_no_valid_checkpoint_at_all_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    target = save_checkpoint(tmp_path, Progress(train_step=1), {"model/w": torch.ones(3)})
    (target / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the checkpoints is valid: step-1"):
        load_newest(tmp_path, [].append)
    assert load_newest(tmp_path / "elsewhere", [].append) is None


def test_saving_the_same_step_again_never_removes_the_only_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save_checkpoint(tmp_path, Progress(train_step=5), {"model/w": torch.ones(3)})
    inode = (target / "state.safetensors").stat().st_ino
    monkeypatch.setattr(shutil, "rmtree", lambda path: pytest.fail(f"{path} was removed"))
    assert save_checkpoint(tmp_path, Progress(train_step=5), {"model/w": torch.ones(3)}) == target
    assert (target / "state.safetensors").stat().st_ino == inode


def test_checkpoints_that_are_gone_are_not_a_fresh_start(tmp_path: Path) -> None:
    shutil.rmtree(save_checkpoint(tmp_path, Progress(train_step=5), {"model/w": torch.ones(3)}))
    with pytest.raises(CheckpointError, match="step-5 is gone"):
        load_newest(tmp_path, [].append)


def test_a_training_that_has_ended_is_not_begun_anew_over_its_model(tiny_experiment: Path) -> None:
    few = ["training.budget.train_steps=2", "validation.count=1"]
    model = run_training(load_experiment(tiny_experiment, few), resume=False, echo=[].append)
    before = (model / "manifest.json").read_bytes()
    shutil.rmtree(model.parent / "checkpoints")
    with pytest.raises(ConfigError, match="its checkpoints are gone: it would begin anew and replace the model"):
        run_training(load_experiment(tiny_experiment, few), resume=True, echo=[].append)
    assert (model / "manifest.json").read_bytes() == before
    shutil.rmtree(model)
    with pytest.raises(ConfigError, match="differs from the one that was stopped"):
        run_training(load_experiment(tiny_experiment, [*few, "seed=99"]), resume=True, echo=[].append)


def test_a_resume_before_the_first_checkpoint_says_that_the_training_begins(tiny_experiment: Path) -> None:
    lines: list[str] = []
    run_training(load_experiment(tiny_experiment, ["training.budget.train_steps=1", "validation.count=1"]), resume=True, echo=lines.append)
    assert "note: there is no checkpoint yet to go on from; the training begins" in lines


def test_an_unfinished_checkpoint_is_never_taken_for_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Progress(train_step=1), {"model/w": torch.ones(3)})
    shutil.copytree(tmp_path / "step-1", tmp_path / "step-9.partial")
    found = load_newest(tmp_path, [].append)
    assert found is not None and found[0].train_step == 1


def test_a_disk_too_small_leaves_the_old_state_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, Progress(train_step=1), {"model/w": torch.ones(3)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: os.terminal_size((0, 0)) and type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"needs [\d,]+ bytes, 1,000 are free"):
        save_checkpoint(tmp_path, Progress(train_step=2), {"model/w": torch.ones(3)})
    found = load_newest(tmp_path, [].append)
    assert found is not None and found[0].train_step == 1


def test_a_disk_too_small_for_the_plan_is_refused_before_the_first_step(tiny_experiment: Path, tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    saved, disk_usage = train(tiny_experiment), shutil.disk_usage
    written = max((tmp_path / "run" / "checkpoints").glob("step-*/*.safetensors"))
    size = sum(t.numel() * t.element_size() for name, t in load_file(written).items() if not name.startswith("random/"))
    free = int(2.9 * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk_usage(path)._replace(free=free))
    with pytest.raises(ResourceError, match=f"checkpoints of this training need [0-9,]+ bytes, {free:,} are free") as error:
        train(tiny_experiment, f"output={tmp_path / 'other'}")
    told = int(re.findall("need ([0-9,]+) bytes", str(error.value))[0].replace(",", ""))
    assert saved.exists() and 0.99 * 3 * size < told <= 3 * size
    assert error.value.exit_code == 5 and not (tmp_path / "other" / "metrics.csv").exists()


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_an_output_that_cannot_be_written_is_said_before_data_are_loaded(kind: str, tiny_experiment: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder")
    output = blocked if kind == "file" else blocked / "run"
    with pytest.raises(ResourceError, match="the output folder cannot be written") as error:
        train(tiny_experiment, f"output={output}", f"data.store={tmp_path / 'there-is-no-store.zarr'}")
    assert error.value.exit_code == 5 and str(output) in str(error.value)


def poison(monkeypatch: pytest.MonkeyPatch, count: int, value: float, channel: int, place: int = 0) -> None:
    original = Loader.batches

    def batches(loader: Loader, num_steps: int, **options: Any) -> Iterator[Batch]:
        for i, batch in enumerate(original(loader, num_steps, **options), 1):
            if i == count:
                batch.states[1, place, channel, 3, 5] = value
            yield batch

    monkeypatch.setattr(Loader, "batches", batches)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_within_the_step_and_says_where(value: float, tiny_experiment: Path, tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 4, value, channel=1)
    with pytest.raises(DivergenceError, match="the loss of train step 4 is not finite: channel t2m of the input") as error:
        train(tiny_experiment, "training.checkpoint_minutes=1e-6")
    assert error.value.exit_code == 6
    assert "batch starting at 2001-01-" in str(error.value)
    found = load_newest(tmp_path / "run" / "checkpoints", [].append)
    assert found is not None and found[0].train_step == 3


def test_a_truth_that_is_not_finite_is_named_with_its_instant(tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 2, np.nan, channel=1, place=1)
    with pytest.raises(DivergenceError, match=r"the loss of train step 2 is not finite: channel t2m of the truth at 2001-01-\d\dT(00|06|12|18)"):
        train(tiny_experiment)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(tiny_experiment: Path, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = Optimizers.clip, []

    def clip(self: Optimizers) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 3:
            next(p for part in self._parts.values() for group in part.param_groups for p in group["params"] if p.grad is not None).grad.fill_(np.inf)
        return original(self)

    monkeypatch.setattr(Optimizers, "clip", clip)
    with pytest.raises(DivergenceError, match="the gradient of train step 3 is not finite: not in the first step") as error:
        train(tiny_experiment, "training.checkpoint_minutes=1e-6")
    assert error.value.exit_code == 6
    found = load_newest(tmp_path / "run" / "checkpoints", [].append)
    assert found is not None and found[0].train_step == 2 and all(torch.isfinite(t).all() for t in found[1].values() if t.is_floating_point())


def test_weights_that_blow_up_are_named(tiny_experiment: Path) -> None:
    with pytest.raises(DivergenceError, match=r"not finite: .*(layer|weights|later step)"):
        train(tiny_experiment, "training.optimizer.learning_rate=1e30", "training.optimizer.warmup=0.0", "training.optimizer.muon=false")


def test_training_and_validation_must_not_overlap(tiny_experiment: Path) -> None:
    with pytest.raises(ConfigError, match="overlaps the training period, 2001-01-01 to 2001-01-25") as error:
        train(tiny_experiment, "data.validation.start=2001-01-20")
    assert error.value.exit_code == 2


def test_statistics_from_outside_the_training_period_are_refused(tiny_experiment: Path) -> None:
    with pytest.raises(ConfigError, match="statistics cover 2001-01-01T00 to 2001-01-25T00, which reaches outside the training period") as error:
        train(tiny_experiment, "data.train.end=2001-01-20")
    assert "--statistics 2001-01-01/2001-01-20" in str(error.value)


def test_a_constant_channel_is_named_and_training_goes_on(tmp_path: Path, tiny_weather: Path, make_tiny_experiment: Callable[[Path], Path]) -> None:
    from afno_forecast.data.build import build_store
    from afno_forecast.data.plan import StoreSettings
    from afno_forecast.data.sources import open_source
    from afno_forecast.times import parse_instant

    with xr.open_dataset(tiny_weather) as ds:
        ds = ds.load()
    ds["t2m"][:] = 280.0
    ds.to_netcdf(tmp_path / "constant.nc")
    period = (parse_instant("2001-01-01"), parse_instant("2001-01-25"))
    build_store(open_source(tmp_path / "constant.nc"), tmp_path / "constant.zarr", StoreSettings(statistics_period=period))
    lines: list[str] = []
    settings = (f"data.store={tmp_path / 'constant.zarr'}", "training.budget.train_steps=2", "validation.count=1")
    train(make_tiny_experiment(tmp_path), *settings, lines=lines)
    assert any("channel t2m is constant" in line for line in lines)
    assert any("channel t2m does not change over the validation period" in line for line in lines)
    assert (tmp_path / "run" / "model" / "manifest.json").exists()
    scores = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines() if "validation" in line]
    assert all(np.isfinite(s["rmse_over_persistence"]) and set(s["channels"]) == {"z500", "u250"} for s in scores)


def test_a_training_that_keeps_no_model_is_an_error(tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "__call__", lambda self, forecaster, layout: (float("nan"), xr.Dataset()))
    with pytest.raises(DivergenceError, match="no model was kept"):
        train(tiny_experiment, "training.budget.train_steps=2", "validation.count=1")
