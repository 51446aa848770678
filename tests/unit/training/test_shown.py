"""Pictures of a validation: what is shown is the forecast and the truth, and the files are in the run folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afno_forecast import model_folder
from afno_forecast.data.store import Store
from afno_forecast.errors import ConfigError, DataError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.forecast import open_session
from afno_forecast.times import parse_instant
from afno_forecast.training.parallel import Layout
from afno_forecast.training.validation import ValidationConfig, Validator

PERIOD = (parse_instant("2001-01-26"), parse_instant("2001-02-09T18"))


def test_what_is_shown_is_the_first_forecast_at_its_longest_lead(tiny_model: Path, tiny_store: Path) -> None:
    forecaster, store = model_folder.load(tiny_model), Store.open(tiny_store)
    config = ValidationConfig(count=1, inits=3, lead_time="2d", batch_size=2, pictures=("t2m", "z500"))
    validator = Validator(store, forecaster, config, start=PERIOD[0], end=PERIOD[1])
    validator(forecaster, Layout())
    shown = validator.shown
    assert shown is not None and shown.names == ("t2m", "z500")
    assert shown.forecast["prediction_timedelta"].values == [np.timedelta64(2, "D")]
    *_, last = open_session(tiny_model, tiny_store, init=str(shown.forecast["time"].values[0])[:16], lead_time="2d")
    wanted = last.to_xarray().sel(level=500)
    for name in ("2m_temperature", "geopotential"):
        assert np.allclose(shown.forecast[name].values.squeeze(), wanted[name].values.squeeze(), rtol=1e-6)
    rows = [int(np.flatnonzero(store.times.seconds == validator.init_seconds[0] + lead)[0]) for lead in (0, 2 * 86400)]
    truth = np.stack([store.read(row, store.channel_index(store.channels.select(("t2m",))))[0] for row in rows])
    assert np.array_equal(shown.truth["2m_temperature"].values, truth)
    assert shown.spectra is not None and set(shown.spectra["num_inits"].values) == {3}


def test_a_run_draws_at_each_validation_and_goes_on_where_a_picture_fails(tiny_experiment: Path, tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    overrides = ["training.budget.train_steps=2", "validation.count=2", "validation.pictures=[z500]"]
    run_training(load_experiment(tiny_experiment, overrides), resume=False, echo=lines.append)
    pictures = tmp_path / "run" / "pictures"
    assert {p.name for p in pictures.iterdir()} == {f"step-{step}_z500{kind}.png" for step in (1, 2) for kind in ("", "_spectrum")}
    for path in pictures.iterdir():
        assert len(set(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).sum(1).tolist())) > 20, path

    def failing(*_: object, **__: object) -> None:
        raise DataError("nothing to see", where="here")

    monkeypatch.setattr("afno_forecast.plot.maps.plot_compare", failing)
    run_training(load_experiment(tiny_experiment, [*overrides, f"output={tmp_path / 'other'}"]), resume=False, echo=lines.append)
    assert lines.count("note: a picture of the validation was not drawn: nothing to see (here)") == 2
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "pictures").write_text("in the way")
    run_training(load_experiment(tiny_experiment, [*overrides, f"output={tmp_path / 'third'}"]), resume=False, echo=lines.append)
    assert sum(line.startswith("note: a picture of the validation was not drawn: File exists") for line in lines) == 2
    for name in ("other", "third"):
        events = [json.loads(line)["event"] for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        assert events[-1] == "done"


def test_a_channel_that_the_model_has_not_is_refused_and_true_chooses_some(tiny_model: Path, tiny_store: Path) -> None:
    forecaster, store = model_folder.load(tiny_model), Store.open(tiny_store)
    with pytest.raises(ConfigError, match="q700") as error:
        Validator(store, forecaster, ValidationConfig(count=1, inits=1, lead_time="1d", pictures=("q700",)), start=PERIOD[0], end=PERIOD[1])
    assert "validation.pictures" in str(error.value)
    validator = Validator(store, forecaster, ValidationConfig(count=1, inits=1, lead_time="1d", pictures=True), start=PERIOD[0], end=PERIOD[1])
    validator(forecaster, Layout())
    assert validator.shown is not None and set(validator.shown.names) == {"z500", "u250", "t2m"}
