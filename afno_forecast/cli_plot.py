"""The commands `afno-forecast plot ...`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_exit import say
from .cli_options import PATH, NamesList, Numbers, Place

if TYPE_CHECKING:
    from .plot.choices import Look, When

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
    "dpi": click.option("--dpi", type=click.IntRange(20, 1200), default=150, show_default=True, help="Dots an inch; a page is about 10 inches wide."),
    "member": click.option("--member", metavar="WHICH", help="Of an ensemble: mean, spread or a number. [default: mean]"),
    "out": click.option("--out", type=PATH, required=True, help="Picture to write: .png, .pdf, .svg, .jpg or .webp."),
    "truth": click.option("--truth", "truths", type=PATH, required=True, multiple=True, help="Training store, or files of analyses; repeatable."),
    "more_truth": click.option("--truth", "truths", type=PATH, multiple=True, help="Analyses to show beside it; repeatable."),
    "variables": click.option("--variables", type=NamesList(), help="With commas: z500,t850. [default: all]"),
    "score_region": click.option("--region", help="A region of the score file. [default: global, or its first]"),
}


def _fields(paths: Sequence[Path]) -> Any:
    """What lies there, opened for drawing; notes go to stderr, so that stdout holds the picture's path alone."""
    from .cli_open import open_fields

    return open_fields(paths, echo=lambda line: say(line, err=True))


def _when(choices: dict[str, Any]) -> When:
    """Take the options that say which map."""
    from .plot.choices import When

    return When(*(choices.pop(name, None) for name in ("init", "lead", "time", "member")))


def _look(choices: dict[str, Any]) -> Look:
    """Take the options that say how a map looks."""
    from .plot.choices import Look

    return Look(**{name: choices.pop(name) for name in ("projection", "region", "center", "style", "dpi") if name in choices})


@click.group()
def plot() -> None:
    """Draw maps, animations, scores, diagrams and reports."""


@plot.command("map")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="FILE...")
@_options("variable", "init", "lead")
@click.option("--time", metavar="TIME", help="Of an analysis: first, last or a date; of a forecast the valid time, with --init or --lead.")
@click.option("--member", metavar="WHICH", help="Of an ensemble: mean, spread, a number, or all as small maps on a page. [default: mean]")
@click.option("--wind", is_flag=True, help="Draw the wind at the same level as arrows.")
@click.option("--barbs", is_flag=True, help="Draw the wind as barbs.")
@click.option("--contours", metavar="NAME", help="Another variable, as labelled lines; over a spread its mean.")
@_options("projection", "region", "center", "style", "dpi", "out")
def draw_map(paths: tuple[Path, ...], variable: str, wind: bool, barbs: bool, contours: str | None, out: Path, **choices: Any) -> None:
    """Draw one variable at one time: of a forecast, a training store, or any gridded files."""
    if wind and barbs:
        raise click.UsageError("--wind and --barbs: choose one")
    if choices["member"] == "all":
        if wind or barbs or contours:
            raise click.UsageError("--member all draws maps too small for wind and lines; give --member mean")
        from .plot.stamps import plot_stamps

        choices["member"] = None
        say(str(plot_stamps(_fields(paths), variable, out, when=_when(choices), look=_look(choices))))
        return
    from .plot.maps import plot_map

    form = "barbs" if barbs else "arrows" if wind else None
    say(str(plot_map(_fields(paths), variable, out, when=_when(choices), look=_look(choices), wind=form, contours=contours)))


@plot.command("compare")
@click.argument("forecast", type=PATH)
@_options("truth", "variable", "init", "lead", "member", "projection", "region", "center", "style", "dpi", "out")
def compare(forecast: Path, truths: tuple[Path, ...], variable: str, out: Path, **choices: Any) -> None:
    """Draw forecast, truth and error on one page."""
    from .plot.maps import plot_compare

    say(str(plot_compare(_fields([forecast]), _fields(truths), variable, out, when=_when(choices), look=_look(choices))))


@plot.command("animate")
@click.argument("forecast", type=PATH)
@_options("variable", "init", "member", "more_truth")
@click.option("--fps", type=float, default=4.0, show_default=True, help="Frames a second.")
@_options("projection", "region", "center", "style")
@click.option("--dpi", type=click.IntRange(20, 300), default=90, show_default=True, help="Dots an inch; the page is 8 inches wide, with a truth 12.")
@click.option("--out", type=PATH, required=True, help="Animation to write: .gif, or .mp4 with the extra [video].")
def animation(forecast: Path, truths: tuple[Path, ...], variable: str, out: Path, fps: float, **choices: Any) -> None:
    """Draw all lead times of a forecast as an animation."""
    from .plot.animate import animate

    say(str(animate(_fields([forecast]), variable, out, truth=_fields(truths) if truths else None, fps=fps, when=_when(choices),
                    look=_look(choices))))


@plot.command("meteogram")
@click.argument("forecast", type=PATH)
@click.option("--place", type=Place(), required=True, help="Latitude and longitude: 52.5,13.4, 33.9S,18.4E.")
@click.option("--variables", type=NamesList(), required=True, help="With commas, a panel each: t2m,msl,u10.")
@_options("init", "more_truth", "dpi", "out")
def meteogram(forecast: Path, truths: tuple[Path, ...], variables: tuple[str, ...], place: tuple[float, float], out: Path, **choices: Any) -> None:
    """Draw a forecast at a place: a plume of members, or one line."""
    from .plot.meteogram import plot_meteogram

    say(str(plot_meteogram(_fields([forecast]), variables, place, out, truth=_fields(truths) if truths else None, **choices)))


@plot.command("hovmoller")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="FILE...")
@_options("variable", "init", "member")
@click.option("--latitudes", "band", type=Numbers("S/N"), help="Band to average over, in degrees (y of a box). [default: 30/60; a box whole]")
@_options("more_truth", "style", "dpi", "out")
def hovmoller(paths: tuple[Path, ...], truths: tuple[Path, ...], variable: str, band: Any, out: Path, **choices: Any) -> None:
    """Draw longitude against time: the mean over a band of latitudes."""
    from .plot.hovmoller import plot_hovmoller

    say(str(plot_hovmoller(_fields(paths), variable, out, band=band, truth=_fields(truths) if truths else None, when=_when(choices),
                           look=_look(choices))))


@plot.command("scores")
@click.argument("scores", type=PATH)
@click.option("--metric", default="rmse", show_default=True, help="rmse, bias, acc, ...")
@_options("variables", "score_region", "dpi", "out")
def draw_scores(scores: Path, metric: str, variables: tuple[str, ...] | None, region: str | None, dpi: int, out: Path) -> None:
    """Draw scores against lead time, with persistence and climatology."""
    from .cli_open import open_scores
    from .plot.curves import plot_scores

    with open_scores(scores) as ds:
        say(str(plot_scores(ds, out, metric=metric, variables=variables, region=region, dpi=dpi)))


@plot.command("scorecard")
@click.argument("scores", type=PATH)
@click.option("--metric", default="rmse", show_default=True, help="rmse, acc, crps, ...")
@click.option("--reference", metavar="NAME", help="A rival in the score file: climatology, ... [default: another forecast, else persistence]")
@click.option("--against", type=PATH, help="Another score file to compare with, instead of a rival.")
@_options("score_region", "dpi", "out")
def draw_scorecard(scores: Path, against: Path | None, out: Path, **choices: Any) -> None:
    """Draw a score card: variables and levels by lead time, better or worse than a reference."""
    if against and choices["reference"]:
        raise click.UsageError("--reference and --against: choose one")
    from .cli_open import open_scores
    from .plot.scorecard import plot_scorecard

    with open_scores(scores) as ds:
        say(str(plot_scorecard(ds, out, against=open_scores(against) if against else None, **choices)))


@plot.command("spectra")
@click.argument("scores", type=PATH)
@_options("variable", "dpi", "out")
def draw_spectra(scores: Path, variable: str, dpi: int, out: Path) -> None:
    """Draw zonal energy spectra by lead time, and the effective resolution."""
    from .cli_open import open_scores
    from .plot.spectra import plot_spectra

    with open_scores(scores) as ds:
        say(str(plot_spectra(ds, variable, out, dpi=dpi)))


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
