"""Unit text has one meaning however it is spelt, and converts by known constants."""

from __future__ import annotations

import pytest

from afno_forecast.data.units import canonical, convert, parse
from afno_forecast.errors import DataError


@pytest.mark.parametrize(("spellings", "expected"), [
    (("m2 s-2", "m**2 s**-2", "m^2/s^2", "m²/s²", "m^2 s^-2", "m2.s-2", "m**2/s**2", "metre^2 second^-2", "m^{2} s^{-2}"), "m2 s-2"),
    (("kg kg-1", "kg kg**-1", "kg/kg", "kilogram/kilogram"), "kg kg-1"),
    (("m s-1", "m/s", "m s**-1", "m s⁻¹", "meters per second", "m.s-1", "m s^(-1)", "m/sec"), "m s-1"),
    (("degC", "celsius", "°C", "deg C", "degrees_Celsius", "C"), "degC"),
    (("K", "kelvin", "Kelvin", "degK"), "K"),
    (("hPa", "hectopascal", "HPA"), "hPa"),
    (("mbar", "mb", "millibar", "millibars"), "mbar"),
    (("1", "(0 - 1)", "(0-1)", "fraction", "-", "dimensionless"), "1"),
    (("%", "percent"), "%"),
    (("kg m-2 s-1", "kg m**-2 s**-1", "kg.m-2.s-1", "kg/m2/s"), "kg m-2 s-1"),
])
def test_every_spelling_has_one_form(spellings: tuple[str, ...], expected: str) -> None:
    assert {parse(s) for s in spellings} == {parse(expected)}
    if expected != "kg m-2 s-1":
        assert {canonical(s) for s in spellings} == {expected}
    assert canonical(canonical(spellings[-1]) or "") == canonical(spellings[-1])


@pytest.mark.parametrize("text", ["", "foo", "hours since 2000-01-01", "m s-1 foo", "/", "0 m", "km99999999", "m²x", "\x1b[31m"])
def test_what_is_not_a_unit_is_not_guessed(text: str) -> None:
    assert parse(text) is None
    assert canonical(text) is None


@pytest.mark.parametrize(("source", "target", "variable", "value", "expected"), [
    ("degC", "K", "2m_temperature", -10.0, 263.15),
    ("degF", "K", "2m_temperature", 32.0, 273.15),
    ("hPa", "Pa", "mean_sea_level_pressure", 1013.25, 101325.0),
    ("mbar", "Pa", "surface_pressure", 990.0, 99000.0),
    ("gpm", "m2 s-2", "geopotential", 5500.0, 5500 * 9.80665),
    ("m", "m2 s-2", "geopotential", 1.0, 9.80665),
    ("dam", "m2 s-2", "geopotential", 550.0, 5500 * 9.80665),
    ("m**2 s**-2", "m2 s-2", "geopotential", 7.0, 7.0),
    ("g/kg", "kg kg-1", "specific_humidity", 12.0, 0.012),
    ("km/h", "m s-1", "u_component_of_wind", 36.0, 10.0),
    ("knots", "m s-1", "u_component_of_wind", 3600 / 1852, 1.0),
    ("mm", "m", "total_precipitation", 4.0, 0.004),
    ("kg m-2", "m", "total_precipitation", 4.0, 0.004),
    ("mm/day", "kg m-2 s-1", "precipitation_flux", 86400.0, 1.0),
    ("%", "1", "land_sea_mask", 25.0, 0.25),
    ("1", "%", "relative_humidity", 0.5, 50.0),
    ("10^-5 s-1", "s-1", "vorticity", 3.0, 3e-5),
])
def test_conversions(source: str, target: str, variable: str, value: float, expected: float) -> None:
    scale = convert(source, target, variable)
    assert scale is not None
    assert value * scale[0] + scale[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("source", "target", "variable"), [
    ("m", "m2 s-2", "u_component_of_wind"),  # only a geopotential is a height
    ("kg m-2 s-1", "m", "total_precipitation"),
    ("K", "Pa", "temperature"),
    ("kg m-2", "m", "orography"),
    ("foo", "K", "temperature"),
])
def test_no_conversion_between_quantities(source: str, target: str, variable: str) -> None:
    assert convert(source, target, variable) is None


@pytest.mark.parametrize("units", [None, "", "  "])
def test_missing_units_are_refused_but_for_fractions(units: str | None) -> None:
    assert convert(units, "1", "land_sea_mask") == (1.0, 0.0)
    with pytest.raises(DataError, match=r"'temperature' has no units(.|\n)*units = 'K'"):
        convert(units, "K", "temperature")
