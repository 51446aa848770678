"""The names of variables: WeatherBench's long names, the short names people type, CF standard names and units.

Long names follow WeatherBench 2 and ARCO-ERA5; standard names and canonical units follow the CF standard name table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One physical quantity.

    Args:
        name: canonical long name.
        short: what people type; with a level appended for variables on pressure levels (`z` -> `z500`).
        standard_name: CF standard name.
        units: canonical units, UDUNITS text.
        label: words for titles and axes.
        on_levels: whether it lives on pressure levels.
        is_vector: whether it is a horizontal vector component (changes sign when a meridian is continued over a pole).
        aliases: other names in circulation.
        display: units people read, with factor and offset from canonical (`display = canonical * factor + offset`).
        constant: whether it does not change with time.
    """

    name: str
    short: str
    standard_name: str
    units: str
    label: str
    on_levels: bool = False
    is_vector: bool = False
    aliases: tuple[str, ...] = ()
    display: tuple[str, float, float] | None = None
    constant: bool = False


COMPLETE_ATTRIBUTE = "afno_forecast_complete"  # of a forecast file: "yes" or "no"
_CELSIUS = ("°C", 1.0, -273.15)
_HECTOPASCAL = ("hPa", 0.01, 0.0)
VARIABLES: tuple[Variable, ...] = (
    Variable("geopotential", "z", "geopotential", "m2 s-2", "Geopotential height", True, aliases=("phi",), display=("m", 1 / 9.80665, 0.0)),
    Variable("temperature", "t", "air_temperature", "K", "Temperature", True, aliases=("air_temperature",), display=_CELSIUS),
    Variable("u_component_of_wind", "u", "eastward_wind", "m s-1", "Eastward wind", True, True, ("eastward_wind",), ("m/s", 1.0, 0.0)),
    Variable("v_component_of_wind", "v", "northward_wind", "m s-1", "Northward wind", True, True, ("northward_wind",), ("m/s", 1.0, 0.0)),
    Variable("wind_speed", "ws", "wind_speed", "m s-1", "Wind speed", True, display=("m/s", 1.0, 0.0)),
    Variable("vertical_velocity", "w", "lagrangian_tendency_of_air_pressure", "Pa s-1", "Vertical velocity", True, aliases=("omega",)),
    Variable("specific_humidity", "q", "specific_humidity", "kg kg-1", "Specific humidity", True, display=("g/kg", 1000.0, 0.0)),
    Variable("relative_humidity", "r", "relative_humidity", "%", "Relative humidity", True, aliases=("rh",)),
    Variable("vorticity", "vo", "atmosphere_relative_vorticity", "s-1", "Relative vorticity", True),
    Variable("divergence", "d", "divergence_of_wind", "s-1", "Divergence", True),
    Variable("2m_temperature", "t2m", "air_temperature", "K", "2 m temperature", aliases=("2t", "tas", "t2"), display=_CELSIUS),
    Variable("2m_dewpoint_temperature", "d2m", "dew_point_temperature", "K", "2 m dew point", aliases=("2d",), display=_CELSIUS),
    Variable("10m_u_component_of_wind", "u10", "eastward_wind", "m s-1", "10 m eastward wind", False, True, ("10u", "u10m", "uas"),
             ("m/s", 1.0, 0.0)),
    Variable("10m_v_component_of_wind", "v10", "northward_wind", "m s-1", "10 m northward wind", False, True, ("10v", "v10m", "vas"),
             ("m/s", 1.0, 0.0)),
    Variable("100m_u_component_of_wind", "u100m", "eastward_wind", "m s-1", "100 m eastward wind", False, True, ("100u",), ("m/s", 1.0, 0.0)),
    Variable("100m_v_component_of_wind", "v100m", "northward_wind", "m s-1", "100 m northward wind", False, True, ("100v",), ("m/s", 1.0, 0.0)),
    Variable("10m_wind_speed", "ws10", "wind_speed", "m s-1", "10 m wind speed", aliases=("10si", "si10"), display=("m/s", 1.0, 0.0)),
    Variable("mean_sea_level_pressure", "msl", "air_pressure_at_mean_sea_level", "Pa", "Mean sea level pressure", aliases=("psl", "mslp", "prmsl"),
             display=_HECTOPASCAL),
    Variable("surface_pressure", "sp", "surface_air_pressure", "Pa", "Surface pressure", aliases=("ps",), display=_HECTOPASCAL),
    Variable("total_column_water_vapour", "tcwv", "atmosphere_mass_content_of_water_vapor", "kg m-2", "Total column water vapour"),
    Variable("total_precipitation_6hr", "tp6h", "lwe_thickness_of_precipitation_amount", "m", "6 h precipitation", aliases=("tp_6h", "tp06"),
             display=("mm", 1000.0, 0.0)),
    Variable("total_precipitation_24hr", "tp24h", "lwe_thickness_of_precipitation_amount", "m", "24 h precipitation", aliases=("tp_24h", "tp24"),
             display=("mm", 1000.0, 0.0)),
    Variable("total_precipitation", "tp", "lwe_thickness_of_precipitation_amount", "m", "Precipitation", display=("mm", 1000.0, 0.0)),
    Variable("precipitation_flux", "pr", "precipitation_flux", "kg m-2 s-1", "Precipitation rate", display=("mm/day", 86400.0, 0.0)),
    Variable("sea_surface_temperature", "sst", "sea_surface_temperature", "K", "Sea surface temperature", display=_CELSIUS),
    Variable("orography", "orog", "surface_altitude", "m", "Orography", aliases=("height", "topography"), constant=True),
    Variable("geopotential_at_surface", "zs", "surface_geopotential", "m2 s-2", "Surface geopotential", constant=True),
    Variable("land_sea_mask", "lsm", "land_area_fraction", "1", "Land fraction", aliases=("sftlf", "land_fraction"), constant=True),
)
WIND_SPEEDS = (("wind_speed", "u_component_of_wind", "v_component_of_wind"),
               ("10m_wind_speed", "10m_u_component_of_wind", "10m_v_component_of_wind"))
"""Speeds that follow from two components: (speed, eastward, northward)."""
BY_NAME: dict[str, Variable] = {v.name: v for v in VARIABLES}
_BY_ALIAS: dict[str, Variable] = {alias: v for v in VARIABLES for alias in (v.name, v.short, *v.aliases)}
_COMMON_LEVELS = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 550, 600, 650, 700, 750, 775, 800,
                  825, 850, 875, 900, 925, 950, 975, 1000)  # the pressure levels of ERA5, hPa
_LEVEL = re.compile(r"(?P<name>[A-Za-z0-9_]*?[A-Za-z_])(?:@|_)?(?P<level>\d{1,4})")


def find_variable(name: str) -> Variable | None:
    """The variable of a long, short or alias name (case ignored), without a level; None when unknown."""
    return _BY_ALIAS.get(name.lower())


def split_name(text: str) -> tuple[str, int | None]:
    """(variable, level in hPa or None) of `z500`, `z_500`, `geopotential@500`, `t2m`, `10u`, `2m_temperature`, `vorticity`.

    A name outside the vocabulary keeps its spelling; `name@level` sets a level on any name, and what is no level makes the whole an unknown name.
    """
    known = find_variable(text)
    if known is not None:
        return known.name, None
    if "@" in text:
        name, _, level = text.partition("@")
        if not (name and level.isascii() and level.isdecimal() and len(level) < 10):
            return text, None
        known = find_variable(name)
        return (known.name if known else name), int(level)
    match = _LEVEL.fullmatch(text)
    if match:
        known = find_variable(match["name"].rstrip("_"))
        if known is not None and known.on_levels:
            return known.name, int(match["level"])
    return text, None


def short_name(variable: str, level: int | None) -> str:
    """What people type: `z500`, `t2m`; the variable itself (with `@level`) when it is not in the vocabulary."""
    known = BY_NAME.get(variable)
    if known is None:
        return variable if level is None else f"{variable}@{level}"
    return known.short if level is None else f"{known.short}{level}"


def label(variable: str, level: int | None = None) -> str:
    """Words for a title: `Geopotential height at 500 hPa`, `2 m temperature`."""
    known = BY_NAME.get(variable)
    text = known.label if known else f"{variable[:1].upper()}{variable[1:]}".replace("_", " ")
    return text if level is None else f"{text} at {level} hPa"


def display_units(variable: str, units: str) -> tuple[str, float, float] | None:
    """Units that people read, with factor and offset from canonical; None unless a conversion is known for exactly these units."""
    known = BY_NAME.get(variable)
    return known.display if known is not None and units == known.units else None


def error_units(variable: str, units: str) -> tuple[str, float]:
    """Units that people read an error or a difference in, and the factor to them; a difference has no zero point, so that degrees are kelvins."""
    name, factor, offset = display_units(variable, units) or (units, 1.0, 0.0)
    return (units if offset else name), factor


def known_names() -> tuple[str, ...]:
    """Canonical and short names, short names of variables on levels with ERA5's levels: for checks and suggestions."""
    levelled = tuple(f"{v.short}{level}" for v in VARIABLES if v.on_levels for level in _COMMON_LEVELS)
    return tuple(name for v in VARIABLES for name in (v.short, v.name)) + levelled
