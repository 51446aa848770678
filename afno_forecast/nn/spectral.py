"""From tokens to Fourier modes and back, on any token grid, in float32 or wider.

Axes: B batch, H token row (latitude), W token column (longitude), C channel, K kept mode (rows outer, columns inner); G block of
channels, c its channels. Coefficients are normalised by the number of tokens (`norm="forward"`), so that a coefficient is an
amplitude and means the same on every grid.

Two ways with the same result: FFT, each channel's field in one piece, and multiplication by truncated DFT matrices in real
arithmetic with the channels last, which is faster on small token grids and where few modes are kept. `Modes.method` chooses by
the grid; the limit was measured (see the results of `tests/benchmarks/network.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .modes import Method, Modes, table
from .scratch import lent


def transform(x_BHWC: Tensor, modes: Modes, *, parity_C: Tensor | None = None, method: Method | None = None) -> Tensor:
    """Fourier coefficients of the kept modes.

    Args:
        x_BHWC: tokens; half precision is widened to float32.
        modes: the kept modes of this grid, from `kept_modes`.
        parity_C: with a double Fourier sphere, the sign a channel takes over the pole: +1 scalars, -1 components of vectors.
        method: force one way; by default the faster one.

    Returns:
        (B, 2, K, C); the axis of two holds real and imaginary part. In memory the modes are last by FFT, the channels by matrices.
    """
    x_BHWC = _wide(x_BHWC)
    way = _forward_fft if (method or modes.method) == "fft" else _forward_matmul
    return way(x_BHWC, modes, parity_C)


def inverse(z_B2KC: Tensor, modes: Modes, *, method: Method | None = None) -> Tensor:
    """The real field of coefficients of `transform`, (B, H, W, C); modes not kept are zero.

    Coefficients whose conjugate is kept too (zonal wavenumber 0 and Nyquist) enter by their Hermitian part.
    """
    way = _inverse_fft if (method or modes.method) == "fft" else _inverse_matmul
    return way(z_B2KC, modes)


def filter_blocks(x_BHWC: Tensor, modes: Modes, num_blocks: int, mix: Callable[[Tensor, slice], Tensor], *, parity_C: Tensor | None = None,
                  into: Tensor | None = None) -> Tensor:
    """The field whose coefficients are mix(coefficients, blocks) of those of `x_BHWC`; blocks of channels do not see each other.

    On a CPU one field and one block at a time where the way is by FFT: then all that is in between stays in cache, and the
    time grows in proportion to the tokens. Without a backward pass `mix` is given memory that is used again, and the result is added
    to `into` (B, H, W, C) where there is one, which is returned.
    """
    x_BHWC = _wide(x_BHWC)
    if modes.method == "matmul":
        zonal = _zonal_of_matmul(mix(_forward_matmul(x_BHWC, modes, parity_C, lend=True), slice(0, num_blocks)), modes)
        return _columns_back(zonal, modes, x_BHWC.shape, into)
    if x_BHWC.device.type != "cpu" or torch.compiler.is_compiling():
        out = inverse(mix(transform(x_BHWC, modes, parity_C=parity_C), slice(0, num_blocks)), modes)
        return out if into is None else into.add_(out)
    return _filter_each_block(x_BHWC, modes, num_blocks, mix, parity_C, into)


def _filter_each_block(x_BHWC: Tensor, modes: Modes, num_blocks: int, mix: Callable[[Tensor, slice], Tensor], parity_C: Tensor | None,
                       into: Tensor | None) -> Tensor:
    signs = [None] * num_blocks if parity_C is None else parity_C.chunk(num_blocks)
    width = x_BHWC.shape[-1] // num_blocks
    out = None if torch.is_grad_enabled() else torch.empty_like(x_BHWC) if into is None else into
    fields = []
    for index, x_1HWC in enumerate(torch.split(x_BHWC, 1)):
        pieces = []
        for block, piece_1HWc in enumerate(torch.split(x_1HWC, width, -1)):
            mixed_1HWc = inverse(mix(transform(piece_1HWc, modes, parity_C=signs[block]), slice(block, block + 1)), modes)
            if out is None:
                pieces.append(mixed_1HWc)
            elif into is None:
                out[index, ..., block * width : (block + 1) * width] = mixed_1HWc[0]
            else:
                out[index, ..., block * width : (block + 1) * width] += mixed_1HWc[0]
        if out is None:
            fields.append(torch.cat(pieces, -1))
    return torch.cat(fields) if out is None else out


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _over_the_pole(rows: Tensor, modes: Modes, sign: Tensor, axis: int) -> Tensor:
    """Continue rows of zonal coefficients along an axis over the pole."""
    num_beyond = modes.period - modes.rows
    first = 0 if modes.latitude == "double" else 1
    beyond = rows.narrow(axis, min(first, modes.rows - 1), num_beyond) if num_beyond else rows.narrow(axis, 0, 0)
    return torch.cat([rows, beyond.flip(axis) * sign], axis)


def _product(matrix: Tensor, z_PXN: Tensor, name: str, lend: bool) -> Tensor:
    """The matrix times each piece; lend: in memory that is used again, where no backward pass needs it."""
    shape = (z_PXN.shape[0], matrix.shape[0], z_PXN.shape[2])
    return torch.bmm(matrix.expand(shape[0], -1, -1), z_PXN, out=lent(name, shape, z_PXN) if lend else None)


def _forward_matmul(x_BHWC: Tensor, modes: Modes, parity_C: Tensor | None, lend: bool = False) -> Tensor:
    batch, num_rows, _, channels = x_BHWC.shape
    num_columns = len(modes.column_wavenumbers)
    columns, _, rows, _ = table("matrices", modes, x_BHWC)
    zonal = _product(columns, x_BHWC.flatten(0, 1), "zonal", lend)
    if modes.latitude != "periodic":
        sign = table("half_turn", modes, x_BHWC)[0][:, None]
        sign = sign if parity_C is None else sign * parity_C.to(sign)
        zonal = _over_the_pole(zonal.view(batch, num_rows, 2, num_columns, channels), modes, sign, 1)
    zonal = zonal.view(batch, 2 * modes.period, num_columns * channels)
    return _product(rows, zonal, "coefficients", lend).view(batch, 2, -1, channels)


def _inverse_matmul(z_B2KC: Tensor, modes: Modes) -> Tensor:
    return _columns_back(_zonal_of_matmul(z_B2KC, modes, lend=False), modes, (z_B2KC.shape[0], modes.rows, modes.columns, z_B2KC.shape[-1]))


def _zonal_of_matmul(z_B2KC: Tensor, modes: Modes, lend: bool = True) -> Tensor:
    """Zonal coefficients of each row, (B H, 2 columns kept, C)."""
    batch, channels = z_B2KC.shape[0], z_B2KC.shape[-1]
    num_rows, num_columns = len(modes.row_wavenumbers), len(modes.column_wavenumbers)
    rows = table("matrices", modes, z_B2KC)[3]
    zonal = _product(rows, z_B2KC.reshape(batch, 2 * num_rows, num_columns * channels), "zonal", lend)
    return zonal.view(batch * modes.rows, 2 * num_columns, channels)


def _columns_back(zonal: Tensor, modes: Modes, shape: tuple[int, ...], into: Tensor | None = None) -> Tensor:
    columns = table("matrices", modes, zonal)[1].expand(zonal.shape[0], -1, -1)
    if into is not None and into.dtype == zonal.dtype and into.is_contiguous():
        into.view(-1, *shape[2:]).baddbmm_(columns, zonal)
        return into
    out = torch.bmm(columns, zonal).view(shape)
    return out if into is None else into.add_(out)


def _forward_fft(x_BHWC: Tensor, modes: Modes, parity_C: Tensor | None) -> Tensor:
    """Each channel's field in one piece: FFTs along distant elements are slow."""
    batch, num_rows, num_columns, channels = x_BHWC.shape
    num_kept = len(modes.column_wavenumbers)
    x_BCHW = x_BHWC.reshape(batch, -1, channels).transpose(1, 2).contiguous().view(batch, channels, num_rows, num_columns)
    zonal = torch.fft.rfft(x_BCHW, norm="forward")
    zonal = zonal if num_kept == zonal.shape[-1] else zonal[..., :num_kept]
    if modes.latitude != "periodic":
        (sign,) = table("half_turn", modes, x_BCHW)
        zonal = _over_the_pole(zonal, modes, sign if parity_C is None else sign * parity_C[:, None, None].to(sign), 2)
    parts = torch.view_as_real(torch.fft.fft(zonal, dim=2, norm="forward")).permute(0, 4, 1, 2, 3)
    whole = len(modes.row_wavenumbers) == modes.period
    parts = parts.contiguous() if whole else torch.cat([parts[:, :, :, start:stop] for start, stop in modes.row_pieces], 3)
    return parts.flatten(3).transpose(2, 3)


def _inverse_fft(z_B2KC: Tensor, modes: Modes) -> Tensor:
    shape = (len(modes.row_wavenumbers), len(modes.column_wavenumbers))
    z_B2CK = z_B2KC.transpose(2, 3).contiguous()
    spectrum: Tensor = torch.unflatten(torch.complex(z_B2CK[:, 0], z_B2CK[:, 1]), 2, shape)
    if shape[0] < modes.period:
        spectrum = _with_gaps(spectrum, modes)
    zonal = _real_where_it_must_be(torch.fft.ifft(spectrum, dim=2, norm="forward")[:, :, : modes.rows], modes)
    x_BCHW: Tensor = torch.fft.irfft(zonal, n=modes.columns, norm="forward")
    return x_BCHW.permute(0, 2, 3, 1)


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
    """Drop the imaginary part of zonal wavenumber 0 and Nyquist, in place: libraries differ in what they make of it."""
    parts = torch.view_as_real(zonal)
    for column, wavenumber in ((0, 0), (-1, modes.column_wavenumbers[-1])):
        if 2 * wavenumber in (0, modes.columns):
            parts[..., column, 1].zero_()
    return zonal
