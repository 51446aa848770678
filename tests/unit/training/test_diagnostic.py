"""A diagnostic network on a finished model: learns amounts, is saved beside it, rolled out with it, and changes nothing of its states."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from afno_forecast import model_folder
from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.cli import cli
from afno_forecast.data.build import build_store
from afno_forecast.data.loader import Batch, Loader
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.diagnostic import Diagnostic, DiagnosticConfig
from afno_forecast.errors import CheckpointError, ConfigError, DivergenceError, Stopped
from afno_forecast.experiment.diagnostic import load_diagnostic_experiment, run_diagnostic_training
from afno_forecast.forecast.produce import produce_forecast
from afno_forecast.grid import LatLonGrid
from afno_forecast.nn.backbone import PlainConfig
from afno_forecast.times import parse_instant
from afno_forecast.training.checkpoint import load_newest
from afno_forecast.training.diagnostic import DiagnosticLoss, DiagnosticLossConfig, DiagnosticValidator
from afno_forecast.training.parallel import Layout

EXPERIMENT = """\
name: rain
seed: 2
output: {output}
forecaster: {model}
data: {{store: {store}, train: {{start: 2001-01-01, end: 2001-01-25}}, validation: {{start: 2001-01-26, end: 2001-02-05}}}}
diagnostic: {{channels: [pr], scale: [1.0e-5], accumulation: instant, backbone: {{kind: hierarchical, widths: [8, 8], depth: 1, num_blocks: 2}}}}
training:
  budget: {{train_steps: 60}}
  batch_size: 4
  stages: [{{until: 1, rollout: 1}}]
  optimizer: {{learning_rate: 5.0e-3}}
  average: 0.9
  threads: 1
validation: {{count: 2, inits: 5, lead_time: 12h}}
"""


@pytest.fixture(scope="module")
def rain_store(tiny_weather: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weather with rain where it is warm and the wind blows from the west: a function of the state."""
    folder = tmp_path_factory.mktemp("rain")
    with xr.open_dataset(tiny_weather) as ds:
        rain = 1e-5 * np.expm1(np.maximum(0, (ds["t2m"] - 288) / 4 + (ds["u250"] - 12) / 8))
        rain.attrs.update(units="kg m-2 s-1", standard_name="precipitation_flux")
        ds.assign(pr=rain.astype("f4")).to_netcdf(folder / "weather.nc")
    build_store(open_source(folder / "weather.nc"), folder / "store.zarr",
                StoreSettings(statistics_period=(parse_instant("2001-01-01"), parse_instant("2001-01-25"))))
    return folder / "store.zarr"


@pytest.fixture
def experiment(rain_store: Path, tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "rain.yaml"
    path.write_text(EXPERIMENT.format(output=tmp_path / "run", model=tiny_model, store=rain_store))
    return path


def train(path: Path, *overrides: str, resume: bool = False) -> Path:
    return run_diagnostic_training(load_diagnostic_experiment(path, overrides), resume=resume, echo=lambda text: None)


def test_amounts_are_learnt_saved_and_rolled_out_with_the_states(experiment: Path, rain_store: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = train(experiment)
    losses = [float(line.split(",")[2]) for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:5])
    for name in ("model.safetensors", "statistics.nc", "config.yaml"):
        assert (model / name).read_bytes() == (tiny_model / name).read_bytes()
    assert "log(1 + x / 1e-05); accumulated over: instant" in (model / "README.md").read_text()
    both, alone = tmp_path / "both.nc", tmp_path / "alone.nc"
    for folder, path in ((model, both), (tiny_model, alone)):
        produce_forecast(folder, rain_store, init="2001-01-26/2001-01-27/6h", lead_time=4 * 21600, out=path, echo=lambda text: None)
    with xr.open_dataset(both, decode_timedelta=True) as fc, xr.open_dataset(alone, decode_timedelta=True) as plain:
        xr.testing.assert_identical(fc["2m_temperature"], plain["2m_temperature"])  # nothing is fed back
        rain = fc["precipitation_flux"] if "precipitation_flux" in fc else fc["pr"]
        assert float(rain.min()) >= 0 and float(rain.max()) > 1e-6 and rain.attrs["units"] == "kg m-2 s-1"
        assert "accumulated over: instant" in fc.attrs["diagnostic_channels"]


def test_an_amount_beyond_all_numbers_ends_the_forecast(experiment: Path, rain_store: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = train(experiment, "training.budget.train_steps=2"), Diagnostic.transformed
    monkeypatch.setattr(Diagnostic, "transformed", lambda self, *arguments: given(self, *arguments) + 200)
    with pytest.raises(DivergenceError, match="is not finite at lead 6h"):
        produce_forecast(model, rain_store, init="2001-01-26", lead_time=4 * 21600, out=tmp_path / "rain.nc", echo=lambda text: None)


def test_a_stopped_training_resumes_to_the_last_bit(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("training.budget.train_steps=6",)
    whole = train(experiment, *short)
    original, seen = Loader.batches, [0]

    def batches(loader: Loader, num_steps: int, **options):  # type: ignore[no-untyped-def]
        for batch in original(loader, num_steps, **options):
            seen[0] += 1
            if seen[0] == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    again = (*short, f"output={tmp_path / 'again'}")
    with monkeypatch.context() as patch:
        patch.setattr(Loader, "batches", batches)
        with pytest.raises(Stopped, match="after train step 4"):
            train(experiment, *again)
    train(experiment, *again, resume=True)
    assert (tmp_path / "again" / "metrics.csv").read_text() == (tmp_path / "run" / "metrics.csv").read_text()
    assert (tmp_path / "again" / "model" / "diagnostic.safetensors").read_bytes() == (whole / "diagnostic.safetensors").read_bytes()


def test_another_experiment_does_not_resume_and_one_without_a_score_is_no_success(experiment: Path, tmp_path: Path,
                                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("training.budget.train_steps=2", "validation.count=1")
    train(experiment, *short)
    before = (tmp_path / "run" / "config.yaml").read_text()
    for override in ("seed=9", "training.batch_size=5", "diagnostic.backbone.widths=[12, 12]"):
        with pytest.raises(ConfigError, match="differs from the one that was stopped"):
            train(experiment, *short, override, resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    nothing = xr.Dataset({"pr": (("rival", "lead_time"), np.full((1, 1), np.nan))}, coords={"rival": ["persistence"],
                                                                                           "lead_time": [np.timedelta64(6, "h")]})
    monkeypatch.setattr("afno_forecast.training.diagnostic.DiagnosticValidator.__call__", lambda self: (float("nan"), nothing))
    with pytest.raises(DivergenceError, match="no validation gave a finite score"):
        train(experiment, *short, f"output={tmp_path / 'other'}")


def test_forcing_that_a_batch_brings_is_the_forecasters_own(rain_store: Path, tiny_model: Path) -> None:
    forecaster, store = model_folder.load(tiny_model), Store.open(rain_store)
    outputs = store.channels.select(("pr",))
    network = PlainConfig(patch=(1, 1), width=8, depth=1, num_blocks=2)
    config = DiagnosticConfig(channels=("pr",), scale=(1e-5,), accumulation="instant", backbone=network)
    loss = DiagnosticLoss(DiagnosticLossConfig(), forecaster, Diagnostic(config, forecaster, outputs), [1e-5])
    loader = Loader(store, ChannelSet((*forecaster.channels, *outputs)), time_step=forecaster.time_step, history=forecaster.history,
                    batch_size=3, seed=0, delivery=Layout().delivery(forecaster, cache_bytes=1 << 20))
    with contextlib.closing(loader.batches(2, stage=0)) as batches:
        batch = next(batches)
    assert batch.forcing is not None and batch.forcing.shape[1] == 2
    assert torch.equal(loss(batch, 2), loss(Batch(batch.states, batch.seconds), 2))


def test_on_another_grid_the_network_is_transferred_as_the_forecasters_is(tiny_model: Path) -> None:
    trained, outputs = model_folder.load(tiny_model), ChannelSet((Channel("precipitation_flux", None, "kg m-2 s-1"),))
    rows, columns = (3 * count for count in trained.grid.shape)
    finer = LatLonGrid((np.arange(rows) + 0.5) * 180 / rows - 90, np.arange(columns) * 360 / columns)
    statics = {name: np.zeros((rows, columns), np.float32) for name in model_folder.read_inputs(tiny_model).static}
    network = PlainConfig(patch=(2, 2), width=8, depth=1, num_blocks=2)
    config = DiagnosticConfig(channels=("pr",), scale=(1e-5,), accumulation="instant", backbone=network)
    made = Diagnostic(config, model_folder.load(tiny_model, on=(finer, statics)), outputs, trained.grid)
    assert made.backbone.coarsen == (3, 3)
    assert Diagnostic(config, trained, outputs).backbone.coarsen == (1, 1)


@pytest.mark.parametrize("weights", [{"transformed": 1.0, "amount": 0.0}, {"transformed": 0.0, "amount": 1.0}])
def test_what_is_uncertain_is_told_by_its_mean_of_what_the_loss_weighs(weights: dict[str, float], tiny_model: Path) -> None:
    forecaster, outputs = model_folder.load(tiny_model), ChannelSet((Channel("precipitation_flux", None, "kg m-2 s-1"),))
    network = PlainConfig(patch=(1, 1), width=8, depth=1, num_blocks=2)
    config = DiagnosticConfig(channels=("pr",), scale=(1e-5,), accumulation="instant", backbone=network)
    torch.manual_seed(0)
    diagnostic = Diagnostic(config, forecaster, outputs)
    loss = DiagnosticLoss(DiagnosticLossConfig(**weights), forecaster, diagnostic, [4e-5])
    amounts = torch.tensor([0.0, 0.0, 1e-5, 8e-5])  # four outcomes of one state
    rows, columns = forecaster.grid.shape
    state = torch.cat([forecaster.normalizer.mean_C[:, None, None].expand(-1, rows, columns), torch.zeros(1, rows, columns)])
    states = state.expand(4, 2, -1, rows, columns).clone()
    states[:, :, -1] = amounts[:, None, None, None]
    batch = Batch(states, np.tile([0, forecaster.time_step], (4, 1)))
    optimizer = torch.optim.Adam(diagnostic.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        loss(batch, 1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    told = diagnostic(states[:1, 0, :-1], forecaster.forcing(np.zeros(1, dtype=np.int64)), 0)
    typical = 1e-5 * torch.expm1(torch.log1p(amounts / 1e-5).mean())
    expected = typical if weights["transformed"] else amounts.mean()
    assert amounts.mean() > 1.3 * typical
    assert (told - expected).abs().max() < 0.05 * expected


def test_a_network_that_reads_the_lead_time_is_given_it_in_training_and_forecasts(experiment: Path, rain_store: Path, tmp_path: Path) -> None:
    model = train(experiment, "diagnostic.longest_lead=12h", "training.stages=[{until: 1, rollout: 2}]", "training.budget.train_steps=20",
                  "loss={transformed: 0.1, amount: 1.0}", "validation.count=1")
    forecaster = model_folder.load(model)
    diagnostic = model_folder.load_diagnostic(model, forecaster)
    assert diagnostic is not None
    out = tmp_path / "forecast.nc"
    produce_forecast(model, rain_store, init="2001-01-26", lead_time=2 * 21600, out=out, echo=lambda text: None)
    with xr.open_dataset(out, decode_timedelta=True) as ds:
        last = ds.isel(time=0, prediction_timedelta=-1).transpose(..., "latitude", "longitude")
        fields = [last[c.variable] if c.level is None else last[c.variable].sel(level=c.level) for c in forecaster.channels]
        state, rain = torch.from_numpy(np.stack(fields))[None], torch.from_numpy(last["precipitation_flux"].values)
    forcing = forecaster.forcing(np.array([parse_instant("2001-01-26T12")]))
    with torch.no_grad():
        told = {hours: diagnostic(state, forcing, hours * 3600)[0, 0] for hours in (0, 6, 12, 240)}
    torch.testing.assert_close(rain, told[12])
    torch.testing.assert_close(told[240], told[12], rtol=0, atol=0)  # the longest it knows
    assert (told[0] - told[12]).abs().max() > 0.01 * told[12].max() and (told[6] - told[12]).abs().max() > 0


def test_a_plateau_lowers_the_learning_rate(experiment: Path, tmp_path: Path) -> None:
    train(experiment, "training.budget.train_steps=4", "validation.count=4",
          "training.optimizer={learning_rate: 1.0e-12, schedule: plateau, patience: 1, factor: 0.5}")
    found = load_newest(tmp_path / "run" / "checkpoints", print)
    assert found is not None and found[0].num_validations == 4 and found[0].reductions >= 1


def test_what_does_not_fit_is_refused(experiment: Path) -> None:
    for override, message in (("diagnostic.channels=[t2m]", "already holds"), ("diagnostic.scale=[1.0, 2.0]", "2 scales do not fit"),
                              ("training.loss={kind: amse}", r"training\.loss has no effect"),
                              ("training.precision=bfloat16", "trained in float32"), ("diagnostic.accumulation=soon", "soon"),
                              ("data.validation.start=2001-01-20", "overlap"), ("loss={transformed: 0}", "nothing is made small"),
                              ("validation.lead_time=15h", "15h is not a multiple of the forecaster's step of 6h"),
                              ("validation.members=2", "one forecast from each init time"),
                              ("diagnostic.longest_lead=12h", "longest stage ends at 6h"),
                              ("training.stages=[{until: 1, rollout: 1, time_steps: [6h]}]", "learns at the forecaster's shortest step"),
                              ("training.batch_size=500", r"a batch of 500 is larger than the training period's \d+ samples"),
                              ("diagnostic.backbone.conditions=2", "given 0")):
        with pytest.raises(ConfigError, match=message):
            train(experiment, override)


def test_validate_tries_the_network_on_the_model_and_the_store_and_says_what_is_not_there(experiment: Path, tmp_path: Path) -> None:
    def validate(*overrides: str) -> str:
        done = CliRunner().invoke(cli, ["config", "validate", str(experiment), *overrides])
        return done.output + str(done.exception or "")

    assert validate() == f"{experiment}: valid\n" and not (tmp_path / "run").exists()
    for override, words in (("training.loss={kind: amse}", "training.loss has no effect on a diagnostic network"),
                            ("validation.lead_time=2 dayz", "'2 dayz' is not a duration (did you mean '2d'?)"),
                            ("diagnostic.accumulation=6 hours", "diagnostic.accumulation: '6 hours' is not a duration (did you mean '6h'?)"),
                            ("diagnostic.channels=[nonsense]", "diagnostic.channels[0]: unknown channel 'nonsense'; there are"),
                            ("diagnostic.channels=[t2m]", "the state already holds"), ("validation.lead_time=15h", "not a multiple"),
                            ("data.train.start=2001-01-05", "the store's statistics cover")):
        assert words in validate(override), override
    assert validate("forecaster=no/model") == f"{experiment}: valid; not tried on the model, which is not there yet: no/model\n"
    assert validate("forecaster=no/model", "data.store=no.zarr").endswith(
        "valid; not tried on the model and the training store, which are not there yet: no/model, no.zarr\n")


def test_a_network_is_not_saved_beside_a_forecaster_that_it_has_not_learnt_on(experiment: Path, tiny_model: Path, tmp_path: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scores = tmp_path / "forecaster", iter((0.9, 0.8))
    shutil.copytree(tiny_model, folder)
    validate = DiagnosticValidator.__call__

    def replaced_before_the_second(validator: DiagnosticValidator) -> tuple[float, xr.Dataset]:
        score, (_, table) = next(scores), validate(validator)
        if score == 0.8:
            weights = {name: 2 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
            save_file(weights, folder / "model.safetensors")
            model_folder.write_manifest(folder, model_folder.FILES)
        return score, table

    short = (f"forecaster={folder}", "training.budget.train_steps=4")
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="was replaced while the diagnostic network learnt on it") as error:
        patch.setattr(DiagnosticValidator, "__call__", replaced_before_the_second)
        train(experiment, *short)
    assert error.value.where == str(folder / "model.safetensors")
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="is another than the one that the stopped training learnt on"):
        train(experiment, *short, resume=True)
    shutil.rmtree(folder)
    shutil.copytree(tiny_model, folder)
    assert train(experiment, *short, resume=True) == tmp_path / "run" / "model"


def test_validation_on_dates_that_the_forecaster_or_the_statistics_have_seen_is_refused(experiment: Path, tiny_model: Path, tmp_path: Path) -> None:
    def forecaster(old: str, new: str) -> str:
        folder = tmp_path / "other"
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        text = (tiny_model / "config.yaml").read_text()
        assert text.count(old) == 1
        (folder / "config.yaml").write_text(text.replace(old, new))
        model_folder.write_manifest(folder, model_folder.FILES)
        return f"forecaster={folder}"

    with pytest.raises(ConfigError, match="trained on 2001-01-01 to 2001-01-26T12, which overlaps the validation") as error:
        train(experiment, forecaster("end: '2001-01-25'", "end: 2001-01-26T12"))
    assert error.value.where == "data.validation" and error.value.fix == "validate on dates outside the forecaster's training"
    with pytest.raises(ConfigError, match="statistics cover 2001-01-01T00 to 2001-01-25T00, which reaches outside the training period 2001-01-05"):
        train(experiment, "data.train.start=2001-01-05")
    lines: list[str] = []
    short = ("training.budget.train_steps=1", "validation.count=1")
    run_diagnostic_training(load_diagnostic_experiment(experiment, [*short, forecaster("  train:", "  learnt:")]), resume=False, echo=lines.append)
    assert lines[0] == (f"note: {tmp_path / 'other' / 'config.yaml'} names no data.train: whether the forecaster was trained on dates of "
                        "data.validation is not known")


def test_a_damaged_network_is_refused(experiment: Path, tmp_path: Path) -> None:
    model = train(experiment, "training.budget.train_steps=2", "validation.count=1")
    forecaster = model_folder.load(model)
    found = model_folder.load_diagnostic(model, forecaster)
    assert found is not None and found.outputs.channels[0].role == "diagnostic"
    state, forcing = torch.randn(2, 3, 7, 12), torch.randn(2, 3, 7, 12)
    assert (found(state, forcing, 0) >= 0).all()
    torch.testing.assert_close(found.transform(found.scale_O11 * torch.expm1(torch.ones(1))), torch.ones(1, 1, 1))
    (model / "diagnostic.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"diagnostic\.json was altered"):
        model_folder.load_diagnostic(model, forecaster)
