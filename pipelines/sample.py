"""Make the data shipped inside the package: a cut of the simulated weather, two ERA5 states and one GRIB file.

    python pipelines/sample.py ../shared/data afno_forecast/data/sample

The cut holds one season to train on and one later season held out, with every variable as precise as in the source files. The
gap between the seasons is real: a window of states never crosses it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

PERIODS = (("2000-12-01T00", "2001-02-28T18"), ("2001-12-22T00", "2002-02-05T18"))
SIMULATED = ("speedy_2000-03_2001-02.nc", "speedy_2001-03_2002-02.nc")
COPIED = ("real/era5_msl_2025120100_2.5deg.nc", "real/era5_uv850_2025120100_2.5deg.nc", "real/earthkit_pl_regular_ll.grib")
CHUNK_TIMES = 184  # 1.5 MB a chunk


def cut(sources: list[Path]) -> xr.Dataset:
    parts = []
    for source, (start, end) in zip(sources, PERIODS, strict=True):
        with xr.open_dataset(source, mask_and_scale=False) as ds:
            parts.append(ds.sel(time=slice(start, end)).load())
    first, second = parts
    for name in (n for n, v in first.data_vars.items() if "time" not in v.dims):
        if not np.array_equal(first[name].values, second[name].values):
            raise SystemExit(f"'{name}' differs between the sources")
    return xr.concat(parts, dim="time", data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override")


def write(ds: xr.Dataset, path: Path) -> None:
    """Compressed, with a checksum on every chunk; the values keep every bit."""
    with netCDF4.Dataset(path, "w", format="NETCDF4") as out:
        out.setncatts({**ds.attrs, "comment": "A cut of longer simulated records: " + " and ".join(f"{a} to {b} UTC" for a, b in PERIODS)})
        for name, size in ds.sizes.items():
            out.createDimension(str(name), size)
        hours = (ds["time"].values - np.datetime64("2000-01-01", "ns")) // np.timedelta64(1, "h")
        time = out.createVariable("time", "i4", ("time",), fletcher32=True)
        time.setncatts({"units": "hours since 2000-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"})
        time[:] = hours
        for name in (*(c for c in ds.coords if c != "time"), *ds.data_vars):
            array = ds[name]
            chunks = tuple(min(CHUNK_TIMES, n) if d == "time" else n for d, n in array.sizes.items())
            target = out.createVariable(str(name), "f4", array.dims, compression="zlib", complevel=9, shuffle=True, fletcher32=True,
                                        chunksizes=chunks, fill_value=False if name in ds.coords else array.attrs.get("_FillValue", False))
            target.setncatts({k: v for k, v in array.attrs.items() if k != "_FillValue"})
            target[:] = array.values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="folder with the simulated years and the real files")
    parser.add_argument("target", type=Path, help="the package's sample folder")
    arguments = parser.parse_args()
    write(cut([arguments.source / name for name in SIMULATED]), arguments.target / "weather.nc")
    for name in COPIED:
        shutil.copyfile(arguments.source / name, arguments.target / Path(name).name)
    total = sum(p.stat().st_size for p in arguments.target.iterdir() if p.is_file())
    print(f"{arguments.target}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
