"""What the pipelines share: files of an earlier run, and a recipe built on the terminal. Not run by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from afno_forecast.data.build import BuildRecipe, StatisticsPeriod, run_recipe
from afno_forecast.data.sources_trajectories import FIRST_YEAR
from afno_forecast.errors import DataError, ForecastError


def build(recipe: BuildRecipe, out: Path, *, allow_remote: Sequence[str] = ()) -> int:
    """Build a store, with its progress and notes; the exit code."""
    try:
        store = run_recipe(recipe, out, allow_remote=allow_remote, echo=lambda line: print(f"note: {line}"),
                           progress=lambda done, total, what: print(f"\r{what}: {done}/{total}", end="", file=sys.stderr))
    except ForecastError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{out}: {store.describe_period()}, {len(store.channels)} channels, {store.grid.describe()}")
    return 0


def is_made(path: Path, parameters: str) -> bool:
    """Whether a file is there, of an earlier run with the same parameters; those of others end the program."""
    if not path.exists():
        return False
    with xr.open_dataset(path) as ds:
        found = str(ds.attrs.get("parameters", "unknown ones"))
    if found == parameters:
        return True
    error = DataError(f"this file was made with other parameters: {found}; not with {parameters}", where=str(path),
                      fix="remove it, or choose another folder")
    print(error, file=sys.stderr)
    raise SystemExit(error.exit_code)


def first_trajectories(count: int) -> StatisticsPeriod:
    """The period of so many trajectories, a year each."""
    return StatisticsPeriod(start=f"{FIRST_YEAR}-01-01", end=f"{FIRST_YEAR + count - 1}-12-31T23")


def names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None where nothing was said."""
    return None if text is None else tuple(filter(None, text.split(",")))
