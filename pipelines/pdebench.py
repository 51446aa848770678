"""Files of PDEBench (HDF5, two spatial dimensions) -> a training store; trajectory n gets the year 2000 + n.

    python pipelines/pdebench.py 2D_rdb_NA_NA.h5 runs/rdb.zarr --train 900 --boundary open
    python pipelines/pdebench.py 2D_CFD_Rand_M0.1_Eta0.01_Zeta0.01_periodic_128_Train.hdf5 runs/cfd.zarr --train 7000 --boundary periodic

The files do not say how the box ends: --boundary does. Dates end with the year 9999: they can name the first 8000 trajectories,
for training and validation together.
"""

from __future__ import annotations

import sys

from the_well import main

if __name__ == "__main__":
    sys.exit(main(__doc__, boundary=True))
