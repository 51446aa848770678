"""Processes of a training in several layouts, compared with the same training alone; each writes what differs as JSON. Started by the tests.

Arguments: folder, number of processes, names of cases with |. The processes are forked from one that has imported everything: that takes longer than
what is tested.
"""

import importlib
import json
import multiprocessing
import multiprocessing.connection
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from afno_forecast import distributed
from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.loader import Batch
from afno_forecast.distributed import Mesh, whole
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import BoxGrid, Grid, LatLonGrid
from afno_forecast.nn.backbone import muon_parameters
from afno_forecast.training.checkpoint import load_newest
from afno_forecast.training.config import TrainingConfig
from afno_forecast.training.parallel import Layout, ParallelConfig, parallelize, plan_mesh
from afno_forecast.training.run import Run

DAY = 86400
HIERARCHICAL = {"kind": "hierarchical", "widths": [6, 8, 20], "num_blocks": 5, "depth": 2, "shrink": 0.02}
PLAIN = {"kind": "plain", "patch": [3, 2], "width": 20, "num_blocks": 5, "depth": 2, "num_bands": 2, "local": True, "latitude": "double",
         "odd_channels": 0.3}
SPHERE = LatLonGrid((np.arange(11) + 0.5) * 180 / 11 - 90, np.arange(10) * 36.0)
POLES = LatLonGrid(np.linspace(-90, 90, 13), np.arange(10) * 36.0)
AREA = LatLonGrid(np.linspace(30, 50, 11), np.linspace(5, 25, 9))
BOX = BoxGrid(np.arange(12.0), np.arange(10.0))

# name -> (network, grid, parallel, accumulate)
CASES = {
    "data": (HIERARCHICAL, SPHERE, {}, 1),
    "data, accumulated": (PLAIN, SPHERE, {}, 2),
    "sharded": (HIERARCHICAL, SPHERE, {"sharded": True}, 1),
    "spatial": (HIERARCHICAL, SPHERE, {"spatial": 2}, 1),
    "spatial, patches": (PLAIN, SPHERE, {"spatial": 2}, 1),
    "spatial, pole rows": (HIERARCHICAL, POLES, {"spatial": 2}, 1),
    "spatial, limited area": (HIERARCHICAL, AREA, {"spatial": 2}, 1),
    "spatial, periodic box": (HIERARCHICAL, BOX, {"spatial": 2}, 1),
    "spatial, checkpointed, equal cells": (HIERARCHICAL, SPHERE, {"spatial": 2, "checkpointing": True, "equal": True}, 1),
    "spatial, ensemble": (HIERARCHICAL, SPHERE, {"spatial": 2, "ensemble": True}, 1),
    "spatial, advection": ({**HIERARCHICAL, "local": False, "direct": True}, SPHERE, {"spatial": 2, "advected": True}, 1),
    "block": (HIERARCHICAL, SPHERE, {"block": 2}, 1),
    "data x spatial": (HIERARCHICAL, SPHERE, {"spatial": 2}, 1),
    "spatial x block": (PLAIN, SPHERE, {"spatial": 2, "block": 2}, 1),
    "data x block, sharded": (HIERARCHICAL, SPHERE, {"block": 2, "sharded": True}, 1),
    "spatial 3": (HIERARCHICAL, SPHERE, {"spatial": 3}, 1),
}


ENSEMBLE = {"noise_lengths_km": [1500, 4000], "constraints": {"nonnegative": ["u850"], "conserved": ["u850"]}}
ADVECTED = {"advected_by": [["u850", "v850"]]}
LOSS = {"kind": "crps", "spectrum": 0.2, "input_noise": 0.1, "roll": "longitude"}


def make_forecaster(network: dict[str, object], grid: Grid, more: dict[str, object]) -> Forecaster:
    """A small forecaster whose every weight matters: the layers that start from zero are drawn too."""
    torch.manual_seed(5)
    names = (("temperature", "K"), ("u_component_of_wind", "m s-1"), ("v_component_of_wind", "m s-1"))
    channels = ChannelSet(tuple(Channel(name, 850, units) for name, units in names))
    forcings = ["sin_latitude", "toa_radiation"] if isinstance(grid, LatLonGrid) else []
    static = {"orography": np.random.default_rng(2).normal(size=grid.shape).astype(np.float32)}
    inputs = ModelInputs(channels, grid, "standard", DAY // 4, np.array([280.0, 5, 0]), np.array([10.0, 8, 7]), np.array([2.0, 3, 2]), static)
    config = ModelConfig.model_validate({"forcings": forcings, "static": ["orography"], "backbone": network, **more}, strict=False)
    forecaster = build_forecaster(config, inputs)
    with torch.no_grad():
        for parameter in forecaster.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return forecaster


def make_batch(forecaster: Forecaster, grid: Grid, number: int, num_steps: int, layout: Layout) -> Batch:
    """Of four windows of noise around the mean, from four days, this process' samples and rows."""
    generator = torch.Generator().manual_seed(100 + number)
    noise = torch.randn(4, 1 + num_steps, 3, *grid.shape, generator=generator)
    mean, std = forecaster.normalizer.mean_C[:, None, None], forecaster.normalizer.std_C[:, None, None]
    seconds = np.arange(4)[:, None] * DAY * 80 + np.arange(1 + num_steps) * forecaster.time_step
    share = 4 // layout.mesh.data.size
    own = slice(layout.mesh.data.rank * share, (layout.mesh.data.rank + 1) * share)
    return Batch(layout.own_rows(mean + std * noise)[own], seconds.astype(np.int64)[own])


def make_run(case: str, mesh: Mesh, folder: Path) -> Run:
    network, grid, parallel, accumulate = CASES[case]
    ensemble, several = bool(parallel.get("ensemble")), mesh.world.size > 1
    forecaster = make_forecaster(network, grid, (ENSEMBLE if ensemble else {}) | (ADVECTED if parallel.get("advected") else {}))
    loss = LOSS if ensemble else {"area": "equal"} if parallel.get("equal") else {}
    config = TrainingConfig.model_validate({"budget": {"train_steps": 3}, "batch_size": 4, "stages": [{"until": 1, "rollout": 2}],
                                            "optimizer": {"learning_rate": 3e-3}, "average": 0.9,
                                            "loss": loss, "accumulate": accumulate if several else 1}, strict=False)
    layout = parallelize(forecaster, mesh, sharded=parallel.get("sharded", False), checkpointing=several and parallel.get("checkpointing", False))
    return Run(forecaster, SimpleNamespace(seed=0), config, folder, layout)  # type: ignore[arg-type]


def train(case: str, run: Run, steps: int = 3) -> dict[str, Tensor]:
    """Five steps of rollout, then updates; everything whole."""
    grid, layout = CASES[case][1], run.layout
    found: dict[str, Tensor] = {}
    batch = make_batch(run.forecaster, grid, 0, 2, Layout())
    with torch.no_grad():
        for state in rollout(run.forecaster, layout.own_rows(batch.states[:, :1]), batch.seconds[:, 0], 5):
            found[f"rollout/{state.step}"] = run.forecaster.normalizer.encode(layout.all_rows(state.fields_BCHW))
    autocast = torch.autocast("cpu", enabled=False)
    for step in range(steps):
        part = run.differentiate(make_batch(run.forecaster, grid, step, 2, layout), 2, autocast)
        found[f"loss/{step}"] = torch.tensor(layout.mesh.world.numbers([part / layout.mesh.world.size]))
        if step == 0:
            found |= {f"gradients/{k}": whole(p.grad).clone() for k, p in run.forecaster.named_parameters()}
        found[f"norm/{step}"] = run.optimizers.clip()
        run.optimizers.step(3e-3)
        run.average.update(run.forecaster)
        run.progress.add(samples=4, seconds=1.0, core_seconds=1.0)
    found |= {f"weights/{k}": whole(p.detach()).clone() for k, p in run.forecaster.named_parameters()}
    return found | {f"average/{k}": whole(v).clone() for k, v in run.average.average.items()}


def differences(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each kind of result, in units of the size of all results of that kind."""
    assert found.keys() == wanted.keys()
    worst: dict[str, float] = {}
    for kind in {name.split("/")[0] for name in wanted}:
        names = [n for n in wanted if n.split("/")[0] == kind]
        scale = max(float(wanted[n].abs().max()) for n in names)
        assert scale > 0
        worst[kind] = max(float((found[n].double() - wanted[n].double()).abs().max()) for n in names) / scale
    return worst


def main(folder: Path, rank: int, size: int, cases: list[str]) -> None:
    torch.set_num_threads(1)
    result: dict[str, object] = {}
    with distributed.session(f"file://{folder}/meet?rank={rank}&world_size={size}"):
        for case in cases:
            _, _, parallel, accumulate = CASES[case]
            dimensions = ParallelConfig.model_validate({k: v for k, v in parallel.items() if k in ParallelConfig.model_fields})
            mesh = plan_mesh(dimensions, batch_sizes={"training.batch_size": 4}, accumulate=accumulate)
            alone, run = make_run(case, Mesh(), folder), make_run(case, mesh, folder / case)
            wanted, found = train(case, alone), train(case, run)
            traffic = {axis.name: dict(axis.traffic) for axis in (mesh.data, mesh.spatial, mesh.block, mesh.world)}
            rows = None if run.layout.rows is None else run.layout.rows.sizes
            matrices = set(muon_parameters(alone.forecaster)[0])
            result[case] = {"differences": differences(found, wanted), "traffic": traffic, "rows": rows,
                            "bytes of matrices": sum(4 * p.numel() for name, p in alone.forecaster.named_parameters() if name in matrices)}
            torch.manual_seed(1000 + rank)
            drawn = torch.get_rng_state()
            run.save()
            run.checkpoints.complete()
            other = make_run(case, Mesh(), folder / case)
            mesh.world.numbers([0.0])  # the checkpoint is there
            assert other.restore(lambda text: None)
            kept = {name: whole(tensor) for name, tensor in run.tensors().items()}
            result[case]["restored"] = differences(other.tensors(), kept)  # type: ignore[index]
            again = make_run(case, mesh, folder / case)
            assert again.restore(lambda text: None)
            same = {name: whole(tensor) for name, tensor in again.tensors().items()}
            exact = same.keys() == kept.keys() and all(torch.equal(same[k], kept[k]) for k in kept) and torch.equal(torch.get_rng_state(), drawn)
            result[case]["resumed exactly"] = exact  # type: ignore[index]
            parts = sorted((folder / case / "checkpoints" / "step-3").glob("*.safetensors"))
            result[case]["bytes of parts"] = [path.stat().st_size for path in parts]  # type: ignore[index]
            assert load_newest(folder / case / "checkpoints", print) is not None
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))


def start(folder: Path, size: int, cases: list[str]) -> bool:
    """Fork the processes and wait for them, or for the first that fails; whether all did what they should."""
    importlib.import_module("torch._dynamo")  # what the first optimizer imports

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=main, args=(folder, rank, size, cases), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    while (alive := [process for process in processes if process.is_alive()]) and not any(process.exitcode for process in processes):
        multiprocessing.connection.wait([process.sentinel for process in alive])
    for process in processes:
        process.terminate()
        process.join()
    return [process.exitcode for process in processes] == [0] * size


if __name__ == "__main__":
    sys.exit(not start(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split("|")))
