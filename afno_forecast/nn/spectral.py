"""From tokens to Fourier modes and back, on any token grid, in float32 or wider.

Axes: B batch, H token row (latitude), W token column (longitude), C channel, K kept mode (rows outer, columns inner); the axis
of two holds real and imaginary part. Coefficients are normalised by the number of tokens (`norm="forward"`), so that a
coefficient is an amplitude and means the same on every grid.

Two ways with the same result: FFT, some channels at a time, and multiplication by truncated DFT matrices in real arithmetic,
which is faster on small token grids and where few modes are kept. `transform` and `inverse` choose by the grid; the limit was
measured (float32, one AVX2 core of a busy machine, 256 channels, all modes, there and back: 32 x 64 tokens 8 ms by matrices
against 13 by FFT, 64 x 128 42 against 55, 90 x 180 109 against 77, 180 x 360 820 against 430).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Latitude = Literal["periodic", "double", "double_with_poles"]
LATITUDES: tuple[Latitude, ...] = ("periodic", "double", "double_with_poles")
Method = Literal["fft", "matmul"]

_MATMUL_LIMIT = 300.0
_FFT_CHANNELS = 32


@lru_cache(maxsize=256)
def kept_wavenumbers(num_points: int, fraction: float, *, half: bool) -> tuple[int, ...]:
    """Signed integer wavenumbers with |wavenumber| <= fraction of Nyquist, in the order of `fftfreq` (`rfftfreq` if half)."""
    frequencies = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(num_points, dtype=torch.float64)
    kept = frequencies[frequencies.abs() <= fraction * 0.5 + 1e-12]
    return tuple(int(wavenumber) for wavenumber in (kept * num_points).round().tolist())


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
        """The faster way on this grid."""
        num_rows, num_columns = len(self.row_wavenumbers), len(self.column_wavenumbers)
        cost_per_token = 2 * num_columns + 4 * self.period * num_rows * num_columns / (self.rows * self.columns)
        return "matmul" if cost_per_token <= _MATMUL_LIMIT else "fft"


@lru_cache(maxsize=256)
def kept_modes(rows: int, columns: int, fraction: float = 1.0, latitude: Latitude = "periodic", *, legacy: bool = False) -> Modes:
    """The kept modes of a grid of rows x columns tokens."""
    return Modes(rows, columns, fraction, latitude, legacy)


@lru_cache(maxsize=256)
def mode_weights(modes: Modes) -> Tensor:
    """How often each kept mode counts in the mean square of the field (2 where its conjugate is not stored), (K,)."""
    columns = [1.0 if 2 * k in (0, modes.columns) else 2.0 for k in modes.column_wavenumbers]
    with torch.inference_mode(False):
        return torch.tensor(columns).repeat(len(modes.row_wavenumbers))


def transform(x_BHWC: Tensor, modes: Modes, *, parity_C: Tensor | None = None, method: Method | None = None) -> Tensor:
    """Fourier coefficients of the kept modes.

    Args:
        x_BHWC: tokens; half precision is widened to float32.
        modes: the kept modes of this grid, from `kept_modes`.
        parity_C: with a double Fourier sphere, the sign a channel takes over the pole: +1 scalars, -1 components of vectors.
        method: force one way; by default the faster one.

    Returns:
        (B, 2, K, C), a view where possible.
    """
    x_BHWC = x_BHWC.to(torch.promote_types(x_BHWC.dtype, torch.float32))
    if (method or modes.method) == "fft":
        return _transform_fft(x_BHWC, modes, parity_C)
    return _transform_matmul(x_BHWC, modes, parity_C)


def inverse(z_B2KC: Tensor, modes: Modes, *, method: Method | None = None) -> Tensor:
    """The real field of coefficients of `transform`, (B, H, W, C); modes not kept are zero.

    Coefficients whose conjugate is kept too (zonal wavenumber 0 and Nyquist) enter by their Hermitian part.
    """
    if (method or modes.method) == "fft":
        return _inverse_fft(z_B2KC, modes)
    return _inverse_matmul(z_B2KC, modes)


def _signs(modes: Modes, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Half a turn is a factor (-1)^k on zonal wavenumber k, exactly; (columns kept,)."""
    return torch.tensor([1.0 - 2.0 * (k % 2) for k in modes.column_wavenumbers], dtype=dtype, device=device)


def _over_the_pole(rows: Tensor, modes: Modes, parity_C: Tensor | None) -> Tensor:
    """Continue rows of zonal coefficients (B, H, ..., columns, C) over the pole."""
    if modes.latitude == "periodic":
        return rows
    sign = _signs(modes, rows.dtype, rows.device)[:, None]
    if parity_C is not None:
        sign = sign * parity_C.to(sign)
    beyond = rows if modes.latitude == "double" else rows[:, 1:-1]
    return torch.cat([rows, beyond.flip(1) * sign], 1)


def _transform_matmul(x_BHWC: Tensor, modes: Modes, parity_C: Tensor | None) -> Tensor:
    batch, num_rows, _, channels = x_BHWC.shape
    num_columns = len(modes.column_wavenumbers)
    forward_columns, _, forward_rows, _ = _matrices(modes, x_BHWC.dtype, x_BHWC.device)
    zonal = torch.matmul(forward_columns, x_BHWC).view(batch, num_rows, 2, num_columns, channels)
    zonal = _over_the_pole(zonal, modes, parity_C).view(batch, 2 * modes.period, num_columns * channels)
    return torch.matmul(forward_rows, zonal).view(batch, 2, -1, channels)


def _inverse_matmul(z_B2KC: Tensor, modes: Modes) -> Tensor:
    batch, channels = z_B2KC.shape[0], z_B2KC.shape[-1]
    num_rows, num_columns = len(modes.row_wavenumbers), len(modes.column_wavenumbers)
    _, inverse_columns, _, inverse_rows = _matrices(modes, z_B2KC.dtype, z_B2KC.device)
    zonal = torch.matmul(inverse_rows, z_B2KC.reshape(batch, 2 * num_rows, num_columns * channels))
    return torch.matmul(inverse_columns, zonal.view(batch, modes.rows, 2 * num_columns, channels))


@lru_cache(maxsize=64)
def _matrices(modes: Modes, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """DFT matrices in real arithmetic: columns forward and back, rows forward and back.

    Made outside inference mode, so that a forecast does not leave matrices that training cannot use.
    """
    with torch.inference_mode(False), torch.no_grad():
        column_k = torch.tensor(modes.column_wavenumbers, dtype=torch.int64)
        cos, sin = _circle(column_k, modes.columns, modes.columns)
        forward_columns = torch.cat([cos, -sin]) / modes.columns
        twice = torch.where((2 * column_k) % modes.columns == 0, 1.0, 2.0)[:, None].double()
        inverse_columns = torch.cat([twice * cos, -twice * sin]).T
        row_k = torch.tensor(modes.row_wavenumbers, dtype=torch.int64)
        cos, sin = _circle(row_k, modes.period, modes.period)
        real, imaginary = torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)
        forward_rows = torch.cat([real, imaginary]).flatten(1) / modes.period
        cos, sin = cos[:, : modes.rows], sin[:, : modes.rows]
        real, imaginary = torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)
        inverse_rows = torch.cat([real, imaginary]).flatten(1).T
        made = (forward_columns, inverse_columns, forward_rows, inverse_rows)
        a, b, c, d = (matrix.to(device, dtype).contiguous() for matrix in made)
        return a, b, c, d


def _circle(wavenumbers: Tensor, num_points: int, period: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the phases wavenumber x point, exact at the quarter turns, (K, points), float64."""
    phase = (wavenumbers[:, None] * torch.arange(num_points)[None]) % period
    quarter = (4 * phase) % period == 0
    angle = phase.double() * (2 * math.pi / period)
    cos, sin = angle.cos(), angle.sin()
    return torch.where(quarter, cos.round(), cos), torch.where(quarter, sin.round(), sin)


def _transform_fft(x_BHWC: Tensor, modes: Modes, parity_C: Tensor | None) -> Tensor:
    """Some channels at a time, each channel's field in one piece: FFTs along distant elements are slow, and the pieces stay in cache."""
    num_columns = len(modes.column_wavenumbers)
    parts = []
    for start in range(0, x_BHWC.shape[-1], _FFT_CHANNELS):
        piece_BcHW = x_BHWC[..., start : start + _FFT_CHANNELS].permute(0, 3, 1, 2).contiguous()
        rows = torch.fft.rfft(piece_BcHW, norm="forward")[..., :num_columns]
        if modes.latitude != "periodic":
            sign = _signs(modes, piece_BcHW.dtype, piece_BcHW.device)
            if parity_C is not None:
                sign = sign * parity_C[start : start + _FFT_CHANNELS, None, None].to(sign)
            rows = torch.cat([rows, (rows if modes.latitude == "double" else rows[:, :, 1:-1]).flip(2) * sign], 2)
        spectrum = torch.fft.fft(rows, dim=2, norm="forward")
        if len(modes.row_wavenumbers) < modes.period:
            spectrum = torch.cat([spectrum[:, :, start:stop] for start, stop in modes.row_pieces], 2)
        parts.append(torch.view_as_real(spectrum).flatten(2, 3))
    z_BCK2 = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return z_BCK2.permute(0, 3, 2, 1)


def _inverse_fft(z_B2KC: Tensor, modes: Modes) -> Tensor:
    shape = (len(modes.row_wavenumbers), len(modes.column_wavenumbers))
    parts = []
    for piece_B2Kc in torch.split(z_B2KC, _FFT_CHANNELS, -1):
        spectrum = torch.view_as_complex(piece_B2Kc.permute(0, 3, 2, 1).contiguous()).unflatten(2, shape)  # type: ignore[no-untyped-call]
        if shape[0] < modes.period:
            spectrum = _with_gaps(spectrum, modes)
        zonal = torch.fft.ifft(spectrum, dim=2, norm="forward")[:, :, : modes.rows]
        field_BcHW = torch.fft.irfft(_real_where_it_must_be(zonal, modes), n=modes.columns, norm="forward")
        parts.append(field_BcHW.permute(0, 2, 3, 1))
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0].contiguous()


def _with_gaps(spectrum: Tensor, modes: Modes) -> Tensor:
    """Zeros in place of the rows (B, c, rows, columns) that are not kept."""
    sizes = [stop - start for start, stop in modes.row_pieces]
    parts, done = [], 0

    def zeros(num_rows: int) -> Tensor:
        return spectrum.new_zeros(*spectrum.shape[:2], num_rows, spectrum.shape[3])

    for (start, stop), piece in zip(modes.row_pieces, torch.split(spectrum, sizes, 2), strict=True):
        parts += [zeros(start - done), piece]
        done = stop
    return torch.cat([*parts, zeros(modes.period - done)], 2)


def _real_where_it_must_be(zonal: Tensor, modes: Modes) -> Tensor:
    """Drop the imaginary part of zonal wavenumber 0 and Nyquist: libraries differ in what they make of it."""
    keep = [0.0 if 2 * k in (0, modes.columns) else 1.0 for k in modes.column_wavenumbers]
    keep_imaginary = torch.tensor(keep, dtype=zonal.real.dtype, device=zonal.device)
    return torch.complex(zonal.real, zonal.imag * keep_imaginary)
