"""Which Fourier modes of a token grid are kept, and the constants that follow from them.

Everything here is plain arithmetic on integers, so that a compiler can trace it; tables of numbers are made once for each grid,
type and device and are constants of a compiled network. Axes: K kept mode, rows outer, columns inner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Latitude = Literal["periodic", "double", "double_with_poles"]
LATITUDES: tuple[Latitude, ...] = ("periodic", "double", "double_with_poles")
Method = Literal["fft", "matmul"]
Bands = tuple[int, tuple[float, float]]
"""Number of wavenumber bands, and the wavenumber of one cycle over the rows and over the columns."""

_MATMUL_LIMIT = 300.0
_ROUNDING = 1e-6  # of lengths that were read from coordinates in single precision


def kept_wavenumbers(num_points: int, fraction: float, *, half: bool) -> tuple[int, ...]:
    """Signed integer wavenumbers with |wavenumber| <= fraction of Nyquist, in the order of `fftfreq` (`rfftfreq` if half)."""
    highest = math.floor((fraction * 0.5 + 1e-12) * num_points)
    if half:
        return tuple(range(min(highest, num_points // 2) + 1))
    positive, negative = min(highest, (num_points - 1) // 2), min(highest, num_points // 2)
    return tuple(range(positive + 1)) + tuple(range(-negative, 0))


@dataclass(frozen=True)
class Modes:
    """Which Fourier modes of a token grid are kept.

    Latitude is treated as `periodic`, or continued over the poles as a `double` Fourier sphere: each meridian goes on as the
    meridian half a turn away, which makes a smooth field on the sphere smooth and periodic. `double`: rows are cell centres;
    `double_with_poles`: the first and the last row lie on the poles.

    `legacy` selects as FourCastNet and its descendants do, to run their weights: the number of columns kept follows from the
    number of rows, and the rows kept lie around Nyquist, so that a fraction below 1 drops the mean.
    """

    rows: int
    columns: int
    fraction: float = 1.0
    latitude: Latitude = "periodic"
    legacy: bool = False

    @property
    def period(self) -> int:
        """Number of rows after which latitude repeats."""
        return {"periodic": self.rows, "double": 2 * self.rows, "double_with_poles": max(2 * self.rows - 2, 1)}[self.latitude]

    @property
    def row_wavenumbers(self) -> tuple[int, ...]:
        """Kept signed meridional wavenumbers, cycles per `period`."""
        if self.legacy:
            start, stop = self.row_pieces[0]
            return kept_wavenumbers(self.rows, 1.0, half=False)[start:stop]
        return kept_wavenumbers(self.period, self.fraction, half=False)

    @property
    def column_wavenumbers(self) -> tuple[int, ...]:
        """Kept zonal wavenumbers, >= 0, cycles per circle."""
        if self.legacy:
            return tuple(range(min(self._legacy_count, self.columns // 2 + 1)))
        return kept_wavenumbers(self.columns, self.fraction, half=True)

    @property
    def row_pieces(self) -> tuple[tuple[int, int], ...]:
        """The kept rows of an unshifted spectrum as pieces (first, after the last), in the order of `row_wavenumbers`."""
        if self.legacy:
            middle, count = self.rows // 2 + 1, self._legacy_count
            return ((middle - count, min(middle + count, self.rows)),)
        num_rows = len(self.row_wavenumbers)
        positive = (num_rows + 1) // 2
        return (0, positive), (self.period - (num_rows - positive), self.period)

    @property
    def _legacy_count(self) -> int:
        return int((self.rows // 2 + 1) * self.fraction)

    @property
    def method(self) -> Method:
        """The faster way of transforming this grid."""
        num_rows, num_columns = len(self.row_wavenumbers), len(self.column_wavenumbers)
        cost_per_token = 2 * num_columns + 4 * self.period * num_rows * num_columns / (self.rows * self.columns)
        return "matmul" if cost_per_token <= _MATMUL_LIMIT else "fft"


def kept_modes(rows: int, columns: int, fraction: float = 1.0, latitude: Latitude = "periodic", *, legacy: bool = False) -> Modes:
    """The kept modes of a grid of rows x columns tokens.

    The sizes become plain numbers here, also where a compiler traces them as symbols: a network is compiled for a grid.
    """
    return Modes(len(range(rows)), len(range(columns)), fraction, latitude, legacy)


def mode_weights(modes: Modes) -> Tensor:
    """How often each kept mode counts in the mean square of the field (2 where its conjugate is not stored), (K,)."""
    columns = [1.0 if 2 * k in (0, modes.columns) else 2.0 for k in modes.column_wavenumbers]
    return torch.tensor(columns).repeat(len(modes.row_wavenumbers))


def _weights(modes: Modes, bands: Bands) -> tuple[Tensor, ...]:
    return (mode_weights(modes),)


def _half_turn(modes: Modes, bands: Bands) -> tuple[Tensor, ...]:
    """Half a turn is a factor (-1)^k on zonal wavenumber k, exactly; (columns kept,)."""
    return (torch.tensor([1.0 - 2.0 * (k % 2) for k in modes.column_wavenumbers]),)


def _matrices(modes: Modes, bands: Bands) -> tuple[Tensor, ...]:
    """DFT matrices in real arithmetic: columns forward and back, rows forward and back."""
    column_k = torch.tensor(modes.column_wavenumbers, dtype=torch.int64)
    cos, sin = _circle(column_k, modes.columns, modes.columns)
    forward_columns = torch.cat([cos, -sin]) / modes.columns
    twice = torch.where((2 * column_k) % modes.columns == 0, 1.0, 2.0)[:, None].double()
    inverse_columns = torch.cat([twice * cos, -twice * sin]).T
    row_k = torch.tensor(modes.row_wavenumbers, dtype=torch.int64)
    cos, sin = _circle(row_k, modes.period, modes.period)
    forward_rows = torch.cat([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)]).flatten(1) / modes.period
    cos, sin = cos[:, : modes.rows], sin[:, : modes.rows]
    inverse_rows = torch.cat([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)]).flatten(1).T
    return forward_columns, inverse_columns, forward_rows, inverse_rows


def _circle(wavenumbers: Tensor, num_points: int, period: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the phases wavenumber x point, exact at the quarter turns, (K, points), float64."""
    phase = (wavenumbers[:, None] * torch.arange(num_points)[None]) % period
    quarter = (4 * phase) % period == 0
    angle = phase.double() * (2 * math.pi / period)
    cos, sin = angle.cos(), angle.sin()
    return torch.where(quarter, cos.round(), cos), torch.where(quarter, sin.round(), sin)


def band_of_wavenumber(wavenumber: float, num_bands: int) -> int:
    """Octave of an absolute wavenumber: 0-1, 2-3, 4-7 and so on; the last band is open. What rounding takes off a whole number does not count."""
    return min(max(int(abs(wavenumber) * (1 + _ROUNDING)), 1).bit_length() - 1, num_bands - 1)


def _bands(modes: Modes, bands: Bands) -> tuple[Tensor, ...]:
    """The modes of each band, and where each mode stands when the bands follow one another."""
    num_bands, (row_unit, column_unit) = bands
    rows, columns = [abs(k) * row_unit for k in modes.row_wavenumbers], [k * column_unit for k in modes.column_wavenumbers]
    band_K = torch.tensor([band_of_wavenumber(max(row, column), num_bands) for row in rows for column in columns])
    members = [(band_K == band).nonzero().flatten() for band in range(num_bands)]
    return *members, torch.cat(members).argsort()


_Table = Literal["weights", "half_turn", "matrices", "bands"]
_MAKERS: dict[_Table, Callable[[Modes, Bands], tuple[Tensor, ...]]] = {
    "weights": _weights, "half_turn": _half_turn, "matrices": _matrices, "bands": _bands}


def table(name: _Table, modes: Modes, like: Tensor, num_bands: int = 1, band_unit: tuple[float, float] = (1.0, 1.0)) -> tuple[Tensor, ...]:
    """Constants of the kept modes on the device of `like`, those that are not indices in its type.

    They are made once, outside inference mode, so that a forecast does not leave constants that training cannot use, and
    without a copy from the host when they are used again. Only for true tensors: what is made of a stand-in (tracing) is not kept.
    """
    grid = (modes.rows, modes.columns, modes.fraction, modes.latitude, modes.legacy)
    make = _known if type(like) is Tensor else _make
    return make(name, grid, (num_bands, band_unit), like.dtype, like.device)


_Grid = tuple[int, int, float, Latitude, bool]


def _make(name: _Table, grid: _Grid, bands: Bands, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    with torch.inference_mode(False), torch.no_grad():
        made = _MAKERS[name](Modes(*grid), bands)
        return tuple(t.to(device, dtype if t.is_floating_point() else t.dtype).contiguous() for t in made)


_cached = lru_cache(maxsize=256)(_make)


def _known(name: _Table, grid: _Grid, bands: Bands, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return _cached(name, grid, bands, dtype, device)


_known._dynamo_marked_constant = True  # type: ignore[attr-defined] # torch.compiler.assume_constant_result, without seconds of importing the compiler
