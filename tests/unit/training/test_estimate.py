"""A dry run says what a training costs and leaves nothing behind."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from afno_forecast.cli import cli


def say(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["train", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_measures_one_update_and_starts_nothing(tiny_experiment: Path) -> None:
    text = say(str(tiny_experiment), "--dry-run")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert list(lines) == ["network", "operations", "memory", "time", "training", "disk"]
    assert "12 updates" in lines["training"] and "3 samples and 1 steps in float32" in lines["time"]
    assert float(re.findall(r"([\d.e-]+) GFLOP", lines["operations"])[0]) > 0
    assert not (tiny_experiment.parent / "run").exists()


@pytest.mark.parametrize("budget", ["{core_minutes: 3}", "{minutes: 3}"])
def test_a_budget_of_time_gives_a_number_of_updates(tiny_experiment: Path, budget: str) -> None:
    text = say(str(tiny_experiment), f"training.budget={budget}", "--dry-run")
    updates = int(re.findall(r"training +([\d,]+) updates, 0.05 h", text)[0].replace(",", ""))
    seconds = float(re.findall(r"([\d.]+) s an update", text)[0])
    assert updates == pytest.approx(180 * (0.5 / seconds + 0.25 / seconds), rel=0.3) or seconds < 0.03


def test_a_profile_names_operators(tiny_experiment: Path) -> None:
    text = say(str(tiny_experiment), "--profile")
    assert "3 updates" in text and "aten::" in text and not (tiny_experiment.parent / "run").exists()
