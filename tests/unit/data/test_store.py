import json
import shutil

import numpy as np
import pytest
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sources import open_source
from afno_forecast.data.store import Store, channel_names, is_store
from afno_forecast.errors import DataError


@pytest.fixture(scope="module")
def store(make_record, tmp_path_factory) -> Store:
    """23 times, 3 channels in 2 chunks, 4 shards."""
    folder = tmp_path_factory.mktemp("store")
    make_record(np.datetime64("2001-02-20T00", "ns") + np.arange(23) * np.timedelta64(12, "h")).to_netcdf(folder / "record.nc")
    return build_store(open_source(folder / "record.nc"), folder / "s.zarr", StoreSettings(shard_bytes=6 * 9 * 4 * 4 * 7, chunk_bytes=6 * 9 * 4 * 2))


def test_the_store_holds_the_source_in_canonical_order(store):
    raw = xr.open_dataset(store.path.parent / "record.nc").sortby("latitude")
    assert store.channels.names == ("geopotential@500", "geopotential@850", "2m_temperature")
    for i in (0, 6, 7, 22):
        state = store.read(i)
        assert state.shape == (3, 6, 9)
        assert state.dtype == np.float32
        np.testing.assert_array_equal(state[0], raw.z.sel(level=500)[i].values)
        np.testing.assert_array_equal(state[1], raw.z.sel(level=850)[i].values)
        np.testing.assert_array_equal(state[2], raw.t2m[i].values)
    np.testing.assert_array_equal(store.static()[0], raw.orography.values)
    assert store.grid.latitude[0] == -75
    assert store.times.format(22) == "2001-03-03T00"
    assert store.time_step == 43200
    raw.close()


def test_channels_are_read_in_the_order_asked_for(store):
    whole = store.read(9)
    np.testing.assert_array_equal(store.read(9, np.asarray([2, 0])), whole[[2, 0]])
    index = store.channel_index(store.channels.select(["t2m", "z850"]))
    np.testing.assert_array_equal(store.read(9, index), whole[[2, 1]])


def test_plain_xarray_and_zarr_read_the_same(store):
    with xr.open_zarr(store.path) as ds:
        assert ds.state.dims == ("time", "channel", "latitude", "longitude")
        assert ds.state.dtype == np.float32
        np.testing.assert_array_equal(ds.state.values, np.stack([store.read(i) for i in range(23)]))
        np.testing.assert_array_equal(ds.time.values, store.times.values())
        assert ds.channel.values.tolist() == list(store.channels.names)
        assert ds.channel_units.values.tolist() == ["m2 s-2", "m2 s-2", "K"]
        assert ds.channel_role.values.tolist() == ["prognostic"] * 3
        np.testing.assert_array_equal(ds.channel_level.values, [500, 850, np.nan])
        np.testing.assert_array_equal(ds["mean"].values, store.statistics.mean)
        assert ds["mean"].dtype == np.float64
        assert ds.climatology.dims == ("dayofyear", "hour", "channel", "latitude", "longitude")
        assert ds.climatology.sizes["dayofyear"] == 366
        assert ds.static.dims == ("static_channel", "latitude", "longitude")


def test_the_form_on_disk(store):
    meta = json.loads((store.path / "state" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [7, 4, 6, 9]
    inner = meta["codecs"][0]
    assert inner["name"] == "sharding_indexed"
    assert inner["configuration"]["chunk_shape"] == [1, 2, 6, 9]
    blosc = inner["configuration"]["codecs"][1]
    assert (blosc["configuration"]["cname"], blosc["configuration"]["shuffle"]) == ("lz4", "shuffle")
    assert inner["configuration"]["codecs"][-1] == {"name": "crc32c"}
    group = json.loads((store.path / "zarr.json").read_text())
    assert set(group["consolidated_metadata"]["metadata"]) == {p.parent.name for p in store.path.glob("*/zarr.json")}
    assert group["attributes"]["simulated"] == "simulated, not observed"
    assert "history" not in json.dumps(group)


def test_names_are_read_from_json_alone(store):
    assert is_store(store.path)
    assert channel_names(store.path) == list(store.channels.names)
    assert not is_store(store.path.parent / "record.nc")
    assert not is_store(store.path.parent / "absent")


def test_channels_match_by_name_level_and_units(store):
    with pytest.raises(DataError, match=r"no channel geopotential@300; wanted geopotential@300, 2m_temperature; there are geopotential@500"):
        store.channel_index(ChannelSet((Channel("geopotential", 300, "m2 s-2"), Channel("2m_temperature", None, "K"))))
    with pytest.raises(DataError, match="comes in 'K', wanted 'degC'"):
        store.channel_index(ChannelSet((Channel("2m_temperature", None, "degC"),)))


def test_what_is_no_finished_store_is_refused(store, tmp_path):
    with pytest.raises(DataError, match="there is no such store"):
        Store.open(tmp_path / "absent.zarr")
    with pytest.raises(DataError, match="not a training store"):
        Store.open(store.path.parent / "record.nc")
    broken = tmp_path / "broken.zarr"
    shutil.copytree(store.path, broken)
    text = (broken / "zarr.json").read_text()
    for change, message in (({"complete": False}, "unfinished"), ({"afno_forecast_store": 99}, "format 99"),
                            ({"time_step_seconds": None}, "attributes"), ({"channels": [1]}, "channels"),
                            ({"grid": {"kind": "latlon", "latitude": [0, 1], "longitude": [0, 1]}}, "shape")):
        group = json.loads(text)
        group["attributes"] |= change
        (broken / "zarr.json").write_text(json.dumps(group))
        with pytest.raises(DataError, match=message):
            Store.open(broken)
    (broken / "zarr.json").write_text(text[:-100])
    with pytest.raises(DataError, match="not a training store"):
        Store.open(broken)


def test_a_sound_store_verifies(store):
    assert store.verify() == []
