"""Unit text as UDUNITS writes it, in all usual spellings: one canonical form, and conversion between units of one quantity.

The table is small and explicit; a unit it does not know is an error, never a guess.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from afno_forecast.errors import DataError

GRAVITY = 9.80665  # m s-2, the WMO standard that defines the geopotential metre
_WATER = 1000.0  # kg m-3: a millimetre of water is a kilogram per square metre

Dimension = tuple[int, int, int, int, int, int]  # powers of metre, kilogram, second, kelvin, mole, radian
_NONE: Dimension = (0, 0, 0, 0, 0, 0)
_M: Dimension = (1, 0, 0, 0, 0, 0)
_KG: Dimension = (0, 1, 0, 0, 0, 0)
_S: Dimension = (0, 0, 1, 0, 0, 0)
_K: Dimension = (0, 0, 0, 1, 0, 0)
_MOL: Dimension = (0, 0, 0, 0, 1, 0)
_RAD: Dimension = (0, 0, 0, 0, 0, 1)
_PA: Dimension = (-1, 1, -2, 0, 0, 0)
_J: Dimension = (2, 1, -2, 0, 0, 0)


@dataclass(frozen=True)
class Unit:
    """A unit as `base = value * factor + offset` in SI base units of the given dimension."""

    factor: float
    offset: float
    dimension: Dimension


# symbol: (unit, other spellings)
_TABLE: dict[str, tuple[Unit, tuple[str, ...]]] = {
    "m": (Unit(1, 0, _M), ("metre", "meter", "metres", "meters", "gpm")),
    "km": (Unit(1e3, 0, _M), ("kilometre", "kilometer", "kilometres", "kilometers")),
    "dam": (Unit(10, 0, _M), ("gpdam", "dagpm", "gpdm", "decametre", "decameter")),
    "cm": (Unit(1e-2, 0, _M), ("centimetre", "centimeter", "centimetres", "centimeters")),
    "mm": (Unit(1e-3, 0, _M), ("millimetre", "millimeter", "millimetres", "millimeters")),
    "ft": (Unit(0.3048, 0, _M), ("foot", "feet")),
    "in": (Unit(0.0254, 0, _M), ("inch", "inches")),
    "kg": (Unit(1, 0, _KG), ("kilogram", "kilograms")),
    "g": (Unit(1e-3, 0, _KG), ("gram", "grams")),
    "mg": (Unit(1e-6, 0, _KG), ("milligram", "milligrams")),
    "ug": (Unit(1e-9, 0, _KG), ("microgram", "micrograms", "µg", "μg")),
    "s": (Unit(1, 0, _S), ("sec", "second", "seconds", "secs")),
    "min": (Unit(60, 0, _S), ("minute", "minutes")),
    "h": (Unit(3600, 0, _S), ("hr", "hour", "hours", "hrs")),
    "day": (Unit(86400, 0, _S), ("d", "days")),
    "K": (Unit(1, 0, _K), ("kelvin", "kelvins", "degK", "deg_K", "degree_K", "degrees_K")),
    "degC": (Unit(1, 273.15, _K), ("celsius", "Celsius", "°C", "℃", "C", "deg_C", "degree_C", "degrees_C", "degree_Celsius", "degrees_Celsius",
                                   "degreesC", "degC.")),
    "degF": (Unit(5 / 9, 459.67 * 5 / 9, _K), ("fahrenheit", "°F", "deg_F", "degree_F", "degrees_F", "degree_Fahrenheit", "degrees_Fahrenheit")),
    "Pa": (Unit(1, 0, _PA), ("pascal", "pascals")),
    "hPa": (Unit(100, 0, _PA), ("hectopascal", "hectopascals")),
    "kPa": (Unit(1e3, 0, _PA), ("kilopascal", "kilopascals")),
    "mbar": (Unit(100, 0, _PA), ("mb", "millibar", "millibars", "mbars")),
    "bar": (Unit(1e5, 0, _PA), ("bars",)),
    "atm": (Unit(101325, 0, _PA), ("atmosphere", "atmospheres")),
    "N": (Unit(1, 0, (1, 1, -2, 0, 0, 0)), ("newton", "newtons")),
    "J": (Unit(1, 0, _J), ("joule", "joules")),
    "kJ": (Unit(1e3, 0, _J), ("kilojoule", "kilojoules")),
    "MJ": (Unit(1e6, 0, _J), ("megajoule", "megajoules")),
    "W": (Unit(1, 0, (2, 1, -3, 0, 0, 0)), ("watt", "watts")),
    "Hz": (Unit(1, 0, (0, 0, -1, 0, 0, 0)), ("hertz",)),
    "kt": (Unit(1852 / 3600, 0, (1, 0, -1, 0, 0, 0)), ("kn", "knot", "knots", "kts")),
    "mph": (Unit(0.44704, 0, (1, 0, -1, 0, 0, 0)), ()),
    "mol": (Unit(1, 0, _MOL), ("mole", "moles")),
    "rad": (Unit(1, 0, _RAD), ("radian", "radians")),
    "degree": (Unit(math.pi / 180, 0, _RAD), ("deg", "degrees", "°", "degree_true", "degrees_true")),
    "degrees_north": (Unit(math.pi / 180, 0, _RAD), ("degree_north", "degree_N", "degrees_N", "degreeN", "degreesN")),
    "degrees_east": (Unit(math.pi / 180, 0, _RAD), ("degree_east", "degree_E", "degrees_E", "degreeE", "degreesE")),
    "%": (Unit(0.01, 0, _NONE), ("percent", "percentage")),
    "1": (Unit(1, 0, _NONE), ("fraction", "proportion", "dimensionless", "unitless", "none", "ratio", "count", "mask")),
    "ppm": (Unit(1e-6, 0, _NONE), ("ppmv",)),
    "ppb": (Unit(1e-9, 0, _NONE), ("ppbv",)),
    "DU": (Unit(4.4615e-4, 0, (-2, 0, 0, 0, 1, 0)), ("dobson",)),
    "PVU": (Unit(1e-6, 0, (2, -1, -1, 1, 0, 0)), ("pvu",)),
}
_SYMBOL: dict[str, str] = {spelling: symbol for symbol, (_, others) in _TABLE.items() for spelling in (symbol, *others)}
_LOWER: dict[str, str] = {spelling.lower(): symbol for spelling, symbol in _SYMBOL.items() if len(spelling) > 2 or spelling == "Pa"}
_WHOLE = {"(0 - 1)": "1", "(0-1)": "1", "0-1": "1", "0 - 1": "1", "[0-1]": "1", "-": "1", "numeric": "1", "(code table 4.1)": "1",
          "deg c": "degC", "degrees c": "degC", "degree c": "degC", "degrees celsius": "degC", "degree celsius": "degC", "deg k": "K",
          "degrees kelvin": "K", "geopotential metre": "m", "geopotential meter": "m", "geopotential meters": "m",
          "m of water equivalent": "m", "m of water": "m"}
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−·⋅×{}", "0123456789--***()")
_MOST_POWER = 12
_FACTOR = re.compile(r"\s*(?P<operator>/|\bper\b|\*(?!\*)|\.(?!\d))?\s*"
                     r"(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z%°℃µμ_]+))"
                     r"(?:(?:\^|\*\*)?\(?(?P<power>[+-]?\d+)\)?(?!\d))?")


def _factors(text: str) -> list[tuple[str, int]] | None:
    """(symbol or number text, power) in reading order; None when the text is not a unit."""
    plain = " ".join(text.translate(_PLAIN).split())
    if plain.lower() in _WHOLE:
        return [(_WHOLE[plain.lower()], 1)]
    found: list[tuple[str, int]] = []
    position = 0
    while position < len(plain):
        match = _FACTOR.match(plain, position)
        if match is None or match.end() == position:
            return None
        sign = -1 if match["operator"] in ("/", "per") else 1
        power = sign * int(match["power"] or 1)
        if abs(power) > _MOST_POWER or (match["number"] is not None and not 0 < float(match["number"]) < math.inf):
            return None
        if match["number"] is not None:
            found.append((match["number"], power))
        else:
            symbol = _SYMBOL.get(match["name"]) or _LOWER.get(match["name"].lower())
            if symbol is None:
                return None
            found.append((symbol, power))
        position = match.end()
        if not plain[position:].strip():
            break
    return found or None


def parse(text: str) -> Unit | None:
    """The unit that a text means; None when it is not in the table. A temperature with an offset counts as one only when alone."""
    factors = _factors(text)
    if factors is None:
        return None
    factor, dimension = 1.0, list(_NONE)
    for symbol, power in factors:
        if symbol not in _TABLE:
            factor *= float(symbol) ** power
            continue
        unit = _TABLE[symbol][0]
        factor *= unit.factor**power
        for axis, exponent in enumerate(unit.dimension):
            dimension[axis] += exponent * power
    alone = len(factors) == 1 and factors[0][1] == 1 and factors[0][0] in _TABLE
    offset = _TABLE[factors[0][0]][0].offset if alone else 0.0
    return Unit(factor, offset, (dimension[0], dimension[1], dimension[2], dimension[3], dimension[4], dimension[5]))


def canonical(text: str) -> str | None:
    """One spelling: `m**2 s**-2`, `m^2/s^2` -> `m2 s-2`; `kg/kg` -> `kg kg-1`; `(0 - 1)` -> `1`. None when it is not a known unit."""
    factors = _factors(text)
    if factors is None:
        return None
    kept = [(symbol, power) for symbol, power in factors if symbol != "1"]
    if not kept:
        return "1"
    return " ".join(symbol if power == 1 else f"{symbol}{power}" if symbol in _TABLE else f"{symbol}^{power}" for symbol, power in kept)


def _bridge(source: Dimension, target: Dimension, variable: str) -> float | None:
    """The constant that leads from one dimension to another for a quantity that is given in both; None when there is none."""
    if source == target:
        return 1.0
    step: tuple[int, ...] = tuple(b - a for a, b in zip(source, target, strict=True))
    if variable in ("geopotential", "geopotential_at_surface", "orography"):
        bridges: dict[tuple[int, ...], float] = {(1, 0, -2, 0, 0, 0): GRAVITY, (-1, 0, 2, 0, 0, 0): 1 / GRAVITY}
    elif "precipitation" in variable or variable == "total_column_water_vapour":
        bridges = {(-3, 1, 0, 0, 0, 0): _WATER, (3, -1, 0, 0, 0, 0): 1 / _WATER}
    else:
        return None
    return bridges.get(step)


def convert(units_from: str | None, units_to: str, variable: str) -> tuple[float, float] | None:
    """(factor, offset) with `value_to = value_from * factor + offset`; None when the units are not convertible.

    A geopotential may come as a height (m, gpm, dam), precipitation as water depth or as mass, for the named variable only.

    Args:
        units_from: units as the file has them; None or empty when it has none.
        units_to: wanted units.
        variable: canonical name, for the conversions that hold for one quantity only, and for messages.

    Raises:
        DataError: the file gives no units, and the variable is not a plain fraction (`1`).
    """
    if units_from is None or not units_from.strip():
        if canonical(units_to) == "1":
            return 1.0, 0.0
        raise DataError(f"'{variable}' has no units", fix=f"set its attribute, for example units = '{units_to}'")
    if units_from == units_to:
        return 1.0, 0.0
    source, target = parse(units_from), parse(units_to)
    if source is None or target is None:
        return None
    bridge = _bridge(source.dimension, target.dimension, variable)
    if bridge is None:
        return None
    return source.factor * bridge / target.factor, (source.offset * bridge - target.offset) / target.factor
