"""Published weights become a model folder that forecasts what the network itself gives; unsafe or unfitting files are refused."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from afno_forecast import cli, model_folder, model_summary
from afno_forecast.convert import FOURCASTNET_20, FOURCASTNET_26, Published, channel_set, convert, read_state_dict
from afno_forecast.errors import CheckpointError, ConfigError, DataError
from afno_forecast.forecast.produce import produce_forecast
from afno_forecast.nn.legacy import LegacyBackbone, LegacyConfig, LegacyNetwork, build

NAMES = ("u10", "z500", "t2m")
GRID, PATCH = (12, 24), 4
MEANS, STDS = np.array([1.0, 5.4e4, 280.0]), np.array([4.0, 3e3, 20.0])
SIZES: dict[str, Any] = {"grid": GRID, "patch": (PATCH, PATCH), "embed_dim": 16, "depth": 2, "num_blocks": 4}
PUBLISHED = Published(NAMES, GRID)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    network = LegacyNetwork(LegacyConfig(kind="legacy", **SIZES), 3, 3)
    return {name: value + 0.05 * torch.randn_like(value) for name, value in network.state_dict().items()}


@pytest.fixture
def files(weights: dict[str, torch.Tensor], tmp_path: Path) -> dict[str, Path]:
    """A checkpoint, means and stds as FourCastNet writes them, with a 21st number, here a fourth."""
    state = {f"module.{k}": v for k, v in weights.items()}
    torch.save({"iters": 7, "epoch": 1, "model_state": state, "optimizer_state_dict": {}}, tmp_path / "b.ckpt")
    for name, values in (("means", MEANS), ("stds", STDS)):
        np.save(tmp_path / f"{name}.npy", np.append(values, 7.0).reshape(1, 4, 1, 1))
    return {"checkpoint": tmp_path / "b.ckpt", "means": tmp_path / "means.npy", "stds": tmp_path / "stds.npy"}


@pytest.fixture
def model(files: dict[str, Path], tmp_path: Path) -> Path:
    return convert(files["checkpoint"], tmp_path / "fcn", PUBLISHED, means=files["means"], stds=files["stds"], echo=[].append)


def analyses(path: Path, num_rows: int = GRID[0]) -> Path:
    """Six-hourly states from north to south on the grid of 13 rows with both poles; with 12 rows the south pole is missing."""
    random = np.random.default_rng(2)
    latitude = (90 - 15.0 * np.arange(13))[:num_rows]
    variables = {}
    for name, units, standard, mean, std in (("u10", "m s-1", "eastward_wind", *(float(v[0]) for v in (MEANS, STDS))),
                                             ("z500", "m2 s-2", "geopotential", *(float(v[1]) for v in (MEANS, STDS))),
                                             ("t2m", "K", "air_temperature", *(float(v[2]) for v in (MEANS, STDS)))):
        values = mean + std * random.normal(size=(3, num_rows, GRID[1]))
        variables[name] = (("time", "latitude", "longitude"), values.astype("f4"), {"units": units, "standard_name": standard})
    coords = {"time": np.datetime64("2001-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h"),
              "latitude": ("latitude", latitude, {"units": "degrees_north"}),
              "longitude": ("longitude", 15.0 * np.arange(24), {"units": "degrees_east"})}
    xr.Dataset(variables, coords=coords).to_netcdf(path)
    return path


def test_the_forecast_is_what_the_network_gives_by_hand(model: Path, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    data = analyses(tmp_path / "era5.nc")
    out = produce_forecast(model, data, init="2001-01-01T06", lead_time=2 * 21600, out=tmp_path / "fc.nc", echo=[].append)
    network = build({"in_channels": 3, "out_channels": 3, "mlp_ratio": 4.0, "hard_thresholding_fraction": 1.0, "sparsity_threshold": 0.01,
                     "double_skip": True, **SIZES}, weights)
    with xr.open_dataset(data) as ds:
        state = torch.stack([torch.from_numpy(ds[name].values[1]) for name in NAMES])  # north to south, as in the file and the network
    mean, std = (torch.from_numpy(v).float()[:, None, None] for v in (MEANS, STDS))
    with xr.open_dataset(out) as forecast, torch.no_grad():
        assert forecast.latitude.values[0] == 90, "the forecast comes back in the user's own order"
        for lead in range(2):
            state = network(((state - mean) / std)[None])[0] * std + mean
            for i, name in enumerate(("10m_u_component_of_wind", "geopotential", "2m_temperature")):
                found = forecast[name].isel(time=0, prediction_timedelta=lead).squeeze(drop=True).transpose("latitude", "longitude").values
                assert np.abs(found - state[i].numpy()).max() < 1e-4 * STDS[i], (name, lead)


def test_the_folder_rebuilds_the_network_and_says_what_it_is(model: Path, files: dict[str, Path]) -> None:
    forecaster = model_folder.load(model)
    assert forecaster.predicts == "state" and forecaster.time_step == 21600 and forecaster.channels.shorts == NAMES
    assert forecaster.grid.to_dict()["latitude"] == [-75 + 15 * i for i in range(12)], "ascending, without the south pole"
    text = model_summary.describe(model)
    assert "legacy" in text and "12x24" in text and "m2 s-2" in text
    assert model_folder.sha256(files["checkpoint"]) in (model / "config.yaml").read_text()
    card = (model / "README.md").read_text()
    assert "row on the south pole is no part of it" in card
    stored = load_file(str(model / "model.safetensors"))
    assert torch.allclose(stored["normalizer.mean_C"], torch.from_numpy(MEANS).float())


def test_data_with_the_south_pole_are_refused_with_the_row_named(model: Path, tmp_path: Path) -> None:
    data = analyses(tmp_path / "all_rows.nc", 13)
    with pytest.raises(DataError, match=r"trained on 12x24.*data are on 13x24") as error:
        produce_forecast(model, data, init="first", lead_time=21600, out=tmp_path / "fc.nc", echo=[].append)
    assert error.value.fix == "the model has no row at latitude -90; leave it out, with xarray: ds.sel(latitude=ds.latitude > -90)"
    with xr.open_dataset(data) as ds:
        ds.sel(latitude=ds.latitude > -90).to_netcdf(tmp_path / "fixed.nc")
    produce_forecast(model, tmp_path / "fixed.nc", init="first", lead_time=21600, out=tmp_path / "fc.nc", echo=[].append)


def test_a_state_dict_under_physicsnemos_names_gives_the_same_folder(model: Path, weights: dict[str, torch.Tensor], files: dict[str, Path],
                                                                     tmp_path: Path) -> None:
    torch.save({k: v for k, v in weights.items() if not k.startswith("norm.")}, tmp_path / "AFNO.0.1.pt")
    other = convert(tmp_path / "AFNO.0.1.pt", tmp_path / "nemo", PUBLISHED, means=files["means"], stds=files["stds"], echo=[].append)
    first, second = (model_folder.load(folder).backbone.state_dict() for folder in (model, other))
    assert all(torch.equal(first[k], second[k]) for k in first if ".norm." not in k and not k.startswith("network.norm."))


def test_more_numbers_than_channels_are_told(files: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    convert(files["checkpoint"], tmp_path / "fcn", PUBLISHED, means=files["means"], stds=files["stds"], echo=said.append)
    assert sum("holds 4 numbers; the first 3 are those of u10 to t2m" in line for line in said) == 2
    assert any("without the row at latitude -90" in line for line in said)


class _Code:
    """Pickles as a call of `os.mkdir`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_checkpoint_with_code_is_refused_and_not_run(way: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    trap = {"model_state": {"a": torch.zeros(1)}, "extra": _Code(tmp_path / "was_run")}
    if way == "torch":
        torch.save(trap, tmp_path / "evil.ckpt")
    else:
        (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"extra": _Code(tmp_path / "was_run")}))
    options = {"--out": tmp_path / "out", "--channels": "u10,z500,t2m", "--means": files["means"], "--stds": files["stds"], "--grid": "12x24"}
    monkeypatch.setattr(sys, "argv", ["afno-forecast", "convert", str(tmp_path / "evil.ckpt"), *(str(w) for pair in options.items() for w in pair)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 4
    error = capsys.readouterr().err
    assert "is not plain tensors and was not opened" in error and len(error.splitlines()) <= 3
    assert not (tmp_path / "was_run").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(200)])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read|was not opened"):
        read_state_dict(tmp_path / "a.ckpt")


def test_a_truncated_checkpoint_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    whole = files["checkpoint"].read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(tmp_path / "cut.ckpt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_state_dict(tmp_path / "absent.ckpt")


@pytest.mark.parametrize(("published", "words"), [
    (Published(NAMES, (24, 24)), "position table has 18 patches of 4x4 cells, not 24x24"),
    (Published(NAMES[:2], GRID), "reads 3 channels and gives 3; 2 are named"),
])
def test_what_does_not_fit_the_weights_is_named(published: Published, words: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        convert(files["checkpoint"], tmp_path / "out", published, means=files["means"], stds=files["stds"], echo=[].append)
    assert not (tmp_path / "out").exists()


def test_other_networks_are_no_afno(files: dict[str, Path], tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(CheckpointError, match=r"this is no AFNO: 'patch_embed.proj.weight' is missing"):
        convert(tmp_path / "linear.pt", tmp_path / "out", PUBLISHED, means=files["means"], stds=files["stds"])
    torch.save(weights | {"blocks.0.filter.w3": torch.zeros(2)}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"unknown blocks.0.filter.w3"):
        convert(tmp_path / "more.pt", tmp_path / "out", PUBLISHED, means=files["means"], stds=files["stds"])
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state_dict(tmp_path / "list.pt")


@pytest.mark.parametrize(("name", "shape"), [("blocks.0.filter.w1", (2, 3, 2, 2)), ("blocks.0.filter.w1", (2, 0, 2, 2)),
                                              ("patch_embed.proj.weight", (16, 3, 0, 4)), ("patch_embed.proj.weight", (0, 3, 4, 4)),
                                              ("blocks.0.mlp.fc1.weight", (0, 16))])
def test_weights_of_impossible_shapes_are_no_afno(name: str, shape: tuple[int, ...], files: dict[str, Path], tmp_path: Path,
                                                  weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights | {name: torch.zeros(shape)}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="AFNO"):
        convert(tmp_path / "odd.pt", tmp_path / "out", PUBLISHED, means=files["means"], stds=files["stds"])


def test_weights_that_are_not_finite_are_refused(files: dict[str, Path], tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights | {"head.weight": torch.full_like(weights["head.weight"], torch.nan)}, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=r"weights of head\.weight are not finite"):
        convert(tmp_path / "nan.pt", tmp_path / "out", PUBLISHED, means=files["means"], stds=files["stds"])


@pytest.mark.parametrize(("dim", "hidden"), [(88, 120), (56, 61), (152, 405), (176, 469)])
def test_any_number_of_hidden_channels_comes_back_from_its_ratio(dim: int, hidden: int) -> None:
    config = LegacyConfig("legacy", (8, 8), (4, 4), dim, 1, mlp_ratio=hidden / dim)
    assert LegacyBackbone(config, 2, 2).network.blocks[0].mlp.fc1.out_features == hidden
    assert LegacyBackbone(LegacyConfig("legacy", (8, 8), (4, 4), 176, 1, mlp_ratio=8 / 3), 2, 2).network.blocks[0].mlp.fc1.out_features == 469


@pytest.mark.parametrize("values", [np.zeros(3), np.array([1.0, np.nan, 2.0]), np.ones(2), np.ones((3, 3)), np.array([{"a": 1}], dtype=object)])
def test_statistics_that_cannot_be_used(values: np.ndarray, files: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", values, allow_pickle=True)
    with pytest.raises(DataError, match=r"not usable|does not hold a number|not an array of numbers"):
        convert(files["checkpoint"], tmp_path / "out", PUBLISHED, means=files["means"], stds=tmp_path / "bad.npy", echo=[].append)


def test_an_existing_folder_is_not_replaced(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        convert(files["checkpoint"], tmp_path / "out", PUBLISHED, means=files["means"], stds=files["stds"])


def test_the_published_channel_lists_have_canonical_names_and_units() -> None:
    twenty, more = channel_set(("fourcastnet20",)), channel_set(("fourcastnet26",))
    assert len(twenty) == len(FOURCASTNET_20) == 20 and len(more) == len(FOURCASTNET_26) == 26
    assert more.shorts == FOURCASTNET_26
    units = {c.name: c.units for c in more}
    assert units["geopotential@50"] == "m2 s-2" and units["relative_humidity@850"] == "%" and units["surface_pressure"] == "Pa"
    assert units["100m_u_component_of_wind"] == "m s-1" and units["total_column_water_vapour"] == "kg m-2"
    with pytest.raises(ConfigError, match="unknown channel 'zz9'"):
        channel_set(("z500", "zz9"))
    with pytest.raises(ConfigError, match="unknown channel 'z'"):
        channel_set(("z",))


def test_the_published_grid_is_that_of_era5_without_its_last_row(files: dict[str, Path], tmp_path: Path) -> None:
    from afno_forecast.convert import _inputs

    inputs = _inputs(channel_set(NAMES), Published(NAMES), MEANS, STDS, files["stds"])
    latitude = np.asarray(inputs.grid.to_dict()["latitude"])
    assert inputs.grid.shape == (720, 1440) and np.array_equal(latitude, np.arange(-89.75, 90.1, 0.25))
