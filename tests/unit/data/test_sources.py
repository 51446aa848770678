"""However a dataset is stored, it opens as the same canonical one; nothing changes meaning on the way."""

from __future__ import annotations

from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

from afno_forecast.data.sources import Source, open_source
from afno_forecast.errors import ConfigError, DataError

LATITUDE = np.array([-80.0, -40.0, 0.0, 40.0, 80.0])
LONGITUDE = np.arange(0, 360, 40.0)
TIMES = np.datetime64("2001-02-27T18", "ns") + np.arange(7) * np.timedelta64(6, "h")


def make(levels: tuple[int, ...] = (850, 500, 250), seed: int = 0) -> xr.Dataset:
    """Geopotential and temperature on levels in descending order, 2 m temperature, orography; nothing symmetric."""
    random = np.random.default_rng(seed)
    shape = (len(TIMES), len(levels), len(LATITUDE), len(LONGITUDE))
    level = ("time", "level", "latitude", "longitude")
    flat = ("time", "latitude", "longitude")
    return xr.Dataset(
        {"geopotential": (level, random.normal(5e4, 1e3, shape).astype("f4"), {"units": "m**2 s**-2", "standard_name": "geopotential"}),
         "t": (level, random.normal(260, 9, shape).astype("f4"), {"units": "K", "standard_name": "air_temperature"}),
         "t2m": (flat, random.normal(280, 9, (shape[0], *shape[2:])).astype("f4"), {"units": "K"}),
         "orography": (flat[1:], random.normal(300, 90, shape[2:]).astype("f4"), {"units": "m", "standard_name": "surface_altitude"})},
        {"time": TIMES, "level": ("level", list(levels), {"units": "hPa"}), "latitude": ("latitude", LATITUDE, {"units": "degrees_north"}),
         "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"})})


def written(ds: xr.Dataset, path: Path) -> Path:
    if path.suffix == ".zarr":
        ds.to_zarr(path, consolidated=False, zarr_format=2 if "v2" in path.name else 3)
    else:
        ds.to_netcdf(path, engine="netcdf4")
    return path


def assert_same(one: Source, other: Source) -> None:
    xr.testing.assert_equal(one.dataset.load(), other.dataset.load())
    assert set(one.channels.names) == set(other.channels.names)
    assert set(one.static.names) == set(other.static.names)


def messages(source: Source, severity: str = "note") -> str:
    return "\n".join(f"{n.message} [{n.where}]" for n in source.notes if n.severity == severity)


@pytest.fixture
def plain(tmp_path: Path) -> Source:
    return open_source(written(make(), tmp_path / "plain.nc"))


def test_canonical_form(plain: Source) -> None:
    ds = plain.dataset
    assert ds["geopotential"].dims == ("time", "level", "latitude", "longitude")
    assert ds["orography"].dims == ("latitude", "longitude")
    assert ds["level"].values.tolist() == [250, 500, 850]
    assert ds["level"].dtype.kind == "i"
    assert plain.channels.shorts == ("z250", "z500", "z850", "t250", "t500", "t850", "t2m")
    assert plain.static.shorts == ("orog",)
    assert {c.role for c in plain.channels} == {"prognostic"} and {c.role for c in plain.static} == {"static"}
    assert ds["geopotential"].attrs["units"] == "m2 s-2"
    assert all(v.chunks is not None and v.dtype == np.float32 for v in ds.data_vars.values())
    np.testing.assert_array_equal(ds["temperature"].sel(level=500).values, make()["t"].sel(level=500).values)
    assert not [n for n in plain.notes if n.severity == "refused"]


@pytest.mark.parametrize("name", ["store.zarr", "store_v2.zarr", "classic.nc", "hdf.h5"])
def test_formats_read_equal(plain: Source, tmp_path: Path, name: str) -> None:
    if name == "classic.nc":
        make().to_netcdf(tmp_path / name, format="NETCDF3_64BIT", engine="netcdf4")
        assert_same(open_source(tmp_path / name), plain)
    else:
        assert_same(open_source(written(make(), tmp_path / name)), plain)


def test_users_order_is_undone_and_remembered(plain: Source, tmp_path: Path) -> None:
    turned = make().isel(latitude=slice(None, None, -1))
    turned = turned.assign_coords(longitude=np.where(LONGITUDE >= 180, LONGITUDE - 360, LONGITUDE)).sortby("longitude")
    turned["longitude"].attrs["units"] = "degrees_east"
    for dims in (("time", "level", "longitude", "latitude"), ("longitude", "level", "latitude", "time")):
        path = written(turned.transpose(*dims, missing_dims="ignore"), tmp_path / f"{dims[0]}.nc")
        source = open_source(path)
        assert_same(source, plain)
        assert source.orientation.transposed
        assert source.orientation.latitude[0] == 80 and source.orientation.longitude[0] == -160
        back = source.orientation.from_canonical(source.dataset["2m_temperature"].values)
        np.testing.assert_array_equal(back, turned["t2m"].transpose("time", "longitude", "latitude").values)


def test_other_coordinate_names_and_pascal_levels(plain: Source, tmp_path: Path) -> None:
    ds = make().rename(latitude="lat", longitude="lon", level="plev", time="valid_time")
    ds = ds.assign_coords(plev=("plev", ds["plev"].values * 100.0, {"units": "Pa", "standard_name": "air_pressure"}))
    assert_same(open_source(written(ds, tmp_path / "cmip.nc")), plain)


def test_levels_in_names_are_gathered(plain: Source, tmp_path: Path) -> None:
    ds = make()
    flat = ds[["t2m", "orography"]].drop_vars("level", errors="ignore")
    for level in (500, 250, 850):
        flat[f"z{level}"] = ds["geopotential"].sel(level=level, drop=True)
        flat[f"t_{level}"] = ds["t"].sel(level=level, drop=True)
    assert_same(open_source(written(flat, tmp_path / "flat.nc")), plain)


def test_one_file_a_level_with_a_scalar_coordinate(plain: Source, tmp_path: Path) -> None:
    for level in (250, 500, 850):
        written(make()[["geopotential", "t"]].sel(level=level), tmp_path / f"part_{level}.nc")
    written(make()[["t2m", "orography"]], tmp_path / "part_surface.nc")
    assert_same(open_source(str(tmp_path / "part_*.nc")), plain)


def test_variables_on_different_levels_share_one_axis(tmp_path: Path) -> None:
    ds = make().drop_vars("t")
    ds["u250"] = ds["geopotential"].sel(level=250, drop=True).assign_attrs(units="m s-1", standard_name="eastward_wind")
    source = open_source(written(ds.sel(level=[500, 850]), tmp_path / "a.nc"))
    assert source.dataset["level"].values.tolist() == [250, 500, 850]
    assert "u_component_of_wind@250" in source.channels.names and "u_component_of_wind@500" not in source.channels.names
    assert np.isnan(source.dataset["u_component_of_wind"].sel(level=500)).all()
    assert np.isfinite(source.channels.pack(source.dataset).numpy()).all()


def test_files_along_time_and_by_variable(plain: Source, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i, part in enumerate((slice(4, 7), slice(0, 4))):  # in the wrong order by name
        written(make()[["geopotential", "t", "orography"]].isel(time=part), folder / f"{i}_levels.nc")
    written(make()[["t2m"]], folder / "surface.nc")
    assert_same(open_source(folder), plain)


def test_degrees_celsius_hectopascal_and_heights_are_converted_with_a_note(plain: Source, tmp_path: Path) -> None:
    ds = make()
    ds["t"] = (ds["t"].astype("f8") - 273.15).assign_attrs(units="degC", standard_name="air_temperature")
    ds["z"] = (ds["geopotential"].astype("f8") / 9.80665).assign_attrs(units="gpm", standard_name="geopotential_height")
    ds["psl"] = (ds["t2m"] + 700).assign_attrs(units="hPa", standard_name="air_pressure_at_sea_level")
    source = open_source(written(ds.drop_vars("geopotential"), tmp_path / "odd.nc"))
    for name in ("geopotential", "temperature"):
        np.testing.assert_allclose(source.dataset[name].values, plain.dataset[name].values, rtol=3e-7)
    np.testing.assert_allclose(source.dataset["mean_sea_level_pressure"].values, (ds["t2m"].values + 700) * 100, rtol=1e-6)
    for text in ("'t' converted from degC to K", "'z' converted from gpm to m2 s-2", "'psl' converted from hPa to Pa"):
        assert text in messages(source)


def test_a_name_never_overrides_standard_name_and_units(tmp_path: Path) -> None:
    ds = make()
    ds["tp"] = ds["t2m"].assign_attrs(units="kg m-2 s-1", standard_name="precipitation_flux")
    ds["w"] = ds["t2m"].assign_attrs(units="K", standard_name="air_potential_temperature")
    ds["u100"] = ds["t2m"].assign_attrs(units="m s-1", long_name="100 metre U wind component")
    ds["tas"] = ds["t2m"].assign_attrs(units="K", standard_name="air_temperature", cell_methods="time: maximum")
    source = open_source(written(ds.drop_vars("t2m"), tmp_path / "names.nc"))
    assert {"precipitation_flux", "air_potential_temperature", "100m_u_component_of_wind", "2m_temperature_maximum"} <= set(source.channels.names)
    assert not {"total_precipitation", "vertical_velocity", "u_component_of_wind@100", "2m_temperature"} & set(source.channels.names)


def test_a_size_one_height_names_the_variable(tmp_path: Path) -> None:
    ds = make()[["t2m"]].rename(t2m="t").assign_coords(height=("height", [2.0], {"units": "m"}))
    ds["t"] = ds["t"].expand_dims("height", 1).assign_attrs(units="K", standard_name="air_temperature")
    source = open_source(written(ds, tmp_path / "height.nc"))
    assert source.channels.names == ("2m_temperature",)
    assert "'height' of size one" in messages(source)


@pytest.mark.parametrize(("height", "with_standard_name"), [(2.0, True), (2.0, False), (100.0, True)])
def test_a_scalar_height_is_that_of_a_name_with_a_level_only_where_the_two_are_equal(tmp_path: Path, height: float, with_standard_name: bool) -> None:
    ds = make()[["t2m"]].rename(t2m="tas").assign_coords(height=((), height, {"units": "m"}))
    wind = ("m s-1", "eastward_wind")
    kinds = {"t850": ("K", "air_temperature"), "z500": ("m2 s-2", "geopotential"), "u850": wind, "u100": wind}
    for number, (name, (units, standard_name)) in enumerate(kinds.items()):
        ds[name] = (ds["tas"] + number).assign_attrs(units=units, **({"standard_name": standard_name} if with_standard_name else {}))
    source = open_source(written(ds, tmp_path / "a.nc"))
    high = "100m_u_component_of_wind" if height == 100 else "u_component_of_wind@100"
    assert set(source.channels.names) == {"2m_temperature", "temperature@850", "geopotential@500", "u_component_of_wind@850", high}
    np.testing.assert_array_equal(source.dataset["temperature"].sel(level=850).values, ds["t850"].values)
    assert f"the height {height:g} m beside 't850' is not its level: ignored" in messages(source)


@pytest.mark.parametrize("name", ["forecast_reference_time", "valid_time"])
def test_a_scalar_time_beside_a_series_is_not_that_of_constant_fields(tmp_path: Path, name: str) -> None:
    ds = make().drop_vars("orography").assign_coords({name: ((), TIMES[2], {"standard_name": name if "_ref" in name else "time"})})
    ds["slt"] = (("latitude", "longitude"), np.arange(45.0).reshape(5, 9), {"units": "1"})
    source = open_source(written(ds, tmp_path / "a.nc"))
    assert len(source.times) == 7 and source.static.names == ("slt",) and "slt" not in source.channels.names
    alone = open_source(written(ds[["slt"]], tmp_path / "b.nc"))
    assert len(alone.times) == 1 and alone.channels.names == ("slt",)


@pytest.mark.parametrize("standard_name", ["lwe_thickness_of_precipitation_amount", "precipitation_amount", "thickness_of_rainfall_amount"])
def test_an_amount_of_precipitation_without_hours_is_known_by_each_standard_name(tmp_path: Path, standard_name: str) -> None:
    ds = make()[["t2m"]].rename(t2m="rain")
    ds["rain"].attrs = {"units": "m", "standard_name": standard_name}
    assert open_source(written(ds, tmp_path / "a.nc")).channels.names == ("total_precipitation",)


def test_a_scalar_height_is_not_that_of_an_unknown_name_with_another_number(tmp_path: Path) -> None:
    ds = make()[["t2m"]].rename(t2m="tas").assign_coords(height=((), 10.0, {"units": "m"}))
    for name in ("ta850", "tk10"):
        ds[name] = (ds["tas"] + 1).assign_attrs(standard_name="air_temperature", units="K")
    source = open_source(written(ds[["ta850", "tk10"]], tmp_path / "a.nc"))
    assert set(source.channels.names) == {"ta850", "10m_temperature"}
    assert "'ta850' (air_temperature) has no level or height: kept under its own name" in messages(source)


def test_unknown_quantities_keep_names_and_units(tmp_path: Path) -> None:
    ds = make()[["t2m"]].rename(t2m="concentration")
    ds["concentration"].attrs = {"units": "mol m**-3"}
    source = open_source(written(ds, tmp_path / "pde.nc"))
    assert [(c.name, c.units) for c in source.channels] == [("concentration", "mol m-3")]


@pytest.mark.parametrize(("calendar", "start"), [("noleap", (1999, 2, 28)), ("360_day", (1999, 2, 30)), ("julian", (1400, 2, 29)),
                                                 ("standard", (1582, 10, 4)), ("proleptic_gregorian", (850, 2, 28))])
def test_calendars_and_old_dates(tmp_path: Path, calendar: str, start: tuple[int, int, int]) -> None:
    dates = xr.date_range(cftime.datetime(*start, calendar=calendar), periods=7, freq="6h", use_cftime=True)
    source = open_source(written(make().assign_coords(time=dates), tmp_path / "old.nc"))
    assert source.times.calendar == calendar
    assert (np.diff(source.times.seconds) == 21600).all()
    assert source.times.format(0) == f"{start[0]:04d}-{start[1]:02d}-{start[2]:02d}T00"
    assert source.dataset["time"].shape == (7,)


def test_wanted_channels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = written(make(), tmp_path / "a.nc")
    source = open_source(path, channels=["t2m", "z500", "orography"])
    assert source.channels.shorts == ("t2m", "z500") and source.static.shorts == ("orog",)
    assert "temperature" not in source.dataset
    with pytest.raises(DataError, match=r"no channel z501, q700; there are z250, z500, z850, t250, .*, t2m, orog"):
        open_source(path, channels=["t2m", "z501", "z500", "q700"])


def test_a_wanted_channel_that_was_refused_says_why(tmp_path: Path) -> None:
    ds = make()
    ds["q700"] = ds["t2m"].assign_attrs(units="furlong")
    path = written(ds, tmp_path / "a.nc")
    assert "'q700' comes in 'furlong'" in messages(open_source(path), "refused")
    with pytest.raises(DataError, match=r"no channel q700 .*furlong"):
        open_source(path, channels=["q700", "t2m"])


@pytest.mark.parametrize("path", ["https://example.org/a.nc", "simplecache::a.nc", "s3://bucket/a.zarr", "reference://x", "file:///etc/passwd"])
def test_only_local_paths(path: str) -> None:
    with pytest.raises(ConfigError, match="not a local path"):
        open_source(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    written(make(), tmp_path / "era5_2001.nc")
    with pytest.raises(DataError, match=r"did you mean '.*era5_2001\.nc'"):
        open_source(tmp_path / "era_2001.nc")


def test_a_constant_with_times_becomes_a_constant(tmp_path: Path) -> None:
    ds = make()
    ds["lsm"] = (ds["orography"] > 300).astype("f4").expand_dims(time=ds["time"]).assign_attrs(units="(0 - 1)")
    source = open_source(written(ds, tmp_path / "lsm.nc"))
    assert source.static.shorts == ("orog", "lsm")
    assert source.dataset["land_sea_mask"].dims == ("latitude", "longitude")


def test_a_scalar_level_beside_surface_variables_is_not_theirs(tmp_path: Path) -> None:
    source = open_source(written(make().sel(level=500), tmp_path / "a.nc"))
    assert source.channels.shorts == ("z500", "t500", "t2m") and source.static.shorts == ("orog",)
    assert "scalar level 500 hPa beside 't2m'" in messages(source)


def test_two_variables_for_one_quantity(tmp_path: Path) -> None:
    ds = make()
    ds["other"] = (ds["t"] + 1).assign_attrs(ds["t"].attrs)
    source = open_source(written(ds, tmp_path / "a.nc"))
    np.testing.assert_array_equal(source.dataset["temperature"].sel(level=850).values, ds["t"].sel(level=850).values)
    assert "'other' is temperature too; 't' is used" in messages(source, "refused")
    ds["2t"] = (ds["t2m"] + 1).assign_attrs(units="K")
    with pytest.raises(DataError, match="'t2m' and '2t' are both 2m_temperature"):
        open_source(written(ds, tmp_path / "b.nc"))


def test_weatherbench_layout(tmp_path: Path) -> None:
    ds = make().rename(t="temperature", t2m="2m_temperature").transpose("time", "level", "longitude", "latitude", missing_dims="ignore")
    ds["level"].attrs = {}
    ds["land_sea_mask"] = (ds["orography"] > 0).astype("f4").drop_attrs()
    ds.to_zarr(tmp_path / "wb2.zarr", zarr_format=2, consolidated=True, encoding={"geopotential": {"chunks": (1, 3, 9, 5)}})
    source = open_source(tmp_path / "wb2.zarr")
    assert source.orientation.transposed and source.static.shorts == ("lsm", "orog") and len(source.channels) == 7
    np.testing.assert_array_equal(source.dataset["geopotential"].sel(level=500).values, make()["geopotential"].sel(level=500).values)


def test_numbered_levels_are_not_pressures(tmp_path: Path) -> None:
    ds = make()[["t"]].assign_coords(level=("level", [1, 2, 3]))
    with pytest.raises(DataError, match="'t' is on 'level', which is not pressure"):
        open_source(written(ds, tmp_path / "a.nc"))


def test_a_grib_series_on_levels(shared_data: Path, tmp_path: Path) -> None:
    """The first step of each start is a series of states."""
    pytest.importorskip("cfgrib")
    import eccodes

    with (shared_data / "real" / "earthkit_pl_regular_ll.grib").open("rb") as file, (tmp_path / "first.grib").open("wb") as out:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            if eccodes.codes_get(message, "step", int) == 0:
                out.write(eccodes.codes_get_message(message))
            eccodes.codes_release(message)
    source = open_source(tmp_path / "first.grib", channels=["t850", "r1000", "u300"])
    assert source.channels.shorts == ("t850", "r1000", "u300") and len(source.times) == 4
    assert (np.diff(source.times.seconds) == 43200).all()
    assert 230 < float(source.dataset["temperature"].sel(level=850).mean()) < 300


def test_grib_and_netcdf_twins_read_equal(shared_data: Path) -> None:
    pytest.importorskip("cfgrib")
    before = sorted((shared_data / "real").iterdir())
    grib = open_source(shared_data / "real" / "earthkit_test4.grib")
    twin = open_source(shared_data / "real" / "earthkit_test4.nc")
    assert sorted((shared_data / "real").iterdir()) == before
    assert set(grib.channels.channels) == set(twin.channels.channels)
    for name in ("time", "level", "latitude", "longitude"):
        np.testing.assert_array_equal(grib.dataset[name].values, twin.dataset[name].values)
    with xr.open_dataset(shared_data / "real" / "earthkit_test4.nc", engine="netcdf4") as raw:
        packing = {"geopotential": raw["z"].encoding["scale_factor"], "temperature": raw["t"].encoding["scale_factor"]}
    for name, step in packing.items():  # the netCDF file holds 16-bit integers
        one, two = grib.dataset[name].values, twin.dataset[name].values
        assert np.abs(one.astype("f8") - two).max() <= 0.5 * step + np.spacing(one.max())
        assert grib.dataset[name].attrs["units"] == twin.dataset[name].attrs["units"]


def test_real_files(shared_data: Path) -> None:
    two = open_source([shared_data / "real" / "era5_msl_2025120100_2.5deg.nc", shared_data / "real" / "era5_uv850_2025120100_2.5deg.nc"])
    assert set(two.dataset.data_vars) == {"mean_sea_level_pressure", "u_component_of_wind", "v_component_of_wind"}
    assert len(two.times) == 0 and len(two.channels) == 0
    years = open_source(str(shared_data / "speedy_*.nc"))
    assert len(years.times) == 2919 and set(np.diff(years.times.seconds)) == {21600}
    assert set(years.channels.shorts) == {"z500", "z850", "t500", "t850", "u250", "u850", "v250", "v850", "q700", "sp", "t2m", "pr"}
    assert years.static.shorts == ("orog", "lsm")


def test_a_forecast_is_not_a_series_of_analyses(shared_data: Path) -> None:
    pytest.importorskip("cfgrib")
    with pytest.raises(DataError, match=r"forecast of 2 steps from 4 starts.*isel\(step=0\)"):
        open_source(shared_data / "real" / "earthkit_pl_regular_ll.grib")
    single = open_source(shared_data / "real" / "cfgrib_regular_ll_msl.grib")
    assert single.times.format(0) == "2006-10-07T00"  # 2006-10-04 and three days
    assert "72 h after its start" in messages(single)
