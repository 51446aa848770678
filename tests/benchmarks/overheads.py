"""What safety and telling cost: checksums of a save, the watch for numbers that are not finite, the log, and how long a save holds a training up.

    python tests/benchmarks/overheads.py [--out FILE.json] [--rounds 7]

A network of the size that configs/weather/speedy_5p6deg.yaml trains, on random states. Saves with and without sha256, and beside the training
or waiting for them, take turns. Times are by the clock (medians); `cpu` are seconds of the processor, which other work on the machine does
not change.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.loader import Batch
from afno_forecast.forecaster import ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.model_folder import sha256
from afno_forecast.training.config import TrainingConfig
from afno_forecast.training.divergence import require_finite
from afno_forecast.training.log import RunLog
from afno_forecast.training.run import Run
from afno_forecast.training.saving import Checkpoints

ROWS, COLUMNS, CHANNELS, BATCH = 32, 64, 11, 4


def make_run(folder: Path) -> Run:
    torch.manual_seed(0)
    grid = LatLonGrid((np.arange(ROWS) + 0.5) * 180 / ROWS - 90, np.arange(COLUMNS) * 360 / COLUMNS)
    channels = ChannelSet(tuple(Channel("geopotential", 100 + level, "m2 s-2") for level in range(CHANNELS)))
    ones = np.ones(CHANNELS)
    inputs = ModelInputs(channels, grid, "standard", 21600, 0 * ones, ones, ones, {})
    network = {"kind": "hierarchical", "widths": [64, 128, 192]}
    forecaster = build_forecaster(ModelConfig.model_validate({"forcings": [], "static": [], "backbone": network}, strict=False), inputs)
    config = TrainingConfig.model_validate({"budget": {"train_steps": 1}, "batch_size": BATCH, "stages": [{"until": 1, "rollout": 1}]}, strict=False)
    return Run(forecaster, SimpleNamespace(seed=0, wait_seconds=0.0), config, folder)  # type: ignore[arg-type]


def clock(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - began, time.process_time() - cpu


def update(run: Run, batch: Batch) -> None:
    run.differentiate(batch, 1, torch.autocast("cpu", enabled=False))
    run.optimizers.clip().item()
    run.optimizers.step(1e-3)
    run.average.update(run.forecaster)
    run.progress.add(samples=BATCH, seconds=1.0, core_seconds=1.0)


def measure_saves(run: Run, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of saves, each of a new step."""
    seen: dict[str, list[tuple[float, float]]] = {"plain": [], "hashed": [], "stall waiting": [], "stall beside": [], "sha256": []}

    def save(name: str, beside: bool, hashed: bool = True) -> None:
        run.progress.train_step += 1
        checkpoints = Checkpoints(folder, beside=beside)
        with patch("afno_forecast.training.checkpoint.sha256", sha256 if hashed else lambda path: "0" * 64):
            seen[name].append(clock(lambda: checkpoints.save(run.progress, run.tensors())))
            checkpoints.complete()

    for number in range(rounds + 1):
        order = [("plain", False, False), ("hashed", False, True), ("stall waiting", False, True), ("stall beside", True, True)]
        for case in order if number % 2 else reversed(order):
            save(*case)
        newest = folder / f"step-{run.progress.train_step}" / "state.safetensors"
        seen["sha256"].append(clock(lambda path=newest: sha256(path)))  # type: ignore[misc]
        if number == 0:  # the first round warms up
            seen = {name: [] for name in seen}
    size = sum(t.numel() * t.element_size() for t in run.tensors().values())
    result = {"megabytes": size / 1e6}
    for name, values in seen.items():
        result |= {f"{name}, s": statistics.median(v[0] for v in values), f"{name}, cpu s": statistics.median(v[1] for v in values)}
    result["checksum / save"] = 1 - result["plain, s"] / result["hashed, s"]
    result["checksum / save, cpu"] = result["sha256, cpu s"] / result["hashed, cpu s"]
    result["stall beside / waiting"] = result["stall beside, s"] / result["stall waiting, s"]
    return result


def measure_step(run: Run, folder: Path, rounds: int) -> dict[str, float]:
    """What is done in every step beside the step, over the step; seconds of the processor."""
    batch = Batch(torch.randn(BATCH, 2, CHANNELS, ROWS, COLUMNS), np.tile([0, 21600], (BATCH, 1)))
    update(run, batch)
    step = statistics.median(clock(lambda: update(run, batch))[1] for _ in range(rounds))
    count = 2000
    with RunLog(folder, train_step=0, echo=lambda text: None) as log:
        watch = clock(lambda: [require_finite(0.5, 1.0, run, batch, log) for _ in range(count)])[1] / count

        def tell() -> None:
            for number in range(count):
                log.update(number, 1, 0.5 + number, 1.0, 1e-3)
                log.progress(0.5, f"step {number}  loss {0.5:.4f}  rollout 1  {10.0:.1f} samples/s", 100.0)
            log.flush()

        told = clock(tell)[1] / count
    return {"step, cpu s": step, "finiteness watch, cpu s": watch, "log, cpu s": told, "finiteness watch / step": watch / step,
            "log / step": told / step}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as name:
        run = make_run(Path(name))
        result = {**measure_step(run, Path(name), options.rounds), **measure_saves(run, Path(name) / "checkpoints", options.rounds)}
    result |= {"rounds": options.rounds, "load": os.getloadavg()[0]}
    text = json.dumps({**{k: float(f"{v:.4g}") for k, v in result.items()}, "machine": platform.machine(), "torch": torch.__version__}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
