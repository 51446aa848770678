"""Named variables, levels and years of a WeatherBench 2 zarr -> a training store, at its own resolution or another.

    python pipelines/weatherbench2.py 1959-2023_01_10-6h-64x32_equiangular_conservative.zarr runs/era5.zarr \\
        --years 1979-2015 --variables z500,t850,t2m
    python pipelines/weatherbench2.py gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr runs/era5.zarr \\
        --years 1979-2015 --variables z500,t850,t2m --allow-remote gs

A remote address is opened only with --allow-remote (gs needs the package gcsfs). Such a zarr can also be trained on as it is: give its
path as `data.store`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from building import build, grid, names, years

from afno_forecast.data.build import BuildRecipe


def main(description: str | None = __doc__) -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="zarr, local or remote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--variables", required=True, help="channels separated by commas: z500,t850,t2m")
    parser.add_argument("--years", type=years, required=True, help="training years, FIRST-LAST: statistics and climatology describe them")
    parser.add_argument("--period", help="START/END of what is kept, ISO dates; the whole record by default")
    parser.add_argument("--static", default="", help="constant fields separated by commas; none by default")
    parser.add_argument("--derive", default="", help="derived channels separated by commas: 10m_wind_speed,tp6h")
    parser.add_argument("--regrid", type=grid, metavar="ROWSxCOLUMNS", help="another grid, conservatively; cell centres off the poles")
    parser.add_argument("--time-step", default="6h")
    parser.add_argument("--allow-remote", action="append", default=[], metavar="SCHEME", help="gs, s3, https; repeatable")
    arguments = parser.parse_args()
    recipe = BuildRecipe(
        sources=(arguments.source,), channels=names(arguments.variables), static=names(arguments.static),
        statistics=arguments.years, time_step=arguments.time_step, period=arguments.period,
        derive=names(arguments.derive), regrid=arguments.regrid)
    return build(recipe, arguments.out, allow_remote=arguments.allow_remote)


if __name__ == "__main__":
    sys.exit(main())
