"""Which quantity a file's variable is: CF standard name, units and level decide; its own name only helps to choose among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afno_forecast.errors import DataError
from afno_forecast.vocabulary import BY_NAME, VARIABLES, Variable, find_variable, split_name

from .units import canonical, convert

# standard names that real files give for a quantity besides the one of the vocabulary
_ALSO: dict[str, tuple[str, ...]] = {
    "geopotential": ("geopotential_height",),
    "geopotential_at_surface": ("geopotential",),
    "mean_sea_level_pressure": ("air_pressure_at_sea_level",),
    "total_precipitation": ("precipitation_amount", "lwe_thickness_of_precipitation_amount", "thickness_of_rainfall_amount"),
    "total_precipitation_6hr": ("precipitation_amount", "lwe_thickness_of_precipitation_amount", "thickness_of_rainfall_amount"),
    "precipitation_flux": ("lwe_precipitation_rate",),
    "total_column_water_vapour": ("lwe_thickness_of_atmosphere_mass_content_of_water_vapor", "atmosphere_mass_content_of_water_vapour",
                                  "atmosphere_water_vapor_content"),
    "vertical_velocity": ("omega",),
    "vorticity": ("atmosphere_upward_relative_vorticity",),
    "land_sea_mask": ("land_binary_mask",),
    "orography": ("height_above_mean_sea_level",),
    "sea_surface_temperature": ("sea_surface_foundation_temperature",),
}
_NO_NAME = ("", "unknown", "none", "undefined", "~", "-")
_METRES = re.compile(r"(?i)\b(\d+)[ -]?m(?:et(?:re|er)s?)?\b")
_NUMBER = re.compile(r"\d{2,4}$")
_EXTREME = re.compile(r"(?i)\btime\w*:\s*(maximum|minimum|standard_deviation|variance|range)")


@dataclass(frozen=True)
class Identity:
    """What a file's variable is.

    Args:
        variable: canonical name, or a name of its own for a quantity outside the vocabulary.
        level: hPa, when the file's name carries it; else None.
        units: canonical units.
        factor, offset: `canonical = value * factor + offset`.
        remark: what a user should know about the choice; may be empty.
    """

    variable: str
    level: int | None
    units: str
    factor: float
    offset: float
    remark: str = ""


def _text(attrs: Mapping[str, Any], key: str) -> str:
    value = attrs.get(key)
    return str(value).strip() if value is not None else ""


def _standard_names(variable: Variable) -> tuple[str, ...]:
    return (variable.standard_name, *_ALSO.get(variable.name, ()))


def _at_height(variable: Variable, height: float) -> str:
    """`2m_temperature` for temperature at 2 m."""
    return f"{height:g}m_{variable.name}"


def identify(file_name: str, attrs: Mapping[str, Any], *, on_pressure: bool, height: float | None = None, varies: bool = True) -> Identity:
    """Which quantity a variable is.

    Args:
        file_name: its name in the file.
        attrs: its attributes; `standard_name`, `units`, `long_name`, `cell_methods` and cfgrib's `GRIB_*` are used.
        on_pressure: whether it has pressure levels as a dimension or a scalar coordinate.
        height: height above ground in metres of a scalar coordinate, if there is one; of a name with a level only where the two are equal.
        varies: whether it has a time dimension.

    Raises:
        DataError: name, standard name, units and level contradict each other, or units are missing or not convertible.
    """
    standard_name = _text(attrs, "standard_name")
    if standard_name.lower() in _NO_NAME:
        standard_name = ""
    named, level = _by_name(file_name, attrs)
    beside = height
    if level is not None and height != level:  # a scalar height stands beside all variables of a file
        metres = _METRES.search(_text(attrs, "long_name") or _text(attrs, "GRIB_name"))
        above = _text(attrs, "GRIB_typeOfLevel") == "heightAboveGround"
        height = float(metres[1]) if metres else float(level) if above else None
    number = _NUMBER.search(file_name) if named is None else None
    if number is not None and height != float(number[0]):  # `ta850`: not at the height beside it
        height = None
    if height is not None:
        level = None
    chosen, remark = _choose(file_name, standard_name, named, attrs, on_pressure=on_pressure or level is not None, height=height, varies=varies)
    extreme = _EXTREME.search(_text(attrs, "cell_methods"))
    if extreme:
        chosen = f"{chosen}_{extreme[1].lower()}"
        remark = f"'{file_name}' is a {extreme[1].lower()} over time: kept as '{chosen}'"
    elif level is not None and beside is not None:
        remark = remark or f"the height {beside:g} m beside '{file_name}' is not its level: ignored"
    known = BY_NAME.get(chosen)
    if known is None and split_name(chosen)[0] != chosen:
        raise DataError(f"'{file_name}' is not {split_name(chosen)[0]}: {_why_not(standard_name, on_pressure)}",
                        fix="rename it, or set its standard_name and level")
    if known is not None and known.on_levels is False and on_pressure and not known.constant:
        remark = remark or f"'{file_name}' has a pressure level beside its name"
    base = known or next((v for v in VARIABLES if v.on_levels and chosen.endswith(f"m_{v.name}")), None)
    units, factor, offset, unit_remark = _units(file_name, attrs, base, chosen)
    level = level if known is None or known.on_levels else None
    return Identity(chosen, level, units, factor, offset, "; ".join(r for r in (remark, unit_remark) if r))


def _why_not(standard_name: str, on_pressure: bool) -> str:
    if standard_name:
        return f"its standard_name is {standard_name}" + (", on pressure levels" if on_pressure else "")
    return "it is on pressure levels" if on_pressure else "its level is not known"


def _by_name(file_name: str, attrs: Mapping[str, Any]) -> tuple[Variable | None, int | None]:
    variable, level = split_name(file_name)
    if variable in BY_NAME:
        return BY_NAME[variable], level
    for key in ("GRIB_cfVarName", "GRIB_shortName"):
        known = find_variable(_text(attrs, key))
        if known is not None:
            return known, None
    return None, None


def _choose(file_name: str, standard_name: str, named: Variable | None, attrs: Mapping[str, Any], *, on_pressure: bool, height: float | None,
            varies: bool) -> tuple[str, str]:
    """(canonical or own name, remark)."""
    if not standard_name:
        if named is None:
            return file_name, ""
        if named.on_levels and height is not None and not on_pressure:
            return _at_height(named, height), ""
        if on_pressure and not named.on_levels:
            return file_name, ""
        return _surface(named, attrs, on_pressure, varies), ""
    matching = [v for v in VARIABLES if standard_name in _standard_names(v) and _fits(attrs, v)]
    if not matching:
        if named is None:
            return file_name, ""
        if any(standard_name in _standard_names(v) for v in VARIABLES):  # the right quantity in units that it cannot have
            return named.name, ""
        own = re.sub(r"\W+", "_", standard_name)
        if own == named.name:
            return own, ""
        return own, f"'{file_name}' has the standard_name {standard_name}: kept as '{own}', not taken for {named.name}"
    levelled = next((v for v in matching if v.on_levels), None)
    if named in matching and named is not None:
        if named.on_levels and height is not None and not on_pressure:
            return _at_height(named, height), ""
        if on_pressure and not named.on_levels and levelled is not None:
            return file_name, ""
        return _surface(named, attrs, on_pressure, varies), ""
    if on_pressure and levelled is not None:
        return levelled.name, _unlike(file_name, named, levelled)
    if height is not None and levelled is not None:
        return _at_height(levelled, height), ""
    alone = [v for v in matching if v.name not in ("total_precipitation_6hr", "total_precipitation_24hr")]
    if levelled is None and len(alone) == 1:
        return alone[0].name, _unlike(file_name, named, alone[0])
    return file_name, f"'{file_name}' ({standard_name}) has no level or height: kept under its own name"


def _unlike(file_name: str, named: Variable | None, chosen: Variable) -> str:
    """A remark when the name alone would have said something else."""
    return f"'{file_name}' is {chosen.name} ({chosen.short}) by its standard_name and units" if named is not None and named is not chosen else ""


def _surface(named: Variable, attrs: Mapping[str, Any], on_pressure: bool, varies: bool) -> str:
    """A geopotential without a level, on the ground or constant, is that of the surface."""
    if named.name == "geopotential" and not on_pressure and (_text(attrs, "GRIB_typeOfLevel") == "surface" or not varies):
        return "geopotential_at_surface"
    return named.name


def _fits(attrs: Mapping[str, Any], variable: Variable) -> bool:
    """Whether the file's units can be those of the variable; missing units are judged later."""
    units = _text(attrs, "units")
    return not units or convert(units, variable.units, variable.name) is not None


def _units(file_name: str, attrs: Mapping[str, Any], known: Variable | None, chosen: str) -> tuple[str, float, float, str]:
    """(canonical units, factor, offset, remark)."""
    units = _text(attrs, "units")
    if known is None:
        if units:
            return canonical(units) or units, 1.0, 0.0, ""
        return "1", 1.0, 0.0, f"'{file_name}' has no units: taken as dimensionless"
    scale = convert(units, known.units, known.name)
    if scale is None:
        raise DataError(f"'{file_name}' comes in '{units}', which is not a unit of {chosen} ({known.units})",
                        fix=f"correct its units attribute, for example to '{known.units}'")
    factor, offset = scale
    if not units:
        return known.units, factor, offset, f"'{file_name}' has no units: taken as a fraction"
    remark = "" if (factor, offset) == (1.0, 0.0) else f"'{file_name}' converted from {units} to {known.units}"
    return known.units, factor, offset, remark
