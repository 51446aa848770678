"""Noise fields: variance, smoothness and independence as stated; a function of seed, channel, member and valid time alone."""

import numpy as np
import pytest
import torch

from afno_forecast.errors import ConfigError
from afno_forecast.grid import BoxGrid, LatLonGrid
from afno_forecast.noise import NoiseDraw, NoiseFields
from afno_forecast.sphere import EARTH_RADIUS_KM, matern_spectrum, truncation

GRID = LatLonGrid((np.arange(13) + 0.5) / 13 * 180 - 90, np.arange(20) * 18.0)


def fields(members: list[int], seconds: list[int], *, seed: int = 5, noise: NoiseFields | None = None) -> torch.Tensor:
    return (noise or NoiseFields([800.0, 4000.0], GRID))(NoiseDraw(seed, np.asarray(members)), np.asarray(seconds))


def test_a_field_depends_on_its_seed_channel_member_and_time_alone() -> None:
    whole = fields([0, 1, 7], [3600, 0, -7200])
    torch.testing.assert_close(fields([7], [-7200])[0], whole[2], rtol=0, atol=1e-6)  # on its own, in another place of the batch
    others = [fields([8], [-7200]), fields([7], [-3600]), fields([7], [-7200], seed=6), whole[:1]]
    assert all((other[0] - whole[2]).abs().max() > 0.5 for other in others)
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 0.5


def test_variance_is_one_everywhere_and_scales_are_those_of_the_spectrum() -> None:
    number = 3000
    drawn = fields(list(range(number)), [0] * number).double()
    assert drawn.mean((0, 2, 3)).abs().max() < 0.05
    assert (drawn.var(0) - 1).abs().max() < 0.2
    degree = truncation(GRID)
    angle = np.deg2rad(18.0)
    for channel, length in enumerate((800.0, 4000.0)):
        power = (2 * np.arange(degree + 1) + 1) * matern_spectrum(degree, length) / (4 * np.pi)
        expected = np.polynomial.legendre.legval(np.cos(angle), power)  # correlation at an angular distance
        equator = drawn[:, channel, 6]
        found = float((equator * equator.roll(1, -1)).mean())
        assert found == pytest.approx(expected, abs=0.03), (length, EARTH_RADIUS_KM)
    assert abs(float((drawn[:, 0] * drawn[:, 1]).mean())) < 0.02


def test_some_rows_of_the_fields_are_those_rows_of_the_whole() -> None:
    noise = NoiseFields([800.0, 4000.0], GRID)
    whole = fields([2, 3], [0, 60], noise=noise)
    noise.keep_rows(slice(4, 9))
    torch.testing.assert_close(fields([2, 3], [0, 60], noise=noise), whole[..., 4:9, :], rtol=0, atol=1e-6)


def test_on_a_box_there_is_none() -> None:
    with pytest.raises(ConfigError, match="fields on the sphere"):
        NoiseFields([1.0], BoxGrid(np.arange(8) * 0.5, np.arange(10) * 1.0))
