"""A dry run says what a training costs and leaves nothing behind."""

import contextlib
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from afno_forecast.cli import cli
from afno_forecast.distributed import Axis, Mesh
from afno_forecast.errors import ConfigError
from afno_forecast.experiment import load_experiment
from afno_forecast.experiment.build import check_periods, first_forecaster, model_inputs, open_store, training_samples
from afno_forecast.experiment.trial import try_out
from afno_forecast.training.parallel import Layout


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


def test_what_saves_memory_is_seen_to_save_it(tiny_experiment: Path) -> None:
    def kept(*settings: str) -> float:
        text = say(str(tiny_experiment), "training.batch_size=32", "model.backbone.depth=24", *settings, "--dry-run")
        return float(re.findall(r"and ([\d,]+) MB kept", text)[0].replace(",", ""))

    plain = kept()
    assert plain > 4 and kept("training.checkpointing=true") < 0.6 * plain and kept("training.accumulate=4") < 0.5 * plain


def test_samples_that_do_not_divide_are_told_before_the_training(tiny_experiment: Path) -> None:
    with pytest.raises(ConfigError, match="6 samples in an update cannot be divided among 1 process in 4 pieces each"):
        try_out(load_experiment(tiny_experiment, ["training.batch_size=6", "training.accumulate=4"]))
    stages = "training.stages=[{until: 0.5, rollout: 1}, {until: 1, rollout: 1, batch_size: 5000}]"
    with pytest.raises(ConfigError, match=r"use at most training\.stages\.1\.batch_size="):
        try_out(load_experiment(tiny_experiment, [stages]))


def test_a_batch_size_that_no_stage_uses_need_not_divide_among_the_processes(tiny_experiment: Path) -> None:
    experiment = load_experiment(tiny_experiment, ["training.batch_size=3", "training.stages=[{until: 1, rollout: 1, batch_size: 4}]"])
    store = open_store(experiment)
    train, _ = check_periods(experiment.data.train, experiment.data.validation, store)
    forecaster = first_forecaster(experiment, model_inputs(experiment, store))
    for rank in range(2):
        loader = training_samples(experiment, store, forecaster, train, Layout(Mesh(data=Axis("data", 2, rank))))
        with contextlib.closing(loader.batches(1, stage=0, batch_size=experiment.training.batch_in(0))) as batches:
            assert len(next(batches).states) == 2
