"""What a validation tells of every channel: RMSE over that of persistence and of climatology, as `evaluate` computes them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from afno_forecast import model_folder
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.forecast.produce import produce_forecast
from afno_forecast.times import format_instant, parse_instant
from afno_forecast.training.parallel import Layout
from afno_forecast.training.validation import ValidationConfig, Validator, climatology_of, mean_over
from afno_forecast.verify.evaluate import evaluate
from afno_forecast.verify.scores import pick
from afno_forecast.verify.truth import open_truth

PERIOD = (parse_instant("2001-01-26"), parse_instant("2001-02-09T18"))


def test_every_channel_is_compared_as_evaluate_does(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    forecaster, store = model_folder.load(tiny_model), Store.open(tiny_store)
    validator = Validator(store, forecaster, ValidationConfig(count=1, inits=1, lead_time="2d"), start=PERIOD[0], end=PERIOD[1])
    score, table = validator(forecaster, Layout())
    produce_forecast(tiny_model, tiny_store, init=format_instant(int(validator.init_seconds[0]), "standard"), lead_time=2 * 86400,
                     out=tmp_path / "forecast.zarr", echo=[].append)
    truth, references = open_truth([tiny_store], forecaster.channels)
    scores = evaluate(tmp_path / "forecast.zarr", truth, references=references, leads=[86400, 2 * 86400])
    ratios = []
    for name in ("z500", "t2m", "u250"):
        own, persistence, climatology = (pick(scores, name, f"rmse{rival}").values for rival in ("", "_persistence", "_climatology"))
        assert np.allclose(table[name].sel(rival="persistence"), own / persistence, rtol=1e-6)
        assert np.allclose(table[name].sel(rival="climatology"), own / climatology, rtol=1e-6)
        ratios.append(own / persistence)
    assert score == pytest.approx(np.mean(ratios), rel=1e-6)


def test_a_run_tells_them_in_its_files_and_on_the_card(tiny_experiment: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    model = run_training(load_experiment(tiny_experiment, ["training.budget.train_steps=2"]), resume=False, echo=lines.append)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = next(e for e in events if e["event"] == "validation")
    assert told["lead_hours"] == [24, 48] and told["channels"]["t2m"].keys() == {"persistence", "climatology"}
    with (tmp_path / "run" / "validation.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train_step"] == str(told["train_step"])]
    assert len(rows) == 6 and {row["channel"] for row in rows} == {"z500", "t2m", "u250"}
    for rival in ("persistence", "climatology"):
        assert told[f"rmse_over_{rival}"] == pytest.approx(np.mean([float(row[f"rmse_over_{rival}"]) for row in rows]))
        assert round(float(rows[1][f"rmse_over_{rival}"]), 4) == told["channels"][rows[1]["channel"]][rival][1]
    assert any(line.startswith("  at 48 h: z500 ") and line.count(" / ") == 3 for line in lines)
    assert "RMSE divided by the RMSE of persistence / of climatology" in (model / "README.md").read_text()
    assert not any("climatology; validations" in line or "no climatology" in line for line in lines)


def test_without_a_climatology_it_is_said_once(tiny_weather: Path, make_tiny_experiment: Callable[[Path], Path], tmp_path: Path) -> None:
    store = tmp_path / "plain.zarr"
    build_store(open_source(tiny_weather), store,
                StoreSettings(statistics_period=(parse_instant("2001-01-01"), parse_instant("2001-01-25")), climatology=False))
    lines: list[str] = []
    overrides = [f"data.store={store}", "training.budget.train_steps=2"]
    run_training(load_experiment(make_tiny_experiment(tmp_path), overrides), resume=False, echo=lines.append)
    assert [line for line in lines if "climatology" in line] == ["note: the store has no climatology; validations compare with persistence alone"]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = next(e for e in events if e["event"] == "validation")
    assert told["rmse_over_climatology"] is None and told["channels"]["t2m"].keys() == {"persistence"}


def test_hours_that_a_climatology_lacks_are_named(tiny_store: Path) -> None:
    store = Store.open(tiny_store)
    assert climatology_of(store, np.asarray([PERIOD[0]]), [21600, 86400])[0] is not None
    assert climatology_of(store, np.asarray([PERIOD[0]]), [10800, 86400]) == (None, "the store's climatology lacks the hours 3 UTC")


def test_the_mean_over_a_rival_that_is_not_there_is_no_number(tiny_store: Path) -> None:
    import xarray as xr

    table = xr.Dataset({"z500": (("rival", "lead_time"), [[0.25, 0.75]])}, coords={"rival": ["persistence"], "lead_time": [1, 2]})
    assert mean_over(table, "persistence") == 0.5
    assert np.isnan(mean_over(table, "climatology")) and np.isnan(mean_over(xr.Dataset(), "persistence"))
