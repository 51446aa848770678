"""The standard deviation of the change over any step, against sums written out here."""

import numpy as np
import pytest

from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store
from afno_forecast.data.tendencies import tendency_std
from afno_forecast.errors import DataError

H = 3600


@pytest.fixture(scope="module")
def store(make_record, tmp_path_factory) -> Store:
    """40 times, 6-hourly, two of them missing; statistics of all but the first two and the last five."""
    folder = tmp_path_factory.mktemp("tendencies")
    times = np.delete(np.datetime64("2001-02-20T00", "ns") + np.arange(42) * np.timedelta64(6, "h"), [11, 19])
    make_record(times).to_netcdf(folder / "record.nc")
    seconds = times.astype("datetime64[s]").astype(int)
    return build_store(open_source(folder / "record.nc"), folder / "s.zarr",
                       StoreSettings(climatology=False, shard_bytes=9000, statistics_period=(int(seconds[2]), int(seconds[-6]))))


def by_hand(store: Store, index: np.ndarray, step: int) -> np.ndarray:
    start, end = store.statistics.period
    states = {int(s): store.read(i)[index].astype(float) for i, s in enumerate(store.times.seconds) if start <= s <= end}
    pairs = np.stack([states[s + step] - states[s] for s in states if s + step in states])
    weights = store.grid.area_weights() / store.grid.area_weights().sum()
    mean = (pairs * weights).sum((2, 3)).mean(0)
    return np.sqrt(((pairs - mean[:, None, None]) ** 2 * weights).sum((2, 3)).mean(0))


@pytest.mark.parametrize("block_bytes", [1, 1000, 5000, 1 << 25])
def test_every_step_by_hand_in_any_blocks(store, block_bytes):
    index = np.asarray([2, 0])
    found = tendency_std(store, index, [6 * H, 12 * H, 24 * H, 66 * H], block_bytes=block_bytes)
    assert list(found) == [6 * H, 12 * H, 24 * H, 66 * H]
    for step, values in found.items():
        np.testing.assert_allclose(values, by_hand(store, index, step), rtol=1e-5)  # differences of float32
        np.testing.assert_allclose(values, tendency_std(store, index, [step])[step], rtol=1e-12)


def test_the_store_s_own_step_gives_the_store_s_own_number(store):
    index = np.arange(len(store.channels))
    np.testing.assert_allclose(tendency_std(store, index, [store.time_step])[store.time_step], store.statistics.tendency_std, rtol=1e-12)


def test_a_step_that_no_two_states_span_is_refused(store):
    with pytest.raises(DataError, match="no two states are 9h or 50d apart in the period of the statistics, 2001-02-20T12 to "):
        tendency_std(store, np.asarray([0]), [6 * H, 9 * H, 1200 * H])
