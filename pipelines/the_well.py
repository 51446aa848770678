"""Files of The Well (HDF5, two spatial dimensions) -> a training store; trajectory n gets the year 2000 + n.

    python pipelines/the_well.py datasets/turbulent_radiative_layer_2D/data/train runs/trl2d.zarr --train 80

The files are fetched with The Well's own tools; edges come from the file, spherical ones become latitude and longitude.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from building import build, first_trajectories, names

from afno_forecast.data.build import BuildRecipe


def main(description: str | None = __doc__, boundary: bool = False) -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="+", help="files, or folders of files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=first_trajectories, required=True, help="the first so many trajectories give the statistics")
    parser.add_argument("--channels", help="names separated by commas; all that vary in time by default")
    if boundary:
        parser.add_argument("--boundary", choices=["periodic", "open"], required=True, help="the files do not say how the box ends")
    arguments = parser.parse_args()
    recipe = BuildRecipe(sources=tuple(map(str, arguments.source)), statistics=arguments.train,
                         boundary=arguments.boundary if boundary else None, channels=names(arguments.channels))
    return build(recipe, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
