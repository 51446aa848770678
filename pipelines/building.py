"""What the pipelines share: types of options, files of an earlier run, and a recipe built on the terminal. Not run by itself."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from afno_forecast.data.build import BuildRecipe, StatisticsPeriod, run_recipe
from afno_forecast.data.regrid import RegridConfig
from afno_forecast.data.sources_trajectories import FIRST_YEAR
from afno_forecast.errors import DataError, ForecastError
from afno_forecast.times import LAST_YEAR


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


def first_trajectories(text: str) -> StatisticsPeriod:
    """The period of so many trajectories, a year each."""
    most = LAST_YEAR - FIRST_YEAR + 1
    if not re.fullmatch(r"\d{1,9}", text) or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of trajectories from 1 to {most}: trajectory n has the year {FIRST_YEAR} + n, and "
                                         f"dates end with {LAST_YEAR}")
    return StatisticsPeriod(start=f"{FIRST_YEAR}-01-01", end=f"{FIRST_YEAR + int(text) - 1}-12-31T23")


def period(text: str) -> StatisticsPeriod:
    """START/END."""
    start, _, end = text.partition("/")
    if not (start and end):
        raise argparse.ArgumentTypeError(f"'{text}' is no period: write START/END, for example 1979-01-01/2015-12-31T18")
    return StatisticsPeriod(start=start, end=end)


def years(text: str) -> StatisticsPeriod:
    """FIRST-LAST, both whole."""
    found = re.fullmatch(r"(\d{4})-(\d{4})", text)
    if not found or found[1] > found[2]:
        raise argparse.ArgumentTypeError(f"'{text}' is no range of years: write FIRST-LAST, for example 1979-2015")
    return StatisticsPeriod(start=f"{found[1]}-01-01", end=f"{found[2]}-12-31T23")


def grid(text: str) -> RegridConfig:
    """ROWSxCOLUMNS."""
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not found or min(int(found[1]), int(found[2])) < 2:
        raise argparse.ArgumentTypeError(f"'{text}' is no grid: write ROWSxCOLUMNS, each at least 2, for example 32x64")
    return RegridConfig(rows=int(found[1]), columns=int(found[2]))


def names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None where nothing was said."""
    return None if text is None else tuple(filter(None, text.split(",")))
