"""The command `afno-forecast rollout`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_exit import say
from .cli_options import PATH, NamesList, Numbers, gathered

if TYPE_CHECKING:
    from collections.abc import Callable

    from .forecast.perturb import Perturbation
    from .forecast.produce import Scoring
    from .forecast.progress import Share
    from .forecast.selection import Selection
    from .forecast.session import Session


@dataclass(frozen=True)
class _Start:
    """Where forecasts start, and how far they go."""

    sources: tuple[Path, ...]
    init: str
    lead_time: str | None


@dataclass(frozen=True)
class _Kept:
    """Which states are kept, and what of each."""

    leads: tuple[str, ...] | None
    output_every: str | None
    variables: tuple[str, ...] | None
    levels: tuple[str, ...] | None
    region: Any

    def selection(self) -> Selection:
        """What is kept of a state. Raises UsageError for a level that is no whole number."""
        from .forecast.selection import Selection

        wrong = [text for text in self.levels or () if not (text.isascii() and text.isdecimal())]
        if wrong:
            raise click.UsageError(f"'{wrong[0]}' is not a level; write whole hPa with commas, for example --levels 500,850")
        return Selection(self.variables, None if self.levels is None else tuple(int(text) for text in self.levels), self.region)


@dataclass(frozen=True)
class _Perturbed:
    """How members differ; None where the option was not given."""

    perturb: Any
    amplitude: float | None
    seed: int | None
    length_scale: float | None
    breeding_cycles: int | None
    lag: str | None

    def perturbation(self) -> Perturbation | None:
        """As the rollout takes it. Raises UsageError for an option that has no effect with the method, or without --perturb."""
        from .forecast.perturb import SETTINGS, Perturbation
        from .times import parse_duration

        lag = None if self.lag is None else parse_duration(self.lag)
        chosen = {name: value for name, value in {**asdict(self), "lag": lag}.items() if value is not None and name != "perturb"}
        if self.perturb is None:
            if chosen:
                raise click.UsageError(f"--{next(iter(chosen)).replace('_', '-')} does nothing without --perturb; add --perturb correlated")
            return None
        names = {"length_scale": "length_km", "breeding_cycles": "cycles"}
        idle = [name for name in chosen if names.get(name, name) not in SETTINGS[self.perturb]]
        if idle:
            raise click.UsageError(f"--{idle[0].replace('_', '-')} does nothing with --perturb {self.perturb}; leave it out")
        return Perturbation(self.perturb, **{names.get(name, name): value for name, value in chosen.items()})


@dataclass(frozen=True)
class _Result:
    """What a rollout leaves: a forecast file, scores, or both."""

    out: Path | None
    file_format: Any
    score_online: Path | None
    truths: tuple[Path, ...]

    def require(self, kept: _Kept) -> None:
        """Raise UsageError where nothing is asked for, two results would go into one file, or --truth or an option of the file has no effect."""
        if self.out is None and self.score_online is None:
            raise click.UsageError("nothing is asked for: add --out forecast.zarr, --score-online scores.nc, or both")
        if self.out is not None and self.score_online is not None and self.out.resolve() == self.score_online.resolve():
            raise click.UsageError("--out and --score-online name the same file: give the scores another name")
        if self.truths and self.score_online is None:
            raise click.UsageError("--truth does nothing without --score-online")
        for name, value in (("variables", kept.variables), ("levels", kept.levels), ("region", kept.region), ("format", self.file_format)):
            if self.out is None and value is not None:
                raise click.UsageError(f"--{name} does nothing without --out: all variables are scored, on the whole grid")


@click.command()
@click.argument("models", nargs=-1, required=True, type=PATH, metavar="MODEL...")
@click.option("--data", "sources", type=PATH, required=True, multiple=True, help="Training store, or files that hold the initial states; repeatable.")
@click.option("--init", required=True, metavar="TIME", help="first, last, 2020-01-01T00, or START/END/STEP (2020-01-01/2020-01-31/12h).")
@click.option("--lead-time", metavar="DURATION", help="How far to forecast: 10d, 36h. [default: the longest of --leads]")
@click.option("--out", type=PATH, help="Forecast file: .zarr or .nc. May be left out with --score-online.")
@click.option("--format", "file_format", type=click.Choice(["zarr2", "zarr3", "netcdf"]), help="Instead of what the suffix of --out says.")
@click.option("--batch-size", "--batch", type=click.IntRange(1), default=8, show_default=True, help="Forecasts stepped together.")
@click.option("--leads", type=NamesList(), help="Lead times to keep: 24h,72h,5d. [default: all]")
@click.option("--output-every", metavar="DURATION", help="Keep one state every so often: 12h.")
@click.option("--variables", type=NamesList(), help="What to keep: z500,t2m,temperature. [default: all]")
@click.option("--levels", type=NamesList(), help="Levels to keep, hPa, of variables named without one: 500,850. [default: all]")
@click.option("--region", type=Numbers("W/E/S/N"), help="Part of the map to keep, in degrees: -30/60/30/75.")
@click.option("--members", type=click.IntRange(1), help="Forecasts from each init time. Several MODELs take turns.")
@click.option("--perturb", type=click.Choice(["white", "correlated", "bred", "lagged", "model"]), help="How members differ: noise in "
              "every cell; random fields on the sphere; bred vectors of the model; earlier starts; noise that the model was trained to read.")
@click.option("--amplitude", type=click.FloatRange(0, min_open=True), help="Of perturbations, in standard deviations of a model step's change. "
              "[default: 1]")
@click.option("--seed", type=click.IntRange(0), help="Of perturbations; members depend on it, not on batch or processes. [default: 0]")
@click.option("--length-scale", type=click.FloatRange(1), metavar="KM", help="Of correlated fields. [default: 1000]")
@click.option("--breeding-cycles", type=click.IntRange(1, 1000), help="Model steps of breeding before the init time. [default: 8]")
@click.option("--lag", metavar="DURATION", help="Between the starts of lagged members. [default: the model's step]")
@click.option("--score-online", type=PATH, metavar="SCORES.nc", help="Score while rolling out, as `evaluate` would score the file: "
              "all variables on the whole grid, whatever the file keeps.")
@click.option("--truth", "truths", type=PATH, multiple=True, help="What --score-online compares with. [default: --data]")
@click.option("--other-grid", is_flag=True, help="Step the network on the data's own grid where it is not the training's.")
@click.option("--raw", is_flag=True, help="States as the model makes them, where it is calibrated.")
@gathered(start=_Start, kept=_Kept, perturbed=_Perturbed, result=_Result)
def rollout(models: tuple[Path, ...], batch_size: int, members: int | None, other_grid: bool, raw: bool, start: _Start, kept: _Kept,
            perturbed: _Perturbed, result: _Result) -> None:
    """Forecast from analyses.

    The forecast is written while the model runs; interrupted, the same command continues it. Under `torchrun --nproc-per-node 2
    --no-python afno-forecast rollout ...` the processes share the work and write one file.
    """
    from .forecast.produce import Options, produce_forecast
    from .forecast.progress import Share
    from .times import parse_duration

    result.require(kept)
    share = Share.from_environment()
    options = Options(members, perturbed.perturbation(), other_grid, tuple(parse_duration(text) for text in kept.leads or ()),
                      None if kept.output_every is None else parse_duration(kept.output_every), kept.selection(), share,
                      scoring=None if result.score_online is None else _scoring(result.score_online, result.truths or start.sources, share),
                      raw=raw)
    seconds = None if start.lead_time is None else parse_duration(start.lead_time)
    produce_forecast(_single(models), _single(start.sources), init=start.init, lead_time=seconds, out=result.out, format=result.file_format,
                     batch_size=batch_size, options=options, echo=say)
    for kind, path in (("forecast", result.out), ("scores", result.score_online)):
        if path is not None:
            say(f"{kind}: {path}")


@click.command()
@click.argument("model", type=PATH)
@click.option("--data", "sources", type=PATH, required=True, multiple=True, help="Training store, or files, that hold the period; repeatable.")
@click.option("--period", required=True, metavar="START/END", help="A year or more that the forecasts lie in, and that is not scored later.")
@click.option("--lead-time", metavar="DURATION", default="10d", show_default=True, help="How far.")
@click.option("--inits", type=click.IntRange(2), default=24, show_default=True, help="Forecasts, spread over the period and the hours.")
@click.option("--batch-size", "--batch", type=click.IntRange(1), default=8, show_default=True, help="Forecasts stepped together.")
@click.option("--out", type=PATH, required=True, help="Model folder to write: MODEL with its calibration.")
def calibrate(model: Path, sources: tuple[Path, ...], period: str, lead_time: str, inits: int, batch_size: int, out: Path) -> None:
    """Learn how far a model's forecasts can be believed.

    By lead time, channel and scale, from forecasts whose truth is known. The new model's single forecasts then have their anomalies from the season
    shrunk by these shares: the mean to expect, smooth at long leads; `rollout --raw` leaves them as they are.
    """
    from .forecast.calibration import calibrate as fit
    from .model_folder import read_inputs
    from .times import parse_duration, parse_instant

    calendar = read_inputs(model).calendar
    start, slash, end = period.partition("/")
    if not slash:
        raise click.UsageError(f"'{period}' is no period; write --period START/END")
    fit(model, _single(sources), out, period=(parse_instant(start, calendar), parse_instant(end, calendar)), lead_seconds=parse_duration(lead_time),
        inits=inits, batch_size=batch_size, echo=say)
    say(f"model: {out}")


def _single(paths: tuple[Path, ...]) -> Path | tuple[Path, ...]:
    """The path where there is one, all of them otherwise."""
    return paths[0] if len(paths) == 1 else paths


def _scoring(scores: Path, truths: tuple[Path, ...], share: Share) -> Callable[[Session, Any], Scoring]:
    """Makes the hook that scores. Raises ConfigError for a score file that would be written over something else."""
    import logging

    from .verify.score_file import check_scores_path
    from .verify.while_running import score_session

    if scores.suffix != ".nc":
        raise click.UsageError(f"'{scores}' is no .nc file; write --score-online {scores.with_suffix('.nc')}")
    check_scores_path(scores, truths)
    logging.getLogger("afno_forecast.verify").addHandler(logging.NullHandler())
    return lambda session, leads: score_session(session, leads, _single(truths), scores, share=share, echo=say)
