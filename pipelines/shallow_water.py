"""Shallow water on the rotating Earth, with the solver of torch-harmonics (extra `[pde]`) -> netCDF of trajectories -> training stores.

    python pipelines/shallow_water.py runs/shallow_water --trajectories 40 --train 32

First states are random, or the barotropic jet of Galewsky et al. 2004 with a small random bump; trajectory n follows from seed n.
The solution on 64 x 128 Gaussian points is written as it is and, cut in the spectrum, on 32 x 64: the same weather at two
resolutions, for models that are asked to work at both. Geopotential, vorticity and divergence, one state an hour.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from building import build, first_trajectories, is_made

from afno_forecast.data.build import BuildRecipe

SIZES = ((64, 128), (32, 64))
FIELDS = {"geopotential": "m2 s-2", "vorticity": "s-1", "divergence": "s-1"}


def first_state(solver: torch.nn.Module, start: str, seed: int) -> torch.Tensor:
    """Coefficients of geopotential, vorticity and divergence; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if start == "random":
            return solver.random_initial_condition(mach=0.2)
        state = solver.galewsky_initial_condition()
        bump = solver.random_initial_condition(mach=0.0)
        state[0] += 0.1 * (bump[0] - bump[0] * (torch.arange(bump.shape[1]) == 0)[:, None])
        return torch.tril(state)


def simulate(start: str, seed: int, *, steps: int, spin_up: int, dt: int) -> dict[tuple[int, int], np.ndarray]:
    """One trajectory at each size; float32 (time, field, latitude, longitude), an hour apart, latitude from north to south."""
    from torch_harmonics import InverseRealSHT
    from torch_harmonics.examples import ShallowWaterSolver

    rows, columns = SIZES[0]
    solver = ShallowWaterSolver(rows, columns, dt, lmax=rows // 3 * 2, mmax=rows // 3 * 2, grid="legendre-gauss").double()
    state = first_state(solver, start, seed)
    inverse = {size: InverseRealSHT(*size, lmax=min(size[0], state.shape[1]), mmax=min(size[0], state.shape[2]), grid="legendre-gauss",
                                    csphase=False).double() for size in SIZES}
    out = {size: np.empty((steps, len(FIELDS), *size), np.float32) for size in SIZES}
    state = solver.timestep(state, spin_up * 3600 // dt) if spin_up else state
    for n in range(steps):
        state = solver.timestep(state, 3600 // dt) if n else state
        for size, transform in inverse.items():
            out[size][n] = transform(state[:, : transform.lmax, : transform.mmax].contiguous()).numpy()
        if not np.isfinite(out[SIZES[0]][n]).all():
            raise SystemExit(f"trajectory {seed} is not finite after {n} hours; take a smaller --dt")
    return out


def write(path: Path, states: np.ndarray, number: int, parameters: str) -> None:
    rows, columns = states.shape[-2:]
    latitude = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))[::-1]
    coords = {"trajectory": np.asarray([number]), "time": ("time", np.arange(len(states)), {"units": "hours"}),
              "latitude": ("latitude", latitude, {"units": "degrees_north"}),
              "longitude": ("longitude", np.arange(columns) * 360 / columns, {"units": "degrees_east"})}
    dims = ("trajectory", "time", "latitude", "longitude")
    ds = xr.Dataset({name: (dims, states[None, :, i], {"units": units}) for i, (name, units) in enumerate(FIELDS.items())}, coords,
                    {"title": "Shallow water on the rotating Earth", "institution": "simulated, not observed",
                     "source": "pipelines/shallow_water.py with the solver of torch-harmonics", "parameters": parameters})
    draft = path.with_suffix(".partial")
    ds.to_netcdf(draft, encoding={name: {"zlib": True, "complevel": 1, "fletcher32": True, "chunksizes": (1, len(states), rows, columns)}
                                  for name in FIELDS})
    draft.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets netCDF files, and store_64x128.zarr and store_32x64.zarr")
    parser.add_argument("--start", choices=["random", "galewsky"], default="random", help="first states")
    parser.add_argument("--trajectories", type=int, default=40)
    parser.add_argument("--train", type=first_trajectories, default="32",
                        help="the first so many give the statistics; the rest are for validation and test")
    parser.add_argument("--steps", type=int, default=48, help="states of a trajectory, an hour apart")
    parser.add_argument("--spin-up", type=int, default=12, help="hours before the first state")
    parser.add_argument("--dt", type=int, default=150, help="time step of the solver, seconds; divides 3600")
    arguments = parser.parse_args()
    if arguments.dt < 1 or 3600 % arguments.dt:
        parser.error(f"--dt {arguments.dt} does not divide 3600")
    parameters = f"start {arguments.start}, steps {arguments.steps}, spin_up {arguments.spin_up}, dt {arguments.dt}"
    files: dict[tuple[int, int], list[Path]] = {size: [] for size in SIZES}
    for rows, columns in SIZES:
        (arguments.folder / f"{rows}x{columns}").mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.trajectories):
        paths = {size: arguments.folder / f"{size[0]}x{size[1]}" / f"trajectory_{seed:04d}.nc" for size in SIZES}
        if {is_made(path, parameters) for path in paths.values()} != {True}:
            made = simulate(arguments.start, seed, steps=arguments.steps, spin_up=arguments.spin_up, dt=arguments.dt)
            for size, path in paths.items():
                write(path, made[size], seed, parameters)
        for size, path in paths.items():
            files[size].append(path)
        print(f"\r{seed + 1} of {arguments.trajectories} trajectories", end="", file=sys.stderr, flush=True)
    code = 0
    for rows, columns in SIZES:
        recipe = BuildRecipe(sources=tuple(map(str, files[rows, columns])), statistics=arguments.train)
        code = code or build(recipe, arguments.folder / f"store_{rows}x{columns}.zarr")
    return code


if __name__ == "__main__":
    sys.exit(main())
