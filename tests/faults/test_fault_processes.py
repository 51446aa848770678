"""FAULTS 1, 2, 4, 8, 13 with several processes: stop signals, a killed process, a full disk, another number of processes, and the time limit."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from afno_forecast.training.checkpoint import load_newest

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]
COMMAND = (sys.executable, "-c", "from afno_forecast.cli import main; main()")
SETTINGS = ("training.checkpoint_minutes=1e-6", "training.budget.train_steps=40", "training.batch_size=4", "training.accumulate=2",
            "training.parallel.spatial=1", "validation.count=2")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(size: int, *arguments: str, faults: Mapping[int, str] | None = None) -> list[subprocess.Popen[str]]:
    """`afno-forecast` as a launcher starts it: the same command, each process told its place; with lines that some run before."""
    python, option, program = COMMAND
    common = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    before = [(faults or {}).get(rank, "") for rank in range(size)]
    return [subprocess.Popen([python, option, f"{before[rank]}\n{program}", *arguments], env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(size)]


def finish(processes: list[subprocess.Popen[str]], seconds: float = 200) -> tuple[list[int], str, str]:
    """Exit codes, everything on stdout, everything on stderr."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        time.sleep(0.05)
    for process in processes:
        process.kill()
    outputs = [process.communicate() for process in processes]
    return [p.returncode for p in processes], "".join(out for out, _ in outputs), "".join(err for _, err in outputs)


def wait_for_steps(run: Path, count: int, processes: list[subprocess.Popen[str]]) -> None:
    """Until the run has written a checkpoint of at least that many updates."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        if any(int(path.name[5:]) >= count for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit()):
            return
        time.sleep(0.02)
    pytest.fail(f"no {count} updates: {finish(processes, 1)}")


def newest(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    found = load_newest(run / "checkpoints", print)
    assert found is not None
    return found[1], {k: v for k, v in asdict(found[0]).items() if k not in ("seconds", "core_seconds")}


@pytest.fixture(scope="module")
def unbroken(make_tiny_experiment: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes under torchrun, to the end."""
    path = make_tiny_experiment(tmp_path_factory.mktemp("unbroken"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run([*launcher, *COMMAND, "train", str(path), *SETTINGS], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1 and done.stdout.count("parameters") == 1, done.stdout
    return path.parent / "run"


def test_a_signal_to_one_process_stops_all_at_one_step_and_the_rest_is_exact(unbroken: Path, tiny_experiment: Path, tmp_path: Path) -> None:
    processes = start(2, "train", str(tiny_experiment), *SETTINGS)
    wait_for_steps(tmp_path / "run", 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, _, told = finish(processes)
    assert codes == [75, 75], told
    assert told.count("stopped by SIGTERM after train step") == 1 and told.count("--resume") == 1, told
    assert newest(tmp_path / "run")[1]["train_step"] < 40  # type: ignore[operator]
    codes, _, told = finish(start(2, "train", str(tiny_experiment), *SETTINGS, "--resume"))
    assert codes == [0, 0], told
    (tensors, progress), (wanted, wanted_progress) = newest(tmp_path / "run"), newest(unbroken)
    assert progress == wanted_progress and progress["train_step"] == 40 and progress["num_processes"] == 2
    assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[k], wanted[k]) for k in wanted)
    assert (tmp_path / "run" / "metrics.csv").read_text() == (unbroken / "metrics.csv").read_text()
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (unbroken / "model/model.safetensors").read_bytes()


def test_a_killed_process_ends_the_others_which_tell_once_and_one_alone_goes_on(tiny_experiment: Path, tmp_path: Path) -> None:
    settings = [*(s for s in SETTINGS if "train_steps" not in s), "training.budget.train_steps=4000"]
    processes = start(2, "train", str(tiny_experiment), *settings)
    wait_for_steps(tmp_path / "run", 2, processes)
    processes[1].kill()
    began = time.monotonic()
    codes, _, told = finish(processes)
    assert time.monotonic() - began < 30
    assert codes == [70, -signal.SIGKILL], told
    assert told.count("another process of this training has ended") == 1, told
    assert "Traceback" not in told
    done = newest(tmp_path / "run")[1]["train_step"]
    alone = subprocess.run([*COMMAND, "train", str(tiny_experiment), *settings, "--resume", "--max-time", "2s"], capture_output=True,
                           text=True, timeout=200, check=False)
    assert alone.returncode == 75, alone.stderr
    assert "written by 2 processes, this is 1" in alone.stdout and "not the same to the last bit" in alone.stdout
    assert "stopped by the time limit after train step" in alone.stderr
    assert newest(tmp_path / "run")[1]["train_step"] > done  # type: ignore[operator]


FULL = """
import resource
from afno_forecast.training import saving
original = saving.{name}
def full(*arguments):
    if {step} == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    return original(*arguments)
saving.{name} = full
"""
SMALL = """
import shutil
from types import SimpleNamespace
from afno_forecast.training import saving
original = saving.prepare
def prepare(folder, train_step, size):
    if train_step == 3:
        shutil.disk_usage = lambda path: SimpleNamespace(free=1000)
    original(folder, train_step, size)
saving.prepare = prepare
"""


@pytest.mark.parametrize(("rank", "fault", "words"), [
    (1, FULL.format(name="write_part", step="arguments[1]", limit=10_000), "state-2-of-2.safetensors"),
    pytest.param(0, FULL.format(name="write_part", step="arguments[1]", limit=10_000), "state-1-of-2.safetensors", marks=pytest.mark.slow),
    pytest.param(0, FULL.format(name="seal", step="arguments[1].train_step", limit=0), "a checkpoint could not be written", marks=pytest.mark.slow),
    (0, SMALL, "bytes, 1,000 are free"),
], ids=["a part", "the first part", "the seal", "too small"])
def test_a_full_disk_of_one_process_ends_all_with_the_same_cause_told_once(rank: int, fault: str, words: str, tiny_experiment: Path,
                                                                          tmp_path: Path) -> None:
    codes, _, told = finish(start(2, "train", str(tiny_experiment), *SETTINGS, faults={rank: fault}))
    assert codes == [5, 5], told
    lines = told.splitlines()
    assert len(lines) == 3 and words in told, told
    assert lines[1].startswith("  where: ") and str(tmp_path / "run" / "checkpoints") in lines[1]
    assert lines[2].startswith("  fix:   free some space") and "the last checkpoint is intact, go on from it with --resume" in lines[2]
    assert newest(tmp_path / "run")[1]["train_step"] == 2


def test_a_mistake_is_told_by_one_process(tiny_experiment: Path, tmp_path: Path) -> None:
    codes, _, told = finish(start(2, "train", str(tiny_experiment), "training.batch_size=3"))
    assert codes == [2, 2] and told.count("3 samples in an update cannot be divided among 2 processes") == 1
    assert "training.batch_size=4" in told and not (tmp_path / "run").exists()
