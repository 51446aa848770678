"""FourCastNet's network: golden outputs and gradients, its names, its size, and that nothing of it depends on how it is run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afno_forecast.nn import mlp, modes
from afno_forecast.nn.backbone import PlainConfig, build_backbone, muon_parameters
from afno_forecast.nn.legacy import LegacyBackbone, LegacyConfig, LegacyMixer, LegacyNetwork, build, published_names
from afno_forecast.nn.mixers import MIXERS

GOLDEN = Path(__file__).parents[2] / "golden"
NETWORKS = ("fourcastnet_a", "fourcastnet_b")
MIXER_FILES = ("afno2d_16x32_f1", "afno2d_8x8_f05", "afno2d_9x14_f025")


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Configuration, weights, and the other arrays of a golden file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "config"}
        config = ast.literal_eval(str(file["config"]))
    weights = {key.removeprefix("weights/"): value for key, value in arrays.items() if key.startswith("weights/")}
    return config, weights, {key: value for key, value in arrays.items() if not key.startswith("weights/")}


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def golden_mixer(name: str) -> tuple[LegacyMixer, Tensor, Tensor]:
    config, weights, arrays = golden(name)
    mixer = LegacyMixer(config["hidden_size"], config["num_blocks"], hidden_factor=config["hidden_size_factor"],
                        fraction=config["hard_thresholding_fraction"], shrink=config["sparsity_threshold"])
    mixer.load_state_dict(weights)
    return mixer, arrays["input"], arrays["output"]


def own_config(**changes: Any) -> LegacyConfig:
    options: dict[str, Any] = {"kind": "legacy", "grid": (12, 20), "patch": (4, 2), "embed_dim": 16, "depth": 2, "num_blocks": 4}
    return LegacyConfig(**options | changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_networks_outputs_and_input_gradients(name: str) -> None:
    config, weights, arrays = golden(name)
    network = build(config, weights)
    state = arrays["input"].clone().requires_grad_()
    out = network(state)
    out.square().mean().backward()
    assert relative(out.detach(), arrays["output"]) < 1e-5
    assert state.grad is not None
    assert relative(state.grad, arrays["input_gradient_of_mean_square"]) < 1e-5
    with torch.inference_mode():
        assert relative(network(arrays["input"]), arrays["output"]) < 1e-5


@pytest.mark.parametrize("method", ["matmul", "fft"])
@pytest.mark.parametrize("name", MIXER_FILES)
def test_golden_mixers_by_either_transform(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "_MATMUL_LIMIT", {"matmul": 1e9, "fft": -1.0}[method])
    mixer, tokens, expected = golden_mixer(name)
    assert modes.kept_modes(*tokens.shape[1:3], mixer.fraction, legacy=True).method == method
    assert relative(mixer(tokens) + tokens, expected) < 1e-5


def test_the_published_selection_of_modes_is_kept_with_its_errors() -> None:
    full = modes.kept_modes(90, 180, legacy=True)
    assert len(full.row_wavenumbers) == 90
    assert full.column_wavenumbers == tuple(range(46)), "half of the 91 zonal modes are dead at fraction 1"
    half = modes.kept_modes(8, 8, 0.5, legacy=True)
    assert half.row_wavenumbers == (3, -4, -3, -2), "rows lie around Nyquist; the mean is dropped"
    assert half.column_wavenumbers == (0, 1)


def test_a_fraction_that_keeps_nothing_adds_nothing() -> None:
    tokens = torch.randn(2, 6, 10, 8)
    assert torch.equal(LegacyMixer(8, 2, fraction=0.2)(tokens), torch.zeros_like(tokens))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_dict_makes_the_round_trip(name: str) -> None:
    config, weights, _ = golden(name)
    network = build(config, weights)
    back = network.state_dict()
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)
    network.load_state_dict(weights, strict=True)
    next(iter(network.parameters())).data.add_(1.0)
    assert torch.equal(weights["pos_embed"], golden(name)[1]["pos_embed"]), "weights are copied, not shared"


def test_names_of_physicsnemo_and_of_data_parallel_training() -> None:
    config, weights, arrays = golden("fourcastnet_a")
    physicsnemo = {key: value for key, value in weights.items() if not key.startswith("norm.")} | {"device_buffer": torch.empty(0)}
    parallel = {f"module.{key}": value for key, value in weights.items()}
    for other in (physicsnemo, parallel):
        assert published_names(other).keys() == weights.keys()
        assert relative(build(config, other)(arrays["input"]).detach(), arrays["output"]) < 1e-5


@pytest.mark.parametrize(("change", "words"), [
    (lambda w: w.pop("head.weight"), "missing head.weight; unknown none"),
    (lambda w: w.pop("norm.bias"), "missing norm.bias"),
    (lambda w: w.update({"blocks.7.norm1.bias": torch.zeros(32)}), "unknown blocks.7.norm1.bias"),
    (lambda w: w.update({"pos_embed": torch.zeros(1, 127, 32)}), r"of another shape pos_embed \(1, 127, 32\) instead of \(1, 128, 32\)"),
])
def test_weights_that_do_not_fit_are_named(change: Any, words: str) -> None:
    config, weights, _ = golden("fourcastnet_a")
    change(weights)
    with pytest.raises(ValueError, match=words):
        build(config, weights)


def test_a_configuration_that_does_not_fit_is_named() -> None:
    config, weights, _ = golden("fourcastnet_a")
    with pytest.raises(ValueError, match="lacks depth, grid; it does not know heads"):
        build({key: value for key, value in config.items() if key not in ("grid", "depth")} | {"heads": 2}, weights)
    with pytest.raises(ValueError, match="does not divide a grid of 32 x 64"):
        build(config | {"patch": 5}, weights)
    with pytest.raises(ValueError, match=r"reads \(batch, 5, 32, 64\), not \(1, 5, 32, 60\)"):
        build(config, weights)(torch.zeros(1, 5, 32, 60))


def test_full_size_counts_the_published_parameters() -> None:
    with torch.device("meta"):
        network = LegacyNetwork(LegacyConfig(kind="legacy", grid=(720, 1440), patch=(8, 8), embed_dim=768, depth=12), 20, 20)
    assert sum(p.numel() for p in network.parameters()) == 74_691_840


@pytest.mark.parametrize("double_skip", [True, False])
def test_checkpointing_and_pieces_change_nothing(double_skip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LegacyNetwork(own_config(double_skip=double_skip, grid=(48, 40)), 3, 2).double()
    state = torch.randn(3, 3, 48, 40, dtype=torch.float64)  # 720 tokens: three pieces of at most 256
    results = []
    for checkpointing, elements in ((False, 2**30), (True, 1), (False, 1)):
        network.checkpointing = checkpointing
        monkeypatch.setattr(mlp, "_PIECE_ELEMENTS", elements)
        network.zero_grad()
        out = network(state)
        out.square().mean().backward()
        results.append([out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    for other in results[1:]:
        assert len(other) == len(results[0]) == 1 + sum(p.requires_grad for p in network.parameters())
        assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("keep_hidden", [True, False])
def test_the_mlp_in_pieces_has_the_gradients_of_the_plain_one(with_residual: bool, keep_hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_PIECE_ELEMENTS", 1)
    norm, first, second = nn.LayerNorm(6).double(), nn.Linear(6, 10).double(), nn.Linear(10, 6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    tokens = torch.randn(2, 13, 23, 6, dtype=torch.float64, requires_grad=True)
    other = torch.randn_like(tokens, requires_grad=True)
    wanted = [tokens, *norm.parameters(), *first.parameters(), *second.parameters()] + ([other] if with_residual else [])
    ours = mlp.norm_mlp(tokens, norm, first, second, residual=other if with_residual else None, keep_hidden=keep_hidden)
    plain = second(nn.functional.gelu(first(norm(tokens)))) + (other if with_residual else tokens)
    direction = torch.randn_like(ours)
    assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, wanted, direction), torch.autograd.grad(plain, wanted, direction), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_training_works_after_a_forecast() -> None:
    network = LegacyNetwork(own_config(), 3, 3)
    state = torch.randn(2, 3, 12, 20)
    with torch.inference_mode():
        before = network(state)
    out = network(state)
    out.sum().backward()
    assert torch.allclose(out, before, atol=1e-6)


def test_autocast_keeps_the_mixer_and_the_tokens_in_float32() -> None:
    config, weights, arrays = golden("fourcastnet_a")
    network = build(config, weights)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(arrays["input"])
        out.float().square().mean().backward()
    assert 1e-5 < relative(out.float().detach(), arrays["output"]) < 0.02
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())
    mixer = LegacyMixer(8, 2)
    tokens = torch.randn(1, 6, 10, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixer(tokens), mixer.float()(tokens))
        assert mixer(tokens).dtype == torch.float32


def test_the_backbone_turns_rows_for_weights_that_read_north_first() -> None:
    torch.manual_seed(3)
    north_first = LegacyBackbone(own_config(), 3, 2)
    as_it_is = LegacyBackbone(own_config(north_first=False), 3, 2)
    as_it_is.load_state_dict(north_first.state_dict())
    ascending = torch.randn(2, 3, 12, 20)
    assert torch.equal(north_first(ascending), as_it_is(ascending.flip(-2)).flip(-2))
    assert not torch.allclose(north_first(ascending), as_it_is(ascending), atol=1e-3)


def test_it_is_a_mixer_and_a_backbone_by_name_and_never_a_default() -> None:
    assert "legacy" in MIXERS and PlainConfig().mixer == "afno"
    tokens = build_backbone(PlainConfig(width=16, depth=1, num_blocks=4, mixer="legacy", shrink=0.01), 3, 2, "sphere")
    assert isinstance(tokens.blocks[0].mixer, LegacyMixer)
    assert tokens(torch.randn(2, 3, 9, 14)).shape == (2, 2, 9, 14)
    network = build_backbone(own_config(), 3, 2, "sphere")
    assert network(torch.randn(2, 3, 12, 20)).shape == (2, 2, 12, 20)
    by_muon, by_adamw = muon_parameters(network)
    assert "network.blocks.0.mlp.fc1.weight" in by_muon
    assert {"network.patch_embed.proj.weight", "network.head.weight", "network.blocks.1.filter.w1", "network.pos_embed"} <= set(by_adamw)
    assert not any(".norm." in name for name in (*by_muon, *by_adamw)), "what is never used is not trained"
