"""The networks stay faster than the published algorithm written plainly; ratios within one run, so that the machine's load cancels."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network() -> ModuleType:
    path = Path(__file__).with_name("network.py")
    spec = importlib.util.spec_from_file_location("benchmark_network", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_network"] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_the_published_network(network: ModuleType) -> None:
    weights, state = network.setup("tiny")
    outputs = [network.forward_pass(network.make(name, "tiny", weights), state, False) for name in ("reference", "legacy")]
    assert ((outputs[0] - outputs[1]).norm() / outputs[0].norm()).item() < 1e-5


def test_half_precision_costs_legacy_no_more_than_the_published_way(network: ModuleType) -> None:
    weights, state = network.setup("tiny")
    networks = {name: network.make(name, "tiny", weights) for name in ("reference", "legacy")}
    exact = network.forward_pass(networks["reference"], state, False)
    errors = {name: (network.forward_pass(one, state, True) - exact).norm() / exact.norm() for name, one in networks.items()}
    assert 0 < errors["legacy"] <= 1.1 * errors["reference"]


def test_legacy_and_plain_are_not_slower_than_the_published_way(network: ModuleType) -> None:
    torch.set_num_threads(1)
    result = network.compare("tiny", ["reference", "legacy", "plain"], 15, train=True, autocast=False)
    ratios = {(kind, name): result[kind][name]["times_faster"] for kind in ("forward", "training step") for name in ("legacy", "plain")}
    print(ratios)
    assert ratios["forward", "legacy"] > 1.2
    assert ratios["training step", "legacy"] > 1.05
    assert ratios["forward", "plain"] > 0.8 and ratios["training step", "plain"] > 0.8


def test_the_mixer_grows_in_proportion_to_the_tokens(network: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TOKEN_GRIDS", ((32, 64), (64, 128)))
    few, many = network.scaling(5, 2048)
    assert many["afno"] / few["afno"] < 8, "four times the tokens"
    assert few["attention"] / few["afno"] > 1.5
