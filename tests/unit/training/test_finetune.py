"""Fine-tuning: what fits is taken, channel by channel at both ends, and what does not is said."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from afno_forecast import model_folder
from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.constraints import ConstraintsConfig
from afno_forecast.errors import CheckpointError
from afno_forecast.experiment import load_experiment, run_training
from afno_forecast.forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig
from afno_forecast.training.finetune import start_from

T, Z, P = Channel("temperature", 850, "K"), Channel("geopotential", 500, "m2 s-2"), Channel("surface_pressure", None, "Pa")
NETWORKS = [HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2), PlainConfig(patch=(2, 3), width=8, depth=1, num_blocks=2),
            HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2, direct=True)]


def make(folder: Path | None, channels: tuple[Channel, ...], rows: int, config: ModelConfig, seed: int,
         time_step: int = 21600) -> tuple[Forecaster, ModelConfig]:
    grid = LatLonGrid((np.arange(rows) + 0.5) / rows * 180 - 90, np.arange(2 * rows) * 180 / rows)
    count = len(channels)
    inputs = ModelInputs(ChannelSet(channels), grid, "standard", time_step, np.zeros(count), np.ones(count), np.ones(count), {})
    torch.manual_seed(seed)
    forecaster = build_forecaster(config, inputs)
    for parameter in forecaster.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    if folder is not None:
        from afno_forecast.config import Strict, dump_config

        class Whole(Strict):
            """What a model folder needs of an experiment."""

            model: ModelConfig

        model_folder.save(folder, config_text=dump_config(Whole(model=config)), inputs=inputs, weights=forecaster.state_dict(), card="# other\n")
    return forecaster, config


def config(network: object, *forcings: str, **options: object) -> ModelConfig:
    return ModelConfig(forcings=forcings, static=(), backbone=network, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", NETWORKS)
def test_other_channels_and_another_grid_keep_what_the_weights_know(network: object, tmp_path: Path) -> None:
    """With the new inputs at zero and the gone one at zero, the shared outputs are those of the old network."""
    old, _ = make(tmp_path / "model", (T, Z), 6, config(network, "sin_latitude", "cos_latitude"), 1)
    new, settings = make(None, (P, Z, T), 6, config(network, "cos_latitude"), 2)
    report = "\n".join(start_from(new, settings, tmp_path / "model"))
    assert "inputs that are new to the weights: surface_pressure at 0" in report and "that are gone: sin_latitude" in report
    assert "outputs that are new to the weights: surface_pressure" in report and "drawn anew" not in report
    state, forcing = torch.randn(2, 1, 3, 6, 12), torch.randn(2, 1, 6, 12)
    state[:, :, 0] = 0
    with torch.no_grad():
        expected = old(state[:, :, [2, 1]], torch.cat([torch.zeros_like(forcing), forcing], 1))
        torch.testing.assert_close(new(state, forcing)[:, [2, 1]], expected)
    finer, settings = make(None, (T, Z), 9, config(network, "sin_latitude", "cos_latitude"), 3)
    lines = start_from(finer, settings, tmp_path / "model")
    assert "0 channel by channel" in lines[0] and "the grid was 6x12" in lines[-1] and "is 9x18" in lines[-1]
    assert all(torch.equal(a, b) for a, b in zip(finer.parameters(), old.parameters(), strict=True))


def test_what_does_not_fit_is_named_and_nothing_at_all_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "model", (T, Z), 6, config(NETWORKS[0]), 1)
    wider, settings = make(None, (T, Z), 6, config(HierarchicalConfig(widths=(8, 16), depth=1, num_blocks=2)), 2)
    report = "\n".join(start_from(wider, settings, tmp_path / "model"))
    assert re.search(r"drawn anew, as they do not fit: .*there \(", report)
    plain, settings = make(None, (T, Z), 6, config(PlainConfig(patch=(2, 2), width=12, depth=1, num_blocks=2)), 2)
    with pytest.raises(CheckpointError, match="none of the weights fits"):
        start_from(plain, settings, tmp_path / "model")


def test_a_training_starts_from_a_model_and_goes_on_without_it(tiny_experiment: Path, tiny_model: Path, tmp_path: Path) -> None:
    lines, first = list[str](), tmp_path / "first"
    shutil.copytree(tiny_model, first)
    experiment = load_experiment(tiny_experiment, [f"training.init_from={first}", "training.budget.train_steps=1", "validation.count=1",
                                                   "training.optimizer.learning_rate=1e-9", "training.average=0"])
    run_training(experiment, resume=False, echo=lines.append)
    assert any(line.startswith(f"starting from {first}") for line in lines)
    shutil.rmtree(first)
    run_training(experiment, resume=True, echo=lines.append)
    old, new = (model_folder.load(folder) for folder in (tiny_model, tiny_experiment.parent / "run" / "model"))
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_weights_over_other_cells_of_a_patch_are_not_taken_and_other_meanings_are_told(tmp_path: Path) -> None:
    make(tmp_path / "model", (T, Z), 6, config(PlainConfig(patch=(2, 3), width=8, depth=1, num_blocks=2)), 1)
    turned, settings = make(None, (T, Z), 6, config(PlainConfig(patch=(3, 2), width=8, depth=1, num_blocks=2), predicts="state"), 2)
    before = {name: p.clone() for name, p in turned.named_parameters()}
    report = "\n".join(start_from(turned, settings, tmp_path / "model"))
    for name in ("backbone.stem.linear.weight", "backbone.head.linear.weight", "backbone.head.linear.bias"):
        assert f"{name}, over other cells of a patch" in report and torch.equal(before[name], dict(turned.named_parameters())[name])
    assert "made for predicts tendency, now state" in report and "0 channel by channel" in report


def test_settings_under_which_the_same_weights_mean_something_else_are_told_each_and_no_others(tmp_path: Path) -> None:
    make(tmp_path / "model", (T, Z), 6, config(HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2)), 1)
    same = config(HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2, residual_blocks=(1,)), time_steps=("6h",))
    lines = start_from(*make(None, (T, Z), 6, same, 2), tmp_path / "model")
    assert len(lines) == 2 and "made for" not in "".join(lines)
    network = HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2, fraction=0.5, shrink=0.01, latitude="double")
    other = config(network, constraints=ConstraintsConfig(conserved=("z500", "geopotential@500")))
    lines = start_from(*make(None, (T, Z), 6, other, 2, time_step=86400), tmp_path / "model")
    assert "0 channel by channel" in lines[0] and lines[1:-1] == [
        "  made for time_steps 6h, now 1d", "  made for constraints.conserved none, now z500", "  made for backbone.fraction 1.0, now 0.5",
        "  made for backbone.shrink 0.0, now 0.01", "  made for backbone.latitude periodic, now double"]


def test_the_cells_of_a_patch_are_those_that_the_weights_are_for(tmp_path: Path) -> None:
    def network(patch: tuple[int, int], weights_patch: tuple[int, int] | None = None) -> ModelConfig:
        return config(PlainConfig(patch=patch, weights_patch=weights_patch, width=8, depth=1, num_blocks=2))

    make(tmp_path / "resampled", (T, Z), 6, network((2, 2), (1, 4)), 1)
    report = "\n".join(start_from(*make(None, (T, Z), 6, network((2, 2)), 2), tmp_path / "resampled"))
    assert "backbone.stem.linear.weight, over other cells of a patch" in report and "made for backbone.weights_patch 1, 4, now 2, 2" in report
    old, _ = make(tmp_path / "plain", (T, Z), 6, network((2, 2)), 1)
    finer, settings = make(None, (T, Z), 6, network((1, 1), (2, 2)), 2)
    lines = start_from(finer, settings, tmp_path / "plain")
    assert "drawn anew" not in "".join(lines) and "  made for backbone.patch 2, 2, now 1, 1" in lines
    assert all(torch.equal(a, b) for a, b in zip(finer.parameters(), old.parameters(), strict=True))
