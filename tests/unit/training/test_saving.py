"""Checkpoints beside the training and in parts: what is joined is what was divided, one at a time, errors are raised, nothing is lost."""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from afno_forecast.errors import CheckpointError, ResourceError, Stopped
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.model_folder import sha256
from afno_forecast.training import saving
from afno_forecast.training.checkpoint import Part, Progress, load_newest, prepare, seal, write_part
from afno_forecast.training.saving import Checkpoints

WHOLE = {"model/matrix": torch.arange(35.0).view(7, 5), "model/bias": torch.arange(4.0) - 2, "average_updates": torch.tensor(9)}


def three_parts(folder: Path, step: int, *, ranks: tuple[int, ...] = (0, 1, 2), firsts: tuple[int, ...] = (0, 3, 6)) -> list[Part]:
    """`WHOLE` as three processes hold it: rows 3, 3 and 1 of the matrix, the others somewhere."""
    prepare(folder, step, 1000)
    held: list[dict[str, Tensor]] = [{"model/matrix": WHOLE["model/matrix"][:3]}, {"model/matrix": WHOLE["model/matrix"][3:6]},
                                     {"model/matrix": WHOLE["model/matrix"][6:], "model/bias": WHOLE["model/bias"],
                                      "average_updates": WHOLE["average_updates"]}]
    return [write_part(folder, step, (rank, 3), {k: v.contiguous() for k, v in held[rank].items()}, {"model/matrix": (firsts[rank], 7)})
            for rank in ranks]


def test_parts_are_joined_to_what_was_divided(tmp_path: Path) -> None:
    path = seal(tmp_path, Progress(train_step=4, num_processes=3), three_parts(tmp_path, 4))
    assert {p.name for p in path.iterdir()} == {*(f"state-{i}-of-3.safetensors" for i in (1, 2, 3)), "state.json", "manifest.json"}
    found = load_newest(tmp_path, print)
    assert found is not None and found[0] == Progress(train_step=4, num_processes=3)
    assert found[1].keys() == WHOLE.keys() and all(torch.equal(found[1][name], WHOLE[name]) for name in WHOLE)


@pytest.mark.parametrize(("fault", "message"), [("altered", "state-2-of-3.safetensors was altered or damaged: sha256"),
                                                ("gone", "state-2-of-3.safetensors is missing"), ("rows", "rows of model/matrix are missing"),
                                                ("unlisted", "are not all of a checkpoint")])
def test_a_part_that_does_not_fit_is_refused_and_the_checkpoint_before_used(fault: str, message: str, tmp_path: Path) -> None:
    seal(tmp_path, Progress(train_step=1), three_parts(tmp_path, 1))
    parts = three_parts(tmp_path, 2, firsts=(0, 3, 5) if fault == "rows" else (0, 3, 6))
    newest = seal(tmp_path, Progress(train_step=2), parts[:2] if fault == "unlisted" else parts)
    if fault == "altered":
        content = bytearray((newest / parts[1].name).read_bytes())
        content[-2] ^= 1
        (newest / parts[1].name).write_bytes(content)
    elif fault == "gone":
        (newest / parts[1].name).unlink()
    lines: list[str] = []
    found = load_newest(tmp_path, lines.append)
    assert found is not None and found[0].train_step == 1
    assert len(lines) == 1 and message in lines[0]


def test_a_part_that_another_process_wrote_elsewhere_is_said(tmp_path: Path) -> None:
    parts = [*three_parts(tmp_path, 2, ranks=(0, 1)), Part("state-3-of-3.safetensors", 100, "0" * 64)]
    with pytest.raises(ResourceError, match=r"state-3-of-3\.safetensors, which another process has written, is not there") as error:
        seal(tmp_path, Progress(train_step=2), parts)
    assert "file system that all processes share" in error.value.fix


def test_an_older_form_is_read_and_a_younger_one_says_which_version_it_needs(tmp_path: Path) -> None:
    """FAULTS 25: a whole checkpoint of format 1 without the fields of later versions; one of a format to come."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Progress(train_step=3, best_score=0.5), WHOLE)
    folder = tmp_path / "step-3"
    manifest, values = (json.loads((folder / name).read_text()) for name in ("manifest.json", "state.json"))
    assert manifest["format"] == 1 and sorted(manifest["files"]) == ["state.json", "state.safetensors"]
    for young in ("num_processes", "reductions", "without_best"):
        del values[young]
    (folder / "state.json").write_text(json.dumps(values))
    manifest["files"]["state.json"]["sha256"] = sha256(folder / "state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = load_newest(tmp_path, print)
    assert found is not None and found[0] == Progress(train_step=3, best_score=0.5) and torch.equal(found[1]["model/bias"], WHOLE["model/bias"])
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 3, "version": "9.1"}))
    lines: list[str] = []
    with pytest.raises(CheckpointError, match="none of the checkpoints is valid"):
        load_newest(tmp_path, lines.append)
    assert "written in format 3, this version reads up to 2" in lines[0]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, no part is written."""
    opened, original = threading.Event(), write_part

    def gated(*arguments: object) -> Part:
        assert opened.wait(30)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "write_part", gated)
    yield opened
    opened.set()


def test_what_changes_while_a_checkpoint_is_written_is_not_in_it(gate: threading.Event, tmp_path: Path) -> None:
    weights, progress = torch.zeros(5), Progress(train_step=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(progress, {"model/w": weights})
        weights += 1
        progress.add(samples=4, seconds=1.0, core_seconds=1.0)
        assert checkpoints.writing and load_newest(tmp_path, print) is None
        gate.set()
    found = load_newest(tmp_path, print)
    assert found is not None and found[0] == Progress(train_step=1) and not found[1]["model/w"].any()


def test_one_checkpoint_at_a_time(gate: threading.Event, tmp_path: Path) -> None:
    threading.Timer(0.2, gate.set).start()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Progress(train_step=1), WHOLE)
        began = time.monotonic()
        checkpoints.save(Progress(train_step=2), WHOLE)
        assert time.monotonic() - began > 0.1 and (tmp_path / "step-1").exists()
        assert checkpoints.complete() and not checkpoints.complete()
        assert checkpoints.seconds > 0
    assert (tmp_path / "latest").read_text() == "step-2\n"


def test_without_beside_saving_waits(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, beside=False)
    checkpoints.save(Progress(train_step=1), WHOLE)
    assert not checkpoints.writing and (tmp_path / "step-1").exists()


def test_a_full_disk_is_an_error_of_the_next_call_and_the_checkpoint_before_is_intact(tmp_path: Path) -> None:
    """FAULTS 4: a file may not grow beyond 40 kB; the thread meets it, the training is told."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Progress(train_step=1), WHOLE)
    checkpoints.complete()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        checkpoints.save(Progress(train_step=2), {"model/w": torch.zeros(20_000)})
        with pytest.raises(ResourceError, match=r"a checkpoint could not be written: .*; [\d,]+ bytes are free") as error:
            checkpoints.save(Progress(train_step=3), WHOLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.exit_code == 5 and "the last checkpoint is intact" in error.value.fix
    found = load_newest(tmp_path, print)
    assert found is not None and found[0].train_step == 1
    checkpoints.save(Progress(train_step=3), WHOLE)
    checkpoints.complete()
    assert {path.name for path in tmp_path.iterdir()} == {"step-1", "step-3", "latest"}


def test_a_training_whose_checkpoint_fails_stops_at_the_next_step(tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = write_part

    def failing(folder: Path, train_step: int, *rest: object) -> Part:
        if train_step == 3:
            raise ResourceError("the disk is full", where=str(folder), fix="free some space")
        return original(folder, train_step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "write_part", failing)
    with pytest.raises(ResourceError, match="the disk is full"):
        run_training(load_experiment(tiny_experiment, ["training.checkpoint_minutes=1e-6"]), resume=False, echo=[].append)
    found = load_newest(tmp_path / "run" / "checkpoints", print)
    assert found is not None and found[0].train_step == 2
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert int(rows[-1].split(",")[0]) <= 4


def test_a_stop_waits_for_what_is_under_way(gate: threading.Event, tiny_experiment: Path, tmp_path: Path) -> None:
    def release() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        gate.set()

    first = threading.Timer(0.5, release)

    def echo(text: str) -> None:
        if "parameters" in text:
            first.start()

    with pytest.raises(Stopped, match="stopped by SIGTERM after train step"):
        run_training(load_experiment(tiny_experiment, ["training.checkpoint_minutes=1e-6", "training.budget.train_steps=400"]), resume=False,
                     echo=echo)
    found = load_newest(tmp_path / "run" / "checkpoints", print)
    assert found is not None and found[0].train_step >= 1 and not list((tmp_path / "run" / "checkpoints").glob("*.partial"))
