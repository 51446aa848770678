import numpy as np
import pytest

from afno_forecast.data.statistics import Moments, PartialStatistics

RNG = np.random.default_rng(0)
AREAS = RNG.uniform(0.2, 1.8, (3, 5))


def states(n: int = 11, offset: float = 0.0) -> np.ndarray:
    return (offset + RNG.normal(size=(n, 2, 3, 5))).astype(np.float32)


def expected(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = np.broadcast_to(AREAS, values.shape).astype(np.longdouble)
    exact = values.astype(np.longdouble)
    mean = (exact * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3))
    variance = ((exact - mean[None, :, None, None]) ** 2 * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3))
    return mean.astype(float), np.sqrt(variance).astype(float)


@pytest.mark.parametrize("cuts", [[], [1], [4, 5], list(range(1, 11))])
def test_any_division_into_blocks_gives_the_same_statistics(cuts):
    values = states(offset=5e4)  # the size of geopotential: a naive sum of squares in float32 loses everything
    merged = Moments.empty(2)
    for part in np.split(values, cuts):
        merged = merged.merge(Moments.of(part, AREAS))
    mean, std = expected(values)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(merged.std(), std, rtol=1e-10)
    np.testing.assert_array_equal(merged.minimum, values.min((0, 2, 3)))
    np.testing.assert_array_equal(merged.maximum, values.max((0, 2, 3)))


def test_merging_with_nothing_changes_nothing():
    some = Moments.of(states(), AREAS)
    for merged in (some.merge(Moments.empty(2)), Moments.empty(2).merge(some), some.merge(Moments.of(states(0), AREAS))):
        np.testing.assert_array_equal(merged.mean, some.mean)
        np.testing.assert_array_equal(merged.std(), some.std())
    assert np.isnan(Moments.empty(2).std()).all()


def test_a_constant_channel_has_std_exactly_zero():
    values = states()
    values[:, 1] = np.float32(0.1)
    merged = Moments.of(values[:3], AREAS).merge(Moments.of(values[3:], AREAS))
    assert merged.std()[1] == 0.0
    assert merged.std()[0] > 0


def test_a_saved_part_comes_back_to_the_last_bit_without_pickle(tmp_path):
    part = PartialStatistics(Moments.of(states(), AREAS), Moments.of(states(3), AREAS))
    part.save(tmp_path / "part.npz")
    back = PartialStatistics.load(tmp_path / "part.npz")
    np.testing.assert_array_equal(back.state.squares, part.state.squares)
    np.testing.assert_array_equal(back.tendency.mean, part.tendency.mean)
    assert [p.name for p in tmp_path.iterdir()] == ["part.npz"]
