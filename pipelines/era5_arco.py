"""Named variables, levels and years of ARCO-ERA5 (hourly, 0.25 degrees) -> a training store, usually on a coarser grid.

    python pipelines/era5_arco.py arco-era5-copy.zarr runs/era5.zarr --years 1979-2015 --variables z500,t850,t2m,tp6h --derive tp6h --regrid 32x64
    python pipelines/era5_arco.py gs://gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3 runs/era5.zarr --allow-remote gs \\
        --period 2015-01-01/2020-12-31T23 --years 2015-2018 --variables z500,t850,t2m --regrid 32x64

The same options as weatherbench2.py; the record keeps its hours, and `--time-step` says how far a model steps.
"""

from __future__ import annotations

import sys

from weatherbench2 import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
