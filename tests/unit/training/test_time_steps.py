"""One checkpoint that steps 6, 12 and 24 h: trained, resumed, validated, kept and rolled out."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from afno_forecast import model_folder, model_summary
from afno_forecast.data.loader import Batch, Loader
from afno_forecast.data.store import Store
from afno_forecast.data.tendencies import tendency_std
from afno_forecast.errors import ConfigError, Stopped
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.experiment.trial import try_out
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster
from afno_forecast.losses import area_weighted_mse
from afno_forecast.training.loss import LossConfig, RolloutLoss

STEPS = ["model.time_steps=[6h, 12h, 24h]", "training.stages=[{until: 0.5, rollout: 1}, {until: 1.0, rollout: 2, time_steps: [24h, 24h, 6h]}]"]
DAY = 86400


def train(path: Path, *overrides: str, resume: bool = False) -> Path:
    return run_training(load_experiment(path, overrides), resume=resume, echo=lambda text: None)


@pytest.fixture(scope="module")
def run(make_tiny_experiment: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model with three steps."""
    path = make_tiny_experiment(tmp_path_factory.mktemp("steps"))
    train(path, *STEPS)
    return path.parent / "run"


def test_the_model_folder_keeps_the_steps_and_their_statistics(run: Path, tiny_store: Path) -> None:
    store = Store.open(tiny_store)
    forecaster = model_folder.load(run / "model")
    assert forecaster.time_steps == (DAY // 4, DAY // 2, DAY)
    index = store.channel_index(forecaster.channels)
    for step, expected in tendency_std(store, index, forecaster.time_steps).items():
        np.testing.assert_allclose(forecaster.tendency_std(step).numpy(), expected, rtol=1e-6)
    assert "6h, 12h, 1d, history 1" in model_summary.describe(run / "model")
    assert "steps of 6h, 12h, 1d," in (run / "model" / "README.md").read_text()


def test_a_stopped_training_resumes_to_the_last_bit(run: Path, make_tiny_experiment: Callable[[Path], Path], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    path, original, seen = make_tiny_experiment(tmp_path), Loader.batches, [0]

    def batches(loader: Loader, num_steps: int, **options):  # type: ignore[no-untyped-def]
        for batch in original(loader, num_steps, **options):
            seen[0] += 1
            if seen[0] in (4, 9):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "batches", batches)
        for again in (False, True):
            with pytest.raises(Stopped):
                train(path, *STEPS, resume=again)
    train(path, *STEPS, resume=True)
    assert (tmp_path / "run" / "metrics.csv").read_text() == (run / "metrics.csv").read_text()
    for name in ("model.safetensors", "statistics.nc"):
        assert _content(tmp_path / "run" / "model" / name) == _content(run / "model" / name)


def _content(path: Path) -> object:
    if path.suffix == ".nc":
        with xr.open_dataset(path) as ds:
            return json.dumps(ds.to_dict(), default=str)
    return {name: tensor.tolist() for name, tensor in load_file(str(path)).items()}


def test_a_forecast_holds_every_6_h_and_is_the_greedy_rollout(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    out = produce_forecast(run / "model", tiny_store, init="2001-01-26/2001-01-27/12h", lead_time=5 * DAY // 4, out=tmp_path / "fc.nc",
                           echo=lambda text: None)
    store, forecaster = Store.open(tiny_store), model_folder.load(run / "model")
    with xr.open_dataset(out, decode_timedelta=True) as ds:
        assert (ds["prediction_timedelta"].values / np.timedelta64(1, "h")).tolist() == [6, 12, 18, 24, 30]
        init = int(ds["time"].values[1].astype("datetime64[s]").astype(int))
        start = torch.from_numpy(store.read(int(np.searchsorted(store.times.seconds, init)), store.channel_index(forecaster.channels)))[None, None]
        at = np.asarray([init])
        with torch.no_grad():
            day = forecaster(start, forecaster.forcing(at, DAY), DAY)
            later = forecaster(day[:, None], forecaster.forcing(at + DAY, DAY // 4), DAY // 4)
        t2m = ds["2m_temperature"].transpose("time", "prediction_timedelta", "latitude", "longitude").values
    np.testing.assert_allclose(t2m[1, 3], day[0, 1].numpy(), rtol=1e-5)
    np.testing.assert_allclose(t2m[1, 4], later[0, 1].numpy(), rtol=1e-5)


def test_leads_that_are_left_out_cost_nothing(run: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("whole.nc", "days.nc")]
    taken: list[int] = []
    forward = Forecaster.forward
    monkeypatch.setattr(Forecaster, "forward", lambda self, history, forcing, step: taken.append(step) or forward(self, history, forcing, step))
    for file, every in zip(files, (None, DAY), strict=True):
        taken.clear()
        produce_forecast(run / "model", tiny_store, init="first", lead_time=2 * DAY, out=file, options=Options(output_every=every))
    assert taken == [DAY, DAY]
    with xr.open_dataset(files[0], decode_timedelta=True) as whole, xr.open_dataset(files[1], decode_timedelta=True) as days:
        assert days.sizes["prediction_timedelta"] == 2 and days.equals(whole.sel(prediction_timedelta=days.prediction_timedelta))


def test_the_loss_of_a_batch_is_in_units_of_the_change_over_its_step(run: Path, tiny_store: Path) -> None:
    store, forecaster = Store.open(tiny_store), model_folder.load(run / "model")
    loader = Loader(store, forecaster.channels, time_step=DAY // 4, history=1, batch_size=2, seed=1)
    batches = loader.batches(2, stage=0, time_steps=(DAY,))
    batch = next(batches)
    batches.close()
    assert isinstance(batch, Batch) and batch.time_step == DAY
    expected = [area_weighted_mse(s.fields_BCHW, batch.states[:, s.step], forecaster.area_weights_HW, forecaster.tendency_std(DAY))
                for s in rollout(forecaster, batch.states[:, :1], batch.seconds[:, 0], 2, time_steps=(DAY,))]
    assert RolloutLoss(LossConfig(), forecaster)(batch, 2).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-6)


@pytest.mark.parametrize("override", ["model.time_steps=[24h]", "data.time_step=24h"])
def test_one_step_of_24_h_on_6_hourly_data(tiny_experiment: Path, tiny_store: Path, override: str) -> None:
    folder = train(tiny_experiment, override, "training.budget.train_steps=3", "validation.count=1")
    forecaster = model_folder.load(folder)
    assert forecaster.time_steps == (DAY,)
    store = Store.open(tiny_store)
    expected = tendency_std(store, store.channel_index(forecaster.channels), [DAY])[DAY]
    np.testing.assert_allclose(forecaster.tendency_std(DAY).numpy(), expected, rtol=1e-6)
    with pytest.raises(ConfigError, match="a lead time of 30h is not a multiple of the model's step of 1d"):
        produce_forecast(folder, tiny_store, init="first", lead_time=5 * DAY // 4, out=folder.parent / "fc.nc")


def test_naming_the_one_step_there_is_changes_nothing(tiny_experiment: Path, tiny_model: Path) -> None:
    """`model.time_steps: [6h]` asks for nothing new: the same weights to the last bit."""
    plain = load_file(str(tiny_model / "model.safetensors"))
    named = load_file(str(train(tiny_experiment, "model.time_steps=[6h]") / "model.safetensors"))
    assert plain.keys() == named.keys() and all(torch.equal(plain[k], named[k]) for k in plain)


def test_a_step_that_no_stage_trains_is_refused(tiny_experiment: Path) -> None:
    experiment = load_experiment(tiny_experiment, [STEPS[0], "training.stages=[{until: 1.0, rollout: 1, time_steps: [6h, 24h]}]"])
    with pytest.raises(ConfigError, match="no stage trains the time step 12h"):
        try_out(experiment)
