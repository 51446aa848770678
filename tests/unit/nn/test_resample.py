"""Weights of patches and whole fields on grids of another spacing."""

import pytest
import torch

from afno_forecast.nn.padding import BOUNDARIES
from afno_forecast.nn.patch import PatchEmbed, PatchRecovery
from afno_forecast.nn.resample import area_matrix, coarsen, spread


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def test_area_means_along_a_line() -> None:
    assert area_matrix(4, 2).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert area_matrix(1, 3).tolist() == [[1.0]] * 3
    torch.testing.assert_close(area_matrix(2, 3), torch.tensor([[1, 0], [0.5, 0.5], [0, 1]], dtype=torch.float64))
    for old, new in ((5, 3), (3, 7), (8, 8)):
        torch.testing.assert_close(area_matrix(old, new).sum(1), torch.ones(new, dtype=torch.float64))
        torch.testing.assert_close(area_matrix(old, new).mean(0), torch.full((old,), 1 / old, dtype=torch.float64), msg="the integral is kept")


@pytest.mark.parametrize("times", [(2, 1), (2, 3), (4, 4)])
def test_finer_cells_are_read_by_their_means_and_written_alike(times: tuple[int, int]) -> None:
    patch = (2, 3)
    embed, recover = PatchEmbed(2, 5, patch, "sphere"), PatchRecovery(5, 2, patch)
    fine = torch.randn(2, 4 * times[0], 9 * times[1], 2)
    coarse = torch.nn.functional.avg_pool2d(fine.permute(0, 3, 1, 2), times).permute(0, 2, 3, 1)
    tokens = embed(coarse)
    cells = recover(tokens, (4, 9))
    for part in (embed, recover):
        part.patch = (2 * times[0], 3 * times[1])
    torch.testing.assert_close(embed(fine), tokens, rtol=1e-5, atol=1e-5)
    expected = cells.repeat_interleave(times[0], 1).repeat_interleave(times[1], 2)
    torch.testing.assert_close(recover(tokens, (4 * times[0], 9 * times[1])), expected, rtol=1e-5, atol=1e-5)


def test_coarser_cells_are_read_as_if_repeated() -> None:
    embed = PatchEmbed(2, 5, (4, 6), "sphere")
    coarse = torch.randn(2, 6, 12, 2)
    expected = embed(coarse.repeat_interleave(2, 1).repeat_interleave(3, 2))
    embed.patch = (2, 2)
    torch.testing.assert_close(embed(coarse), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("cells", [(2, 2), (1, 3), (2, 1)])
def test_coarsen_and_spread(boundary, cells: tuple[int, int]) -> None:
    field = torch.randn(2, 3, 9, 14)
    means = coarsen(field, cells, boundary)
    assert means.shape == (2, 3, -(-9 // cells[0]), -(-14 // cells[1]))
    torch.testing.assert_close(means[..., 1, 2], field[..., cells[0] : 2 * cells[0], 2 * cells[1] : 3 * cells[1]].mean((-1, -2)))
    fine = spread(means, cells, (9, 14), "sphere" if boundary == "sphere_with_poles" else boundary)
    assert fine.shape == field.shape and fine.max() <= means.max() and fine.min() >= means.min()
    constant = torch.full((1, 1, 9, 14), 3.0)
    torch.testing.assert_close(spread(coarsen(constant, cells, boundary), cells, (9, 14), boundary), constant)


def test_spreading_is_linear_between_centres_and_wraps() -> None:
    means = torch.tensor([0.0, 4.0, 8.0, 4.0]).expand(1, 1, 1, 4)
    assert spread(means, (1, 2), (1, 8), "periodic")[0, 0, 0].tolist() == [1, 1, 3, 5, 7, 7, 5, 3]
    assert spread(means, (1, 1), (1, 4), "periodic") is means and coarsen(means, (1, 1), "periodic") is means


@pytest.mark.parametrize("boundary", ["sphere", "sphere_with_poles"])
def test_the_last_coarse_row_is_the_mean_of_what_is_left_before_the_pole(boundary) -> None:
    field = torch.randn(1, 2, 11, 9)
    means = coarsen(field, (4, 2), boundary)
    torch.testing.assert_close(means[:, :, 2, :4], field[:, :, 8:, :8].unflatten(-1, (4, 2)).mean((2, 4)))
    torch.testing.assert_close(means[:, :, 0, 4], (field[:, :, :4, 8] + field[:, :, :4, 0]).mean(2) / 2)  # columns go on round the globe


def test_wind_is_spread_over_the_pole_with_its_sign() -> None:
    rows, columns = 32, 64
    latitude = torch.pi * ((torch.arange(rows) + 0.5) / rows - 0.5)[:, None]
    longitude = 2 * torch.pi * (torch.arange(columns) + 0.5)[None] / columns
    across = torch.stack([longitude.cos().expand(rows, columns), latitude.sin() * longitude.sin(), latitude.cos() * longitude.cos()])[None]
    coarse, parity = coarsen(across, (2, 2), "sphere"), torch.tensor([-1.0, -1.0, 1.0])
    error = (spread(coarse, (2, 2), (rows, columns), "sphere", parity) - across).abs().amax((0, 3))
    assert error.max() < 0.02, "a wind that blows across the pole, and a scalar"
    assert (spread(coarse, (2, 2), (rows, columns), "sphere") - across)[:, :2, [0, -1]].abs().max() > 0.2, "without its sign it is bent"
