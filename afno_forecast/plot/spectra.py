"""Zonal energy spectra of forecast and truth by lead time, their ratio, and the effective resolution."""

# K zonal wavenumber, L lead time

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from .. import times, vocabulary
from ..errors import DataError
from . import canvas, style
from .curves import forecasts_text
from .fields import Float, clean, describe_source, units_for
from .style import INK, MUTED, say

_ENDING = "_energy_spectrum"
_MOST_LEADS = 6


@dataclass(frozen=True, eq=False)
class BandSpectra:
    """One band of latitudes.

    Args:
        name: of the band. circumference: mean length of its circles; wavelength = circumference / wavenumber.
        forecast_LK, truth_LK: energy from wavenumber 1, in metres times shown units squared. resolution_L: shortest wavelength with the
            truth's energy, in the circumference's units.
    """

    name: str
    circumference: float
    forecast_LK: Float
    truth_LK: Float
    resolution_L: Float


@dataclass(frozen=True, eq=False)
class SpectraOfVariable:
    """All bands of one variable; `leads` in seconds, `ratio` the threshold of the effective resolution, `length` the unit of wavelengths."""

    label: str
    units: str
    length: str
    ratio: float
    leads: NDArray[np.int64]
    bands: list[BandSpectra]


def spectral_names(scores: xr.Dataset) -> list[str]:
    """Short names of the variables and levels whose spectra a score file has."""
    names = []
    for name, item in scores.data_vars.items():
        if not str(name).endswith(_ENDING):
            continue
        variable = str(name).removesuffix(_ENDING)
        own = item.attrs.get("available_levels")
        levels = [None] if "level" not in item.dims else [int(v) for v in np.atleast_1d(item["level"].values if own is None else own)]
        names += [vocabulary.short_name(variable, level) for level in levels]
    return names


def read_spectra(scores: xr.Dataset, name: str) -> SpectraOfVariable:
    """Spectra of one variable at up to six leads, the last among them. Raises DataError when the file has none of it."""
    variable, level = vocabulary.split_name(name)
    have = spectral_names(scores)
    short = vocabulary.short_name(variable, level)
    if short not in have:
        near = get_close_matches(short, have, 1, 0.5)
        fix = f"did you mean '{near[0]}'?" if near else "score a global forecast again with afno-forecast evaluate"
        raise DataError(f"no spectrum of '{clean(name, 60)}' in the scores; there are {', '.join(have) or 'none'}", fix=fix)
    item, resolution = scores[f"{variable}{_ENDING}"], scores[f"{variable}_effective_resolution"]
    if level is not None:
        item, resolution = item.sel(level=level), resolution.sel(level=level)
    seconds = item["lead_time"].values.astype("timedelta64[s]").astype(np.int64)
    order = np.argsort(seconds)
    wanted = times.thinned(seconds[order].tolist(), _MOST_LEADS)
    chosen = np.array([i for i in order if int(seconds[i]) in wanted])
    units = units_for(variable, scores[variable].attrs.get("units") if variable in scores else None)
    factor = units.factor ** 2
    item = item.isel(lead_time=chosen, zonal_wavenumber=slice(1, None)).transpose("series", "band", "lead_time", "zonal_wavenumber")
    resolution = resolution.isel(lead_time=chosen).transpose("band", "lead_time")
    series = [str(s) for s in item["series"].values]
    bands = [BandSpectra(str(b), float(item["circumference"].values[i]), item.values[series.index("forecast"), i] * factor,
                         item.values[series.index("truth"), i] * factor, resolution.values[i]) for i, b in enumerate(item["band"].values)]
    return SpectraOfVariable(vocabulary.label(variable, level), units.difference, str(item["circumference"].attrs.get("units", "m")),
                             float(resolution.attrs.get("energy_ratio", 0.5)), seconds[chosen], bands)


def build_spectra(found: SpectraOfVariable, scores: xr.Dataset, dpi: float = 150) -> Figure:
    """The page as a figure: a column a band, energy above, ratio of forecast to truth below."""
    count = len(found.bands)
    gap, left, right, top, upper, between, lower, bottom = 0.4, 0.95, 0.3, 1.95, 2.5, 0.22, 1.35, 0.95
    wide = max(3.1, (7.6 - left - right - (count - 1) * gap) / count)
    width, height = left + count * wide + (count - 1) * gap + right, top + upper + between + lower + bottom
    figure = style.new_figure(width, height, dpi)
    colours = [matplotlib.colormaps["plasma"](x) for x in np.linspace(0.08, 0.82, len(found.leads))]
    tops: list[Axes] = []
    for index, band in enumerate(found.bands):
        x = (left + index * (wide + gap)) / width
        energy = figure.add_axes((x, (bottom + lower + between) / height, wide / width, upper / height), sharey=tops[0] if tops else None)
        ratio = figure.add_axes((x, bottom / height, wide / width, lower / height))
        tops.append(energy)
        _energy(energy, band, found, colours)
        _ratio(ratio, band, found, colours)
        if index:
            energy.tick_params(labelleft=False)
            ratio.tick_params(labelleft=False)
        style.name_axes(ratio, "zonal wavenumber", "" if index else "forecast / truth")
        style.name_axes(energy, "", "" if index else f"energy (m {_squared(found.units)})" if found.length == "m" else "energy")
        words = band.name.replace("-", " ").capitalize()
        say(energy, 0, 1.2, words, size=9.5, weight="bold", ha="left", va="bottom", transform=energy.transAxes)
        say(figure, x, 0.4 / height, _resolutions(band, found), size=7.5, color=MUTED, ha="left", va="top", linespacing=1.35)
    source, simulated = describe_source(scores.attrs)
    canvas.heading(figure, f"Zonal energy spectrum: {found.label}", forecasts_text(scores) or "number of forecasts not given",
                   f"{'Simulated, not observed.  ' if simulated else ''}{source}")
    canvas.legend(figure, [(line, str(line.get_label())) for line in tops[0].get_lines() if not str(line.get_label()).startswith("_")], 1.25)
    return figure


def _squared(units: str) -> str:
    return f"{units}²" if units.isalpha() else f"({units})²"


def _resolutions(band: BandSpectra, found: SpectraOfVariable) -> str:
    """`Effective resolution: 6 h 1250 km, 5 d 2100 km`, on two lines."""
    unit, scale = ("km", 1000.0) if found.length == "m" else ("", 1.0)
    lengths = [f"{value / scale:.0f} {unit}" if unit else f"{value:.3g}" for value in band.resolution_L]
    parts = [f"{times.format_duration(int(lead))} {length}" for lead, length in zip(found.leads, lengths, strict=True)]
    return "Effective resolution:  " + ", ".join(parts[:2]) + (",\n" + ", ".join(parts[2:]) if len(parts) > 2 else "")


def _energy(axes: Axes, band: BandSpectra, found: SpectraOfVariable, colours: list[Any]) -> None:
    wavenumbers = np.arange(1, band.forecast_LK.shape[1] + 1)
    words = "truth" if len(found.leads) == 1 else "truth, mean of these leads"
    axes.loglog(wavenumbers, _positive(np.nanmean(band.truth_LK, axis=0)), color=INK, linewidth=2.2, label=words, zorder=2)
    for lead, colour, energy, shortest in zip(found.leads, colours, band.forecast_LK, band.resolution_L, strict=True):
        axes.loglog(wavenumbers, _positive(energy), color=colour, linewidth=1.3, label=times.format_duration(int(lead)), zorder=3)
        first = round(band.circumference / shortest) if np.isfinite(shortest) and shortest > 0 else 0
        if 0 < first < len(wavenumbers):
            axes.plot([first], [energy[first - 1]], "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.7, zorder=4)
    _wavenumber_axis(axes, len(wavenumbers))
    axes.tick_params(labelbottom=False)
    scale = 1000.0 if found.length == "m" else 1.0
    upper = axes.secondary_xaxis("top", functions=(lambda k: band.circumference / scale / np.maximum(k, 1e-9),
                                                   lambda w: band.circumference / scale / np.maximum(w, 1e-9)))
    upper.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    upper.xaxis.set_minor_locator(NullLocator())
    upper.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    upper.tick_params(labelsize=7, color=style.FAINT, labelcolor=MUTED, labelfontfamily=style.FONT, pad=1)
    upper.spines["top"].set_color(style.FAINT)
    upper.set_xlabel("wavelength (km)" if found.length == "m" else "wavelength", fontsize=7.5, color=MUTED, fontfamily=style.FONT, labelpad=2)


def _ratio(axes: Axes, band: BandSpectra, found: SpectraOfVariable, colours: list[Any]) -> None:
    wavenumbers = np.arange(1, band.forecast_LK.shape[1] + 1)
    axes.axhspan(found.ratio, 1 / found.ratio, color="#e9ecef", zorder=0)
    axes.axhline(1, color=style.FAINT, linewidth=0.9, zorder=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        for colour, forecast, truth in zip(colours, band.forecast_LK, band.truth_LK, strict=True):
            axes.loglog(wavenumbers, _positive(forecast / truth), color=colour, linewidth=1.3, zorder=3)
    axes.set_ylim(0.1, 10)
    axes.set_yticks([0.1, 0.5, 1, 2, 10], ["0.1", "0.5", "1", "2", "10"])
    axes.yaxis.set_minor_locator(NullLocator())
    _wavenumber_axis(axes, len(wavenumbers))


def _wavenumber_axis(axes: Axes, last: int) -> None:
    style.ruled(axes)
    axes.set_xlim(1, max(last, 2))
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= last]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _positive(values: Float) -> Float:
    """Values that a logarithmic axis can show; NaN for others."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def plot_spectra(scores: xr.Dataset, variable: str, out: Path, *, dpi: float = 150) -> Path:
    """Draw the zonal energy spectra of forecast and truth by lead time, their ratio and the effective resolution (dots).

    Energies of the truth, which verifies each lead at other times, are drawn as their mean over the leads; ratios and resolutions are each
    lead's own.

    Args:
        scores: a score file with `<variable>_energy_spectrum`.
        variable: any name a person may type.
        out: .png, .pdf, .svg, .jpg or .webp, in a folder that exists.

    Returns:
        `out`.

    Raises:
        DataError: no spectrum of it in the file. ConfigError, ResourceError: `out` cannot be written.
    """
    out = canvas.check_output(out)
    return canvas.save(build_spectra(read_spectra(scores, variable), scores, dpi), out, dpi)
