"""Every kind of picture, by its command, from real files (ECMWF analyses and forecasts in GRIB, ERA5) and from simulated ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from PIL import Image

from afno_forecast import cli
from afno_forecast.data.sample_data import sample_path

Files = dict[str, Path]
REAL_NAMES = {"t": "temperature", "u": "u_component_of_wind", "v": "v_component_of_wind", "z": "geopotential"}
KINDS = {
    "map": "map {forecast} --variable t850 --init first --lead {lead} --contours z500 --wind",
    "barbs": "map {truth} --variable t850 --time first --barbs --projection npolar",
    "region": "map {truth} --variable wind_speed@850 --time last --region 150/-120/20/65",
    "spread": "map {ensemble} --variable z500 --init first --lead {lead} --member spread --contours z500",
    "stamps": "map {ensemble} --variable t850 --init first --lead {lead} --member all --style cells",
    "compare": "compare {forecast} --truth {truth} --variable z500 --init first --lead {lead} --projection orthographic",
    "meteogram": "meteogram {ensemble} --truth {truth} --place 33.9S,18.4E --variables t850,u850 --init first",
    "hovmoller": "hovmoller {forecast} --truth {truth} --variable v850 --init first --latitudes 30/60",
    "hovmoller of analyses": "hovmoller {truth} --variable z500 --latitudes -60/-30",
    "scores": "scores {scores} --metric bias",
    "scorecard": "scorecard {scores} --reference persistence",
    "spectra": "spectra {scores} --variable z500",
}


def run(*words: str) -> None:
    done = CliRunner().invoke(cli.cli, words)
    assert done.exit_code == 0, (words, done.output, done.exception)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, data = tmp_path_factory.mktemp("simulated"), str(sample_path("weather.nc"))
    with xr.open_dataset(data) as ds:
        ds.sel(time=slice("2002-01-01", "2002-01-03")).to_netcdf(folder / "truth.nc")
    files = {"forecast": folder / "forecast.nc", "ensemble": folder / "ensemble.nc", "scores": folder / "scores.nc", "truth": folder / "truth.nc"}
    common = ["rollout", str(sample_path("model")), "--data", data, "--init", "2002-01-01/2002-01-02/1d", "--lead-time", "1d",
              "--output-every", "12h", "--variables", "z500,t850,u850,v850"]
    run(*common, "--out", str(files["forecast"]))
    run(*common, "--members", "2", "--perturb", "white", "--out", str(files["ensemble"]))
    run("evaluate", str(files["forecast"]), "--truth", str(files["truth"]), "--out", str(files["scores"]))
    return files


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Analyses are the GRIB sample's at step 0; the forecast keeps each run's field at +6 h for +12 h and +24 h."""
    pytest.importorskip("cfgrib")
    folder = tmp_path_factory.mktemp("real")
    grib = xr.open_dataset(sample_path("earthkit_pl_regular_ll.grib"), engine="cfgrib", backend_kwargs={"indexpath": ""})
    ds = grib[list(REAL_NAMES)].rename(REAL_NAMES).rename(isobaricInhPa="level").sel(level=[850.0, 500.0]).load()
    for name, item in ds.data_vars.items():
        item.attrs = {"units": {"temperature": "K", "geopotential": "m2 s-2"}.get(str(name), "m s-1"), "standard_name": item.attrs["standard_name"]}
    ds = ds.assign_coords(level=ds["level"].astype("int32")).drop_vars(["number", "valid_time"], errors="ignore")
    ds.attrs = {"institution": "ECMWF", "source": "IFS"}
    files = {"forecast": folder / "forecast.nc", "ensemble": folder / "ensemble.nc", "scores": folder / "scores.nc", "truth": folder / "truth.nc"}
    ds.isel(step=0).drop_vars("step").to_netcdf(files["truth"])
    held = ds.isel(step=1, time=slice(0, 2)).drop_vars("step").sortby("latitude")
    leads = np.array([12, 24], "timedelta64[h]").astype("timedelta64[ns]")
    forecast = held.expand_dims(prediction_timedelta=leads, axis=1)
    encoding = {"prediction_timedelta": {"dtype": "int64", "units": "seconds"}}
    forecast.to_netcdf(files["forecast"], encoding=encoding)
    both = xr.concat([forecast, forecast.isel(time=[1, 0]).assign_coords(time=forecast.time)], xr.IndexVariable("number", [1, 2]))
    both.to_netcdf(files["ensemble"], encoding=encoding)
    run("evaluate", str(files["forecast"]), "--truth", str(files["truth"]), "--out", str(files["scores"]))
    return files


def _draw(files: Files, words: str, out: Path) -> Image.Image:
    filled = [word.format(**files, lead="12h") for word in words.split()]
    run("plot", *filled, "--dpi", "40", "--out", str(out))
    with Image.open(out) as picture:
        return picture.convert("RGB")


def _has_colours(picture: Image.Image) -> bool:
    return picture.width >= 250 and len(picture.getcolors(1 << 24) or []) > 60


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_from_simulated_files(simulated: Files, kind: str, tmp_path: Path) -> None:
    assert _has_colours(_draw(simulated, KINDS[kind], tmp_path / "out.png"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_from_real_files(real: Files, kind: str, tmp_path: Path) -> None:
    assert _has_colours(_draw(real, KINDS[kind], tmp_path / "out.png"))


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_animation_and_report_are_made_of_both(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    files: Files = request.getfixturevalue(kind)
    words = ["--truth", str(files["truth"]), "--init", "first"]
    run("plot", "animate", str(files["ensemble"]), *words, "--variable", "t850", "--dpi", "30", "--out", str(tmp_path / "a.gif"))
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 2
    run("plot", "report", str(files["ensemble"]), *words, "--scores", str(files["scores"]), "--variables", "z500", "--out", str(tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text()
    assert "Score cards" in text and "Energy spectra" in text and "Ensemble spread of geopotential height" in text
    assert ("Simulated, not observed" in text) == (kind == "simulated")


def test_era5_is_drawn_over_the_date_line(tmp_path: Path) -> None:
    files = [str(sample_path(f"era5_{name}_2025120100_2.5deg.nc")) for name in ("msl", "uv850")]
    for index, look in enumerate((["--region", "150/-120/20/65", "--barbs"], ["--projection", "spolar", "--contours", "msl"])):
        run("plot", "map", *files, "--variable", "msl", *look, "--dpi", "30", "--out", str(tmp_path / f"{index}.png"))
        with Image.open(tmp_path / f"{index}.png") as picture:
            assert _has_colours(picture.convert("RGB"))


@pytest.mark.parametrize(("words", "says"), [
    ("meteogram {forecast} --place 95,0 --variables t850 --init first", "is not LAT,LON"),
    ("map {ensemble} --variable t850 --init first --lead 12h --member all --wind", "too small"),
    ("scorecard {scores} --reference persistence --against {scores}", "choose one")])
def test_choices_that_make_no_sense_are_refused_before_work(words: str, says: str, tmp_path: Path) -> None:
    filled = [word.format(forecast="a.nc", ensemble="a.nc", scores="a.nc") for word in words.split()]
    done = CliRunner().invoke(cli.cli, ["plot", *filled, "--out", str(tmp_path / "x.png")])
    assert done.exit_code == 2 and says in done.output


def test_places_are_read_with_signs_or_letters() -> None:
    from afno_forecast.cli_options import Place

    convert: Callable[[str], tuple[float, float]] = lambda text: Place().convert(text, None, None)  # noqa: E731
    assert convert("52.5,13.4") == (52.5, 13.4) and convert("33.9s, 18.4E") == (-33.9, 18.4) and convert("-33.9,179w") == (-33.9, -179.0)


def test_video_is_written_where_the_extra_is_there(simulated: Files, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    run("plot", "animate", str(simulated["forecast"]), "--variable", "z500", "--init", "first", "--dpi", "31", "--out", str(tmp_path / "a.mp4"))
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
