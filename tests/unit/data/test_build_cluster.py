"""Builds on a cluster: the same bytes, and words for what is not there."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest

from afno_forecast.data.build import BuildRecipe, run_recipe
from afno_forecast.data.build_cluster import run_on_cluster
from afno_forecast.errors import ConfigError, ResourceError

needs_distributed = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="the extra dashboard is not installed")


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def recipe(write_record, six_hourly) -> BuildRecipe:
    return BuildRecipe(sources=(str(write_record(six_hourly(9))),), climatology=False)


@pytest.mark.slow
@needs_distributed
@pytest.mark.filterwarnings("default")  # of the cluster's own shutdown
def test_a_cluster_of_processes_builds_the_same_bytes(recipe, tmp_path):
    run_recipe(recipe, tmp_path / "whole.zarr")
    told: list[str] = []
    run_on_cluster(recipe, tmp_path / "cluster.zarr", scheduler="local", workers=1, echo=told.append, progress=lambda done, total, what: None)
    assert digest(tmp_path / "cluster.zarr") == digest(tmp_path / "whole.zarr")
    assert any(line.startswith("dashboard: http") for line in told)


def test_without_the_package_it_says_what_to_install(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not installed
    with pytest.raises(ResourceError, match="needs the package distributed") as caught:
        run_on_cluster(recipe, tmp_path / "s.zarr", scheduler="local", workers=1)
    assert "afno-forecast[dashboard]" in caught.value.fix


@needs_distributed
@pytest.mark.parametrize(("scheduler", "error", "words"), [("nowhere", ConfigError, "is no scheduler"),
                                                           ("tcp://127.0.0.1:1", ResourceError, "answers there")])
def test_a_scheduler_that_is_not_there_is_said(recipe, tmp_path, scheduler, error, words):
    with pytest.raises(error, match=words):
        run_on_cluster(recipe, tmp_path / "s.zarr", scheduler=scheduler, workers=1)
