"""The whole path on the embedded sample, by the functions the commands call: data, training, rollout, scores, report."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from . import vocabulary
from .data.build import build_store
from .data.named import store_dataset
from .data.plan import StoreSettings
from .data.sample_data import QUICKSTART, TRAINING_PERIOD, WEATHER, sample_path
from .data.sources import open_source
from .data.states import open_states
from .data.store import Store
from .documents import scalar
from .errors import ConfigError
from .experiment import Experiment, load_experiment, run_training
from .forecast.produce import produce_forecast
from .model_summary import card_facts
from .plot.report import write_report
from .times import parse_duration
from .verify.evaluate import evaluate
from .verify.forecasts import open_forecast
from .verify.score_file import write_scores
from .verify.scores import pick
from .verify.settings import References, ScoreSettings

Echo = Callable[[str], None]
INITS = "2002-01-01/2002-01-25/6d"
LEAD_TIME = "10d"
KINDS_SCORED = ("deterministic", "spectra")
SHOWN = ("z500", "t850", "u250", "t2m")
LEADS_HOURS = (6, 24, 48, 72, 96, 120, 168, 240)
MARK = ".afno-forecast-demo"


def run_demo(out: Path, *, echo: Echo = print) -> None:
    """Build, train, roll out, score and draw in `out`, and print the commands that do the same.

    Args:
        out: folder; an earlier demo in it is replaced, anything else refused.
        echo: prints a line.

    Raises:
        ConfigError: `out` holds something that is not a demo.
    """
    began = time.monotonic()
    _prepare(out)
    store_path, forecast_path, scores_path, report_path = (out / n for n in ("store.zarr", "forecast.zarr", "scores.nc", "report.html"))
    experiment = load_experiment(sample_path(QUICKSTART), [_override("output", out), _override("data.store", store_path)])

    echo("1 data      the embedded sample of simulated weather becomes a training store")
    store = _build(experiment, store_path, echo)
    echo(f"2 train     {experiment.training.budget.describe()} from nothing on {experiment.data.train.start} to {experiment.data.train.end}")
    model = run_training(experiment, resume=False, echo=lambda text: echo(f"  {text}"))
    echo(f"3 rollout   10 days from {INITS}, with the model just trained and with the one that is shipped")
    shipped_path = out / "forecast-shipped.zarr"
    for folder, path in ((model, forecast_path), (sample_path("model"), shipped_path)):
        produce_forecast(folder, store_path, init=INITS, lead_time=parse_duration(LEAD_TIME), out=path,
                         echo=lambda text: echo(f"  {text}"))
    echo("4 scores    RMSE against the analyses, beside persistence and climatology, on times neither model has seen")
    scores, shipped = _score(forecast_path, store), _score(shipped_path, store)
    write_scores(scores, scores_path)
    write_scores(shipped, out / "scores-shipped.nc")
    echo(format_comparison(scores, shipped))
    echo("5 report    maps with a slider over lead times, curves, table")
    with open_forecast(forecast_path) as forecast:
        write_report(report_path, forecast=forecast, truth=store_dataset(store), scores=scores, variables=list(SHOWN),
                     model_card=card_facts(model))
    echo("")
    echo("The same by hand:")
    for command in commands(out):
        echo(f"  {command}")
    echo(f"Done in {time.monotonic() - began:.0f} s. Open {report_path}")


def _prepare(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).exists():
            raise ConfigError("the folder is not empty and not an earlier demo", where=str(out), fix="choose another: afno-forecast demo --out PATH")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("made by afno-forecast demo; it may be removed\n")


def _build(experiment: Experiment, store_path: Path, echo: Echo) -> Store:
    source = open_source(sample_path(WEATHER))
    store = build_store(source, store_path, StoreSettings(statistics_period=experiment.data.train.seconds(source.times.calendar)))
    echo(f"  {len(store.channels)} channels, {store.describe_period()}, {store.grid.describe()}")
    return store


def _score(forecast: Path, store: Store) -> xr.Dataset:
    return evaluate(forecast, open_states(store.path, store.channels), references=References(store.climatology()),
                    settings=ScoreSettings(kinds=KINDS_SCORED))


def commands(out: Path) -> list[str]:
    """What a person types, in a shell, to do the same after the demo; beside its results, in the folder `by-hand`."""
    folder = out / "by-hand"
    store, run, forecast, scores, picture, report = (shlex.quote(str(folder / name)) for name in (
        "store.zarr", "run", "forecast.zarr", "scores.nc", "z500.png", "report.html"))
    settings = " ".join(shlex.quote(_override(key, folder / name)) for key, name in (("output", "run"), ("data.store", "store.zarr")))
    return [
        f"mkdir -p {shlex.quote(str(folder))}",
        f'afno-forecast data build "$(afno-forecast data sample)" {store} --statistics {"/".join(TRAINING_PERIOD)}',
        f'afno-forecast train "$(afno-forecast data sample {QUICKSTART})" {settings}',
        f"afno-forecast rollout {run}/model --data {store} --init {INITS} --lead-time {LEAD_TIME} --out {forecast}",
        f"afno-forecast evaluate {forecast} --truth {store} --kinds {','.join(KINDS_SCORED)} --out {scores}",
        f"afno-forecast plot compare {forecast} --truth {store} --variable z500 --init first --lead 5d --out {picture}",
        f"afno-forecast plot report {forecast} --truth {store} --scores {scores} --out {report}",
    ]


def _override(key: str, path: Path) -> str:
    """`key=path` as `train` reads it: in quotes where YAML would take the path for something else."""
    text = str(path)
    plain = re.fullmatch(r"[\w./-]+", text) is not None and isinstance(scalar(text), str)
    return f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}"


def format_comparison(scores: xr.Dataset, shipped: xr.Dataset) -> str:
    """For each variable a table `lead | model | shipped | persistence | climatology | skill`; a loss against persistence or climatology is marked.

    Skill is 1 - RMSE / RMSE of persistence, of the model just trained.
    """
    lines = []
    hours = (scores["lead_time"].values / np.timedelta64(1, "h")).round().astype(int).tolist()
    for name in SHOWN:
        found = [pick(ds, name, metric) for ds, metric in ((scores, "rmse"), (shipped, "rmse"), (scores, "rmse_persistence"),
                                                           (scores, "rmse_climatology"))]
        columns = [item for item in found if item is not None]
        units, factor = vocabulary.error_units(vocabulary.split_name(name)[0], columns[0].attrs.get("units", ""))
        lines += ["", f"{name}  RMSE [{units}]",
                  f"{'lead':>6} | {'model':>9} | {'shipped':>9} | {'persistence':>11} | {'climatology':>11} | {'skill':>6}"]
        for row in (hours.index(h) for h in LEADS_HOURS if h in hours):
            model, ours, persistence, climatology = (factor * float(c.values[row]) for c in columns)
            marks = [f"{who} loses to {rival}" for who, value in (("model", model), ("shipped", ours))
                     for rival, bar in (("persistence", persistence), ("climatology", climatology)) if value >= bar]
            numbers = f"{model:>9.4g} | {ours:>9.4g} | {persistence:>11.4g} | {climatology:>11.4g} | {1 - model / persistence:>6.2f}"
            lines.append(f"{hours[row]:>4} h | {numbers}" + (f"  {', '.join(marks)}" if marks else ""))
    return "\n".join(lines)
