"""Networks compile whole, without a break in the graph, and the compiled ones give what the eager ones give, gradients too."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from afno_forecast.distributed import Mesh
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone
from afno_forecast.nn.legacy import LegacyConfig
from afno_forecast.nn.mixers import MIXERS, MixerOptions
from afno_forecast.training.parallel import parallelize

# the compiler itself makes an instance of autograd.Function for each one it traces
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def agree(module: nn.Module, field: Tensor, backend: str = "aot_eager") -> None:
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    with torch.inference_mode():
        compiled(field)  # what a forecast leaves must not spoil the training after it
    results = []
    for run in (module, compiled):
        x = field.clone().requires_grad_()
        out = run(x)
        gradients = torch.autograd.grad(out.square().sum(), [x, *(p for p in module.parameters() if p.requires_grad)], allow_unused=True)
        results.append([out, *(g for g in gradients if g is not None)])
    assert len(results[0]) == len(results[1])
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5 * float(eager.detach().abs().max()) + 1e-7)


@pytest.mark.parametrize(("name", "grid"), [
    pytest.param("afno", (5, 8), marks=pytest.mark.slow), pytest.param("afno", (40, 90), marks=pytest.mark.slow),
    *((name, (5, 8)) for name in MIXERS if name not in ("identity", "afno"))])
def test_each_mixer_compiles_whole(name, grid: tuple[int, int]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    options = MixerOptions(dim=8, num_blocks=2, shrink=0.01, tokens=grid if name == "gfn" else None, num_bands=2 if name in ("afno", "fno") else 1)
    agree(MIXERS[name](options), torch.randn(2, *grid, 8))


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    PlainConfig(patch=(3, 2), width=8, depth=1, num_blocks=2, latitude="double"),
    HierarchicalConfig(widths=(4, 8), depth=1, num_blocks=2),
    LegacyConfig(kind="legacy", grid=(8, 12), patch=(2, 3), embed_dim=8, depth=2, num_blocks=2),
], ids=lambda config: config.kind)
def test_each_network_compiles_whole(config) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build_backbone(config, 2, 3, "sphere")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    agree(network, torch.randn(2, 2, 8, 12))


@pytest.mark.parametrize("config", [
    PlainConfig(patch=(3, 2), width=8, depth=2, num_blocks=2), HierarchicalConfig(widths=(4, 8), depth=1, num_blocks=2),
    LegacyConfig(kind="legacy", grid=(8, 12), patch=(2, 3), embed_dim=8, depth=2, num_blocks=2)], ids=lambda config: config.kind)
def test_compile_reaches_the_blocks_of_every_network(config, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    backbone = build_backbone(config, 2, 3, "sphere")
    parallelize(SimpleNamespace(backbone=backbone), Mesh(), compile_blocks=True)
    assert {type(module).__name__ for module in compiled} <= {"MixerBlock", "ResidualBlock", "LegacyBlock"}
    assert len(compiled) == sum(type(module).__name__.endswith("Block") for module in backbone.modules()) > 0


@pytest.mark.slow
def test_a_second_grid_is_compiled_too() -> None:
    torch._dynamo.reset()
    mixer = MIXERS["afno"](MixerOptions(dim=8, num_blocks=2, num_bands=2))
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    for rows, columns in ((5, 8), (7, 9), (4, 12)):
        field = torch.randn(1, rows, columns, 8)
        torch.testing.assert_close(compiled(field), mixer(field), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [
    PlainConfig(patch=(3, 2), width=8, depth=1, num_blocks=2, latitude="double"),
    PlainConfig(patch=(1, 1), width=8, depth=1, num_blocks=2, shrink=0.01),
    LegacyConfig(kind="legacy", grid=(8, 12), patch=(2, 3), embed_dim=8, depth=1, num_blocks=2),
], ids=["plain", "plain-shrink", "legacy"])
def test_no_value_is_asked_for_on_the_way(config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph records: forward and backward on tensors without values, where to look at one is an error."""
    monkeypatch.setattr(nn.init, "trunc_normal_", nn.init.normal_)  # the library's looks at its values
    with FakeTensorMode():
        network = build_backbone(config, 2, 3, "sphere")
        out = network(torch.randn(2, 2, 8, 12))
        out.square().sum().backward()
    assert out.shape == (2, 3, 8, 12)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_of_the_library_agrees() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    agree(MIXERS["afno"](MixerOptions(dim=8, num_blocks=2)), torch.randn(2, 5, 8, 8), backend="inductor")
