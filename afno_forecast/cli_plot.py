"""The commands `afno-forecast plot ...`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .cli_exit import say
from .cli_options import PATH, NamesList, Numbers

_PROJECTIONS = ("robinson", "platecarree", "equalearth", "mollweide", "orthographic", "npolar", "spolar", "lambert")


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The named options of `_SHARED`, in this order."""
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = _SHARED[name](command)
        return command

    return add


_SHARED = {
    "variable": click.option("--variable", required=True, metavar="NAME", help="Any name: z500, t2m, wind_speed@850."),
    "init": click.option("--init", metavar="TIME", help="Start of the forecast: first, last or a date."),
    "lead": click.option("--lead", metavar="DURATION", help="Lead time: 5d, 36h."),
    "projection": click.option("--projection", type=click.Choice(_PROJECTIONS), help="[default: robinson; platecarree for a region]"),
    "region": click.option("--region", type=Numbers("W/E/S/N"), help="Part of the map, in degrees: -30/60/30/75."),
    "center": click.option("--center", type=Numbers("LON/LAT"), help="Middle of the map, in degrees."),
    "style": click.option("--style", type=click.Choice(["smooth", "cells"]), default="smooth", show_default=True,
                          help="Filled contours, or one colour a grid cell."),
    "dpi": click.option("--dpi", type=click.IntRange(20, 1200), default=150, show_default=True, help="Dots an inch; the page is 10 inches wide."),
    "out": click.option("--out", type=PATH, required=True, help="Picture to write: .png, .pdf, .svg, .jpg or .webp."),
    "truth": click.option("--truth", "truths", type=PATH, required=True, multiple=True, help="Training store, or files of analyses; repeatable."),
}


def _fields(paths: Sequence[Path]) -> Any:
    """What lies there, opened for drawing; notes go to stderr, so that stdout holds the picture's path alone."""
    from .cli_open import open_fields

    return open_fields(paths, echo=lambda line: say(line, err=True))


@click.group()
def plot() -> None:
    """Draw maps, comparisons, animations, score curves and reports."""


@plot.command("map")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="FILE...")
@_options("variable", "init", "lead")
@click.option("--time", metavar="TIME", help="Of an analysis: first, last or a date; of a forecast the valid time, with --init or --lead.")
@click.option("--wind", is_flag=True, help="Draw the wind at the same level as arrows.")
@click.option("--barbs", is_flag=True, help="Draw the wind as barbs.")
@click.option("--contours", metavar="NAME", help="Another variable, as labelled lines.")
@_options("projection", "region", "center", "style", "dpi", "out")
def draw_map(paths: tuple[Path, ...], wind: bool, barbs: bool, **choices: Any) -> None:
    """Draw one variable at one time: of a forecast, a training store, or any gridded files."""
    if wind and barbs:
        raise click.UsageError("--wind and --barbs: choose one")
    from .plot.maps import plot_map

    say(str(plot_map(_fields(paths), wind="barbs" if barbs else wind, **choices)))


@plot.command("compare")
@click.argument("forecast", type=PATH)
@_options("truth", "variable", "init", "lead", "projection", "region", "center", "style", "dpi", "out")
def compare(forecast: Path, truths: tuple[Path, ...], **choices: Any) -> None:
    """Draw forecast, truth and error on one page."""
    from .plot.maps import plot_compare

    say(str(plot_compare(_fields([forecast]), _fields(truths), **choices)))


@plot.command("animate")
@click.argument("forecast", type=PATH)
@_options("variable", "init")
@click.option("--truth", "truths", type=PATH, multiple=True, help="Analyses to show beside it; repeatable.")
@click.option("--fps", type=float, default=4.0, show_default=True, help="Frames a second.")
@_options("projection", "region", "center", "style")
@click.option("--dpi", type=click.IntRange(20, 300), default=90, show_default=True, help="Dots an inch; the page is 8 inches wide, with a truth 12.")
@click.option("--out", type=PATH, required=True, help="Animation to write: .gif.")
def animation(forecast: Path, truths: tuple[Path, ...], **choices: Any) -> None:
    """Draw all lead times of a forecast as an animated GIF."""
    from .plot.animate import animate

    say(str(animate(_fields([forecast]), truth=_fields(truths) if truths else None, **choices)))


@plot.command("scores")
@click.argument("scores", type=PATH)
@click.option("--metric", default="rmse", show_default=True, help="rmse, bias, acc, ...")
@click.option("--variables", type=NamesList(), help="With commas: z500,t850. [default: all]")
@click.option("--region", help="A region of the score file. [default: global, or its first]")
@_options("dpi", "out")
def draw_scores(scores: Path, metric: str, variables: tuple[str, ...] | None, region: str | None, dpi: int, out: Path) -> None:
    """Draw scores against lead time, with persistence and climatology."""
    from .cli_open import open_scores
    from .plot.curves import plot_scores

    with open_scores(scores) as ds:
        say(str(plot_scores(ds, out, metric=metric, variables=variables, region=region, dpi=dpi)))


@plot.command("report")
@click.argument("forecast", type=PATH)
@click.option("--truth", "truths", type=PATH, multiple=True, help="Training store, or files of analyses; repeatable.")
@click.option("--scores", type=PATH, help="Score file made by `evaluate`.")
@click.option("--model", type=PATH, help="Model folder to describe.")
@click.option("--variables", type=NamesList(), help="With commas: z500,t2m. [default: up to four]")
@click.option("--init", metavar="TIME", help="Start of the forecast drawn: first, last or a date. [default: first]")
@click.option("--out", type=PATH, required=True, help="Page to write: .html.")
def report(forecast: Path, truths: tuple[Path, ...], scores: Path | None, model: Path | None, **choices: Any) -> None:
    """Write a page with maps, a slider over lead times, curves and tables, which opens from disk."""
    from .cli_open import model_card, open_scores
    from .plot.report import write_report

    written = write_report(forecast=_fields([forecast]), truth=_fields(truths) if truths else None,
                           scores=open_scores(scores) if scores else None, model_card=model_card(model) if model else None, **choices)
    say(str(written))
