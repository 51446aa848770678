"""Zonal energy spectra by latitude band, and the shortest wavelength at which a forecast still has the truth's energy.

The definition is WeatherBench's ZonalEnergySpectrum: along a circle of latitude of circumference C (metres; Earth's radius 6367.5 km) with
L columns, F[k] = (1/L) sum_l f[l] exp(-2 pi i k l / L), S[0] = C |F[0]|^2, S[k] = 2 C |F[k]|^2 for k > 0, in m times the square of the
quantity's units; the sum over k is the integral of f^2 along the circle (but for k = L/2, which WeatherBench counts twice as well).
A band's spectrum is the mean over its rows with their areas as weights; an ensemble's is the mean over its members, not that of its mean.

Effective resolution: the wavelength C k^-1 (C: mean over the band) of the first wavenumber k >= 1 from which the forecast's energy, the
mean over inits, is below `ratio` or above 1 / `ratio` times the truth's; the shortest wavelength of the grid where that never happens.
"""

# C channel, H latitude row, W longitude column, S series, B band, K zonal wavenumber

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid import BoxGrid, Grid, LatLonGrid
from .regions import AreaMeans
from .sample import Float, Rows, Sample, Table

EARTH_RADIUS_M = 6_367_500.0
_BANDS = {"tropics": (-20.0, 20.0), "northern-midlatitudes": (30.0, 60.0), "southern-midlatitudes": (-60.0, -30.0)}


@dataclass(frozen=True, eq=False)
class Band:
    """Rows of a grid.

    Args:
        name: of the band.
        rows: their indices; shape (h,).
        weights: their areas, sum 1; shape (h,).
        circumferences: metres, or the unit of a box's coordinates; shape (h,).
    """

    name: str
    rows: NDArray[np.int64]
    weights: Float
    circumferences: Float

    @property
    def circumference(self) -> float:
        """Mean over the rows."""
        return float((self.weights * self.circumferences).sum())


def make_bands(grid: Grid) -> tuple[Band, ...]:
    """The bands that have rows; none on a grid that does not go round the globe; `domain` on a periodic box."""
    if isinstance(grid, BoxGrid):
        width = float((grid.x[1] - grid.x[0]) * len(grid.x))
        rows = np.arange(grid.shape[0])
        return (Band("domain", rows, np.full(len(rows), 1 / len(rows)), np.full(len(rows), width)),) if grid.wraps else ()
    if not isinstance(grid, LatLonGrid) or not grid.periodic:
        return ()
    bands = []
    areas = grid.cell_areas().sum(axis=1)
    for name, (low, high) in _BANDS.items():
        rows = np.flatnonzero((grid.latitude >= low - 1e-6) & (grid.latitude <= high + 1e-6))
        if len(rows):
            circles = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.deg2rad(grid.latitude[rows]))
            bands.append(Band(name, rows, areas[rows] / areas[rows].sum(), circles))
    return tuple(bands)


def zonal_spectrum(field_CHW: NDArray[np.floating], bands: tuple[Band, ...]) -> Float:
    """Energy by wavenumber, band means; (C, H, W) -> (B, K, C)."""
    spectra = []
    for band in bands:
        coefficients = np.fft.rfft(np.asarray(field_CHW[:, band.rows], dtype=np.float64), axis=-1, norm="forward")
        energy_CHK = np.square(coefficients.real) + np.square(coefficients.imag)
        energy_CHK[..., 1:] *= 2
        scale = (band.weights * band.circumferences)[None, :, None]
        spectra.append((energy_CHK * scale).sum(axis=1).T)
    return np.stack(spectra)


class Spectra:
    """Energy spectra of forecast and truth, and effective resolution.

    Args:
        grid: canonical grid; must have bands.
        ratio: of the forecast's energy to the truth's, between 0 and 1, that ends the effective resolution.
    """

    def __init__(self, grid: Grid, ratio: float) -> None:
        self.bands = make_bands(grid)
        self.ratio = ratio
        self._length = "m" if isinstance(grid, LatLonGrid) else "unit of x"

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """Spectra of forecast and truth, (S, B, K, C)."""
        forecast = zonal_spectrum(sample.members_ECHW[0], self.bands)
        for member_CHW in sample.members_ECHW[1:]:
            forecast += zonal_spectrum(member_CHW, self.bands)
        return {"spectrum": np.stack([forecast / sample.num_members, zonal_spectrum(sample.truth_CHW, self.bands)])}

    def scores(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """None."""
        return {}

    def tables(self, mean: Mapping[str, Float]) -> tuple[Table, ...]:
        """`energy_spectrum` (series, band, zonal_wavenumber) and `effective_resolution` (band)."""
        spectrum = mean["spectrum"]
        bands = [b.name for b in self.bands]
        wavenumbers = np.arange(spectrum.shape[2])
        circles = np.asarray([b.circumference for b in self.bands])
        energy = Table("energy_spectrum", ("series", "band", "zonal_wavenumber"),
                       {"series": ["forecast", "truth"], "band": bands, "zonal_wavenumber": wavenumbers,
                        "circumference": ("band", circles, {"units": self._length, "long_name": "mean length of the circles of latitude"})},
                       spectrum, {"units": f"{self._length} ({{units}})2", "long_name": "zonal energy spectrum"})
        resolution = Table("effective_resolution", ("band",), {"band": bands}, effective_resolution(spectrum, circles, self.ratio),
                           {"units": self._length, "long_name": "shortest wavelength with the truth's energy", "energy_ratio": self.ratio})
        return energy, resolution


def effective_resolution(spectrum_SBKC: Float, circumferences: Float, ratio: float) -> Float:
    """See the top of the file; (2, B, K, C) -> (B, C)."""
    forecast, truth = spectrum_SBKC
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = forecast / truth
    lost_BKC = ~((relative >= ratio) & (relative <= 1 / ratio)) & ~((forecast == 0) & (truth == 0))
    lost_BKC[:, 0] = False
    last = spectrum_SBKC.shape[2] - 1
    first_BC = np.where(lost_BKC.any(axis=1), lost_BKC.argmax(axis=1), last)
    return np.asarray(circumferences[:, None] / first_BC)
