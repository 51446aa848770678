"""Two-dimensional forced turbulence: vorticity on a periodic box, pseudo-spectral -> netCDF of trajectories -> a training store.

    python pipelines/navier_stokes.py runs/navier_stokes --trajectories 40 --train 32

The equation is that of Li et al. 2021 (arXiv:2010.08895, section 5.3): dw/dt + u . grad w = nu laplace w + f on the unit square,
f = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)), first states drawn from a Gaussian field with covariance 7^3 (-laplace + 49)^(-5/2).
Fourier modes, two-thirds rule, integrating factor for the viscosity, fourth-order Runge-Kutta. Trajectory n follows from seed n.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from building import build, first_trajectories, is_made
from torch import Tensor

from afno_forecast.data.build import BuildRecipe


class Turbulence:
    """The vorticity equation on the unit square, N x N points, float64; state: the Fourier coefficients of vorticity, rows y, columns x."""

    def __init__(self, size: int, viscosity: float, *, forced: bool = True) -> None:
        self.size, self.viscosity = size, viscosity
        k_y = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)[:, None]
        k_x = 2 * math.pi * torch.fft.rfftfreq(size, 1 / size, dtype=torch.float64)[None, :]
        self.k_x, self.k_y = k_x, k_y
        self.square = k_x**2 + k_y**2
        self.inverse = torch.where(self.square > 0, 1 / self.square.clamp(min=1e-30), 0.0)
        top = 2 * math.pi * size / 3
        self.kept = (k_x.abs() < top) & (k_y.abs() < top)
        points = torch.arange(size, dtype=torch.float64) / size
        phase = 2 * math.pi * (points[None, :] + points[:, None])
        self.force = torch.fft.rfft2(0.1 * (torch.sin(phase) + torch.cos(phase))) * float(forced)

    def advection(self, spectrum: Tensor) -> Tensor:
        """-u . grad w + f as coefficients; velocity u = (d psi/dy, -d psi/dx) of the stream function with -laplace psi = w."""
        stream = spectrum * self.inverse
        parts = torch.stack([1j * self.k_y * stream, -1j * self.k_x * stream, 1j * self.k_x * spectrum, 1j * self.k_y * spectrum])
        u, v, w_x, w_y = torch.fft.irfft2(parts, s=(self.size, self.size))
        return (self.force - torch.fft.rfft2(u * w_x + v * w_y)) * self.kept

    def step(self, spectrum: Tensor, dt: float) -> Tensor:
        """One step of dt; Runge-Kutta 4 on the coefficients times exp(nu k^2 t)."""
        half = torch.exp(-0.5 * dt * self.viscosity * self.square)
        a = self.advection(spectrum)
        b = self.advection(half * (spectrum + 0.5 * dt * a))
        c = self.advection(half * spectrum + 0.5 * dt * b)
        d = self.advection(half**2 * spectrum + dt * half * c)
        return half**2 * spectrum + dt / 6 * (half**2 * a + 2 * half * (b + c) + d)

    def first_state(self, seed: int) -> Tensor:
        """Coefficients of a draw from the Gaussian field; the same at every size for the modes both have."""
        modes = 32
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2 * modes + 1, modes + 1, 2, dtype=torch.float64, generator=generator)
        spectrum = torch.zeros(self.size, self.size // 2 + 1, dtype=torch.complex128)
        reach = min(modes, self.size // 2 - 1)
        for row in range(-reach, reach + 1):
            spectrum[row, : reach + 1] = torch.view_as_complex(noise[row + modes, : reach + 1])
        deviation = 7**1.5 * (self.square + 49) ** -1.25
        spectrum = spectrum * deviation * self.size**2 * self.kept / math.sqrt(2)
        spectrum[0, 0] = 0
        return torch.fft.rfft2(torch.fft.irfft2(spectrum, s=(self.size, self.size)))


def simulate(seeds: list[int], *, size: int, viscosity: float, steps: int, interval: float, dt: float, spin_up: float) -> np.ndarray:
    """Vorticity of several trajectories together; float32 (trajectory, time, y, x), every `interval`, from `spin_up` on."""
    model = Turbulence(size, viscosity)
    state = torch.stack([model.first_state(seed) for seed in seeds])
    out = np.empty((len(seeds), steps, size, size), np.float32)
    for _ in range(round(spin_up / dt)):
        state = model.step(state, dt)
    for n in range(steps):
        for _ in range(round(interval / dt) if n else 0):
            state = model.step(state, dt)
        out[:, n] = torch.fft.irfft2(state, s=(size, size)).numpy()
        if not np.isfinite(out[:, n]).all():
            raise SystemExit(f"the solution is not finite after {n} states; take a smaller --dt")
    return out


def write(path: Path, curl: np.ndarray, numbers: list[int], interval: float, parameters: str) -> None:
    points = (np.arange(curl.shape[-1]), {"boundary": "periodic"})
    axis = {name: (name, points[0] / curl.shape[-1], points[1]) for name in ("y", "x")}
    ds = xr.Dataset({"curl": (("trajectory", "time", "y", "x"), curl, {"units": "1", "long_name": "vorticity"})},
                    {"trajectory": np.asarray(numbers), "time": np.arange(curl.shape[1]) * interval, **axis},
                    {"title": "Forced two-dimensional turbulence", "institution": "simulated, not observed", "source": "pipelines/navier_stokes.py",
                     "parameters": parameters})
    draft = path.with_suffix(".partial")
    ds.to_netcdf(draft, encoding={"curl": {"zlib": True, "complevel": 1, "fletcher32": True, "chunksizes": (1, *curl.shape[1:])}})
    draft.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets a netCDF file for every 8 trajectories, and store.zarr")
    parser.add_argument("--trajectories", type=int, default=40)
    parser.add_argument("--train", type=first_trajectories, default="32",
                        help="the first so many give the statistics; the rest are for validation and test")
    parser.add_argument("--size", type=int, default=64, help="points a side")
    parser.add_argument("--viscosity", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=40, help="states of a trajectory")
    parser.add_argument("--interval", type=float, default=1.0, help="units of time between states")
    parser.add_argument("--dt", type=float, default=0.02, help="time step of the solver")
    parser.add_argument("--spin-up", type=float, default=5.0, help="units of time before the first state")
    arguments = parser.parse_args()
    for name, value in (("--interval", arguments.interval), ("--spin-up", arguments.spin_up)):
        if not (arguments.dt > 0 and abs(value / arguments.dt - round(value / arguments.dt)) < 1e-6):
            parser.error(f"{name} {value} is no multiple of --dt {arguments.dt}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    files = []
    for first in range(0, arguments.trajectories, 8):
        seeds = list(range(first, min(first + 8, arguments.trajectories)))
        files.append(arguments.folder / f"trajectories_{first:04d}.nc")
        parameters = (f"trajectories {seeds[0]} to {seeds[-1]}, size {arguments.size}, viscosity {arguments.viscosity}, steps {arguments.steps}, "
                      f"interval {arguments.interval}, dt {arguments.dt}, spin_up {arguments.spin_up}")
        if not is_made(files[-1], parameters):
            curl = simulate(seeds, size=arguments.size, viscosity=arguments.viscosity, steps=arguments.steps, interval=arguments.interval,
                            dt=arguments.dt, spin_up=arguments.spin_up)
            write(files[-1], curl, seeds, arguments.interval, parameters)
        print(f"{seeds[-1] + 1} of {arguments.trajectories} trajectories", flush=True)
    recipe = BuildRecipe(sources=tuple(map(str, files)), statistics=arguments.train)
    return build(recipe, arguments.folder / "store.zarr")


if __name__ == "__main__":
    sys.exit(main())
