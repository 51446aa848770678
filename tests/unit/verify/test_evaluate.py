"""Evaluation: what is scored, what is not and said so, persistence and climatology beside it, files and table."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import DataError, DivergenceError, ResourceError
from afno_forecast.forecast.metadata import make_layout
from afno_forecast.forecast.output import ForecastWriter
from afno_forecast.grid import LatLonGrid, Orientation
from afno_forecast.times import STANDARD, TimeAxis, comparable
from afno_forecast.verify.evaluate import evaluate
from afno_forecast.verify.forecasts import open_forecast, read_members
from afno_forecast.verify.score_file import default_name, format_table, write_scores
from afno_forecast.verify.scores import pick, relative_to_persistence
from afno_forecast.verify.settings import References, ScoreSettings

sys.path.insert(0, str(Path(__file__).parent))
from in_memory import Clim, Record, walk

CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"), Channel("geopotential", 500, "m2 s-2"), Channel("temperature", 850, "K")))
GRID = LatLonGrid(np.linspace(-75, 75, 6), np.arange(10) * 36.0)
ORIENTATION = Orientation(GRID.latitude, GRID.longitude)
HOUR = 3600
START = 1_577_836_800  # 2020-01-01


def truth(num: int = 9) -> Record:
    return walk(num, CHANNELS, GRID, START, 6 * HOUR)


def clim(state: np.ndarray, **change: object) -> Clim:
    return Clim(**{"state": state, "channels": CHANNELS, "grid": GRID, **change})


def write(path: Path, fields: np.ndarray, inits: np.ndarray, leads: np.ndarray, channels: ChannelSet = CHANNELS,
          orientation: Orientation = ORIENTATION) -> Path:
    with ForecastWriter(path, make_layout(channels, orientation, inits, leads, STANDARD, {}), identity="a") as writer:
        for i, k in np.ndindex(len(inits), len(leads)):
            writer.write(i, k, fields[i, k])
            if k + 1 == len(leads):
                writer.finish(i)
    return path


def case(tmp_path: Path, name: str = "fc.zarr", error: float = 1.0) -> tuple[Path, Record]:
    """Forecasts with a known error from the first 6 of 9 analyses, 4 leads: the last ones reach beyond the truth."""
    analyses = truth()
    inits, leads = analyses.times.seconds[:6:2], 6 * HOUR * np.arange(1, 5, dtype=np.int64) * 2
    fields = np.stack([[analyses.fields[min(2 * i + 2 * (k + 1), 8)] + error for k in range(4)] for i in range(3)]).astype(np.float32)
    return write(tmp_path / name, fields, inits, leads), analyses


@pytest.mark.parametrize(("change", "words"), [
    ({"grid": LatLonGrid(GRID.latitude, GRID.longitude + 9)}, r"climatology is on 6x10 .*longitude 9\.\.333; the truth on 6x10 .*longitude 0\.\."),
    ({"channels": ChannelSet((Channel("2m_temperature", None, "degC"), *CHANNELS.channels[1:]))}, "2m_temperature comes in 'degC', wanted 'K'"),
])
def test_a_climatology_of_another_grid_or_unit_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path, analyses = case(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        evaluate(path, analyses, references=References(clim(analyses.fields[0], **change)))
    assert caught.value.where == "clim.zarr/climatology"


def test_scores_baselines_and_counts(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    climatology = clim(analyses.fields.mean(axis=0))
    scores = evaluate(path, analyses, references=References(climatology))
    assert scores["lead_time"].dtype == "timedelta64[ns]"
    assert (scores["lead_time"].values / np.timedelta64(1, "h")).tolist() == [12, 24, 36, 48]
    assert scores["num_inits"].values.tolist() == [3, 3, 2, 1]
    assert scores["num_inits_skipped"].values.tolist() == [0, 0, 1, 2]
    assert "1d12h: 1" in scores.attrs["notes"].replace("36h", "1d12h")
    weights = GRID.area_weights() / GRID.area_weights().sum()
    for channel, name in enumerate(("t2m", "z500", "t850")):
        assert pick(scores, name, "rmse").values == pytest.approx(np.ones(4), rel=1e-4)
        assert pick(scores, name, "bias").values == pytest.approx(np.ones(4), rel=1e-4)
        change = np.stack([analyses.fields[2 * i + 4, channel].astype(float) - analyses.fields[2 * i, channel] for i in range(3)])
        expected = np.sqrt((change**2 * weights).sum(axis=(1, 2)).mean())
        assert float(pick(scores, name, "rmse_persistence")[1]) == pytest.approx(expected, rel=1e-10)
        away = np.stack([analyses.fields[2 * i + 4, channel].astype(float) - climatology.state[channel] for i in range(3)])
        assert float(pick(scores, name, "rmse_climatology")[1]) == pytest.approx(np.sqrt((away**2 * weights).sum(axis=(1, 2)).mean()), rel=1e-10)
    assert {"acc", "acc_mean_of_inits", "acc_persistence", "bias_climatology"} <= set(scores["metric"].values)
    assert "acc_climatology" not in scores["metric"].values
    assert relative_to_persistence(scores, (24,)) < 0.5


def test_all_that_is_not_scored_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, analyses = case(tmp_path)
    analyses.channels = ChannelSet((CHANNELS.channels[0], Channel("surface_pressure", None, "Pa"), CHANNELS.channels[2]))
    with caplog.at_level(logging.WARNING):
        scores = evaluate(path, analyses)
    assert "z500 (not in the truth)" in scores.attrs["notes"] and "sp (not in the forecast)" in scores.attrs["notes"]
    assert "no climatology" in scores.attrs["notes"]
    assert scores.attrs["notes"].splitlines()[0] in caplog.text
    assert sorted(v for v, item in scores.data_vars.items() if "metric" in item.dims) == ["2m_temperature", "temperature"]
    kinds = {"rmse", "bias", "mae", "vrmse"}
    ratios = {f"quantile_ratio_{q}" for q in (1, 5, 95, 99)}
    assert set(scores["metric"].values) == kinds | {f"{k}_persistence" for k in kinds} | ratios, "no correlation, no SEDI"


def test_the_forecasts_order_and_the_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, analyses = case(tmp_path)
    whole = evaluate(path, analyses, references=References(clim(analyses.fields[0])))
    fields = np.stack([open_forecast(path)["2m_temperature"].values, *(open_forecast(path)[v].sel(level=k).values
                                                                       for v, k in (("geopotential", 500), ("temperature", 850)))], axis=2)
    user = Orientation(GRID.latitude[::-1], GRID.longitude - 180, transposed=True)
    other = write(tmp_path / "user.nc", fields, analyses.times.seconds[:6:2], 12 * HOUR * np.arange(1, 5), orientation=user)
    monkeypatch.setattr("afno_forecast.verify.evaluate._BLOCK_BYTES", 1)
    assert whole.identical(evaluate(other, analyses, references=References(clim(analyses.fields[0]))))


def test_leads_can_be_chosen(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    scores = evaluate(path, analyses, leads=[36 * HOUR, 12 * HOUR])
    assert (scores["lead_time"].values / np.timedelta64(1, "h")).tolist() == [12, 36]
    with pytest.raises(DataError, match="no lead 30h; it has 12h to 2d"):
        evaluate(path, analyses, leads=[30 * HOUR])


def test_leads_far_apart_are_not_read_with_all_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, analyses = case(tmp_path)
    whole = evaluate(path, analyses, leads=[12 * HOUR, 36 * HOUR, 48 * HOUR])
    read: list[int] = []

    def spy(ds: xr.Dataset, channels: ChannelSet, init: int, leads: slice) -> np.ndarray:
        read.append(leads.stop - leads.start)
        return read_members(ds, channels, init, leads)

    monkeypatch.setattr("afno_forecast.verify.evaluate.read_members", spy)
    monkeypatch.setattr("afno_forecast.verify.evaluate._BLOCK_BYTES", 2 * 4 * len(CHANNELS) * GRID.shape[0] * GRID.shape[1])
    assert whole.identical(evaluate(path, analyses, leads=[12 * HOUR, 36 * HOUR, 48 * HOUR]))
    assert max(read) == 2, "a block holds two leads"


def test_another_grid_calendar_or_record_is_refused(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    other = truth()
    other.grid = LatLonGrid(np.linspace(-80, 80, 6), GRID.longitude)
    with pytest.raises(DataError, match="the forecast is on 6x10"):
        evaluate(path, other)
    with pytest.raises(DataError, match="noleap"):
        evaluate(path, replace(analyses, times=TimeAxis(analyses.times.seconds, "noleap")))
    with pytest.raises(DataError, match="no forecast was scored"):
        evaluate(path, replace(analyses, times=TimeAxis(analyses.times.seconds + 3 * HOUR)))
    other = truth()
    other.channels = ChannelSet(tuple(Channel(f"x{i}", None, "1") for i in range(3)))
    with pytest.raises(DataError, match="no channel in common"):
        evaluate(path, other)


def test_a_forecast_that_is_not_finite_is_an_error_with_its_lead(tmp_path: Path) -> None:
    analyses = truth()
    fields = analyses.fields[None, 1:3].copy()
    fields[0, 1, 2, 3, 4] = np.nan
    path = write(tmp_path / "fc.zarr", fields, analyses.times.seconds[:1], 6 * HOUR * np.arange(1, 3))
    with pytest.raises(DivergenceError, match=r"t850\n.*2020-01-01T00, lead 12h"):
        evaluate(path, analyses)
    assert evaluate(path, analyses, leads=[6 * HOUR])["num_inits"].values.tolist() == [1]


def test_a_rival_that_is_not_finite_is_named_and_not_the_forecast(tmp_path: Path) -> None:
    analyses = truth()
    inits, leads, fields = analyses.times.seconds[:1], 6 * HOUR * np.arange(1, 3), analyses.fields[None, 1:3].copy()
    ours = write(tmp_path / "fc.zarr", fields, inits, leads)
    fields[0, 1, 2, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"^other, which .* in t850\n.*2020-01-01T00, lead 12h"):
        evaluate(ours, analyses, against=[write(tmp_path / "other.zarr", fields, inits, leads)])


def test_days_without_climatology(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    scores = evaluate(path, analyses, references=References(clim(analyses.fields[0], blank_from=START + 37 * HOUR)))
    assert np.isnan(pick(scores, "z500", "rmse_climatology")).values.tolist() == [False, True, True, True]
    assert np.isnan(pick(scores, "z500", "acc")).values.tolist() == [False, True, True, True]
    assert np.isfinite(pick(scores, "z500", "rmse")).all()
    assert scores["num_inits_without_climatology"].values.tolist() == [0, 1, 1, 1]
    assert "no climatology on the valid day" in scores.attrs["notes"]


def test_score_files(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    scores = evaluate(path, analyses, references=References(clim(analyses.fields[0])),
                      settings=ScoreSettings(regions=("global", "tropics")))
    name = default_name("afno", "speedy", GRID, 2020)
    assert name == "afno_vs_speedy_10x6_2020.nc"
    nc, table = write_scores(scores, tmp_path / name)
    with xr.open_dataset(nc) as back:
        assert back["geopotential"].dims == ("metric", "region", "lead_time", "level")
        xr.testing.assert_identical(back["geopotential"].load().drop_attrs(), scores["geopotential"].drop_attrs())
        assert float(pick(back, "z500", "rmse")[0]) == float(pick(scores, "z500", "rmse")[0])
        assert back.attrs["notes"] == scores.attrs["notes"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert list(rows[0]) == ["variable", "level", "metric", "region", "lead_hours", "value"]
    row = next(r for r in rows if tuple(r.values())[:5] == ("temperature", "850", "acc", "tropics", "24"))
    assert float(row["value"]) == float(pick(scores, "t850", "acc", region="tropics")[1])
    assert len(rows) == 3 * len(scores["metric"]) * 2 * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [name.replace(".nc", ".csv"), name, "fc.zarr"]
    with pytest.raises(ResourceError, match="the folder of the scores does not exist"):
        write_scores(scores, tmp_path / "nowhere" / "x.nc")


def test_the_table_says_where_the_model_loses(tmp_path: Path) -> None:
    path, analyses = case(tmp_path, error=100)
    scores = evaluate(path, analyses, references=References(clim(analyses.fields[0])))
    text = format_table(scores, ("z500", "u250", "t2m"), leads=[12 * HOUR, 48 * HOUR])
    lines = text.splitlines()
    assert [c.strip() for c in lines[1].split("|")] == ["lead", "model", "persistence", "climatology", "skill"]
    assert lines[0].startswith("z500  Geopotential height at 500 hPa, RMSE in m, ")
    assert lines[2].startswith("   12h |       10.2 |") and lines[2].endswith("loses to persistence and climatology")
    assert "u250: not scored" in text and "note: truth lacks" in text
    without = scores.assign(geopotential=scores["geopotential"].assign_attrs(units="1"))
    assert ", RMSE, " in format_table(without, ("z500",)).splitlines()[0], "a quantity without units has none to name"
    good = format_table(evaluate(case(tmp_path, "good.zarr", 0.1)[0], analyses))
    assert "loses" not in good and "|           - |" in good


def test_agrees_with_the_independent_scorer_on_simulated_weather(shared_data: Path, tmp_path: Path) -> None:
    source, program = shared_data / "speedy_2001-03_2002-02.nc", shared_data.parent / "tools" / "score_forecast.py"
    names = {"z500": ("geopotential", 500, "m2 s-2"), "t850": ("temperature", 850, "K"), "t2m": ("2m_temperature", None, "K")}
    with xr.open_dataset(source) as ds:
        part = ds[list(names)].isel(time=slice(0, 24)).load()
    part.to_netcdf(tmp_path / "truth.nc")
    channels = ChannelSet(tuple(Channel(*c) for c in names.values()))
    fields = np.stack([part[n].values for n in names], axis=1).astype(np.float32)
    grid = LatLonGrid(part["latitude"].values, part["longitude"].values)
    analyses = Record(fields, TimeAxis.from_xarray(part["time"]), channels, grid)
    inits, leads = analyses.times.seconds[:8:2], np.array([6, 24, 72], dtype=np.int64) * HOUR
    rng = np.random.default_rng(0)
    predicted = np.stack([[0.7 * fields[i] + 0.3 * fields[i + lead // (6 * HOUR)] + rng.normal(size=fields[0].shape) for lead in leads]
                          for i in (0, 2, 4, 6)])
    path = write(tmp_path / "fc.zarr", predicted.astype(np.float32), inits, leads, channels, Orientation(grid.latitude, grid.longitude))
    report = tmp_path / "report.json"
    done = subprocess.run([sys.executable, str(program), str(path), str(tmp_path / "truth.nc"), "--leads", "6,24,72", "--vars", ",".join(names),
                           "--json", str(report)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(report.read_text())["variables"]
    scores = evaluate(path, analyses)
    for name in names:
        for k, lead in enumerate(("6", "24", "72")):
            assert float(pick(scores, name, "rmse")[k]) == pytest.approx(theirs[name][lead]["rmse"], rel=1e-6)
            assert float(pick(scores, name, "bias")[k]) == pytest.approx(theirs[name][lead]["bias"], rel=1e-5, abs=1e-6)
            assert float(pick(scores, name, "rmse_persistence")[k]) == pytest.approx(theirs[name][lead]["rmse_persistence"], rel=1e-6)
            assert theirs[name][lead]["n"] == 4


def test_another_forecast_is_scored_on_the_common_cases_alone(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    inits, leads = analyses.times.seconds[[0, 1, 2, 4]], 12 * HOUR * np.array([1, 2, 9], dtype=np.int64)
    fields = np.stack([[analyses.fields[min((i + lead - START) // (6 * HOUR), 8)] - 3 for lead in leads] for i in inits]).astype(np.float32)
    other = write(tmp_path / "other model.nc", fields[[0, 1, 3]], inits[[0, 1, 3]], leads)
    scores = evaluate(path, analyses, against=[other], settings=ScoreSettings(block_seconds=86400, replicates=50))
    assert scores.attrs["rivals"] == "persistence other_model" and scores.attrs["block_seconds"] == 86400
    assert (scores["lead_time"].values / np.timedelta64(1, "h")).tolist() == [12, 24] and scores["num_inits"].values.tolist() == [2, 2]
    assert "cases that other_model lacks are not scored (12h: 1, 1d: 1, 36h: 2, 2d: 1)" in scores.attrs["notes"]
    assert pick(scores, "z500", "rmse_other_model").values == pytest.approx([3, 3], rel=1e-4)
    assert pick(scores, "z500", "bias_vs_other_model") is None
    assert pick(scores, "z500", "rmse_vs_other_model").values == pytest.approx([-2, -2], rel=1e-4)
    assert np.isnan([pick(scores, "z500", f"rmse_vs_other_model_{end}").values for end in ("low", "high", "p")]).all(), "too few to be tested"
    assert "2 init times hold 2 blocks of 1d: too few to test, 8 are needed" in scores.attrs["notes"]
    same = evaluate(path, analyses, against=[path, path], settings=ScoreSettings(kinds=("deterministic",)))
    assert same.attrs["rivals"] == "persistence fc fc_2"
    assert (pick(same, "t850", "rmse").values == pick(same, "t850", "rmse_fc_2").values).all()


def test_a_rival_that_lacks_a_channel_is_named_with_it(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    leads, few = 6 * HOUR * np.arange(1, 3, dtype=np.int64) * 2, ChannelSet(CHANNELS.channels[::2])
    other = write(tmp_path / "few.zarr", np.zeros((1, 2, 2, *GRID.shape), np.float32), analyses.times.seconds[:1], leads, few)
    with pytest.raises(DataError, match=r"lacks z500, which the forecast and the truth have.*\n.*few\.zarr.*\n.*out of --against"):
        evaluate(path, analyses, against=[other])


def test_a_files_name_is_not_taken_for_a_probability(tmp_path: Path) -> None:
    """`rmse_vs_run_p` would be both the difference from run_p and the p value against run."""
    path, analyses = case(tmp_path)
    (tmp_path / "sub").mkdir()
    others = [case(tmp_path / "sub", name, error)[0] for name, error in (("run.zarr", 3.0), ("run_p.zarr", 5.0), ("p.zarr", 4.0))]
    scores = evaluate(path, analyses, against=others, settings=ScoreSettings(kinds=("deterministic",), block_seconds=86400, replicates=20))
    metrics = scores["metric"].values.tolist()
    assert len(metrics) == len(set(metrics)) and scores.attrs["rivals"] == "persistence run run_p_file p_file"
    units = dict(zip(metrics, scores["metric_units"].values.tolist(), strict=True))
    for rival, difference in (("run", -2), ("run_p_file", -4), ("p_file", -3)):
        assert pick(scores, "z500", f"rmse_vs_{rival}").values == pytest.approx([difference] * 4, rel=1e-3)
        assert units[f"rmse_{rival}"] == units[f"rmse_vs_{rival}"] == "variable" and units[f"rmse_vs_{rival}_p"] == "1"


def test_six_hourly_precipitation_is_scored_by_day(tmp_path: Path) -> None:
    channels = ChannelSet((Channel("total_precipitation_6hr", None, "m"),))
    rain = np.maximum(np.random.default_rng(3).normal(0, 3e-3, (60, 1, *GRID.shape)), 0).astype(np.float32)
    analyses = Record(rain, TimeAxis(START + 6 * HOUR * np.arange(60, dtype=np.int64)), channels, GRID)
    leads = 6 * HOUR * np.arange(1, 7, dtype=np.int64)
    fields = np.stack([[rain[i + k] for k in range(1, 7)] for i in (0, 4, 8)])
    path = write(tmp_path / "rain.zarr", fields, analyses.times.seconds[[0, 4, 8]], leads, channels)
    scores = evaluate(path, analyses, references=References(record=analyses))
    seeps = pick(scores, "tp24h", "seeps").values
    assert np.isnan(seeps[:3]).all() and (seeps[3:] == 0).all(), "a day has four amounts; the truth itself scores 0"
    assert (pick(scores, "tp24h", "seeps_persistence").values[3:] > 0.2).all()
    assert scores["metric_units"].sel(metric="seeps") == "1" and scores["metric_units"].sel(metric="rmse") == "variable"
    assert "no SEEPS" in evaluate(path, analyses).attrs["notes"]


def test_daily_precipitation_of_the_forecast_keeps_its_own_scores(tmp_path: Path) -> None:
    """Beside 6 h amounts, whose sums give SEEPS alone."""
    channels = ChannelSet((Channel("total_precipitation_6hr", None, "m"), Channel("total_precipitation_24hr", None, "m")))
    six = np.maximum(np.random.default_rng(3).normal(0, 3e-3, (60, *GRID.shape)), 0).astype(np.float32)
    day = np.stack([six[max(0, k - 3):k + 1].sum(axis=0) for k in range(60)])
    analyses = Record(np.stack([six, day], axis=1), TimeAxis(START + 6 * HOUR * np.arange(60, dtype=np.int64)), channels, GRID)
    leads = 6 * HOUR * np.arange(1, 7, dtype=np.int64)
    fields = np.stack([[np.stack([six[i + k], day[i + k] + 1]) for k in range(1, 7)] for i in (0, 4, 8)]).astype(np.float32)
    scores = evaluate(write(tmp_path / "rain.zarr", fields, analyses.times.seconds[[0, 4, 8]], leads, channels), analyses,
                      references=References(record=analyses))
    assert pick(scores, "tp24h", "rmse").values == pytest.approx([1] * 6, rel=1e-4)
    assert pick(scores, "tp24h", "bias").values == pytest.approx([1] * 6, rel=1e-4)
    assert np.isfinite(pick(scores, "tp24h", "quantile_ratio_95").values).all()
    seeps = pick(scores, "tp24h", "seeps").values
    assert np.isnan(seeps[:3]).all() and (seeps[3:] == 0).all()
    assert scores["total_precipitation_24hr"].attrs["units"] == "m"


def test_the_two_gregorian_calendars_are_one_after_1582(tmp_path: Path) -> None:
    path, analyses = case(tmp_path)
    mixed = replace(analyses, fields=np.concatenate([analyses.fields[:1], analyses.fields]),
                    times=TimeAxis(np.concatenate([[-12_300_000_000], analyses.times.seconds]), "standard"))
    scores = evaluate(path, mixed)
    assert scores["num_inits"].values.tolist() == [3, 3, 2, 1]
    early = TimeAxis(np.asarray([-12_300_000_000], dtype=np.int64))
    assert not comparable(early, mixed.times) and not comparable(mixed.times, TimeAxis(analyses.times.seconds, "julian"))
