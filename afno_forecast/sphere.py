"""Random fields on the sphere with a stated angular power spectrum, from spherical harmonics.

The spectrum is that of a Matern field (Lindgren, Rue and Lindstrom 2011, on the sphere): the power per harmonic of total wavenumber l is
C_l ~ (k^2 + l(l + 1))^-(s + 1) with k = a / L, a the earth's radius, L the length scale and s the smoothness; l from 1 (no area mean).
Orthonormal harmonics: the mean over the sphere of the variance is sum_l (2l + 1) C_l / 4 pi, here 1, at every place.
"""

# K field, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .grid import LatLonGrid

Float = NDArray[np.float64]
EARTH_RADIUS_KM = 6371.0
SMOOTHNESS = 1.0
MAX_WAVENUMBER = 127


def truncation(grid: LatLonGrid) -> int:
    """The largest total wavenumber that the grid resolves: two cells of its widest spacing a half wave, at most 127."""
    spacing = max(float(np.abs(np.diff(grid.latitude)).max()), float(np.diff(grid.longitude).max()))
    return int(np.clip(180 / spacing - 1, 1, MAX_WAVENUMBER))


def matern_spectrum(max_wavenumber: int, length_km: float) -> Float:
    """Power per harmonic C_l of a field of variance 1, for l = 0 .. max_wavenumber; shape (max_wavenumber + 1,)."""
    degree = np.arange(max_wavenumber + 1, dtype=np.float64)
    power = ((EARTH_RADIUS_KM / length_km) ** 2 + degree * (degree + 1)) ** -(SMOOTHNESS + 1)
    power[0] = 0
    return np.asarray(power * 4 * np.pi / ((2 * degree + 1) * power).sum())


def legendre(order: int, max_wavenumber: int, sin_latitude: Float) -> Iterator[tuple[int, Float]]:
    """(l, P) for l = order .. max_wavenumber: associated Legendre functions normalised so that real harmonics are orthonormal.

    Recurrences in l after the sectoral start, stable to high degree (Holmes and Featherstone 2002, eq. 11-13, without the Condon-Shortley phase).
    """
    cosine = np.sqrt(np.maximum(1 - sin_latitude**2, 0))
    start = np.full_like(sin_latitude, np.sqrt(1 / (4 * np.pi)))
    for m in range(1, order + 1):
        start = start * cosine * np.sqrt((2 * m + 1) / (2 * m))
    before, now = np.zeros_like(start), start
    for degree in range(order, max_wavenumber + 1):
        yield degree, now
        up = degree + 1
        rise = np.sqrt((4 * up**2 - 1) / (up**2 - order**2))
        fall = np.sqrt(((up - 1) ** 2 - order**2) / (4 * (up - 1) ** 2 - 1)) if degree > order else 0.0
        before, now = now, rise * (sin_latitude * now - fall * before)


def synthesise(coefficients: Float, grid: LatLonGrid) -> Float:
    """Fields of given harmonic coefficients.

    Args:
        coefficients: [k, l, m] of sqrt(2) P cos(m longitude) and [k, l, -m] of sqrt(2) P sin(m longitude), of P for m = 0; entries with |m| > l are
            not read; shape (K, L + 1, 2 L + 1).

    Returns:
        shape (K, H, W).
    """
    max_wavenumber = coefficients.shape[1] - 1
    sine, longitude = np.sin(np.deg2rad(grid.latitude)), np.deg2rad(grid.longitude)
    out = np.zeros((len(coefficients), *grid.shape))
    for order in range(max_wavenumber + 1):
        parts = np.zeros((2, len(coefficients), len(sine)))
        for degree, values in legendre(order, max_wavenumber, sine):
            parts[0] += coefficients[:, degree, order, None] * values
            parts[1] += coefficients[:, degree, -order, None] * values
        if order == 0:
            out += parts[0][:, :, None]
        else:
            out += np.sqrt(2) * (parts[0][:, :, None] * np.cos(order * longitude) + parts[1][:, :, None] * np.sin(order * longitude))
    return out


def random_fields(generators: list[np.random.Generator], grid: LatLonGrid, length_km: float) -> Float:
    """One field of variance 1 for each generator, with the spectrum of this file up to the grid's truncation; shape (K, H, W)."""
    max_wavenumber = truncation(grid)
    scale = np.sqrt(matern_spectrum(max_wavenumber, length_km))
    draws = np.stack([g.standard_normal((max_wavenumber + 1, 2 * max_wavenumber + 1)) for g in generators])
    return synthesise(draws * scale[None, :, None], grid)
