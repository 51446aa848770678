"""Every command of the README runs, in its order, in a folder of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fork_server import launcher

ROOT = Path(__file__).parents[2]
SHORT = {"afno-forecast train configs/quickstart.yaml": " training.budget.minutes=0.05 validation.count=1"}  # the only change: less training


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_has_commands_of_every_kind() -> None:
    text = "\n".join(commands())
    for word in ("data inspect", "data build", "config validate", "train", "rollout", "evaluate", "plot map", "plot compare", "plot scores",
                 "plot animate", "plot report", "plot scorecard", "plot spectra", "plot meteogram", "plot hovmoller", "info", "doctor"):
        assert f"afno-forecast {word}" in text
    assert all((ROOT / path).exists() for path in re.findall(r"\]\(((?!http)[^)]+)\)", (ROOT / "README.md").read_text()))


@pytest.mark.timeout(400)
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with launcher() as tools:
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        for command in commands():
            shortened = command + next((extra for start, extra in SHORT.items() if command.startswith(start)), "")
            done = subprocess.run(["bash", "-c", shortened], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
            expected = {0, 3} if "earthkit_pl_regular_ll.grib" in command else {0}  # 3: inspect says that this file is refused, and why
            assert done.returncode in expected, f"{shortened}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr and "Warning" not in done.stderr, f"{shortened}\n{done.stderr}"
    for name in ("era5.png", "t2m.png", "tomorrow.nc", "z500.png", "scores.png", "scorecard.png", "spectra.png", "berlin.png", "hovmoller.png",
                 "t850.gif", "runs/report.html", "runs/scores.csv"):
        assert (tmp_path / name).stat().st_size > 1000, name


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))}
        done = subprocess.run([sys.executable, "-W", "error", "-c", block], env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr


def test_every_config_loads_and_the_packaged_quickstart_is_the_same() -> None:
    from afno_forecast.cli import adds_diagnostic
    from afno_forecast.experiment import load_experiment
    from afno_forecast.experiment.diagnostic import load_diagnostic_experiment

    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(files) >= 2
    for path in files:
        assert (load_diagnostic_experiment if adds_diagnostic(path) else load_experiment)(path).name
    packaged = ROOT / "afno_forecast" / "data" / "sample" / "quickstart.yaml"
    assert packaged.read_text() == (ROOT / "configs" / "quickstart.yaml").read_text()
