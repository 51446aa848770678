"""What is kept of a forecast: chosen by name, level, lead and region, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.errors import ConfigError
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.forecast.selection import Selection, select_leads
from afno_forecast.forecast.session import Batch, open_session, plan_batches
from afno_forecast.grid import BoxGrid, Orientation

H = 3600
USER = Orientation(np.linspace(80, -80, 9), np.arange(12) * 30.0)


def test_leads_are_chosen_by_list_or_by_spacing() -> None:
    assert select_leads(24 * H, 6 * H) == (1, 2, 3, 4)
    assert select_leads(24 * H, 6 * H, every=12 * H) == (2, 4)
    assert select_leads(48 * H, 6 * H, leads=(24 * H, 6 * H)) == (1, 4)
    for wrong, word in (({"lead_time": 7 * H}, "--lead-time"), ({"lead_time": 24 * H, "leads": (5 * H,)}, "--leads"),
                        ({"lead_time": 24 * H, "every": 9 * H}, "--output-every"),
                        ({"lead_time": 48 * H, "every": 18 * H}, r"2d, is none of those every 18h.*\n.*\n.*--lead-time 36h or 54h"),
                        ({"lead_time": 6 * H, "leads": (24 * H,)}, "ends at 6h, before 1d"),
                        ({"lead_time": 24 * H, "leads": (6 * H,), "every": 6 * H}, "contradict")):
        with pytest.raises(ConfigError, match=word):
            select_leads(time_step=6 * H, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("region", "rows", "columns"), [
    ((0, 90, 0, 60), [60, 40, 20, 0], [0, 30, 60, 90]), ((-60, 30, 20, 40), [40, 20], [-60, -30, 0, 30]),
    ((300, 30, 20, 40), [40, 20], [-60, -30, 0, 30]), ((-180, 180, -40, -20), [-20, -40], list(range(0, 360, 30))),
    ((170, 200, 20, 40), None, None),
])
def test_a_region_is_cut_in_the_users_order_without_a_jump(region: tuple[float, float, float, float], rows: list[int] | None,
                                                          columns: list[int] | None) -> None:
    if rows is None or columns is None:
        with pytest.raises(ConfigError, match=r"2 x 1 cells.*\n.*\n.*widen"):
            Selection(region=region).crop(USER)
        return
    crop = Selection(region=region).crop(USER)
    assert crop is not None
    assert crop.orientation.latitude.tolist() == rows and crop.orientation.longitude.tolist() == columns
    field = (1000 * USER.latitude[:, None] + USER.longitude[None, :]).astype(np.float32)
    expected = 1000 * np.array(rows)[:, None] + np.mod(columns, 360)[None, :]
    np.testing.assert_array_equal(crop.apply(field), expected)
    sideways = Selection(region=region).crop(Orientation(USER.latitude, USER.longitude, transposed=True))
    assert sideways is not None
    np.testing.assert_array_equal(sideways.apply(field.T), expected.T)


@pytest.mark.parametrize(("longitude", "region", "kept"), [
    (np.r_[0:180, -180:0], (-3, 3, -2, 2), range(-3, 4)), (np.r_[0:180, -180:0], (178, -178, -2, 2), range(-182, -177)),
    (np.r_[350:360, 0:11], (-3, 3, -2, 2), range(-3, 4)), (np.r_[350:360, 0:11], (2, 5, -2, 2), range(2, 6)),
    (np.r_[180:-180:-1], (178, -178, -2, 2), range(-178, -183, -1)), (np.r_[180:-180:-1], (-3, 3, -2, 2), range(3, -4, -1)),
    (np.r_[359:-1:-1], (-3, 3, -2, 2), range(3, -4, -1)),
])
def test_a_region_keeps_the_direction_of_longitudes_that_wrap_or_descend(longitude: np.ndarray, region: tuple[float, float, float, float],
                                                                         kept: range) -> None:
    user = Orientation(np.arange(-5.0, 6), longitude.astype(float))
    crop = Selection(region=region).crop(user)
    assert crop is not None
    assert crop.orientation.longitude.tolist() == list(kept)
    field = np.mod(longitude, 360) * np.ones((11, 1))
    np.testing.assert_array_equal(crop.apply(field.astype(np.float32))[0], np.mod(list(kept), 360))


def test_a_region_that_is_none_or_on_a_box_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a region"):
        Selection(region=(0, 90, 60, 0)).crop(USER)
    with pytest.raises(ConfigError, match="no meaning on a box"):
        Selection(region=(0, 90, 0, 60)).crop(BoxGrid(np.arange(4.0), np.arange(5.0)))


def test_a_region_beside_a_limited_area_is_refused() -> None:
    area = Orientation(np.arange(50.0, 55), np.arange(10.0, 30))
    for region, cells in (((-100, -60, 50, 54), "5 x 0"), ((10, 20, 10, 20), "0 x 11"), ((-100, -60, 10, 20), "0 x 0")):
        with pytest.raises(ConfigError, match=rf"the region has {cells} cells"):
            Selection(region=region).crop(area)


def test_what_is_kept_is_what_the_whole_file_holds_there(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    def ask(name: str, **options: object) -> xr.Dataset:
        out = tmp_path / name
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06", lead_time=24 * H, out=out, options=Options(**options), echo=[].append)
        with xr.open_dataset(out) as ds:
            return ds.load()

    whole = ask("whole.nc")
    part = ask("part.zarr", leads=(12 * H, 24 * H), selection=Selection(("z500", "t2m"), region=(-60, 60, -30, 60)))
    assert set(part.data_vars) == {"geopotential", "2m_temperature"} and part.level.values.tolist() == [500]
    assert part.longitude.values.tolist() == [-60, -30, 0, 30, 60] and part.sizes["prediction_timedelta"] == 2
    for name in part.data_vars:
        there = whole[name].sel(prediction_timedelta=part.prediction_timedelta, latitude=part.latitude)
        there = there.sel(longitude=np.mod(part.longitude.values, 360))
        there = there.sel(level=part.level) if "level" in part[name].dims else there
        np.testing.assert_array_equal(part[name].values, there.values)
    with pytest.raises(ConfigError, match=r"no z850; it has z500, t2m, u250"):
        ask("x.nc", selection=Selection(("z850",)))
    with pytest.raises(ConfigError, match=r"no variable is at 700 hPa; there are 250, 500"):
        ask("x.nc", selection=Selection(levels=(700,)))


@pytest.mark.parametrize(("inits", "members", "batch", "models"), [(5, 1, 2, 1), (3, 7, 3, 1), (4, 2, 5, 1), (2, 5, 2, 2), (3, 3, 8, 3)])
def test_batches_hold_every_forecast_once_and_no_more_than_asked(inits: int, members: int, batch: int, models: int) -> None:
    clusters = plan_batches(inits, members, batch, models)
    flat = [(b.model, f) for cluster in clusters for b in cluster for f in b.forecasts]
    assert sorted(f for _, f in flat) == [(i, m) for i in range(inits) for m in range(members)]
    assert all(f[1] % models == model for model, f in flat)
    assert max(len(b.forecasts) for cluster in clusters for b in cluster) <= batch
    for cluster in clusters:
        there = {f for b in cluster for f in b.forecasts}
        assert all((i, m) in there for i, _ in there for m in range(members)), "all members of an init time are in one list"
    assert isinstance(clusters[0][0], Batch)


def test_a_session_is_a_loop_of_a_line(tiny_model: Path, tiny_store: Path) -> None:
    seen = []
    for state in open_session(tiny_model, tiny_store, init="2001-01-20T06", lead_time="12h", members=1):
        ds = state.to_xarray()
        seen.append((state.lead_time, ds["geopotential"].sel(level=500).dims, ds["number"].values.tolist()))
        init = np.datetime64("2001-01-20T06")
        assert ds["time"].values[0] == init and ds["valid_time"].values[0] == init + state.lead_time
        assert ds["2m_temperature"].attrs["units"] == "K" and 200 < ds["2m_temperature"].mean() < 320
    assert [int(s[0] / np.timedelta64(1, "h")) for s in seen] == [6, 12]
    assert seen[0][1:] == (("forecast", "latitude", "longitude"), [1])
