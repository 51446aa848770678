"""FAULTS 32: remote addresses only by name of their scheme, chained and indirect ones never."""

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from afno_forecast.cli import cli, main
from afno_forecast.data.build import BuildRecipe, run_recipe
from afno_forecast.data.build_cluster import _part as work_on_a_part
from afno_forecast.data.build_cluster import run_on_cluster
from afno_forecast.data.inspect import inspect
from afno_forecast.data.sources import open_source
from afno_forecast.errors import ConfigError, DataError


def record() -> xr.Dataset:
    values = np.random.default_rng(0).normal(size=(6, 4, 8)).astype("f4") + 280
    return xr.Dataset({"2m_temperature": (("time", "latitude", "longitude"), values, {"units": "K"})},
                      {"time": np.datetime64("2001-01-01", "ns") + np.arange(6) * np.timedelta64(6, "h"),
                       "latitude": ("latitude", np.linspace(-67.5, 67.5, 4), {"units": "degrees_north"}),
                       "longitude": ("longitude", np.arange(8) * 45.0, {"units": "degrees_east"})})


@pytest.mark.parametrize("address", ["gs://bucket/a.zarr", "https://host/a.zarr", "s3:/bucket/a.zarr", "memory://a.zarr"])
def test_a_remote_address_is_refused_with_the_option_that_allows_it(address):
    scheme = address.split(":")[0]
    for allowed in ((), ("other",)):
        with pytest.raises(ConfigError, match="is not a local path") as caught:
            open_source(address, allow_remote=allowed)
        assert f"--allow-remote {scheme}" in caught.value.fix


@pytest.mark.parametrize("address", ["simplecache::gs://bucket/a.zarr", "reference://x", "zip://a.zarr::/tmp/x.zip", "file:///etc/passwd", "gs://a::b",
                                     "filecache://x", "local://tmp/x"])
def test_chained_and_indirect_addresses_are_refused_whatever_is_allowed(address):
    with pytest.raises(ConfigError, match="leads on to others"):
        open_source(address, allow_remote=("simplecache", "reference", "zip", "file", "gs", "filecache", "local"))


def test_an_allowed_scheme_is_opened_and_built_like_a_local_copy(tmp_path):
    ds = record()
    ds.to_zarr("memory://remote.zarr", mode="w", zarr_format=2)
    ds.to_zarr(tmp_path / "local.zarr", zarr_format=2)
    told: list[str] = []
    recipe = BuildRecipe(sources=("memory://remote.zarr",), climatology=False)
    remote = run_recipe(recipe, tmp_path / "r.zarr", allow_remote=("memory",), echo=told.append)
    local = run_recipe(BuildRecipe(sources=(str(tmp_path / "local.zarr"),), climatology=False), tmp_path / "l.zarr")
    for n in range(6):
        np.testing.assert_array_equal(remote.read(n), local.read(n))
    assert any("remote store" in line for line in told)
    assert remote.attrs["provenance"]["sources"][0]["name"] == "memory://remote.zarr"
    with pytest.raises(DataError, match="cannot be opened as a remote zarr"):
        open_source("memory://nothing.zarr", allow_remote=("memory",))


def test_a_remote_zarr_is_inspected_only_where_its_scheme_is_allowed():
    record().to_zarr("memory://looked-at.zarr", mode="w", zarr_format=2)
    with pytest.raises(ConfigError, match="is not a local path"):
        inspect("memory://looked-at.zarr")
    result = CliRunner().invoke(cli, ["data", "inspect", "memory://looked-at.zarr", "--allow-remote", "memory"])
    assert result.exit_code == 0
    assert "2m_temperature" in result.output and "a remote store" in result.output


def test_a_cluster_opens_a_remote_zarr_only_where_its_scheme_is_allowed(tmp_path):
    record().to_zarr("memory://shared.zarr", mode="w", zarr_format=2)
    recipe = BuildRecipe(sources=("memory://shared.zarr",), climatology=False)
    with pytest.raises(ConfigError, match="is not a local path"):
        run_on_cluster(recipe, tmp_path / "s.zarr", scheduler="local", workers=1)
    work_on_a_part(recipe.model_dump(mode="json"), str(tmp_path / "s.zarr"), 1, 1, ("memory",))
    store = run_recipe(recipe, tmp_path / "s.zarr", finish=True, allow_remote=("memory",))
    np.testing.assert_array_equal(store.read(3)[0], record()["2m_temperature"][3])


def test_a_period_keeps_a_part_of_the_record(tmp_path):
    record().to_netcdf(tmp_path / "a.nc")
    recipe = BuildRecipe(sources=(str(tmp_path / "a.nc"),), climatology=False, period="2001-01-01T12/2001-01-02T00")
    store = run_recipe(recipe, tmp_path / "s.zarr")
    assert [store.times.format(i) for i in range(len(store.times))] == ["2001-01-01T12", "2001-01-01T18", "2001-01-02T00"]
    with pytest.raises(ConfigError, match="holds no time"):
        run_recipe(recipe.model_copy(update={"period": "1990-01-01/1990-02-01"}), tmp_path / "t.zarr")


@pytest.mark.parametrize("address", ["https://example.org/data.zarr", "simplecache::file:///etc/passwd", "reference://x"])
@pytest.mark.parametrize("words", [
    "info {0}", "data inspect {0}", "data build {0} out.zarr", "data verify {0}", "data bench {0}",
    "rollout {0} --data {1} --init last --lead-time 6h --out fc.nc", "rollout {2} --data {0} --init last --lead-time 6h --out fc.nc",
    "rollout {2} --data {1} --init last --lead-time 6h --score-online s.nc --truth {0}", "evaluate {0} --truth {1} --out s.nc",
    "evaluate {1} --truth {0} --out s.nc", "evaluate {1} --truth {1} --climatology {0} --out s.nc",
    "evaluate {1} --truth {1} --against {0} --out s.nc",
    "plot map {0} --variable t2m --out p.png", "plot compare {1} --truth {0} --variable t2m --out p.png", "plot scores {0} --out p.png",
    "plot report {0} --out r.html", "config validate {0}", "train {0}", "convert {0} --out m --channels t2m --means {1} --stds {1}"])
def test_every_command_that_takes_a_path_refuses_such_addresses(words, address, tiny_model, tiny_weather, tmp_path, monkeypatch, capfd):
    """With its own words and an exit code of the user's, without a look at the network, and with nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["afno-forecast", *words.format(address, tiny_weather, tiny_model).split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr().err
    assert ended.value.code in (2, 3, 4) and told and "Traceback" not in told, told
    assert "root:" not in told and list(tmp_path.iterdir()) == []
