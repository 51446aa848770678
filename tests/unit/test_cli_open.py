"""Whatever path a person gives: it is recognised, described and opened for drawing; scores are written where they belong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast import cli_open
from afno_forecast.data.build import BuildRecipe, run_recipe
from afno_forecast.data.sample_data import sample_path
from afno_forecast.errors import ConfigError, DataError, ResourceError
from afno_forecast.model_folder import FILES, write_manifest
from afno_forecast.verify.settings import ScoreSettings

HOURS = 6
LATITUDE, LONGITUDE = np.linspace(80, -80, 5), np.arange(9) * 40.0


def fields(start: str, num_times: int) -> xr.Dataset:
    """Analyses on an odd grid, latitude north to south, two levels in descending order; each value is unlike every other."""
    times = np.datetime64(start, "ns") + np.arange(num_times) * np.timedelta64(HOURS, "h")
    rng = np.random.default_rng(5)
    level = [850, 500]
    z = 3e4 + 1e3 * rng.standard_normal((num_times, 2, 5, 9)).cumsum(axis=0)
    t = 280 + rng.standard_normal((num_times, 5, 9)).cumsum(axis=0)
    return xr.Dataset(
        {"geopotential": (("time", "level", "latitude", "longitude"), z.astype(np.float32), {"units": "m2 s-2", "standard_name": "geopotential"}),
         "2m_temperature": (("time", "latitude", "longitude"), t.astype(np.float32), {"units": "K", "standard_name": "air_temperature"})},
        coords={"time": times, "level": ("level", level, {"units": "hPa"}), "latitude": ("latitude", LATITUDE, {"units": "degrees_north"}),
                "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"})})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("paths")
    analyses = fields("2001-03-01", 12)
    paths = {name: folder / leaf for name, leaf in (("source", "analyses.nc"), ("store", "store.zarr"), ("forecast", "fc.nc"), ("folder", "."))}
    analyses.to_netcdf(paths["source"])
    run_recipe(BuildRecipe(sources=(str(paths["source"]),)), paths["store"])
    leads = np.arange(1, 4) * np.timedelta64(HOURS, "h").astype("timedelta64[ns]")
    states = [analyses.isel(time=slice(i, i + 3)).drop_vars("time").rename(time="prediction_timedelta") for i in (0, 4)]
    forecast = xr.concat(states, "time").assign_coords(time=analyses["time"].values[[0, 4]], prediction_timedelta=leads)
    forecast = forecast.sortby(["latitude", "level"])
    forecast.attrs = {"model": "still", "Conventions": "CF-1.8"}
    forecast.to_netcdf(paths["forecast"], encoding={"prediction_timedelta": {"dtype": "int64", "units": "hours"}})
    return paths


def test_each_kind_is_recognised(files):
    assert cli_open.is_forecast(files["forecast"])
    assert not any(cli_open.is_forecast(files[k]) for k in ("source", "store", "folder"))
    assert not cli_open.is_forecast(sample_path("earthkit_pl_regular_ll.grib"))


@pytest.mark.parametrize("kind", ["store", "source"])
def test_a_store_and_its_source_open_alike(files, kind: str):
    ds = cli_open.open_fields([files[kind]])
    with xr.open_dataset(files["source"]) as truth:
        for level in (500, 850):
            got = ds["geopotential"].sel(level=level).isel(time=7).sel(latitude=LATITUDE)
            np.testing.assert_array_equal(got.values, truth["geopotential"].sel(level=level).isel(time=7).values)
        np.testing.assert_array_equal(ds["2m_temperature"].isel(time=3).sel(latitude=LATITUDE).values, truth["2m_temperature"].isel(time=3).values)
    assert ds["geopotential"].attrs["units"] == "m2 s-2"


@pytest.mark.parametrize("kind", ["store", "source"])
def test_a_variable_that_lacks_a_level_says_so(tmp_path: Path, kind: str):
    one = fields("2001-03-01", 8)
    z = one["geopotential"]
    one[["2m_temperature"]].to_netcdf(tmp_path / "t.nc")
    z.sel(level=[500]).to_netcdf(tmp_path / "z.nc")
    z.sel(level=[850]).rename("temperature").assign_attrs(units="K", standard_name="air_temperature").to_netcdf(tmp_path / "u.nc")
    paths = [tmp_path / f"{name}.nc" for name in "tzu"]
    if kind == "store":
        run_recipe(BuildRecipe(sources=tuple(map(str, paths))), tmp_path / "store.zarr")
        paths = [tmp_path / "store.zarr"]
    ds = cli_open.open_fields(paths)
    assert ds["level"].values.tolist() == [500, 850]
    assert ds["geopotential"].attrs["available_levels"] == [500] and ds["temperature"].attrs["available_levels"] == [850]


def test_a_forecast_opens_with_its_lead_times(files):
    assert cli_open.open_fields([files["forecast"]]).sizes["prediction_timedelta"] == 3


@pytest.mark.parametrize(("kind", "words"), [
    ("store", ("training store", "5x9 global", "12 times", "z500", "climatology")), ("source", ("netCDF", "geopotential")),
    ("forecast", ("forecast", "model       still", "2 from 2001-03-01T00 to 2001-03-02T00", "3 from 6h to 18h", "z850")),
])
def test_everything_is_described(files, kind: str, words: tuple[str, ...]):
    text = cli_open.describe(files[kind])
    assert all(word in text for word in words), text


def test_a_forecast_is_recognised_by_either_suffix(files, tmp_path: Path):
    path = shutil.copy(files["forecast"], tmp_path / "fc.nc4")
    assert cli_open.is_forecast(path) and cli_open.describe(path).startswith("forecast")


def test_minutes_of_init_times_are_told(files, tmp_path: Path):
    with xr.open_dataset(files["forecast"], decode_timedelta=True) as ds:
        ds = ds.load().assign_coords(time=ds["time"] + np.timedelta64(30, "m"))
        ds.to_netcdf(tmp_path / "fc.nc", encoding={"prediction_timedelta": {"dtype": "int64", "units": "hours"}})
    assert "2 from 2001-03-01T00:30 to 2001-03-02T00:30" in cli_open.describe(tmp_path / "fc.nc")


def test_what_a_file_says_of_itself_neither_steers_the_terminal_nor_begins_a_line(files, tmp_path: Path):
    wrong = "x\x1b]0;owned\x07\ngrid        forged\u202e"
    with xr.open_dataset(files["forecast"], decode_timedelta=True) as ds:
        ds = ds.load().assign_attrs(model=wrong)
        ds["2m_temperature"].attrs["units"] = wrong
        ds.to_netcdf(tmp_path / "fc.nc", encoding={"prediction_timedelta": {"dtype": "int64", "units": "hours"}})
    text = cli_open.describe(tmp_path / "fc.nc")
    assert "grid        forged" not in text.splitlines() and "owned" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_the_shipped_model_is_described():
    text = cli_open.describe(sample_path("model"))
    assert "parameters" in text and "geopotential@500" in text


def test_a_report_tells_a_model_by_whole_names_whatever_its_source_left_empty(tmp_path: Path):
    model = Path(shutil.copytree(sample_path("model"), tmp_path / "model"))
    with xr.open_dataset(model / "statistics.nc") as ds:
        ds.load().assign_attrs(institution="", source="two words").to_netcdf(tmp_path / "new.nc")
    (tmp_path / "new.nc").replace(model / "statistics.nc")
    write_manifest(model, FILES)
    card = cli_open.model_card(model)
    assert card["time step"] == "6h, history 1" and card["source"] == "two words" and card["institution"] == ""
    assert card["train period"] != card["validation period"] and card["grid"] and card["experiment"]


def test_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="nothing at this path"):
        cli_open.describe(tmp_path / "absent")


def test_scores_are_written_beside_their_table(files, tmp_path: Path):
    lines = list(cli_open.score(files["forecast"], [files["store"]], tmp_path / "s.nc"))
    assert lines[0].startswith("z500") and lines[-2:] == [str(tmp_path / "s.nc"), str(tmp_path / "s.csv")]
    with cli_open.open_scores(tmp_path / "s.nc") as scores:
        rmse = scores["geopotential"].sel(metric="rmse", region="global", level=500)
        assert rmse.sizes["lead_time"] == 3 and (rmse > 0).all()


def test_what_the_table_leaves_out_is_said(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli_open, "_MOST_ROWS", 2)

    def told(leads: list[int] | None) -> str:
        return "\n".join(cli_open.score(files["forecast"], [files["store"]], tmp_path / "s.nc", leads=leads,
                                        settings=ScoreSettings(kinds=("deterministic",))))

    text, chosen = told(None), told([21600, 43200, 64800])
    assert "2 of 3 lead times are shown" in text and "    6h |" in text and "   18h |" in text and "   12h |" not in text
    assert "lead times are shown" not in chosen and "   12h |" in chosen


def test_scores_in_a_folder_are_named_as_weatherbench_does(files, tmp_path: Path):
    lines = list(cli_open.score(files["forecast"], [files["source"]], tmp_path, settings=ScoreSettings(regions=("global",))))
    assert any("--climatology STORE" in line for line in lines)
    assert [p.name for p in tmp_path.glob("*.nc")] == ["still_vs_analyses_9x5_2001.nc"]


@pytest.mark.parametrize(("model", "name"), [("../../escaped", "escaped"), ("/etc/x y", "etc_x_y"), ("..", "unnamed"), ("a\x1b[2J", "a_2J"),
                                             ("\N{GREEK SMALL LETTER ALPHA}", "unnamed"), ("w" * 300, "w" * 100)])
def test_what_a_forecast_calls_its_model_does_not_choose_the_folder_of_the_scores(files, tmp_path: Path, model: str, name: str):
    with xr.open_dataset(files["forecast"], decode_timedelta=True) as ds:
        ds.assign_attrs(model=model).to_netcdf(tmp_path / "fc.nc", encoding={"prediction_timedelta": {"dtype": "int64", "units": "hours"}})
    out = tmp_path / "a" / "b" / "c"
    out.mkdir(parents=True)
    list(cli_open.score(tmp_path / "fc.nc", [files["source"]], out, settings=ScoreSettings(regions=("global",))))
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.nc")) == [f"a/b/c/{name}_vs_analyses_9x5_2001.nc", "fc.nc"]


def test_scores_under_another_suffix_are_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"neither a \.nc file nor a folder"):
        next(cli_open.score(tmp_path / "absent.zarr", [tmp_path], tmp_path / "scores.csv"))


@pytest.mark.parametrize("victim", ["source", "forecast"])
def test_scores_never_replace_what_they_are_made_of(files, tmp_path: Path, victim: str):
    before = files[victim].read_bytes()
    with pytest.raises(ConfigError, match="over what is read"):
        list(cli_open.score(files["forecast"], [files["source"]], files[victim]))
    (tmp_path / "link.nc").symlink_to(files[victim])
    with pytest.raises(ConfigError, match="over what is read"):
        list(cli_open.score(files["forecast"], [files["source"]], tmp_path / "link.nc"))
    assert files[victim].read_bytes() == before and not files[victim].with_suffix(".csv").exists()


def test_scores_are_not_put_into_a_store(files):
    with pytest.raises(ConfigError, match="over what is read"):
        list(cli_open.score(files["forecast"], [files["store"]], files["store"]))
    assert not list(files["store"].rglob("*.csv"))


@pytest.mark.parametrize("name", ["s.nc", "s.csv"])
def test_scores_replace_scores_and_no_other_file(files, tmp_path: Path, name: str):
    (tmp_path / name).write_text("my own,1\n")
    with pytest.raises(ConfigError, match="holds no scores"):
        list(cli_open.score(files["forecast"], [files["source"]], tmp_path / "s.nc"))
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "my own,1\n"
    (tmp_path / name).unlink()
    for _ in range(2):
        list(cli_open.score(files["forecast"], [files["source"]], tmp_path / "s.nc", settings=ScoreSettings(regions=("tropics",))))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.csv", "s.nc"]
    (tmp_path / name).write_text("my own,1\n")
    with pytest.raises(ConfigError, match="holds no scores"):
        list(cli_open.score(files["forecast"], [files["source"]], tmp_path / "s.nc"))
    assert (tmp_path / name).read_text() == "my own,1\n", "each of the two is judged by itself"


def test_a_missing_folder_is_named_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ResourceError) as caught:
        list(cli_open.score(tmp_path / "absent.zarr", [tmp_path / "absent"], tmp_path / "q r" / "s.nc"))
    assert caught.value.fix == f"mkdir -p '{tmp_path / 'q r'}'"


def test_a_file_that_holds_no_scores_is_named(tmp_path: Path):
    (tmp_path / "s.nc").write_text("not a score file")
    with pytest.raises(DataError, match="not a score file"):
        cli_open.open_scores(tmp_path / "s.nc")
