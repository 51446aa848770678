import numpy as np
import pytest

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.build import build_store
from afno_forecast.data.plan import StoreSettings
from afno_forecast.data.sample_data import NAMES, sample_path
from afno_forecast.data.sources import open_source
from afno_forecast.data.states import open_states
from afno_forecast.errors import ConfigError, DataError
from afno_forecast.times import parse_instant

CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"), Channel("geopotential", 850, "m2 s-2")))
STATIC = ChannelSet((Channel("orography", None, "m", "static"),))


def test_store_and_files_give_the_same_states(write_record, six_hourly, tmp_path):
    path = write_record(six_hourly(9))
    store = build_store(open_source(path), tmp_path / "s.zarr", StoreSettings(climatology=False))
    from_store, from_files = open_states(store.path, CHANNELS, STATIC), open_states(path, CHANNELS, STATIC)
    rows = np.asarray([7, 0, 3])
    states = from_files.read(rows)
    assert states.shape == (3, 2, 6, 9)
    assert states.dtype == np.float32
    np.testing.assert_array_equal(states, from_store.read(rows))
    np.testing.assert_array_equal(states[0], store.read(7)[[2, 1]])
    np.testing.assert_array_equal(from_files.static(), from_store.static())
    assert from_files.grid.matches(from_store.grid)
    assert from_store.orientation.is_canonical
    assert not from_files.orientation.is_canonical  # the file runs from north to south
    assert from_store.attrs["institution"] == from_files.attrs["institution"] == "simulated, not observed"
    assert any("geopotential@500" in note for note in from_store.notes)
    assert open_states(path, CHANNELS).static().shape == (0, 6, 9)


def test_dates_are_found_or_named_with_the_nearest(write_record, six_hourly):
    states = open_states(write_record(six_hourly(9)), CHANNELS)
    wanted = np.asarray([[parse_instant("2001-02-20T06"), parse_instant("2001-02-20T00")]])
    np.testing.assert_array_equal(states.index_of(wanted), [[1, 0]])
    with pytest.raises(DataError, match=r"no data for 2001-02-20T07, 2005-01-01T00; the record runs from 2001-02-20T00 to 2001-02-22T00") as caught:
        states.index_of([parse_instant("2001-02-20T07"), parse_instant("2005-01-01")])
    assert caught.value.fix == "the nearest dates are 2001-02-20T06, 2001-02-22T00"


def test_missing_channels_are_named_with_what_there_is(write_record, six_hourly, tmp_path):
    path = write_record(six_hourly(3))
    store = build_store(open_source(path), tmp_path / "s.zarr", StoreSettings(climatology=False))
    wanted = ChannelSet((*CHANNELS, Channel("geopotential", 300, "m2 s-2")))
    for data in (path, store.path):
        with pytest.raises(DataError, match=r"no channel geopotential@300.*there are") as caught:
            open_states(data, wanted)
        assert caught.value.exit_code == 3
    for data in (path, store.path):
        with pytest.raises(DataError, match="comes in 'K', wanted 'degC'"):
            open_states(data, ChannelSet((Channel("2m_temperature", None, "degC"),)))


def test_missing_values_are_counted_by_variable_with_the_date(write_record, six_hourly):
    def spoil(ds):
        ds.t2m[4, 2, 3:5] = np.nan
        return ds

    states = open_states(write_record(six_hourly(9), change=spoil), CHANNELS)
    assert np.isfinite(states.read([0, 3])).all()
    with pytest.raises(DataError, match=r"2m_temperature: 2 of 108, in 1 of 2 states, first 2001-02-21T00"):
        states.read([3, 4])


def test_the_shipped_files_are_there_and_the_gap_is_real():
    assert all(sample_path(name).exists() for name in NAMES if name.endswith((".nc", ".grib")))
    assert sum(p.stat().st_size for p in sample_path().parent.iterdir() if p.is_file()) < 20e6
    with pytest.raises(ConfigError, match="no sample file"):
        sample_path("else.nc")
    source = open_source(sample_path())
    assert len(source.channels) == 12
    assert source.static.names == ("orography", "land_sea_mask")
    steps = np.diff(source.times.seconds)
    assert (steps != 21600).sum() == 1
    assert source.times.format(0) == "2000-12-01T00"
    assert source.times.format(-1) >= "2002-02-05T18"
    assert "simulated" in source.attrs["institution"]
