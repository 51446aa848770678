"""Years of simulated 6-hourly weather from the jcm GCM (SPEEDY physics, T31, 8 levels) -> netCDF -> a training store.

    python -m venv gcm && gcm/bin/pip install jcm==3.0.0 netCDF4
    JAX_PLATFORMS=cpu gcm/bin/python pipelines/speedy.py simulate runs/speedy --start 2010-01-01 --days 730
    python pipelines/speedy.py build runs/speedy --statistics 2010-01-01/2011-06-30T18

The model runs in an environment of its own, which need not hold this project; `build` needs no model. Fields stay on the model's
Gaussian grid and come from its sigma levels by linear interpolation in the logarithm of pressure; below the ground the lowest level is held.
Another start date gives independent weather of the same climate. Every file says "simulated, not observed".
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

LEVELS = {"geopotential": ("m2 s-2", "geopotential", (500, 850)), "temperature": ("K", "air_temperature", (500, 850)),
          "u_wind": ("m s-1", "eastward_wind", (250, 850)), "v_wind": ("m s-1", "northward_wind", (250, 850)),
          "specific_humidity": ("kg kg-1", "specific_humidity", (700,))}
SHORT = {"geopotential": "z", "temperature": "t", "u_wind": "u", "v_wind": "v", "specific_humidity": "q"}
CHUNK_DAYS = 15


def at_pressure(field: np.ndarray, sigma: np.ndarray, surface_pressure: np.ndarray, pressure: float) -> np.ndarray:
    """Fields (time, level, ...) on ascending sigma levels at one pressure (Pa); linear in log pressure, the lowest level held below it."""
    log_pressure = np.log(sigma)[None, :, None, None] + np.log(surface_pressure)[:, None]
    target = np.clip(np.log(pressure), log_pressure[:, 0], log_pressure[:, -1])
    upper = np.clip((log_pressure < target[:, None]).sum(axis=1) - 1, 0, len(sigma) - 2)[:, None]
    above, below = (np.take_along_axis(log_pressure, upper + n, 1)[:, 0] for n in (0, 1))
    first, second = (np.take_along_axis(field, upper + n, 1)[:, 0] for n in (0, 1))
    return first + (second - first) * (target - above) / (below - above)


def fields_of(ds: xr.Dataset) -> xr.Dataset:
    """The model's output as CF fields of this project's names."""
    order = np.argsort(ds["level"].values)
    sigma = ds["level"].values[order].astype(np.float64)
    rows, columns = (next(str(d) for d in ds["u_wind"].dims if str(d).startswith(start)) for start in ("lat", "lon"))
    surface = 1e5 * ds["normalized_surface_pressure"].transpose("time", rows, columns).values.astype(np.float64)
    coords = {"time": ds["time"].values, "latitude": ("latitude", ds[rows].values, {"units": "degrees_north"}),
              "longitude": ("longitude", ds[columns].values, {"units": "degrees_east"})}
    dims = ("time", "latitude", "longitude")
    out = {"sp": (dims, surface.astype(np.float32), {"units": "Pa", "standard_name": "surface_air_pressure"})}
    near_ground = ds["surface_flux.t0"].transpose("time", rows, columns).values.astype(np.float32)
    out["t2m"] = (dims, near_ground, {"units": "K", "standard_name": "air_temperature"})
    for name, (units, standard_name, levels) in LEVELS.items():
        values = ds[name].transpose("time", "level", rows, columns).values[:, order].astype(np.float64)
        for level in levels:
            made = at_pressure(values, sigma, surface, 100.0 * level).astype(np.float32)
            out[f"{SHORT[name]}{level}"] = (dims, made, {"units": units, "standard_name": standard_name})
    about = {"title": "Six-hourly weather of a simulated Earth-like atmosphere", "institution": "simulated, not observed",
             "source": "jcm 3.0.0, SPEEDY physics, T31, 8 levels; pipelines/speedy.py"}
    return xr.Dataset(out, coords, about)


def simulate(folder: Path, start: str, days: int, spin_up: int) -> None:
    """Run the model and write a file for every 15 days after the spin-up."""
    import jcm
    import jcm.configurations

    boundary = Path(jcm.__file__).parent / "data" / "bc" / "t30" / "clim"
    experiment = jcm.configurations.load("speedy-t31", **{
        "run.total_time": CHUNK_DAYS, "run.save_interval": 0.25, "run.time_step": 30, "run.start_time": start,
        "terrain.file": str(boundary / "terrain.nc"), "forcing.file": str(boundary / "forcing.nc")})
    folder.mkdir(parents=True, exist_ok=True)
    wanted = ["normalized_surface_pressure", "surface_flux.t0", *LEVELS]
    for first in range(0, days + spin_up, CHUNK_DAYS):
        run = experiment.model.resume(forcing=experiment.forcing, save_interval=0.25, total_time=CHUNK_DAYS) if first else \
            experiment.model.run(**experiment.run_kwargs)
        ds = run.to_xarray()[wanted].load()
        if not np.isfinite(ds["u_wind"].values).all():
            raise SystemExit(f"the model is not finite after day {first + CHUNK_DAYS}")
        if first >= spin_up:
            made = fields_of(ds)
            encoding = {name: {"zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True} for name in made.data_vars}
            draft = folder / "speedy.partial"
            made.to_netcdf(draft, encoding=encoding)
            draft.replace(folder / f"speedy_{first - spin_up:05d}.nc")
        print(f"day {first + CHUNK_DAYS} of {days + spin_up}", flush=True)


def build(folder: Path, start: str, end: str) -> int:
    from building import build as build_store

    from afno_forecast.data.build import BuildRecipe, StatisticsPeriod

    recipe = BuildRecipe(sources=(str(folder / "*.nc"),), statistics=StatisticsPeriod(start=start, end=end))
    return build_store(recipe, folder / "store.zarr")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulate", "build"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", default="2000-01-01")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--spin-up", type=int, default=60, help="days thrown away: the model starts from rest; a multiple of 15")
    parser.add_argument("--statistics", help="START/END of the training period, for build")
    arguments = parser.parse_args()
    if arguments.what == "build":
        start, _, end = (arguments.statistics or "").partition("/")
        if not (start and end):
            parser.error("build needs --statistics START/END")
        return build(arguments.folder, start, end)
    simulate(arguments.folder, arguments.start, arguments.days, arguments.spin_up)
    return 0


if __name__ == "__main__":
    sys.exit(main())
