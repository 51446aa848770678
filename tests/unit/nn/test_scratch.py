"""Memory that is used again is nobody's but the layer's while it runs: not a caller's, not another thread's, not a backward pass's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn

from afno_forecast.nn import scratch
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone
from afno_forecast.nn.legacy import LegacyBackbone, LegacyConfig
from afno_forecast.nn.mixers import MIXERS, MixerName, MixerOptions

ROWS, COLUMNS, DIM = 5, 8, 12


def mixer(name: MixerName, **options) -> nn.Module:
    return MIXERS[name](MixerOptions(DIM, 3, tokens=(ROWS, COLUMNS) if name == "gfn" else None, **options))


def network(config: PlainConfig | HierarchicalConfig) -> nn.Module:
    made = build_backbone(config, 3, 2, "sphere")
    nn.init.normal_(made.head.conv.weight if hasattr(made.head, "conv") else next(made.head.parameters()), std=0.1)
    return made


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: ((lambda name=name: mixer(name)), (2, ROWS, COLUMNS, DIM)) for name in MIXERS if name != "identity"},
    "bands": (lambda: mixer("afno", num_bands=3), (2, ROWS, COLUMNS, DIM)),
    "shrink": (lambda: mixer("afno", num_bands=2, shrink=0.1, learned_shrink=True), (2, ROWS, COLUMNS, DIM)),
    "poles": (lambda: mixer("afno", latitude="double", fraction=0.7, odd_share=0.3), (2, ROWS, COLUMNS, DIM)),
    "plain": (lambda: network(PlainConfig(patch=(2, 2), width=16, depth=2, num_blocks=4)), (2, 3, 10, 16)),
    "hierarchical": (lambda: network(HierarchicalConfig(widths=(8, 16), depth=1, num_blocks=4)), (2, 3, 10, 16)),
    "published": (lambda: LegacyBackbone(LegacyConfig("legacy", (10, 16), (2, 2), 12, 2, num_blocks=3), 3, 2), (2, 3, 10, 16)),
}


@pytest.fixture(params=["matmul", "fft"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "fft":
        monkeypatch.setattr("afno_forecast.nn.modes._MATMUL_LIMIT", 0.0)
    return request.param


def drawn(case: str, number: int = 2) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(3)
    make, shape = CASES[case]
    return make(), [torch.randn(shape) for _ in range(number)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_result_is_the_callers_own(case: str, mode: type, way: str) -> None:
    layer, (one, other) = drawn(case)
    with mode():
        first = layer(one.clone())
        kept = first.clone()
        second = layer(other.clone())
        assert torch.equal(first, kept) and not torch.equal(first, second)
        assert torch.equal(layer(one.clone()), kept)
        memory = {b.untyped_storage().data_ptr() for b in scratch._kept.__dict__.get("buffers", {}).values()}
        assert first.untyped_storage().data_ptr() not in memory
    fresh = layer(one.clone()).detach()
    torch.testing.assert_close(kept.clone(), fresh, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_an_input_is_left_alone(case: str, way: str) -> None:
    layer, (one, _) = drawn(case)
    before = one.clone()
    with torch.no_grad():
        layer(one)
    assert torch.equal(one, before)


@pytest.mark.parametrize("case", CASES)
def test_two_threads_do_not_meet(case: str, way: str) -> None:
    layer, inputs = drawn(case)
    with torch.no_grad():
        alone = [layer(x) for x in inputs]
    together = Barrier(2)

    def run(x: Tensor) -> list[Tensor]:
        together.wait()
        with torch.no_grad():
            return [layer(x) for _ in range(8)]

    with ThreadPoolExecutor(2) as pool:
        for expected, answers in zip(alone, pool.map(run, inputs), strict=True):
            assert all(torch.equal(answer, expected) for answer in answers)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_goes_on_after_a_forecast_and_around_one(case: str, mode: type, way: str) -> None:
    layer, (one, other) = drawn(case)

    def gradients(between: bool) -> list[Tensor]:
        layer.zero_grad()
        x = one.clone().requires_grad_()
        out = layer(x)
        if between:
            with mode():
                layer(other)
        out.square().sum().backward()
        return [x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    expected = gradients(False)
    with mode():
        layer(other)
    for between in (False, True):
        found = gradients(between)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_name_gives_the_same_memory_until_it_is_too_small() -> None:
    like = torch.empty(1)
    small = scratch.scratch("test of scratch", (2, 3), like)
    assert scratch.scratch("test of scratch", (3, 2), like).data_ptr() == small.data_ptr()
    large = scratch.scratch("test of scratch", (4, 5), like)
    assert large.shape == (4, 5) and scratch.scratch("test of scratch", (2,), like).data_ptr() == large.data_ptr()
    assert scratch.scratch("test of scratch", (2,), like, torch.float64).dtype == torch.float64
    assert scratch.lent("test of scratch", (2,), like) is None, "with gradients nothing is lent"
