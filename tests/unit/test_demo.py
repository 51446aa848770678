"""The demo as a new user meets it: in time, without a network, better than persistence where it must be."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.demo import MARK, SHOWN, commands, run_demo
from afno_forecast.errors import ConfigError
from afno_forecast.verify.scores import pick

sys.path.insert(0, str(Path(__file__).parent))
from fork_server import launcher


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and not an earlier demo"):
        run_demo(tmp_path, echo=lambda text: None)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_that_the_demo_prints_run_in_the_folder_that_it_leaves(tmp_path: Path) -> None:
    out = Path("a demo: #1")
    left = tmp_path / out
    (left / "checkpoints").mkdir(parents=True)  # of the demo's own training, which must not be in the way
    (left / "store.zarr").mkdir()
    shorter = " training.budget.minutes=0.05 validation.count=1 validation.inits=1"
    with launcher() as tools:
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        for command in commands(out):
            line = command + (shorter if command.startswith("afno-forecast train") else "")
            done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    made = {p.name for p in (left / "by-hand").iterdir()}
    assert {"store.zarr", "run", "forecast.zarr", "scores.nc", "scores.csv", "z500.png", "report.html"} <= made
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name], "quoted where a shell needs it"
    assert sorted(p.name for p in left.iterdir()) == ["by-hand", "checkpoints", "store.zarr"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_keeps_its_promises(tmp_path: Path, record_property: pytest.FixtureRequest) -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", "from afno_forecast.cli import main; main()", "demo", "--out", "demo"], cwd=tmp_path, check=False,
                          capture_output=True, text=True, timeout=600)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"demo: {seconds:.0f} s")
    for name in ("store.zarr", "model", "forecast.zarr", "scores.nc", "report.html", MARK):
        assert (tmp_path / "demo" / name).exists(), name
    assert "lead |     model |   shipped | persistence | climatology |  skill" in done.stdout
    with xr.open_dataset(tmp_path / "demo" / "scores.nc", decode_timedelta=True) as mine, \
            xr.open_dataset(tmp_path / "demo" / "scores-shipped.nc", decode_timedelta=True) as shipped:
        hours = mine["lead_time"].values / np.timedelta64(1, "h")
        for name in SHOWN:
            persistence, climatology = (pick(mine, name, f"rmse_{kind}").values for kind in ("persistence", "climatology"))
            assert (pick(mine, name, "rmse").values < persistence)[hours <= 120].all(), f"{name}: the model just trained loses to persistence"
            assert (pick(shipped, name, "rmse").values < persistence)[hours <= 240].all(), f"{name}: the shipped model loses to persistence"
            assert (pick(shipped, name, "rmse").values < climatology)[hours <= 120].all(), f"{name}: the shipped model loses to climatology"
    assert seconds <= 120, f"{seconds:.0f} s"
