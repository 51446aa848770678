"""Options that are off by default: each does something, and longitude still has no seam."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone, muon_parameters, num_parameters, set_patch
from afno_forecast.nn.padding import pad

PLAIN = PlainConfig(patch=(2, 3), width=16, depth=2, num_blocks=4)
HIERARCHICAL = HierarchicalConfig(widths=(8, 16), depth=1, num_blocks=4)
CHANGES: list[tuple[Any, dict[str, Any], int]] = [
    (PLAIN, {"local": True}, 3),
    (PLAIN, {"local": "depthwise"}, 3),
    (HIERARCHICAL, {"local": "depthwise"}, 2),
    (PLAIN, {"overlap": 1}, 3),
    (PLAIN, {"overlap": 2}, 3),
    (PLAIN, {"decoder_channels": 5}, 3),
    (PLAIN, {"patch": (1, 1)}, 1),
    (PLAIN, {"patch": (2, 2)}, 2),
    (PLAIN, {"patch": (4, 8)}, 8),
    (PLAIN, {"patch": (8, 8)}, 8),
    (PLAIN, {"weights_patch": (1, 2)}, 3),
    (PLAIN, {"shrink": 0.1}, 3),
    (PLAIN, {"shrink": 0.1, "learned_shrink": True, "num_bands": 2}, 3),
    (PLAIN, {"num_blocks": 1}, 3),
    (PLAIN, {"num_bands": 3}, 3),
    (PLAIN, {"mixer": "gfn", "num_blocks": 8, "tokens": (7, 8)}, 3),
    (PLAIN, {"latitude": "double"}, 3),
    (PLAIN, {"latitude": "double", "odd_channels": 0.5}, 3),
    (HIERARCHICAL, {"odd_channels": 0.5}, 2),
    (PLAIN, {"coarsen": (2, 2)}, 6),
    (HIERARCHICAL, {"coarsen": (1, 2)}, 4),
    (PLAIN, {"conditions": 2}, 3),
    (PLAIN, {"direct": True}, 3),
    (HIERARCHICAL, {"direct": True}, 2),
]


def awake(config, boundary="sphere") -> torch.nn.Module:
    """The same values for the same parameters, whatever the option."""
    torch.manual_seed(0)
    network = build_backbone(config, 3, 2, boundary)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return network


def run(network: torch.nn.Module, field: torch.Tensor) -> torch.Tensor:
    scalars = [torch.tensor([[0.3, -1.0]]).expand(len(field), 2)] if network.conditions else []
    with torch.no_grad():
        out: torch.Tensor = network(field, *scalars)
    return out


@pytest.mark.parametrize(("config", "change", "step"), CHANGES)
def test_it_does_something_and_longitude_has_no_seam(config, change, step: int) -> None:
    field = torch.randn(2, 3, 13, 24)
    plain, changed = awake(config), awake(replace(config, **change))
    out = run(changed, field)
    assert out.shape == (2, 2, 13, 24) and out.isfinite().all()
    assert (out - run(plain, field)).norm() > 1e-3 * out.norm()
    assert (run(changed, field.roll(step, -1)) - out.roll(step, -1)).norm() <= 1e-5 * out.norm()


@pytest.mark.parametrize(("config", "change", "step"), CHANGES)
def test_a_new_one_gives_zero_and_every_parameter_learns(config, change, step: int) -> None:
    config = replace(config, **change)
    scalars = [torch.randn(2, config.conditions)] if config.conditions else []
    field = torch.randn(2, 3, 13, 24)
    assert (build_backbone(config, 3, 2, "sphere")(field, *scalars) == 0).all()
    network = awake(config)
    network(field, *scalars).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name
    muon, adamw = muon_parameters(network)
    assert sorted(muon + adamw) == sorted(name for name, _ in network.named_parameters())


@pytest.mark.parametrize("boundary", ["sphere", "sphere_with_poles", "band", "periodic", "limited"])
@pytest.mark.parametrize("change", [{"local": "depthwise"}, {"overlap": 1, "decoder_channels": 4}, {"coarsen": (2, 3)}])
def test_they_run_within_every_boundary(boundary, change) -> None:
    assert run(awake(replace(PLAIN, **change), boundary), torch.randn(1, 3, 11, 17)).shape == (1, 2, 11, 17)


def reach(network: torch.nn.Module, row: int, column: int) -> torch.Tensor:
    """Which cells of the output change with one cell of the input, (H, W)."""
    field = torch.randn(1, 3, 12, 24)
    changed = field.clone()
    changed[..., row, column] += 3.0
    return (run(network, changed) - run(network, field)).abs().amax((0, 1)) > 1e-6


def test_overlap_and_decoder_look_over_the_seams_of_patches() -> None:
    alone = PlainConfig(patch=(4, 4), width=16, depth=1, mixer="identity")
    own = reach(awake(alone), 4, 0)
    assert own.sum() == 16 and own[4:8, :4].all(), "a patch by itself"
    embedded = reach(awake(replace(alone, overlap=1)), 4, 0)
    assert embedded.sum() == 4 * 16 and embedded[:8, :4].all() and embedded[:8, 20:].all(), "also in patches above and, round the globe, to the left"
    decoded = reach(awake(replace(alone, decoder_channels=6)), 4, 0)
    assert decoded.sum() == 36 and decoded[3:9, :5].all() and decoded[3:9, 23].all(), "one cell further on every side"


def test_the_depthwise_branch_sees_over_the_pole_and_keeps_channels_apart() -> None:
    config = PlainConfig(patch=(1, 1), width=8, depth=1, mixer="identity", local="depthwise")
    seen = reach(awake(config), 0, 5)
    assert seen.sum() == 9 and seen[:2, 4:7].all() and seen[0, 16:19].all()
    local = awake(config).blocks[0].local
    field = torch.zeros(1, 6, 8, 8)
    field[..., 3] = torch.randn(1, 6, 8)
    out = local(field) - local(torch.zeros_like(field))
    assert out[..., 3].abs().max() > 0 and out[..., :3].abs().max() == 0
    assert local.conv.weight.numel() == 9 * 8


def test_the_learned_factor_starts_at_the_fixed_threshold_and_is_each_block_s_own() -> None:
    config = replace(PLAIN, shrink=0.1, num_bands=2)
    torch.manual_seed(0)
    fixed = build_backbone(config, 3, 2, "sphere")
    torch.manual_seed(0)
    learned = build_backbone(replace(config, learned_shrink=True), 3, 2, "sphere")
    tokens = torch.randn(2, 9, 14, 16)
    mixers = fixed.blocks[0].mixer, learned.blocks[0].mixer
    with torch.no_grad():
        torch.testing.assert_close(mixers[1](tokens), mixers[0](tokens))
        mixers[1].log_shrink_SG[:, 2] = 3.0
        difference = (mixers[1](tokens) - mixers[0](tokens)).abs().amax((0, 1, 2))
    assert difference[8:12].min() > 1e-3 and difference[:8].max() <= 1e-5 and difference[12:].max() <= 1e-5
    with pytest.raises(ValueError, match="learned_shrink: a factor on shrink does nothing while shrink is 0"):
        replace(PLAIN, learned_shrink=True)


def test_the_three_economies_are_what_the_counts_say() -> None:
    """Block-diagonal weights and weights shared by modes; the third, sparsity, is told by the modes that shrink empties."""
    def spectral(**change: Any) -> int:
        network = build_backbone(replace(PLAIN, depth=1, **change), 3, 2, "sphere")
        return num_parameters(network.blocks[0].mixer) - 2 * 16 * change.get("num_bands", 1) * (change.get("mixer") is None)

    assert spectral(num_blocks=1) == 4 * spectral() == 2 * 2 * 16 * 16, "four blocks hold a quarter of the dense weights"
    assert spectral(num_bands=3) == 3 * spectral(), "bands share nothing with each other"
    assert spectral(mixer="gfn", num_blocks=8, tokens=(7, 8)) == 2 * 16 * 7 * 5, "nothing shared: one weight for each mode and channel"


def test_what_does_not_fit_is_refused() -> None:
    for change in ({"overlap": -1}, {"decoder_channels": -1}, {"weights_patch": (0, 1)}):
        with pytest.raises(ValueError, match="weights_patch must be positive"):
            replace(PLAIN, **change)
    with pytest.raises(ValueError, match="overlap: weights of overlapping patches cannot be resampled"):
        replace(PLAIN, overlap=1, weights_patch=(4, 4))
    with pytest.raises(ValueError, match="overlapping patches cannot be resampled for another patch"):
        set_patch(build_backbone(replace(PLAIN, overlap=1), 3, 2, "sphere"), (4, 4))
    with pytest.raises(ValueError, match="coarsen"):
        replace(HIERARCHICAL, coarsen=(0, 1))


@pytest.mark.parametrize("config", [PLAIN, HIERARCHICAL])
def test_the_direct_map_starts_at_zero_and_adds_a_linear_map_of_each_cell(config) -> None:
    field = torch.randn(2, 3, 13, 24)
    torch.manual_seed(4)
    new = build_backbone(replace(config, direct=True), 3, 2, "sphere")
    torch.manual_seed(4)
    without = build_backbone(config, 3, 2, "sphere").state_dict()
    assert not run(new, field).any() and all(torch.equal(value, new.state_dict()[name]) for name, value in without.items())
    assert {"direct.weight", "direct.bias"} <= set(muon_parameters(new)[1])
    with torch.no_grad():
        new.direct.weight.copy_(torch.tensor([[0.5, 0.0, -1.0], [0.0, 2.0, 0.25]]))
        new.direct.bias.fill_(0.125)
    torch.testing.assert_close(run(new, field), torch.einsum("oc,bchw->bohw", new.direct.weight.detach(), field) + 0.125)


@pytest.mark.parametrize("boundary", ["sphere", "sphere_with_poles"])
@pytest.mark.parametrize("change", [{"patch": (1, 1)}, {"patch": (1, 3)}, {"patch": (1, 1), "coarsen": (1, 2)},
                                    {"patch": (1, 1), "weights_patch": (2, 2)}], ids=str)
@torch.no_grad()
def test_tokens_that_are_rows_of_the_grid_see_beyond_it_as_its_cells_do(boundary: Any, change: dict[str, Any]) -> None:
    """The rows that padding puts beyond the edges, or the same as part of the field: convolutions that are the same upside down do not tell."""
    torch.manual_seed(3)
    config = replace(PLAIN, mixer="identity", num_blocks=8, local=True, decoder_channels=5, **change)
    network = build_backbone(config, 3, 2, boundary)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        if parameter.ndim == 4:
            parameter += parameter.flip(2)
    field, around = torch.randn(2, 3, 7, 12), 5
    field[:, :, [0, -1]] += field[:, :, [0, -1]].roll(6, -1)  # where the row is the pole, half a turn leads to the same point
    continued = network(pad(field, around, 0, boundary))[:, :, around:-around]
    torch.testing.assert_close(network(field), continued, rtol=1e-4, atol=1e-5)
