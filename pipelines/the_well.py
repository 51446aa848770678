"""Files of The Well (HDF5, two spatial dimensions) -> a training store; trajectory n gets the year 2000 + n.

    python pipelines/the_well.py datasets/turbulent_radiative_layer_2D/data/train runs/trl2d.zarr --train 80

The files are fetched with The Well's own tools; edges come from the file, spherical ones become latitude and longitude.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from afno_forecast.data.build import BuildRecipe, StatisticsPeriod, run_recipe
from afno_forecast.errors import ForecastError


def main(description: str | None = __doc__, boundary: bool = False) -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="+", help="files, or folders of files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, required=True, help="the first so many trajectories give the statistics")
    parser.add_argument("--channels", help="names separated by commas; all that vary in time by default")
    if boundary:
        parser.add_argument("--boundary", choices=["periodic", "open"], required=True, help="the files do not say how the box ends")
    arguments = parser.parse_args()
    period = StatisticsPeriod(start="2000-01-01", end=f"{2000 + arguments.train - 1}-12-31T23")
    recipe = BuildRecipe(sources=tuple(map(str, arguments.source)), statistics=period, boundary=arguments.boundary if boundary else None,
                         channels=tuple(arguments.channels.split(",")) if arguments.channels else None)
    try:
        store = run_recipe(recipe, arguments.out, progress=lambda done, total, what: print(f"\r{what}: {done}/{total}", end="", file=sys.stderr),
                           echo=lambda line: print(f"note: {line}"))
    except ForecastError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{arguments.out}: {store.describe_period()}, {len(store.channels)} channels, {store.grid.describe()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
