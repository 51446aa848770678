"""Where the data shipped with the package lie; what they are and whom to credit is in `sample/README.md`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import ConfigError

WEATHER = "weather.nc"
QUICKSTART = "quickstart.yaml"
MODEL = "model"
NAMES = (WEATHER, QUICKSTART, MODEL, "era5_msl_2025120100_2.5deg.nc", "era5_uv850_2025120100_2.5deg.nc", "earthkit_pl_regular_ll.grib")
TRAINING_PERIOD = ("2000-12-01T00", "2001-02-28T18")
HELD_OUT_PERIOD = ("2001-12-22T00", "2002-02-05T18")


def sample_path(name: str = WEATHER) -> Path:
    """The path of a shipped file, or of the shipped model folder. Raises ConfigError for another name."""
    if name not in NAMES:
        raise ConfigError(f"no sample file '{name}'", fix=f"use one of {', '.join(NAMES)}")
    return Path(str(files("afno_forecast.data").joinpath("sample", name)))
