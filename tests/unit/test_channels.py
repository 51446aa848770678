"""The border between names and tensors."""

import numpy as np
import pytest
import torch
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError, DataError
from afno_forecast.vocabulary import VARIABLES, known_names, short_name, split_name

SHUFFLED = ChannelSet((Channel("geopotential", 850, "m2 s-2"), Channel("2m_temperature", None, "K"), Channel("geopotential", 500, "m2 s-2"),
                       Channel("u_component_of_wind", 250, "m s-1"), Channel("geopotential", 1000, "m2 s-2")))


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_unpack_and_pack_are_inverse(leading: tuple[int, ...]) -> None:
    x = torch.randn(*leading, len(SHUFFLED), 5, 8, generator=torch.Generator().manual_seed(1))
    names = ("time", "prediction_timedelta")[2 - len(leading):]
    coords = {**{n: np.arange(s) for n, s in zip(names, leading, strict=True)}, "latitude": np.linspace(-80, 80, 5), "longitude": np.arange(8) * 45.0}
    ds = SHUFFLED.unpack(x, coords)
    assert ds["geopotential"].sel(level=850).dims == (*names, "latitude", "longitude")
    assert ds["geopotential"].level.values.tolist() == [500, 850, 1000] or set(ds["level"].values.tolist()) == {250, 500, 850, 1000}
    assert torch.equal(SHUFFLED.pack(ds), x)


def test_pack_follows_names_not_positions() -> None:
    x = torch.randn(len(SHUFFLED), 5, 8)
    ds = SHUFFLED.unpack(x, {"latitude": np.arange(5), "longitude": np.arange(8)})
    shuffled = ds[["u_component_of_wind", "2m_temperature", "geopotential"]].isel(level=[2, 0, 3, 1])
    assert torch.equal(SHUFFLED.pack(shuffled), x)


def test_what_is_missing_or_in_other_units_is_refused() -> None:
    ds = SHUFFLED.unpack(torch.zeros(len(SHUFFLED), 5, 8), {"latitude": np.arange(5), "longitude": np.arange(8)})
    with pytest.raises(DataError, match=r"variable '2m_temperature' is missing; wanted .* there are"):
        SHUFFLED.pack(ds.drop_vars("2m_temperature"))
    with pytest.raises(DataError, match="no level 850"):
        SHUFFLED.pack(ds.sel(level=[250, 500, 1000]))
    ds["2m_temperature"].attrs["units"] = "degC"
    with pytest.raises(DataError, match="comes in 'degC', wanted 'K'"):
        SHUFFLED.pack(ds)


def test_maps_the_other_way_round_are_refused() -> None:
    one = ChannelSet((Channel("2m_temperature", None, "K"),))
    for last, transposed in ((("latitude", "longitude"), ("longitude", "latitude")), (("y", "x"), ("x", "y"))):
        ds = xr.Dataset({"2m_temperature": (("time", *last), np.zeros((2, 3, 4)))})
        assert one.pack(ds).shape == (2, 1, 3, 4)
        with pytest.raises(DataError, match=r"ends with the dims .* wanted latitude, longitude or y, x"):
            one.pack(ds.transpose("time", *transposed))


def test_selection_by_any_name_lists_what_is_missing() -> None:
    assert SHUFFLED.select(["t2m", "z_1000", "geopotential@500"]).shorts == ("t2m", "z1000", "z500")
    with pytest.raises(DataError, match="no channel q700, z50; there are z850, t2m"):
        SHUFFLED.select(["z500", "q700", "z50"])
    with pytest.raises(DataError, match="did you mean 'z500'"):
        SHUFFLED.index("z50O")
    with pytest.raises(ConfigError, match="twice"):
        SHUFFLED.select(["z500", "geopotential@500"])


def test_sets_survive_json() -> None:
    assert ChannelSet.from_list(SHUFFLED.to_list()) == SHUFFLED


def test_every_known_name_means_one_variable() -> None:
    assert len({v.name for v in VARIABLES}) == len(VARIABLES)
    for name in known_names():
        variable, level = split_name(name)
        assert split_name(short_name(variable, level)) == (variable, level)


@pytest.mark.parametrize(("text", "expected"), [("2t", ("2m_temperature", None)), ("u10", ("10m_u_component_of_wind", None)),
                                                ("u100", ("u_component_of_wind", 100)), ("vorticity", ("vorticity", None)),
                                                ("tracer@3", ("tracer", 3)), ("Z500", ("geopotential", 500)), ("b7", ("b7", None))])
def test_names_people_type(text: str, expected: tuple[str, int | None]) -> None:
    assert split_name(text) == expected


def test_xarray_level_of_another_type_still_matches() -> None:
    one = ChannelSet((Channel("temperature", 850, "K"),))
    ds = xr.Dataset({"temperature": (("level", "latitude", "longitude"), np.ones((2, 3, 4)), {"units": "K"})}, coords={"level": [500.0, 850.0]})
    assert one.pack(ds).shape == (1, 3, 4)
