"""Two data-parallel processes beside one, in turns within one start; and what spatial parallelism sends in each layer.

    python tests/benchmarks/parallel.py [--out FILE.json] [--rounds 5] [--steps 4] [--batch 8]

One thread a process. Each round times the same updates (same samples, same network) by one process while the other waits, then by both.
`ratio` is samples/s of two over one, the median of the rounds, by the clock; `ratio_best` that of the fastest update of each kind, which other
work on the machine disturbs least. `ratio_cpu`, by the CPU seconds of the busier process, bounds what a quiet machine would give: it leaves out
waiting for each other. `--only NETWORK` measures one network, `--no-bytes` leaves out the bytes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from afno_forecast import distributed
from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.loader import Batch
from afno_forecast.distributed import Mesh
from afno_forecast.forecaster import ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.training.config import TrainingConfig
from afno_forecast.training.parallel import ParallelConfig, parallelize, plan_mesh
from afno_forecast.training.run import Run

ROWS, COLUMNS, CHANNELS = 32, 64, 11
NETWORKS = {"hierarchical": {"kind": "hierarchical", "widths": [48, 96, 144]},
            "plain": {"kind": "plain", "patch": [2, 2], "width": 128, "depth": 4, "num_blocks": 8}}


def make_run(network: str, mesh: Mesh, batch: int) -> Run:
    torch.manual_seed(0)
    grid = LatLonGrid((np.arange(ROWS) + 0.5) * 180 / ROWS - 90, np.arange(COLUMNS) * 360 / COLUMNS)
    channels = ChannelSet(tuple(Channel("geopotential", 100 + level, "m2 s-2") for level in range(CHANNELS)))
    ones = np.ones(CHANNELS)
    inputs = ModelInputs(channels, grid, "standard", 21600, 0 * ones, ones, ones, {})
    forecaster = build_forecaster(ModelConfig.model_validate({"forcings": [], "static": [], "backbone": NETWORKS[network]}, strict=False), inputs)
    config = TrainingConfig.model_validate({"budget": {"train_steps": 1}, "batch_size": batch, "stages": [{"until": 1, "rollout": 1}]}, strict=False)
    layout = parallelize(forecaster, mesh)
    return Run(forecaster, SimpleNamespace(seed=0), config, Path(), layout)  # type: ignore[arg-type]


def update(run: Run) -> None:
    """One update on this process' share of the samples and rows."""
    share = run.config.batch_size // run.layout.mesh.data.size
    states = torch.randn(share, 2, CHANNELS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(run.layout.mesh.data.rank))
    batch = Batch(run.layout.own_rows(states), np.tile([0, 21600], (share, 1)))
    run.differentiate(batch, 1, torch.autocast("cpu", enabled=False))
    run.optimizers.clip()
    run.optimizers.step(1e-3)
    run.average.update(run.forecaster)


def timed(run: Run, steps: int) -> tuple[float, float, float]:
    """(wall-clock, CPU) seconds of some updates, and wall-clock seconds of the fastest."""
    update(run)
    core_began, seconds = time.process_time(), []
    for _ in range(steps):
        began = time.perf_counter()
        update(run)
        seconds.append(time.perf_counter() - began)
    return sum(seconds), time.process_time() - core_began, min(seconds)


def measure_speed(network: str, mesh: Mesh, rounds: int, steps: int, batch: int) -> dict[str, float]:
    alone, both = make_run(network, Mesh(), batch), make_run(network, mesh, batch)
    found = []
    for _ in range(rounds):
        one = timed(alone, steps) if mesh.first else (0.0, 0.0, 0.0)
        mesh.world.numbers([0.0])
        two = timed(both, steps)
        wall, best = mesh.world.numbers([one[0], two[0]]), mesh.world.numbers([one[2], two[2]])
        cpu = [mesh.world.numbers([two[1] if mesh.world.rank == rank else 0.0])[0] for rank in range(mesh.world.size)]
        one_cpu = mesh.world.numbers([one[1]])[0]
        found.append((wall[0] / (wall[1] / mesh.world.size), one_cpu / max(cpu), steps * batch / wall[0], best[0], best[1] / mesh.world.size))
    ratio, ratio_cpu, rate, best_of_one, best_of_two = zip(*found, strict=True)
    return {"ratio": round(statistics.median(ratio), 2), "ratio_best": round(min(best_of_one) / min(best_of_two), 2),
            "ratio_cpu": round(statistics.median(ratio_cpu), 2), "samples_per_second_of_one": round(statistics.median(rate), 2),
            "samples_per_second_of_one_best": round(batch / min(best_of_one), 2)}


def measure_bytes(network: str, size: int, batch: int) -> dict[str, object]:
    """What one process sends in one update, by purpose and layer."""
    mesh = plan_mesh(ParallelConfig(spatial=size), batch_sizes={"training.batch_size": batch}, accumulate=1)
    run = make_run(network, mesh, batch)
    update(run)
    spatial = dict(mesh.spatial.traffic)
    layers = len(run.forecaster.backbone.blocks)  # type: ignore[arg-type]
    transposes = spatial["transposes"] // layers
    return {"sent_by_purpose": {**spatial, **dict(mesh.world.traffic)}, "mixer_layers": layers,
            "transposes_of_a_layer_forward": transposes, "a_dense_filter_would_send_forward": 2 * transposes}


def main(folder: Path, rank: int, rounds: int, steps: int, batch: int, networks: Sequence[str], *, with_bytes: bool) -> None:
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    with distributed.session(f"file://{folder}/meet?rank={rank}&world_size=2"):
        mesh = plan_mesh(ParallelConfig(), batch_sizes={"training.batch_size": batch}, accumulate=1)
        result = {name: {"data_parallel": measure_speed(name, mesh, rounds, steps, batch),
                         **({"spatial_parallel": measure_bytes(name, 2, batch)} if with_bytes else {})} for name in networks}
    (folder / f"{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="samples in an update, of all processes together")
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--no-bytes", action="store_true")
    parser.add_argument("--process", nargs=2)
    arguments = parser.parse_args()
    if arguments.process:
        main(Path(arguments.process[0]), int(arguments.process[1]), arguments.rounds, arguments.steps, arguments.batch,
             [arguments.only] if arguments.only else list(NETWORKS), with_bytes=not arguments.no_bytes)
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--process", folder]
        processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
        result = json.loads((Path(folder) / "0.json").read_text())
    about = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
             "load_average": os.getloadavg(), "grid": [ROWS, COLUMNS], "channels": CHANNELS, "batch": arguments.batch}
    text = json.dumps({"about": about, **result}, indent=1)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
