"""Random rolls: whole cells, by an explicit generator, undone on the output."""

import pytest
import torch

from afno_forecast.nn.backbone import PlainConfig, build_backbone
from afno_forecast.nn.jitter import draw_roll, rolled


def test_the_generator_decides_and_nothing_else_is_drawn() -> None:
    state = torch.get_rng_state()
    draws = [[draw_roll("sphere", (9, 14), generator) for _ in range(50)] for generator in (torch.Generator().manual_seed(s) for s in (3, 3, 4))]
    assert draws[0] == draws[1] != draws[2] and torch.equal(state, torch.get_rng_state())
    assert {rows for rows, _ in draws[0]} == {0} and {columns for _, columns in draws[0]} >= {0, 13, 7}
    assert all(0 <= columns < 14 for _, columns in draws[0])


def test_only_what_wraps_around_is_rolled_and_no_further_than_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    torus = {draw_roll("periodic", (9, 14), generator, most=(2, 3)) for _ in range(200)}
    assert torus == {(row, column) for row in range(2) for column in range(3)}
    with pytest.raises(ValueError, match="a limited area cannot be rolled"):
        draw_roll("limited", (9, 14), generator)


@pytest.mark.parametrize("conditions", [0, 2])
def test_a_roll_by_patches_changes_nothing_and_one_by_cells_moves_the_patches(conditions: int) -> None:
    torch.manual_seed(0)
    network = build_backbone(PlainConfig(patch=(2, 4), width=16, depth=1, conditions=conditions), 3, 2, "periodic")
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    field, scalars = torch.randn(2, 3, 8, 16), ([torch.randn(2, conditions)] if conditions else [])
    with torch.no_grad():
        out = network(field, *scalars)
        assert (rolled(network, field, *scalars, roll=(2, 8)) - out).norm() <= 1e-5 * out.norm()
        for roll in ((1, 0), (0, 1), (0, 6)):
            assert (rolled(network, field, *scalars, roll=roll) - out).norm() > 0.05 * out.norm()
    assert torch.equal(rolled(lambda x: 2 * x, field, roll=(3, 5)), 2 * field)
