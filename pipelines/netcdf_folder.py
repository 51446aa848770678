"""A folder of netCDF files -> a training store.

    python pipelines/netcdf_folder.py era5_files store.zarr --statistics 1979-01-01/2015-12-31T18 --channels z500,t850,t2m
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from building import build, names, period

from afno_forecast.data.build import BuildRecipe


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--statistics", type=period, required=True, help="START/END of the training period, ISO dates, both inclusive")
    parser.add_argument("--channels", help="names separated by commas; all by default")
    parser.add_argument("--time-step", help="such as 6h; the most common step by default")
    arguments = parser.parse_args()
    recipe = BuildRecipe(sources=(str(arguments.folder / "*.nc"),), statistics=arguments.statistics,
                         channels=names(arguments.channels), time_step=arguments.time_step)
    return build(recipe, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
