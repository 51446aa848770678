"""FAULTS 24: what training would refuse later is found in the configuration, with its line, before anything is started."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from afno_forecast.cli import cli
from afno_forecast.data.store import Store
from afno_forecast.errors import ConfigError, DataError, ForecastError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.experiment.build import model_inputs
from afno_forecast.experiment.model_card import model_card
from afno_forecast.experiment.trial import try_out
from afno_forecast.forecaster import build_forecaster

ROOT = Path(__file__).parents[2]


def test_everything_that_training_would_refuse_later_is_found_at_once(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    for old, new in (("time_step: 6h", "time_step: 6hours"), ("lead_time: 5d", "lead_time: 5 days"),
                     ("[orography, land_sea_mask]", "[orografy, lsm]"),
                     ("{start: 2001-12-22, end: 2001-12-31T18}", "{start: 2001-12-22, end: 2001-12-21}"),
                     ("schedule: linear}", "schedule: linear, betas: [1.5, 0.9]}")):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    line = {key: next(i for i, row in enumerate(text.splitlines(), 1) if key in row) for key in ("6hours", "5 days", "orografy", "12-22", "betas")}
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value).splitlines() == [
        f"{path}:{line['6hours']}: data.time_step: '6hours' is not a duration (did you mean '6h'?)",
        f"{path}:{line['12-22']}: data.validation.end: the period ends before it has begun, at 2001-12-22",
        f"{path}:{line['orografy']}: model.static[0]: unknown static field 'orografy' (did you mean 'orography'?)",
        f"{path}:{line['betas']}: training.optimizer.betas[0]: must be less than 1, got 1.5",
        f"{path}:{line['5 days']}: validation.lead_time: '5 days' is not a duration (did you mean '5d'?)"]


@pytest.mark.parametrize(("override", "words"), [
    ("data.validation.start=2001-01-20", "data.validation.start: overlaps the training period, 2001-01-01 to 2001-01-25"),
    ("data.train.end=2000-01-01", "data.train.end: the period ends before it has begun, at 2001-01-01"),
    ("validation.lead_time=15h", "validation.lead_time: 15h is not a multiple of data.time_step, 6h (use 18h)"),
    ("model.static=[land_sea_mask]", "model.static[0]: unknown static field 'land_sea_mask'; there are orog"),
    ("model.static=[orogs]", "unknown static field 'orogs' (did you mean 'orog'?)"),
    ("model.static=[orog, orography]", "model.static: orography is given twice (name each input once)"),
    ("model.forcings=[sin_latitude, cos_latitude, sin_latitude]", "model.forcings: sin_latitude is given twice (name each input once)"),
    ("data.time_step=soon", "data.time_step: 'soon' is not a duration (write it as 6h"),
    ("data.time_step=6", "data.time_step: must be text, got 6 (write 6h)"),
    ("validation.lead_time=36", "validation.lead_time: must be text, got 36 (write 36h)"),
    ("training.optimizer.betas=[0.9, -0.5]", "betas[1]: must be greater than or equal to 0, got -0.5"),
    ("model.time_steps=[6h, 9h]", "model.time_steps[1]: 9h is not a multiple of data.time_step, 6h (use 12h)"),
    ("model.time_steps=[12h, 18h]", "model.time_steps[1]: 18h is not a multiple of the shortest step, 12h: no forecast could combine them (use 1d)"),
    ("model.time_steps=[6h, 1d, 24h]", "model.time_steps[2]: 1d is named twice (name each step once)"),
    ("model.time_steps=[6h, 24 hours]", "model.time_steps[1]: '24 hours' is not a duration (did you mean '24h'?)"),
    ("model.time_steps=[6, 24]", "model.time_steps[0]: must be text, got 6 (write 6h)"),
    ("model.time_steps=6h", "model.time_steps: must be a list, got '6h' (write it in brackets: [6h])"),
    ("model={time_steps: [6h, 24h], history: 2, forcings: [], static: [], backbone: {kind: plain}}",
     "model.history: a model with several time steps reads one state, not 2 (write 1, or name one step in model.time_steps)"),
    ("model.backbone.mlp_ratio=.inf", "mlp_ratio: must be a finite number, got Infinity"),
    ("model.backbone.shrink=.nan", "shrink: must be a finite number, got NaN"),
    ("training.stages=[{until: 1, rollout: 1, time_steps: [24h]}]", "training.stages[0].time_steps[0]: 1d is not a step of the model (use 6h)"),
])
def test_one_wrong_value(tiny_experiment: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(tiny_experiment, [override])
    assert f"override 1: {override}: " in str(caught.value) and words in str(caught.value)


def test_a_validation_that_ends_between_long_steps(tiny_experiment: Path) -> None:
    with pytest.raises(ConfigError, match=r"lead_time: 2d is not a multiple of the shortest of model.time_steps, 36h \(use 3d\)"):
        load_experiment(tiny_experiment, ["model.time_steps=[36h, 72h]"])


@pytest.mark.parametrize(("override", "words"), [
    ("model.backbone={kind: plain, patch: [32, 32], width: 8, depth: 1, num_blocks: 2}", "too few to pad by 25 rows and 20 columns"),
    ("model.backbone={kind: plain, patch: [2, 2], width: 8, depth: 1, mixer: gfn, tokens: [3, 5]}", "belongs to 3 x 5 tokens, not 4 x 6"),
    ("model.backbone={kind: plain, patch: [2, 2], width: 8, depth: 1, latitude: double_with_poles}", "rows that lie on the poles"),
    ("data.time_step=8h", "the model steps 8h, which is not a multiple of the store's 6h"),
    ("data.train.start=2001-01-02", "the store's statistics cover"),
    ("training.loss={channels: {foo: 2}}", "no channel 'foo'"),
    ("training.loss={kind: crps}", "the members of a CRPS differ by noise that the model reads, and it reads none"),
    ("validation.members=3", "the model reads no noise"),
    ("validation.pictures=[foo]", "no channel foo"),
    ("validation.lead_time=30d", "no 121 states follow each other every 6h"),
    ("training.init_from=/nowhere", "not a complete model or checkpoint folder"),
])
def test_what_shows_on_the_store_alone_is_found_by_validate_and_by_train(tiny_experiment: Path, override: str, words: str) -> None:
    experiment = load_experiment(tiny_experiment, [override])
    with pytest.raises(ForecastError, match=words) as first:
        try_out(experiment)
    with pytest.raises(type(first.value)) as second:
        run_training(experiment, resume=False, echo=[].append)
    assert str(first.value) == str(second.value)
    assert first.value.where == "model.backbone" or "backbone" not in override
    assert not (tiny_experiment.parent / "run" / "checkpoints").exists()


def test_validate_says_what_it_could_not_try(tiny_experiment: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["config", "validate", str(tiny_experiment)])
    assert done.exit_code == 0 and done.output == f"{tiny_experiment}: valid\n"
    done = CliRunner().invoke(cli, ["config", "validate", str(tiny_experiment), "data.store=absent.zarr"])
    assert done.exit_code == 0 and done.output.endswith("valid; not tried on the training store, which is not there yet: absent.zarr\n")


def test_the_command_that_makes_the_store_keeps_the_validation_out_of_its_statistics(tiny_experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run_training(load_experiment(tiny_experiment, ["data.store=my store.zarr"]), resume=False, echo=[].append)
    assert caught.value.fix == "make one: afno-forecast data build SOURCE 'my store.zarr' --statistics 2001-01-01/2001-01-25"


def test_the_model_card_holds_no_word_of_a_source_that_a_terminal_or_browser_obeys(tiny_experiment: Path) -> None:
    experiment = load_experiment(tiny_experiment)
    inputs = model_inputs(experiment, Store.open(Path(experiment.data.store)))
    evil = "\x1b]0;owned\x07\u202e <script>alert(1)</script> & co\n# heading"
    inputs = replace(inputs, attrs={**inputs.attrs, "title": evil, "institution": evil, "license": "CC BY 4.0"})
    lead_time = np.asarray([6], "timedelta64[h]").astype("timedelta64[ns]")
    table = xr.Dataset({evil: (("lead_time", "rival"), [[0.5, 0.1]])}, {"lead_time": lead_time, "rival": ["persistence", "climatology"]})
    card = model_card(experiment, build_forecaster(experiment.model, inputs), inputs, 0.5, table)
    assert all(line.isprintable() for line in card.split("\n")) and not set(card) & set("<>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in card and "\n# heading" not in card and "- license: CC BY 4.0" in card
