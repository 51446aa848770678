"""Colours, levels and words: colour maps that survive printing and colour blindness, levels at round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

Float = NDArray[np.float64]
FONT = "DejaVu Sans"
INK, MUTED, FAINT, COAST, MISSING = "#16191d", "#59616b", "#8b929b", "#15181c", "#c9ccd1"
_SEQUENTIAL = {"geopotential": "viridis", "temperature": "plasma", "2m_temperature": "plasma", "2m_dewpoint_temperature": "plasma",
               "sea_surface_temperature": "plasma", "mean_sea_level_pressure": "cividis", "surface_pressure": "cividis"}
_FROM_WHITE = ("wind_speed", "10m_wind_speed", "specific_humidity", "relative_humidity", "total_column_water_vapour", "spread")
_RAIN = ("total_precipitation_6hr", "total_precipitation_24hr", "total_precipitation", "precipitation_flux")
_SIGNED = ("u_component_of_wind", "v_component_of_wind", "10m_u_component_of_wind", "10m_v_component_of_wind", "vertical_velocity", "vorticity",
           "divergence")
_RAIN_LEVELS = np.array([0.1, 0.5, 1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200])
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STEPS = np.array([1.0, 2.0, 2.5, 4.0, 5.0])
_ROUNDING = 1e-9  # of its size: differences of a field that a calculation in double precision may make of nothing
_READABLE = 1e-5  # of its size: differences that six digits show
_OWN_STEPS = {"geopotential": np.array([1.0, 2.0, 3.0, 4.0, 6.0]), "mean_sea_level_pressure": np.array([1.0, 2.0, 4.0, 5.0])}


@dataclass(frozen=True, eq=False)
class Scale:
    """Levels with their colours.

    Args:
        levels: ascending, in shown units; shape (L,).
        cmap: colours.
        norm: level to colour.
        extend: which ends go beyond the levels.
    """

    levels: Float
    cmap: Colormap
    norm: BoundaryNorm
    extend: Literal["neither", "both", "min", "max"]

    @property
    def limits(self) -> tuple[float, float]:
        """First and last level."""
        return float(self.levels[0]), float(self.levels[-1])


def nice_step(span: float, count: int, steps: Float = _STEPS) -> float:
    """The round number, from `steps` times a power of ten, that divides `span` into at most `count` parts."""
    if not np.isfinite(span) or span <= 0:
        return 1.0
    magnitude = 10.0 ** np.floor(np.log10(span / count))
    candidates = np.concatenate([steps * magnitude, steps * magnitude * 10])
    return float(candidates[candidates >= span / count * (1 - 1e-9)][0])


def _around(low: float, high: float, count: int, steps: Float) -> Float:
    size = max(abs(low), abs(high))
    constant = high - low <= _ROUNDING * size
    step = max(1.0, nice_step(_READABLE * size, 1, steps)) if constant else nice_step(high - low, count, steps)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return _multiples(np.arange(first, max(last, first + 1) + 1, dtype=np.float64), step)


def _multiples(counts: Float, step: float) -> Float:
    """Multiples of a step without the last bits of rounding, however small the step."""
    decimals = int(np.clip(10 - np.floor(np.log10(step)), 0, 290))
    return np.asarray(np.round(counts * step, decimals))


def _scale(levels: Float, name: str | Colormap, extend: Literal["neither", "both", "min", "max"]) -> Scale:
    base = matplotlib.colormaps[name] if isinstance(name, str) else name
    cmap = base.with_extremes(bad=MISSING)
    return Scale(levels, cmap, BoundaryNorm(levels, cmap.N, extend=extend), extend)


def _finite(arrays: Sequence[Float]) -> Float:
    values = np.concatenate([np.ravel(a) for a in arrays]) if arrays else np.zeros(0)
    values = values[np.isfinite(values)]
    return values if len(values) else np.zeros(1)


def symmetric(arrays: Sequence[Float], *, count: int = 16, cmap: str = "RdBu_r") -> Scale:
    """Levels symmetric about zero with a white band in the middle, wide enough for 99.5 % of the values of all the arrays."""
    values = np.abs(_finite(arrays))
    top = float(np.quantile(values, 0.995))
    step = nice_step(2 * top, count)
    half = max(int(np.ceil(top / step - 1e-9)), 2)
    levels = _multiples(np.arange(-half, half + 1, dtype=np.float64), step)
    return _scale(levels[levels != 0], cmap, "both" if values.max() > half * step else "neither")


def magnitude(variable: str, arrays: Sequence[Float]) -> Scale:
    """Levels and colours for a variable, shared by all the arrays (shown units)."""
    values = _finite(arrays)
    low, high = float(values.min()), float(values.max())
    if variable in _SIGNED:
        return symmetric(arrays, count=18)
    if variable in _RAIN:
        top = int(np.clip(np.searchsorted(_RAIN_LEVELS, high), 4, len(_RAIN_LEVELS) - 1))
        return _scale(_RAIN_LEVELS[: top + 1], _from_white(), "both" if high > _RAIN_LEVELS[top] else "min")
    levels = _around(0.0 if variable == "spread" else low, high, 18, _OWN_STEPS.get(variable, _STEPS))
    if variable in _FROM_WHITE:
        return _scale(levels, _from_white(), "neither")
    return _scale(levels, _SEQUENTIAL.get(variable, "viridis"), "neither")


def line_levels(variable: str, values: Float) -> Float:
    """Levels of overlaid contour lines (shown units), at most about twenty."""
    finite = _finite([values])
    return _around(float(finite.min()), float(finite.max()), 20, _OWN_STEPS.get(variable, _STEPS))


def _from_white() -> Colormap:
    """White to dark blue-green: lightness falls evenly."""
    base = matplotlib.colormaps["YlGnBu"](np.linspace(0, 1, 240))
    white = np.linspace([1, 1, 1, 1], base[0], 16)
    return ListedColormap(np.concatenate([white, base]), name="white_to_blue")


def ticks(levels: Float, count: int = 13) -> Float:
    """At most about `count` of the levels, evenly thinned; symmetric levels stay symmetric."""
    stride = int(np.ceil(len(levels) / count))
    if len(levels) > 2 and np.allclose(levels, -levels[::-1]):
        upper = levels[levels > 0][::-1][::stride][::-1]
        return np.concatenate([-upper[::-1], [0.0], upper])
    step = levels[1] - levels[0]
    if stride > 1 and np.allclose(np.diff(levels), step):
        return np.asarray(levels[np.mod(np.rint(levels / step), stride) == 0])
    return levels[::stride]


def common_exponent(values: Float) -> int:
    """The power of ten to take out of numbers that would be long to write; 0 where they are short."""
    greatest = float(np.abs(values).max(initial=0.0))
    return int(np.floor(np.log10(greatest) + 1e-9)) if greatest >= 1e6 or 0 < greatest < 0.1 else 0


def say(where: Any, x: float, y: float, text: str, *, size: float = 9, color: str = INK, **more: Any) -> Any:
    """Write text as it is (no mathematics markup) in the bundled font, on a figure or an axes; characters it lacks become `?`."""
    return where.text(x, y, drawable(text), fontsize=size, color=color, fontfamily=FONT, parse_math=False, **more)


def drawable(text: str) -> str:
    """The text with every character that the bundled font lacks replaced by `?`."""
    known = _drawn_characters()
    return "".join(c if ord(c) in known or c == "\n" else "?" for c in text)


@cache
def _drawn_characters() -> frozenset[int]:
    """Codes of what the bundled font can draw."""
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def fit(text: str, inches: float, size: float) -> str:
    """The text, cut with an ellipsis so that it is at most about `inches` wide in a font of `size` points."""
    room = max(int(inches * 72 / (size * 0.56)), 8)
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


def ruled(axes: Any) -> None:
    """Give a diagram a light grid, two spines and small ticks in the bundled font."""
    axes.grid(color="#e3e6ea", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK, labelfontfamily=FONT)


def name_axes(axes: Any, x: str = "", y: str = "") -> None:
    """Words of the axes of a diagram, as they are."""
    axes.set_xlabel(drawable(x), fontsize=8.5, color=MUTED, fontfamily=FONT, labelpad=2, parse_math=False)
    axes.set_ylabel(drawable(y), fontsize=8.5, color=MUTED, fontfamily=FONT, labelpad=3, parse_math=False)


def new_figure(width: float, height: float, dpi: float) -> Figure:
    """A white figure of `width` x `height` inches with its own Agg canvas; no global state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure
