"""Scalars given with a sample scale and shift its channels, and a new network does not feel them."""

import pytest
import torch

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone, muon_parameters, set_checkpointing
from afno_forecast.nn.modulation import FEATURES, Norm

PLAIN = {"patch": (2, 3), "width": 16, "depth": 2, "num_blocks": 4}
HIERARCHICAL = {"widths": (8, 16), "depth": 1, "num_blocks": 4}
KINDS = [(PlainConfig, PLAIN), (HierarchicalConfig, HIERARCHICAL)]


def build(kind, options, *, seed: int = 1, awake: bool = False, **more) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = build_backbone(kind(**options, **more), 3, 2, "sphere")
    for name, parameter in network.named_parameters():
        if name.startswith("head.") or awake:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return network


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_new_network_is_the_one_without_conditions(kind, options) -> None:
    plain, conditioned = build(kind, options), build(kind, options, conditions=3)
    field, scalars = torch.randn(2, 3, 9, 14), 10 * torch.randn(2, 3)
    told, alone = conditioned(field, scalars), plain(field)
    assert (told - alone).abs().max() <= 1e-6 * alone.abs().max()  # another order of the same sums
    own = conditioned.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in plain.state_dict().items())
    assert all("condition_embed" in name or "modulation" in name for name in own.keys() - plain.state_dict().keys())


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_every_norm_reads_the_scalars_and_each_sample_its_own(kind, options) -> None:
    network = build(kind, options, conditions=2, awake=True)
    field, scalars = torch.randn(1, 3, 9, 14).expand(3, 3, 9, 14), torch.tensor([[0.0, 1.0], [0.5, 1.0], [0.5, -1.0]])
    out = network(field, scalars)
    assert (out[0] - out[1]).norm() > 0.01 * out[0].norm() and (out[1] - out[2]).norm() > 0.01 * out[0].norm()
    torch.testing.assert_close(torch.cat([network(field[:1], row[None]) for row in scalars]), out, rtol=1e-4, atol=1e-5)
    out.square().mean().backward()
    norms = [part for part in network.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert len(norms) == 5
    for parameter in network.parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any()


def test_scale_and_shift_are_what_they_say() -> None:
    norm = Norm(4, conditioned=True)
    field, features = torch.randn(2, 3, 5, 4), torch.randn(2, FEATURES)
    with torch.no_grad():
        norm.modulation_bias.copy_(torch.tensor([1.0, 0.0, -1.0, 0.5, 0.0, 2.0, 0.0, 0.0]))  # four scales, four shifts
    normed = torch.nn.functional.layer_norm(field, (4,))
    expected = normed * torch.tensor([2.0, 1.0, 0.0, 1.5]) + torch.tensor([0.0, 2.0, 0.0, 0.0])
    torch.testing.assert_close(norm(field, features), expected)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_scalars_are_read_exactly_where_they_belong(kind, options) -> None:
    field = torch.randn(2, 3, 9, 14)
    with pytest.raises(ValueError, match=r"conditions: 3, so it reads scalars of shape \(2, 3\) beside the field, not None"):
        build(kind, options, conditions=3)(field)
    for wrong in (torch.randn(2, 2), torch.randn(3), torch.randn(1, 3)):
        with pytest.raises(ValueError, match=r"scalars of shape \(2, 3\)"):
            build(kind, options, conditions=3)(field, wrong)
    with pytest.raises(ValueError, match="conditions: 0, so it reads none"):
        build(kind, options)(field, torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"conditions.*-1"):
        kind(**options, conditions=-1)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_half_precision_does_not_round_the_scalars(kind, options) -> None:
    """Two lead times that bfloat16 cannot tell apart give two answers."""
    network = build(kind, options, conditions=1, awake=True)
    for parameter in network.condition_embed.parameters():
        parameter.data.mul_(20)
    seen = []
    network.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value in (1.0, 1.001):
            network(torch.randn(1, 3, 9, 14), torch.tensor([[value]]))
    assert seen[0].dtype == torch.float32 and not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_conditioning_is_left_to_adamw(kind, options) -> None:
    muon, adamw = muon_parameters(build(kind, options, conditions=3))
    assert not any("condition" in name or "modulation" in name for name in muon)
    assert any("modulation" in name for name in adamw) and "condition_embed.first.weight" in adamw


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("conditions", [0, 2])
def test_checkpointing_changes_neither_values_nor_gradients(kind, options, conditions: int) -> None:
    network = build(kind, options, conditions=conditions, awake=True)
    inputs = (torch.randn(2, 3, 9, 14), *([torch.randn(2, conditions)] if conditions else []))
    results, calls = [], []
    network.blocks[0].mixer_norm.register_forward_hook(lambda *_: calls.append(1))
    for on in (False, True):
        set_checkpointing(torch.nn.ModuleDict({"backbone": network}), on)
        network.zero_grad()
        before = len(calls)
        out = network(*inputs)
        out.square().mean().backward()
        assert len(calls) - before == (2 if on else 1), "computed again for the backward pass"
        results.append([out, *(parameter.grad.clone() for parameter in network.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
