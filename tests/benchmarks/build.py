"""Building a store: time and peak memory of `build_store` against xarray's way, each in a process of its own, from the same netCDF files.

    python tests/benchmarks/build.py --memory 150 --json tests/benchmarks/results/store_build/build.json

The source is `--factor` times larger than `--memory` (MB). The other way is what xarray offers: `open_mfdataset`, `to_zarr`, then the
statistics that training needs (mean, standard deviation, minimum, maximum, standard deviation of the tendency; area-weighted, float64)
from the store it wrote. Neither makes a climatology. Peak memory is the process' largest resident set, less that after the imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

ROWS, COLUMNS, CHANNELS = 90, 180, 12


def write_source(folder: Path, megabytes: float) -> int:
    """netCDF files of 200 times of smooth random weather, packed as archives do: deflated, shuffled, a chunk a time; bytes decoded."""
    each = 4 * ROWS * COLUMNS * CHANNELS
    num_times = max(4, int(megabytes * 1e6 / each))
    random = np.random.default_rng(0)
    wave = np.cos(np.deg2rad(np.linspace(-89, 89, ROWS)))[:, None] * np.cos(np.deg2rad(np.arange(COLUMNS) * 2.0))[None]
    for first in range(0, num_times, 200):
        count = min(200, num_times - first)
        times = np.datetime64("2000-01-01", "ns") + (first + np.arange(count)) * np.timedelta64(6, "h")
        variables = {}
        for c in range(CHANNELS):
            values = (280 + c + 10 * wave * random.normal(size=(count, 1, 1)) + random.normal(size=(count, ROWS, COLUMNS))).astype("f4")
            variables[f"tracer{c:02d}"] = (("time", "latitude", "longitude"), values, {"units": "K"})
        ds = xr.Dataset(variables, {"time": times, "latitude": ("latitude", np.linspace(-89, 89, ROWS), {"units": "degrees_north"}),
                                    "longitude": ("longitude", np.arange(COLUMNS) * 2.0, {"units": "degrees_east"})})
        encoding = {name: {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": (1, ROWS, COLUMNS)} for name in variables}
        ds.to_netcdf(folder / f"part_{first:06d}.nc", encoding=encoding)
    return num_times * each


def run_ours(folder: Path, out: Path) -> dict[str, list[float]]:
    from afno_forecast.data.build import build_store
    from afno_forecast.data.plan import StoreSettings
    from afno_forecast.data.sources import open_source

    store = build_store(open_source(folder), out, StoreSettings(climatology=False))
    s = store.statistics
    return {"mean": s.mean.tolist(), "std": s.std.tolist(), "tendency_std": s.tendency_std.tolist()}


def run_xarray(folder: Path, out: Path) -> dict[str, list[float]]:
    from afno_forecast.grid import LatLonGrid

    ds = xr.open_mfdataset(sorted(folder.glob("*.nc")), combine="by_coords", chunks={"time": 40})
    for variable in ds.variables.values():
        variable.encoding = {}
    ds.to_zarr(out, mode="w", consolidated=False)
    ds = xr.open_zarr(out, consolidated=False).astype("f8")
    weights = xr.DataArray(LatLonGrid(ds["latitude"].values, ds["longitude"].values).area_weights(), dims=("latitude", "longitude"))
    mean = ds.weighted(weights).mean().compute()
    std = ds.weighted(weights).std().compute()
    ds.min().compute(), ds.max().compute()
    tendency = ds.diff("time").weighted(weights).std().compute()
    names = sorted(map(str, ds.data_vars))
    return {key: [float(found[n]) for n in names] for key, found in (("mean", mean), ("std", std), ("tendency_std", tendency))}


def peak_megabytes() -> float:
    """Largest resident set of this process since it began; `ru_maxrss` counts what was before it too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def worker(kind: str, folder: Path, out: Path) -> None:
    """One way in this process; prints seconds, megabytes and the statistics."""
    import afno_forecast.data.build
    import afno_forecast.data.sources

    assert afno_forecast.data.build and afno_forecast.data.sources
    resident = peak_megabytes()
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    found = (run_ours if kind == "ours" else run_xarray)(folder, out)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_megabytes": peak_megabytes() - resident, "statistics": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=float, default=150.0, help="MB that a build may take beyond the imports")
    parser.add_argument("--factor", type=float, default=4.0, help="how much larger the source is")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], Path(arguments.worker[1]), Path(arguments.worker[2]))
        return
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "xarray": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "source"
        folder.mkdir()
        total = write_source(folder, arguments.memory * arguments.factor)
        found = {}
        for _ in range(arguments.repeat):
            for kind, done in runs.items():
                out = Path(temporary) / f"{kind}.zarr"
                shutil.rmtree(out, ignore_errors=True)
                text = subprocess.run([sys.executable, __file__, "--worker", kind, str(folder), str(out)], check=True, capture_output=True, text=True)
                result = json.loads(text.stdout.splitlines()[-1])
                found[kind] = result.pop("statistics")
                done.append(result)
                print(f"{kind:>7}: {result}", flush=True)
        for key in found["ours"]:
            np.testing.assert_allclose(found["ours"][key], found["xarray"][key], rtol=1e-6)
    middle = {kind: {key: statistics.median(r[key] for r in done) for key in done[0]} for kind, done in runs.items()}
    summary = {"source_megabytes": total / 1e6, "allowed_megabytes": arguments.memory, "median": middle, "runs": runs,
               "ratios": {key: middle["xarray"][key] / middle["ours"][key] for key in ("seconds", "cpu_seconds", "peak_megabytes")},
               "within_allowed_memory": middle["ours"]["peak_megabytes"] <= arguments.memory}
    print(json.dumps({k: v for k, v in summary.items() if k != "runs"}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
