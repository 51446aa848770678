"""PDE experiments at equal cost: ours as `configs/pde/` has it, beside neuraloperator's SFNO (shallow water) and FNO (Navier-Stokes).

    OMP_NUM_THREADS=1 python tests/benchmarks/pde.py shallow_water runs/shallow_water/store_32x64.zarr OUT --seconds 60 \\
        --train 2000-01-01/2013-12-31T23 --validation 2014-01-01/2015-12-31T23 --test 2016-01-01/2019-12-31T23 \\
        --finer runs/shallow_water/store_64x128.zarr
    OMP_NUM_THREADS=1 python tests/benchmarks/pde.py navier_stokes runs/navier_stokes/store.zarr OUT ...

Cost: CPU seconds of updates, measured for all rows interleaved as in skill.py; the budget gives each row its number of updates. Data, inputs,
tendency target, area weights, warm-up, cosine and clipping are the same; ours has the optimiser, stages and average of its configuration, a
rival AdamW on single steps, and, in the row `..., our stages`, everything of ours but Muon. Rows of ours on single steps, and of the plain
network at full resolution, tell what the curriculum and the coarse levels do.

Score: VRMSE, the root of the area mean of the squared error over the area variance of the truth (The Well, arXiv 2412.00568, without its
floor of 1e-7, which a vorticity in 1/s never exceeds), mean over forecasts and channels, from evenly spread instants of the test trajectories.
With `--finer` the same weights also forecast the same instants on the finer grid.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skill import ROOT, Row, Rows, Setting, known_costs, slug, train_row
from skill_networks import Recipe, neuraloperator, plain
from torch import nn

from afno_forecast.data.samples import find_windows
from afno_forecast.data.store import Store
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster, build_forecaster
from afno_forecast.nn.backbone import build_backbone
from afno_forecast.nn.padding import Boundary
from afno_forecast.times import parse_instant
from afno_forecast.training.optimizers import OptimizerConfig

LEADS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Rival:
    """A network of neuraloperator and its learning rate."""

    name: str
    build: Callable[..., nn.Module]
    learning_rate: float = 2e-3


def spherical(**options: Any) -> Callable[..., nn.Module]:
    """SFNO with the transforms of Gaussian latitudes, which the data lie on; its default are equiangular ones."""
    build = neuraloperator("SFNO", **options)

    def made(*arguments: Any) -> nn.Module:
        network = build(*arguments)
        for module in network.modules():
            if hasattr(module, "sht_grids"):
                module.sht_grids = ["legendre-gauss"] * 2  # type: ignore[assignment]
        return network

    return made


RIVALS = {
    "shallow_water": Rival("SFNO", spherical(n_modes=(32, 32), hidden_channels=32, n_layers=4)),
    "navier_stokes": Rival("FNO", neuraloperator("FNO", n_modes=(24, 24), hidden_channels=32, n_layers=4)),
}


def rows_of(experiment: str, setting: Setting) -> Rows:
    """Ours and the rival, with the recipes of the text above."""
    training, rival = setting.experiment.training, RIVALS[experiment]
    backbone = setting.experiment.model.backbone
    ours = Recipe("ours", tuple((stage.until, stage.rollout) for stage in training.stages), training.optimizer, training.average,
                  training.batch_size, ())
    adam = OptimizerConfig(muon=False, learning_rate=rival.learning_rate, schedule="cosine")
    common = Recipe("common", ((1.0, 1),), adam, 0.0, training.batch_size, ())
    latitude = {"latitude": "double"} if experiment == "shallow_water" else {}
    fine = plain(patch=(1, 1), width=48, depth=4, mlp_ratio=2, num_bands=6, num_blocks=4, local=True, **latitude)

    def configured(num_in: int, num_out: int, _: tuple[int, int], boundary: Boundary) -> nn.Module:
        return build_backbone(backbone, num_in, num_out, boundary)

    return {"ours": (configured, ours),
            "ours, single steps": (configured, replace(ours, stages=((1.0, 1),))),
            "plain AFNO, patch 1, single steps": (fine, replace(ours, stages=((1.0, 1),))),
            rival.name: (rival.build, common),
            f"{rival.name}, our stages": (rival.build, replace(ours, name="ours without Muon", optimizer=adam))}


def on_grid(setting: Setting, trained: Forecaster, name: str, store: Store) -> Forecaster:
    """The same weights and statistics on another grid: ours as `rollout --other-grid` does it, the rival's network as it is."""
    small = {"kind": "plain", "width": 8, "depth": 0}
    model = setting.experiment.model
    inputs = replace(setting.inputs(()), grid=store.grid, trained_on=setting.store.grid, static={})
    if name.startswith("ours"):
        made = build_forecaster(model, inputs)
        made.backbone.load_state_dict(trained.backbone.state_dict())
    else:
        made = build_forecaster(model.model_validate({**model.model_dump(exclude={"backbone"}), "backbone": small}), inputs)
        made.backbone = trained.backbone
    return made


@torch.no_grad()
def score(forecaster: Forecaster, store: Store, test: str, num_inits: int, leads: Sequence[int] = LEADS) -> dict[str, Any]:
    """VRMSE by lead (in model steps) and channel of the forecast and of persistence."""
    forecaster.eval()
    index_C = store.channel_index(forecaster.channels)
    start, end = (parse_instant(text, store.times.calendar) for text in test.split("/"))
    windows = find_windows(store.times, time_step=forecaster.time_step, history=1, num_steps=max(leads), start=start, end=end).index
    windows = windows[np.unique(np.linspace(0, len(windows) - 1, num_inits).round().astype(int))]
    area_HW = forecaster.grid.area_weights().astype(np.float64)
    area_HW /= area_HW.sum()
    states_NTCHW = np.stack([np.stack([store.read(int(row), index_C) for row in window[[0, *leads]]]) for window in windows]).astype(np.float64)

    def vrmse(field: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        mean = (truth * area_HW).sum((-2, -1), keepdims=True)
        return np.asarray(np.sqrt(((field - truth) ** 2 * area_HW).sum((-2, -1)) / ((truth - mean) ** 2 * area_HW).sum((-2, -1))).mean(0))

    found: dict[str, dict[str, list[float]]] = {"forecast": {}, "persistence": {}}
    history = torch.from_numpy(states_NTCHW[:, :1].astype(np.float32))
    for state in rollout(forecaster, history, store.times.seconds[windows[:, 0]], max(leads)):
        if state.step in leads:
            truth, field = states_NTCHW[:, 1 + leads.index(state.step)], state.fields_BCHW.double().numpy()
            found["forecast"][str(state.step)] = vrmse(field, truth).tolist()
            found["persistence"][str(state.step)] = vrmse(states_NTCHW[:, 0], truth).tolist()
    return {"vrmse": found, "channels": list(forecaster.channels.shorts), "num_inits": len(windows)}


def table(results: list[dict[str, Any]], step: str) -> str:
    """Markdown: VRMSE, mean over channels, by lead; a line for each row and grid, persistence last."""
    leads = " | ".join(f"{lead} {step}" for lead in LEADS)
    lines = [f"| row | grid | {leads} | updates | M parameters |", "|" + "---|" * (len(LEADS) + 4)]

    def cells(found: dict[str, list[float]]) -> str:
        return " | ".join(f"{np.mean(found[str(lead)]):.3f}" for lead in LEADS)

    for grid in results[0]["grids"]:
        for item in results:
            one = item["grids"][grid]
            lines.append(f"| {item['row']} | {grid} | {cells(one['vrmse']['forecast'])} | {item['updates']} | "
                         f"{item['parameters'] / 1e6:.2f} |")
        lines.append(f"| persistence | {grid} | {cells(results[0]['grids'][grid]['vrmse']['persistence'])} | | |")
    return "\n".join(lines)


def run_row(setting: Setting, name: str, row: Row, args: argparse.Namespace, costs: dict[str, list[float]]) -> dict[str, Any]:
    """Train a row, or take its file; scores on every grid."""
    path = args.out / f"{slug(name)}.json"
    if not path.exists():
        forecaster, figures = train_row(setting, row, costs[name], 1, args.seconds, args.out / "runs" / path.stem)
        grids = {"x".join(map(str, setting.store.grid.shape)): score(forecaster, setting.store, args.test, args.inits)}
        for finer in map(Store.open, args.finer):
            grids["x".join(map(str, finer.grid.shape))] = score(on_grid(setting, forecaster, name, finer), finer, args.test, args.inits)
        path.write_text(json.dumps({**figures, "row": name, "seconds": args.seconds, "cost": costs[name].seconds, "grids": grids}, indent=1) + "\n")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def main() -> None:
    """Train what is not on file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(RIVALS))
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--finer", type=Path, nargs="*", default=[], help="stores of the same trajectories on other grids")
    for period in ("train", "validation", "test"):
        parser.add_argument(f"--{period}", required=True, help="START/END")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of one core for each row")
    parser.add_argument("--rows", help="names, comma between them, as file names; all by default")
    parser.add_argument("--inits", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(args.store, args.train, args.validation, ROOT / "configs" / "pde" / f"{args.experiment}.yaml")
    rows = rows_of(args.experiment, setting)
    if args.rows:
        rows = {name: row for name, row in rows.items() if slug(name) in args.rows.split(",")}
    costs = known_costs(setting, rows, args.out / "costs.json", rows_of(args.experiment, setting)["ours"], repeats=3)
    results = [run_row(setting, name, row, args, costs) for name, row in rows.items()]
    print(table(results, "h" if args.experiment == "shallow_water" else "units"))


if __name__ == "__main__":
    main()
