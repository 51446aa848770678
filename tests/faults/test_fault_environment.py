"""FAULTS 26: another locale and time zone, paths with spaces and other scripts, one core, a clock set back, no network: it works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, socket, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def refuse(*args, **kwargs):
    raise AssertionError("the network was tried")
socket.socket.connect = socket.getaddrinfo = refuse
real = time.time
time.time = lambda: real() - 40 * 365 * 86400  # a clock set back by forty years
from afno_forecast.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_whole_path_works_in_an_odd_environment(tiny_weather: Path, make_tiny_experiment, tmp_path: Path) -> None:
    folder = tmp_path / "mes données 数据"
    folder.mkdir()
    shutil.copy(tiny_weather, folder / "météo 1.nc")
    shutil.copy(make_tiny_experiment(tmp_path), folder / "expérience.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati",
                   "HOME": str(tmp_path / "no home")}

    def run(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-W", "error::EncodingWarning", "-c", PROGRAM, *arguments], cwd=folder, env=environment, timeout=200,
                              check=False, capture_output=True)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.decode("utf-8", "replace")

    assert "2001-01-01T00..2001-02-09T18" in run("data", "inspect", "météo 1.nc")
    run("data", "build", "météo 1.nc", "magasin é.zarr", "--statistics", "2001-01-01/2001-01-25")
    run("train", "expérience.yaml", "data.store=magasin é.zarr", "output=course 1", "training.budget.train_steps=3", "validation.count=1")
    run("rollout", "course 1/model", "--data", "magasin é.zarr", "--init", "2001-01-20T06/2001-01-21T06/12h", "--lead-time", "2d",
        "--out", "prévision.zarr")
    run("evaluate", "prévision.zarr", "--truth", "magasin é.zarr", "--out", "scores é.nc")
    run("plot", "compare", "prévision.zarr", "--truth", "magasin é.zarr", "--variable", "z500", "--init", "first", "--lead", "1d",
        "--out", "carte é.png")
    run("plot", "report", "prévision.zarr", "--truth", "magasin é.zarr", "--scores", "scores é.nc", "--out", "rapport é.html")
    assert "2001-01-20T06" in run("info", "prévision.zarr")
    assert (folder / "carte é.png").stat().st_size > 10_000 and (folder / "rapport é.html").stat().st_size > 10_000
