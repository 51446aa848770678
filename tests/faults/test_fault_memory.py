"""FAULTS 11: memory that runs out is told with the batch, the grid, the need, and a smaller setting, which works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LIMITED = """
import resource
from pathlib import Path
from {module} import {owner}
original = {owner}.{name}
def limited(*arguments, **named):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 2**20, resource.RLIM_INFINITY))
    result = original(*arguments, **named)
    if not hasattr(result, "__next__"):  # a generator goes on under the limit; what comes after an update does not
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return result
{owner}.{name} = limited
from afno_forecast.cli import main
main()
"""


def run(limited: str, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of `afno-forecast` that may allocate so many megabytes more when it begins to step."""
    done = subprocess.run([sys.executable, "-c", limited, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr


def test_an_update_that_does_not_fit_says_what_is_smaller_and_that_fits(tiny_experiment: Path, tmp_path: Path) -> None:
    limited = LIMITED.format(module="afno_forecast.training.run", owner="Run", name="differentiate", megabytes=120)
    settings = ["training.batch_size=64", "training.stages=[{until: 1, rollout: 8}]", "training.budget.train_steps=1", "validation.count=1",
                "training.optimizer.muon=false", "model.backbone.widths=[32, 32, 64]"]
    code, told = run(limited, "train", tiny_experiment, *settings)
    assert code == 5 and len(told.splitlines()) == 3, told
    assert re.match(r"out of memory: an update of 64 samples over a rollout of 8 on 7x12 global, .* and needed [0-9]+ bytes more\n", told), told
    for _ in range(3):  # half of it need not fit yet
        (smaller,) = re.findall(r"use (training.accumulate=[0-9]+)", told)
        code, told = run(limited, "train", tiny_experiment, *settings, smaller)
        if code != 5:
            break
    assert code == 0, told
    assert (tmp_path / "run" / "model" / "manifest.json").exists()


def test_forecasts_that_do_not_fit_say_what_is_smaller_and_that_fits(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    limited = LIMITED.format(module="afno_forecast.forecast.session", owner="Session", name="roll", megabytes=100)
    command = ["rollout", tiny_model, "--data", tiny_store, "--init", "first", "--lead-time", "6h", "--out", tmp_path / "forecast.nc",
               "--members", 4000, "--perturb", "white"]
    code, told = run(limited, *command, "--batch-size", 4000)
    assert code == 5 and len(told.splitlines()) == 3, told
    assert re.match(r"out of memory: 4000 forecasts stepped together on 7x12 global, .* did not fit and needed [0-9]+ bytes more\n", told), told
    for _ in range(3):  # half of it need not fit yet
        (smaller,) = re.findall(r"use --batch-size ([0-9]+)", told)
        code, told = run(limited, *command, "--batch-size", smaller)
        if code != 5:
            break
    assert code == 0, told
    assert (tmp_path / "forecast.nc").exists()
