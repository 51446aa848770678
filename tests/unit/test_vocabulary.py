"""Names of variables: what people type, with and without a level."""

import pytest

from afno_forecast.vocabulary import error_units, short_name, split_name


@pytest.mark.parametrize(("text", "found"), [
    ("z500", ("geopotential", 500)), ("z_500", ("geopotential", 500)), ("geopotential@500", ("geopotential", 500)), ("t2m", ("2m_temperature", None)),
    ("10u", ("10m_u_component_of_wind", None)), ("chlorophyll@10", ("chlorophyll", 10)), ("chlorophyll", ("chlorophyll", None)),
])
def test_names_with_and_without_a_level(text: str, found: tuple[str, int | None]) -> None:
    assert split_name(text) == found


@pytest.mark.parametrize("text", ["geopotential@abc", "geopotential@", "z@-500", "z@500.0", "z@\N{SUPERSCRIPT TWO}", "@500", "z@500@850",
                                  "z@9999999999"])
def test_what_is_no_level_makes_an_unknown_name_not_another_variable(text: str) -> None:
    assert split_name(text) == (text, None)
    assert short_name(*split_name(text)) == text


@pytest.mark.parametrize(("variable", "units", "shown"), [("geopotential", "m2 s-2", ("m", 1 / 9.80665)), ("geopotential", "m", ("m", 1.0)),
                                                          ("2m_temperature", "K", ("K", 1.0)), ("surface_pressure", "Pa", ("hPa", 0.01)),
                                                          ("depth", "m", ("m", 1.0))])
def test_units_of_an_error_have_no_zero_point(variable: str, units: str, shown: tuple[str, float]) -> None:
    assert error_units(variable, units) == shown
