"""Where the spectral mixer pays: networks with and without it on waves that cross more cells in a step than convolutions see.

    OMP_NUM_THREADS=1 python tests/benchmarks/mixer_range.py runs/shallow_water/store_32x64.zarr OUT --seconds 40

The data: `python pipelines/shallow_water.py runs/shallow_water --trajectories 64 --train 48 --steps 37 --spin-up 6`. Gravity waves of a fluid
10 km deep go 313 m/s: 1.8 cells of 5.6 degrees in an hour, 10.8 in six, 21.6 in twelve (at the equator; more towards the poles). What a network
sees is measured, not counted: the farthest cell in a row whose value changes the output at one cell.

Every row is trained on single steps with the same cost, as in skill.py: seconds of an update, measured for all rows of a step in turn, give the
number of updates. Score: VRMSE as in pde.py, mean over channels and forecasts of the test trajectories, after one and after two steps.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pde import score
from skill import ROOT, Rows, Setting, known_costs, slug, train_row
from skill_networks import Build, Recipe, hierarchical, plain

from afno_forecast.data.store import Store
from afno_forecast.training.optimizers import OptimizerConfig

SINGLE = Recipe("single steps", ((1.0, 1),), OptimizerConfig(learning_rate=4e-3, schedule="cosine"), average=0.99, batch=4)
SHALLOW, DEEP = (32, 64), (32, 64, 128)
PLAIN = {"patch": (2, 2), "width": 96, "depth": 4, "local": True, "mlp_ratio": 2.0}
SPHERE = {"latitude": "double"}
PERIODS = {"train": "2000-01-01/2047-12-31T23", "validation": "2048-01-01/2051-12-31T23", "test": "2052-01-01/2063-12-31T23"}
STEPS = ("1h", "6h", "12h")


def networks(grid: tuple[int, int]) -> dict[str, Build]:
    """The rows, with and without mixer; `gfn` has a weight for every mode and channel, the others share theirs among modes."""
    half = (grid[0] // 2, grid[1] // 2)
    return {
        "shallow, afno": hierarchical(widths=SHALLOW, **SPHERE),
        "shallow, none": hierarchical(widths=SHALLOW, mixer="identity", num_bands=4),
        "shallow, gfn": hierarchical(widths=SHALLOW, mixer="gfn", tokens=half, num_bands=4, **SPHERE),
        "deep, afno": hierarchical(widths=DEEP, **SPHERE),
        "deep, none": hierarchical(widths=DEEP, mixer="identity", num_bands=4),
        "shallow, fno": hierarchical(widths=SHALLOW, mixer="fno", **SPHERE),
        "shallow, attention": hierarchical(widths=SHALLOW, mixer="attention", num_bands=4),
        "plain, afno": plain(num_bands=4, **PLAIN, **SPHERE),
        "plain, none": plain(mixer="identity", **PLAIN),
        "shallow, none, wider": hierarchical(widths=(32, 72), mixer="identity", num_bands=4),
        "shallow, none, six blocks": hierarchical(widths=SHALLOW, depth=6, mixer="identity", num_bands=4),
    }


@torch.no_grad()
def reach(build: Build, grid: tuple[int, int]) -> int:
    """Columns between an output cell in the middle row and the farthest cell in it that the output depends on (half the row: all)."""
    torch.manual_seed(1)
    network = build(3, 3, grid, "sphere").double()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    row, column = grid[0] // 2, grid[1] // 2
    state = torch.randn(1, 3, *grid, dtype=torch.float64)
    other = state.clone()
    other[..., row, column] += 1.0
    changed = (network(other) != network(state)).any(1)[0, row].nonzero().flatten()
    return int((changed - column).abs().max())


def rows_of(step: str, grid: tuple[int, int]) -> Rows:
    """All rows at one step."""
    recipe = replace(SINGLE, time_steps=(step,))
    return {f"{name}, {step}": (build, recipe) for name, build in networks(grid).items()}


def table(out: Path) -> str:
    """Markdown of what is on file; seeds side by side."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*-[0-9].json")):
        item = json.loads(path.read_text())
        found.setdefault((item["step"], item["row"]), []).append(item)
    lines = ["| step | network | sees, cells | one step | two steps | geopotential, vorticity, divergence: one step | updates | M parameters |",
             "|" + "---|" * 8]

    def mean(items: list[dict[str, Any]], lead: str) -> str:
        return " / ".join(f"{np.mean(item['vrmse']['forecast'][lead]):.3f}" for item in items)

    for (step, name), items in sorted(found.items(), key=lambda pair: (int(pair[0][0][:-1]), np.mean(pair[1][0]["vrmse"]["forecast"]["1"]))):
        parts = ", ".join(f"{np.mean([item['vrmse']['forecast']['1'][i] for item in items]):.3f}" for i in range(3))
        lines.append(f"| {step} | {name} | {items[0]['reach']} | {mean(items, '1')} | {mean(items, '2')} | {parts} | {items[0]['updates']} | "
                     f"{items[0]['parameters'] / 1e6:.2f} |")
    for step in {step for step, _ in found}:
        first = next(items[0] for (of, _), items in found.items() if of == step)
        still = first["vrmse"]["persistence"]
        lines.append(f"| {step} | persistence | | {np.mean(still['1']):.3f} | {np.mean(still['2']):.3f} | "
                     f"{', '.join(f'{value:.3f}' for value in still['1'])} | | |")
    return "\n".join(lines)


def run(setting: Setting, store: Store, args: argparse.Namespace, step: str, rows: Rows) -> None:
    """Train and score the rows of a step that are not on file."""
    grid = store.grid.shape
    first = next(iter(rows_of(step, grid).values()))
    costs = known_costs(setting, rows, args.out / f"costs-{step}.json", first, repeats=3)
    for seed in map(int, args.seeds.split(",")):
        for name, row in rows.items():
            path = args.out / f"{slug(name)}-{seed}.json"
            if path.exists():
                continue
            forecaster, figures = train_row(setting, row, costs[name], seed, args.seconds, args.out / "runs" / path.stem)
            figures |= {"row": name.rpartition(", ")[0], "step": step, "seconds": args.seconds, "cost": costs[name].seconds,
                        "reach": reach(row[0], grid), **score(forecaster, store, PERIODS["test"], args.inits, (1, 2))}
            path.write_text(json.dumps(figures, indent=1) + "\n")
            print(f"{name} (seed {seed}): VRMSE {np.mean(figures['vrmse']['forecast']['1']):.4f}  {figures['updates']} updates", flush=True)


def main() -> None:
    """Train what is not on file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=40.0, help="CPU seconds of one core for each row")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--rows", help="names without the step, semicolon between them; all by default")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--inits", type=int, default=48)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(args.store, PERIODS["train"], PERIODS["validation"], ROOT / "configs" / "pde" / "shallow_water.yaml")
    store = Store.open(args.store)
    names = args.rows.split("; ") if args.rows else list(networks(store.grid.shape))
    for step in args.steps:
        rows = {name: row for name, row in rows_of(step, store.grid.shape).items() if name.rpartition(", ")[0] in names}
        run(setting, store, args, step, rows)
    print(table(args.out))


if __name__ == "__main__":
    main()
