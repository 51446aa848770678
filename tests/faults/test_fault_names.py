"""Row 33: HTML, script and terminal escapes in names and attributes of files reach neither the report nor the terminal alive."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from afno_forecast import cli

EVIL = '"><script>alert(1)</script><img src=http://example.org/x onerror=alert(1)> \x1b[31m\x9b2J\u202e & $\\frac{'


@pytest.fixture
def forecast(tmp_path: Path) -> Path:
    latitude, longitude = np.linspace(-80, 80, 9), np.arange(12) * 30.0
    leads = np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]")
    wave = np.cos(np.deg2rad(latitude))[:, None] * np.sin(np.deg2rad(longitude)) + np.arange(2)[None, :, None, None]
    dims = ("time", "prediction_timedelta", "latitude", "longitude")
    ds = xr.Dataset({"2m_temperature": (dims, 280 + wave, {"units": "K", "long_name": EVIL, "standard_name": "air_temperature"}),
                     "odd_one": (dims, wave, {"units": EVIL, "long_name": EVIL})},
                    coords={"time": [np.datetime64("2001-01-01", "ns")], "prediction_timedelta": leads, "latitude": latitude, "longitude": longitude},
                    attrs=dict.fromkeys(("title", "source", "institution", "license", "history", "references", "model", "comment"), EVIL))
    ds.to_netcdf(tmp_path / "forecast.nc", encoding={"prediction_timedelta": {"dtype": "int64", "units": "seconds"}})
    return tmp_path / "forecast.nc"


def test_the_report_holds_them_as_text(forecast: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.cli, ["plot", "report", str(forecast), "--variables", "t2m,odd_one", "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0, (done.output, done.exception)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in html
    assert len(re.findall(r"<script", html)) == 2 and "<img src=http" not in html and not re.search(r"<[^>]*\sonerror=", html)
    assert not set(html) & {"\x1b", "\x9b", "\u202e"}


@pytest.fixture
def analyses(forecast: Path) -> Path:
    """What verifies the forecast, with the same names."""
    with xr.open_dataset(forecast, decode_timedelta=True) as ds:
        truth = ds.isel(time=0, prediction_timedelta=[0, 0, 0]).rename(prediction_timedelta="when").load()
    times = np.datetime64("2001-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h")
    truth = truth.drop_vars(["time", "when"]).rename(when="time").assign_coords(time=times)
    truth["odd_two"] = truth["2m_temperature"].assign_attrs(units=EVIL, standard_name=EVIL)
    truth.to_netcdf(forecast.with_name("truth.nc"))
    return forecast.with_name("truth.nc")


@pytest.mark.parametrize("words", ["info {0}", "plot map {0} --variable nothing --out {2}/x.png", "info {1}", "data inspect {1}",
                                   "data build {1} {2}/store.zarr", "evaluate {0} --truth {1} --out {2}/s.nc",
                                   "rollout {3} --data {1} --init last --lead-time 6h --out {2}/fc.nc",
                                   "plot compare {0} --truth {1} --variable t2m --lead 6h --dpi 30 --out {2}/c.png",
                                   "plot map {2}/\x1b[31m\x9b\u202e.nc --variable t2m --out {2}/x.png"])
def test_the_terminal_gets_no_control_characters(words: str, forecast: Path, analyses: Path, tiny_model: Path, tmp_path: Path,
                                                 capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["afno-forecast", *words.format(forecast, analyses, tmp_path, tiny_model).split(" ")])
    try:
        cli.main()
    except SystemExit as ended:
        assert ended.code in (0, None, 2, 3)
    written = "".join(capfd.readouterr())
    assert written and "Traceback" not in written and not set(written) & {"\x1b", "\x9b", "\u202e"}


def test_every_diagram_draws_them_as_they_are(forecast: Path, tmp_path: Path) -> None:
    for words in (["map", "--variable", "odd_one", "--lead", "6h"], ["meteogram", "--place", "50,10", "--variables", "odd_one,t2m"],
                  ["hovmoller", "--variable", "odd_one"]):
        done = CliRunner().invoke(cli.cli, ["plot", words[0], str(forecast), *words[1:], "--dpi", "30", "--out", str(tmp_path / "p.png")])
        assert done.exit_code == 0, (words, done.output, done.exception)
