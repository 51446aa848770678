"""Calibration: the regression finds what a forecast is worth, forecasts are shrunk by it and by nothing else, and only what fits is calibrated."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from afno_forecast import model_folder
from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.config import Strict, dump_config
from afno_forecast.errors import CheckpointError, ConfigError, DataError, DivergenceError
from afno_forecast.forecast.calibration import Calibration, _by_band, _reference, _thinned, _waves, calibrate, load_calibration, regress
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.forecast.rollout import State
from afno_forecast.forecast.session import Session, open_session
from afno_forecast.forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import Grid, LatLonGrid
from afno_forecast.model_summary import card_facts
from afno_forecast.nn.backbone import HierarchicalConfig
from afno_forecast.times import TimeAxis, parse_instant

H = 3600
GLOBE = LatLonGrid((np.arange(6) + 0.5) * 30 - 90, np.arange(10) * 36.0)
AREA = LatLonGrid(30 + 3.0 * np.arange(6), 5 + 4.0 * np.arange(9))
CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"), Channel("surface_pressure", None, "Pa")))
MEAN, STD, MEMORY = np.array([280.0, 1e5]), np.array([4.0, 800.0]), np.array([0.95, 0.8])
PERIOD = (parse_instant("2001-01-01"), parse_instant("2002-03-31T18"))


class Whole(Strict):
    """What a model folder needs of an experiment."""

    model: ModelConfig


def persistence(folder: Path, grid: Grid) -> Path:
    """A new network gives no tendency: its forecast is that nothing changes."""
    config = ModelConfig(forcings=(), static=(), backbone=HierarchicalConfig(widths=(4, 4), depth=1, num_blocks=2))
    inputs = ModelInputs(CHANNELS, grid, "proleptic_gregorian", 6 * H, MEAN, STD, STD / 2, {})
    model_folder.save(folder, config_text=dump_config(Whole(model=config)), inputs=inputs, weights=build_forecaster(config, inputs).state_dict(),
                      card="# persistence\n")
    return folder


def weather(path: Path, grid: Grid) -> Path:
    """Anomalies that keep a known share of themselves from one state to the next, around a season as large as they are."""
    times = np.arange("2001-01-01", "2002-04-01", np.timedelta64(6, "h"), dtype="datetime64[ns]")
    generator = np.random.default_rng(5)
    fields = np.empty((len(times), 2, *grid.shape))
    anomaly = generator.standard_normal((2, *grid.shape))
    for number in range(len(times)):
        fields[number] = anomaly
        anomaly = MEMORY[:, None, None] * anomaly + np.sqrt(1 - MEMORY[:, None, None] ** 2) * generator.standard_normal(anomaly.shape)
    fields += season(TimeAxis(times.astype("datetime64[s]").astype(np.int64), "proleptic_gregorian"))[:, None, None, None]
    fields = MEAN[:, None, None] + STD[:, None, None] * fields
    dims = ("time", "latitude", "longitude")
    xr.Dataset({c.variable: (dims, fields[:, k].astype(np.float32), {"units": c.units}) for k, c in enumerate(CHANNELS)},
               coords={"time": times, **{name: (name, values, {"units": f"degrees_{'north' if name == 'latitude' else 'east'}"})
                                         for name, values in grid.axes.items()}}).to_netcdf(path)
    return path


def network(tendency: float = 0.0, scale: float = 1.0, **options: Any) -> Forecaster:
    """On the globe, not saved; every channel changes by `tendency` times `scale` a step."""
    config = ModelConfig(forcings=(), static=(), backbone=HierarchicalConfig(widths=(4, 4), depth=1, num_blocks=2), **options)
    forecaster = build_forecaster(config, ModelInputs(CHANNELS, GLOBE, "proleptic_gregorian", 6 * H, MEAN, STD, np.full(2, scale), {}))
    with torch.no_grad():
        next(p for name, p in forecaster.named_parameters() if "head" in name and name.endswith("bias")).fill_(tendency)
    return forecaster.eval()


def states_of(seconds: np.ndarray) -> Any:
    """States of which all cells of all channels are the cosine of the time of day."""
    def read(rows: Any) -> np.ndarray:
        value = np.cos(2 * np.pi * (seconds[rows] % 86400) / 86400)
        return np.broadcast_to(value[:, None, None, None], (len(value), 2, *GLOBE.shape)).astype(np.float32)

    return SimpleNamespace(times=TimeAxis(seconds, "proleptic_gregorian"), read=read, where="here")


def season(times: TimeAxis) -> np.ndarray:
    return np.sin(2 * np.pi * times.year_fraction() - 1)


@pytest.fixture(scope="module", params=[GLOBE, AREA], ids=["globe", "area"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Calibration]:
    """Folder of the model, of the calibrated one, the data, and the calibration."""
    folder, told = tmp_path_factory.mktemp("calibration"), list[str]()
    model, data = persistence(folder / "model", request.param), weather(folder / "weather.nc", request.param)
    calibration = calibrate(model, data, folder / "calibrated", period=PERIOD, lead_seconds=36 * H, inits=150, echo=told.append)
    assert len(told) == 3 and told[0].startswith("6h") and re.search(r"t2m 0\.9\d, sp 0\.[78]\d$", told[0])
    return model, folder / "calibrated", data, calibration


def test_the_regression_finds_what_a_forecast_is_worth(made: tuple[Path, Path, Path, Calibration]) -> None:
    calibration = made[3]
    assert calibration.lead_seconds.tolist() == [6 * H * k for k in range(1, 7)]
    assert calibration.factor_LCK.shape[2] == (4 if calibration.grid.matches(GLOBE) else 1)  # wavenumbers 0, 1, 2-3, 4-5, or all
    expected = MEMORY ** np.arange(1, 7)[:, None]
    np.testing.assert_allclose(calibration.factor_LCK.mean(-1), expected, atol=0.06)
    times = TimeAxis(np.asarray([parse_instant("2001-02-10"), parse_instant("2001-09-01T06")]), "proleptic_gregorian")
    departure = (calibration.expected(times.seconds) - MEAN[:, None, None]) / STD[:, None, None] - season(times)[:, None, None, None]
    assert np.abs(departure.mean((2, 3))).max() < 0.2


def test_a_calibrated_forecast_is_the_raw_one_shrunk_and_nearer_to_the_truth(made: tuple[Path, Path, Path, Calibration], tmp_path: Path) -> None:
    _, model, data, calibration = made

    def forecast(name: str, *, raw: bool) -> xr.Dataset:
        produce_forecast(model, data, init="2002-02-01/2002-03-25/2d", lead_time=36 * H, out=tmp_path / name, options=Options(raw=raw),
                         echo=[].append)
        with xr.open_dataset(tmp_path / name) as ds:
            return ds.load()

    raw, shrunk = forecast("raw.nc", raw=True), forecast("shrunk.nc", raw=False)
    assert "calibration" not in raw.attrs and "150 forecasts" in shrunk.attrs["calibration"]
    assert raw.attrs["title"] == "Forecast of persistence" and shrunk.attrs["title"] == "Calibrated forecast of persistence"
    leads = raw["prediction_timedelta"].values.astype("timedelta64[s]").astype(int)
    for number, init in enumerate(raw["time"].values):
        fields = torch.from_numpy(np.stack([raw[c.variable].values[number] for c in CHANNELS], 1))
        for k, lead in enumerate(leads):
            valid = np.asarray([init.astype("datetime64[s]").astype(np.int64) + lead])
            expected = calibration(fields[k:k + 1], int(lead), valid)[0]
            for channel, c in enumerate(CHANNELS):
                np.testing.assert_allclose(shrunk[c.variable].values[number, k], expected[channel], rtol=1e-6)
    with xr.open_dataset(data) as truth:
        for c, share in zip(CHANNELS, MEMORY**6, strict=True):
            valid = raw["time"] + raw["prediction_timedelta"]
            came = truth[c.variable].sel(time=valid)
            errors = [float(((ds[c.variable].values - came.transpose(*ds[c.variable].dims).values) ** 2)[:, -1].mean()) for ds in (raw, shrunk)]
            assert errors[1] / errors[0] == pytest.approx((1 + share) / 2, abs=0.06)  # (1 - share^2) over 2 (1 - share)


def test_each_band_has_its_own_factor_and_other_channels_are_left_alone() -> None:
    factors = np.array([[[0.5, 1.0, 0.25, 0.0]] * 2])
    reference = np.zeros((1, 3, 2, *GLOBE.shape), np.float32)
    reference[0, 0] = 7.0
    calibration = Calibration(np.array([6 * H]), factors, np.array([0]), reference, CHANNELS, GLOBE, "proleptic_gregorian", "nothing")
    longitude = torch.from_numpy(np.deg2rad(GLOBE.longitude))
    parts = {0: 0.5, 1: 1.0, 2: 0.25, 3: 0.25, 4: 0.0, 5: 0.0}
    field = 7.0 + sum(torch.cos(m * longitude + (0 if m == 5 else m)) for m in parts)
    expected = 7.0 + sum(share * torch.cos(m * longitude + (0 if m == 5 else m)) for m, share in parts.items())
    state = field.float().expand(1, 3, *GLOBE.shape)
    shown = calibration(state, 6 * H, np.asarray([0]))
    torch.testing.assert_close(shown[0, :2], expected.float().expand(2, *GLOBE.shape), rtol=0, atol=1e-5)
    torch.testing.assert_close(shown[:, 2], state[:, 2], rtol=0, atol=0)


@pytest.mark.parametrize("columns", [9, 10, 12, 16])
def test_the_products_of_a_band_are_those_of_its_part_of_the_fields(columns: int) -> None:
    """Parseval: the last wave of an even number of columns counts once, not twice."""
    grid = LatLonGrid(GLOBE.latitude, np.arange(columns) * 360 / columns)
    first, second = np.random.default_rng(columns).standard_normal((2, columns))
    band = np.array([int(wave).bit_length() for wave in range(columns // 2 + 1)])

    def part(field: np.ndarray, number: int) -> np.ndarray:
        return np.fft.irfft(np.where(band == number, np.fft.rfft(field), 0), n=columns)

    expected = [(part(first, number) * part(second, number)).sum() * columns for number in range(band[-1] + 1)]
    np.testing.assert_allclose(_by_band((_waves(first, grid) * _waves(second, grid).conj()).real, grid), expected, atol=1e-10)


def test_what_is_stepped_on_stays_as_the_model_makes_it(made: tuple[Path, Path, Path, Calibration]) -> None:
    _, model, data, calibration = made
    states = [(s.lead_seconds, s.valid_seconds, s.fields_BCHW.clone()) for s in open_session(model, data, init="2002-02-01", lead_time="18h")]
    start = next(iter(open_session(model, data, init="2002-02-01", lead_time="6h", raw=True))).fields_BCHW  # persistence
    for lead, valid, fields in states:
        torch.testing.assert_close(fields, calibration(start, lead, valid))


def test_what_does_not_fit_is_refused(made: tuple[Path, Path, Path, Calibration], tmp_path: Path) -> None:
    raw_model, model, data, _ = made
    with pytest.raises(ConfigError, match=r"up to 36h.*\n.*\n.*--raw"):
        open_session(model, data, init="2002-02-01", lead_time="2d")
    with pytest.raises(ConfigError, match="lose their spread"):
        open_session([model, model], data, init="2002-02-01", lead_time="12h")
    assert open_session(model, data, init="2002-02-01", lead_time="2d", raw=True).calibration is None
    with pytest.raises(ConfigError, match="does not go on from"):
        hook = type("Looks", (), {"on_state": lambda self, state: None, "finish": lambda self: None})()
        produce_forecast(model, data, init="2002-02-01", lead_time=6 * H, out=tmp_path / "a.nc", options=Options(hooks=(hook,)), echo=[].append)
    with xr.open_dataset(data) as ds:
        ds.isel(time=slice(20)).assign_coords(time=ds.time[:20] + np.timedelta64(3, "h")).to_netcdf(tmp_path / "between.nc")
    with pytest.raises(ConfigError, match=r"hours 0, 6, 12, 18 of the day, not 3, 9\n.*\n.*--raw"):
        produce_forecast(model, tmp_path / "between.nc", init="2001-01-02T21", lead_time=12 * H, out=tmp_path / "a.nc", echo=[].append)
    assert not list(tmp_path.glob("a.nc*")), "nothing is written that --raw would have to go on from"
    for options, kind, words in (({"period": (PERIOD[0], PERIOD[0] + 90 * 86400)}, ConfigError, "needs a year"),
                                 ({"period": (PERIOD[1], PERIOD[1] + 500 * 86400)}, DataError, "do not hold a year"),
                                 ({"lead_seconds": 7 * H}, ConfigError, "not a multiple")):
        with pytest.raises(kind, match=words):
            calibrate(raw_model, data, tmp_path / "out", **{"period": PERIOD, "lead_seconds": 6 * H, **options})
    assert not (tmp_path / "out").exists()


def test_the_folder_says_so_and_a_damaged_or_strange_one_is_refused(made: tuple[Path, Path, Path, Calibration], tmp_path: Path) -> None:
    raw_model, model, _, calibration = made
    assert load_calibration(raw_model) is None and "calibrated" not in card_facts(raw_model)
    assert card_facts(model)["calibrated"].endswith("up to 36h") and "Calibrated" in (model / "README.md").read_text()
    again = load_calibration(model)
    assert again is not None
    np.testing.assert_allclose(again.factor_LCK, calibration.factor_LCK)
    other = persistence(tmp_path / "other", LatLonGrid(GLOBE.latitude, np.arange(12) * 30.0))
    model_folder.save_calibrated(other, tmp_path / "strange", calibration.to_dataset())
    with pytest.raises(CheckpointError, match="of another model"):
        load_calibration(tmp_path / "strange")
    content = (tmp_path / "strange" / model_folder.CALIBRATION).read_bytes()
    (tmp_path / "strange" / model_folder.CALIBRATION).write_bytes(content[:-40])
    with pytest.raises(CheckpointError, match=r"calibration\.nc was altered"):
        load_calibration(tmp_path / "strange")
    assert model_folder.CALIBRATION in json.loads((model / model_folder.MANIFEST).read_text())["files"]


def test_each_hour_of_the_day_has_a_reference_of_its_own() -> None:
    seconds = np.arange(0, 1700 * 86400, 6 * H)  # so many that not all are read
    calibration = regress(network(), states_of(seconds), period=(0, int(seconds[-1])), num_steps=1, inits=2)
    assert calibration.hours_S.tolist() == [0, 6 * H, 12 * H, 18 * H]
    for hour, value in zip(calibration.hours_S, (1, 0, -1, 0), strict=True):
        np.testing.assert_allclose(calibration.expected(np.array([500 * 86400 + hour])), value, atol=1e-5)
    with pytest.raises(ConfigError, match=r"knows the hours 0, 6, 12, 18 of the day, not 3\n"):
        calibration.expected(np.array([3 * H]))


def test_data_that_lack_a_season_are_refused() -> None:
    seconds = 6 * H * np.arange(6000)
    summer = seconds[(seconds // 86400) % 365 < 200]
    with pytest.raises(DataError, match=r"no state in 4\d% of the year"):
        regress(network(), states_of(summer), period=(0, int(seconds[-1])), num_steps=1, inits=2)


@pytest.mark.parametrize("count", [50, 62, 375])
def test_the_states_that_are_read_come_from_all_seasons_and_years_however_long_the_record_is(count: int) -> None:
    for days in range(376, 30 * 365, 97):
        fractions = np.arange(days) / 365.25 % 1
        rows = _thinned(fractions, count)
        assert len(rows) == len(set(rows.tolist())) == count and (np.diff(rows) > 0).all()
        read = np.sort(fractions[rows])
        assert np.diff(read, append=read[0] + 1).max() < 5 / count
        assert len(set(rows // 366)) > days / 366 / 2
    assert _thinned(fractions[:40], count).tolist() == list(range(40))


def test_many_years_of_hourly_data_lack_no_season() -> None:
    seconds = H * np.arange(21 * 8766)
    hours_S, _ = _reference(states_of(seconds), (0, int(seconds[-1])))
    assert len(hours_S) == 24


def test_forecasts_that_diverge_calibrate_nothing() -> None:
    seconds = 6 * H * np.arange(1600)
    with pytest.raises(DivergenceError, match=r"t2m is not finite at lead 12h\n.*1970-01-01T00"):
        regress(network(1.0, 2e38), states_of(seconds), period=(0, int(seconds[-1])), num_steps=3, inits=2)


def test_what_is_shown_keeps_the_constraints_of_the_model() -> None:
    forecaster = network(constraints={"nonnegative": ["2m_temperature"], "conserved": ["surface_pressure"]})
    reference = np.full((1, 3, 2, *GLOBE.shape), -4.0, np.float32)
    calibration = Calibration(np.array([6 * H]), np.full((1, 2, 4), 0.5), np.array([0]), reference, CHANNELS, GLOBE, "proleptic_gregorian", "nothing")
    state = torch.rand(1, 2, *GLOBE.shape, generator=torch.Generator().manual_seed(3))
    told = torch.full((1, 1, *GLOBE.shape), -1.0)
    shown = Session._calibrated(calibration, forecaster, torch.cat([state, told], 1), State(1, 6 * H, np.array([0]), state))
    assert float(calibration(state, 6 * H, np.array([0]))[:, 0].max()) < 0 and float(shown[:, 0].abs().max()) == 0
    area = forecaster.area_weights_HW
    torch.testing.assert_close((shown[0, 1] * area).mean(), (state[0, 1] * area).mean())
    torch.testing.assert_close(shown[:, 2:], told)


def test_no_other_folder_is_replaced_and_the_card_tells_of_one_calibration(tmp_path: Path) -> None:
    model = persistence(tmp_path / "model", GLOBE)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="something else than a model"):
        calibrate(model, tmp_path / "absent.nc", tmp_path / "precious", period=PERIOD, lead_seconds=6 * H)
    assert (tmp_path / "precious" / "notes.txt").exists()
    for made_from in ("two forecasts", "three forecasts"):
        calibration = Calibration(np.array([6 * H]), np.ones((1, 2, 4)), np.array([0]), np.zeros((1, 3, 2, *GLOBE.shape), np.float32), CHANNELS,
                                  GLOBE, "proleptic_gregorian", made_from)
        model_folder.save_calibrated(model, model, calibration.to_dataset())
    assert (model / "README.md").read_text() == "# persistence\n\nCalibrated: anomalies are shrunk to what three forecasts allow to believe.\n"


def test_a_calibration_leaves_a_diagnostic_network_in_the_folder(tmp_path: Path) -> None:
    model = persistence(tmp_path / "model", GLOBE)
    others = (model_folder.DIAGNOSTIC, model_folder.DIAGNOSTIC_WEIGHTS)
    for name in others:
        (model / name).write_text(name)
    model_folder.write_manifest(model, (*model_folder.FILES, *others))
    calibration = Calibration(np.array([6 * H]), np.ones((1, 2, 4)), np.array([0]), np.zeros((1, 3, 2, *GLOBE.shape), np.float32), CHANNELS,
                              GLOBE, "proleptic_gregorian", "one forecast")
    model_folder.save_calibrated(model, tmp_path / "both", calibration.to_dataset())
    assert set(model_folder.check_manifest(tmp_path / "both", ())) == {*model_folder.FILES, *others, model_folder.CALIBRATION}
    assert [(tmp_path / "both" / name).read_text() for name in others] == list(others)
