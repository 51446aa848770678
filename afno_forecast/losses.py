"""Losses: means over the exact area of the cells, each channel in its own unit; of one forecast, of its zonal spectra, of an ensemble.

Zonal spectra are taken along each row, over the whole circle of longitude, and averaged with the rows' areas: a loss over some of the rows is
their share of the whole.

Axes: B batch, L lead, E member, C channel, H latitude row, W longitude column, M zonal wavenumber.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12  # power in squared units of the channel, below which an amplitude counts as zero


def area_weighted_mse(
    prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None = None
) -> Tensor:
    """Area-weighted mean square of the error in units of `scale_C`, over batch, lead and channel.

    Args:
        prediction: (..., C, H, W), physical units.
        target: the same shape and units.
        area_weights_HW: relative cell areas, >= 0 with a positive sum; (H, W), or (H, 1) where only the row matters.
        scale_C: unit of each channel, > 0, for example the standard deviation of its tendency, (C,).
        channel_weights_C: relative weight of each channel, >= 0 with a positive sum; equal by default, (C,).

    Returns:
        A scalar, float32 or wider. 1 means an error as large as the scale.

    Raises:
        ValueError: shapes do not fit.
    """
    _check_shapes(prediction, target, area_weights_HW, scale_C, channel_weights_C)
    with torch.autocast(prediction.device.type, enabled=False):
        error = _scaled(prediction, scale_C) - _scaled(target, scale_C)
        return _mean(error.square(), area_weights_HW, channel_weights_C)


def amplitude_aware_mse(
    prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None = None
) -> Tensor:
    """Mean square of the error that does not reward a forecast for being smooth (AMSE; Subich et al. 2025, arXiv 2501.19374, eq. 5).

    The mean square error of a wavenumber is that of the amplitudes, (|X| - |Y|)^2, plus that of the phases, 2 |X| |Y| (1 - cos): a forecast
    whose phase is uncertain lowers it by a smaller amplitude. Here the phases cost 2 max(|X|^2, |Y|^2) (1 - cos), so that the right amplitude
    is best whatever the phase. The paper's spectra are of total wavenumbers on the sphere; these are of zonal ones, along each row.

    Args, returns and raises as `area_weighted_mse`, which is a lower bound, equal where the amplitudes are right.
    """
    _check_shapes(prediction, target, area_weights_HW, scale_C, channel_weights_C)
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = _zonal(prediction, scale_C), _zonal(target, scale_C)
        power_x, power_y = _power(x), _power(y)
        amplitude_x, amplitude_y = (power_x + _TINY).sqrt(), (power_y + _TINY).sqrt()
        cosine = (x.real * y.real + x.imag * y.imag) / (amplitude_x * amplitude_y)
        error = (amplitude_x - amplitude_y).square() + 2 * torch.maximum(power_x, power_y) * (1 - cosine)
        mean = (x[..., :1].real - y[..., :1].real).square()  # of the row: it has no phase
        by_row = mean[..., 0] + (error[..., 1:] * _multiplicity(prediction.shape[-1], error)[1:]).sum(-1)
        return _mean(by_row[..., None], area_weights_HW.mean(-1, keepdim=True), channel_weights_C)


def log_spectrum_error(
    prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None = None
) -> Tensor:
    """Mean square of the logarithm of predicted over true power, over zonal wavenumbers from 1: the energy at each scale, whatever the phase.

    The power of a wavenumber is its area-weighted mean over all rows given, which is why half of the map does not give half of the loss.
    Args, returns and raises as `area_weighted_mse`; 1 means a factor of e at every scale.
    """
    _check_shapes(prediction, target, area_weights_HW, scale_C, channel_weights_C)
    with torch.autocast(prediction.device.type, enabled=False):
        row_weights = area_weights_HW.mean(-1, keepdim=True).to(scale_C.device)
        row_weights = row_weights / row_weights.sum()
        logarithms = [(((_power(_zonal(field, scale_C)) * row_weights).sum(-2))[..., 1:] + _TINY).log() for field in (prediction, target)]
        by_channel = (logarithms[0] - logarithms[1]).square().mean(-1)
        return _mean(by_channel[..., None, None], torch.ones(1, 1, device=by_channel.device), channel_weights_C)


def fair_crps(prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None = None, *,
              fairness: float = 1.0) -> Tensor:
    """Continuous ranked probability score of an ensemble, area-weighted, in units of `scale_C`: lowest for members drawn from the truth's law.

    mean |x_e - y| - (1 - (1 - fairness) / E) / (2 E (E - 1)) sum |x_e - x_f|. With fairness 1 it is fair (Ferro 2014): its expected value does not
    depend on the number of members. Slightly less is almost fair (Lang et al. 2024, arXiv 2412.15832, eq. 4), which no longer lets one
    member be anything at all while another one hits the truth. 0 is the score of the members' own distribution.

    Args:
        prediction: (E, ..., C, H, W) with E >= 2 members, physical units.
        target: (..., C, H, W).
        area_weights_HW, scale_C, channel_weights_C: see `area_weighted_mse`.
        fairness: 0 to 1.

    Raises:
        ValueError: shapes do not fit, or there is one member.
    """
    members = len(prediction)
    if members < 2 or not 0 <= fairness <= 1:
        raise ValueError(f"a CRPS needs two members or more and a fairness from 0 to 1, not {members} and {fairness}")
    _check_shapes(prediction[0], target, area_weights_HW, scale_C, channel_weights_C)
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = _scaled(prediction, scale_C), _scaled(target, scale_C)
        error = (x - y).abs().sum(0) / members
        spread = torch.zeros_like(error)
        for shift in range(1, members):
            spread = spread + (x[shift:] - x[:-shift]).abs().sum(0)
        factor = (1 - (1 - fairness) / members) / (members * (members - 1))
        return _mean(error - factor * spread, area_weights_HW, channel_weights_C)


def spectral_crps(prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None = None, *,
                  fairness: float = 1.0) -> Tensor:
    """The `fair_crps` of the zonal coefficients of each row, real and imaginary parts, summed over wavenumbers: the members' scales together.

    A score of cells does not see whether an error is shared by neighbours; this one does (FourCastNet 3, arXiv 2507.12144, uses such a term with
    spherical harmonics). Args, returns and raises as `fair_crps`.
    """
    _check_shapes(prediction[0], target, area_weights_HW, scale_C, channel_weights_C)
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = (torch.view_as_real(_zonal(field, scale_C)).flatten(-2) for field in (prediction, target))
        number = x.shape[-1]
        score = fair_crps(x, y, area_weights_HW.mean(-1, keepdim=True), torch.ones_like(scale_C), channel_weights_C, fairness=fairness)
        return score * float(number)


def _scaled(field: Tensor, scale_C: Tensor) -> Tensor:
    wide = torch.promote_types(field.dtype, torch.promote_types(scale_C.dtype, torch.float32))
    return field.to(wide) / scale_C.to(wide)[:, None, None]


def _zonal(field: Tensor, scale_C: Tensor) -> Tensor:
    """Zonal Fourier coefficients in units of the channel; the mean is the first; complex (..., C, H, M)."""
    coefficients: Tensor = torch.fft.rfft(_scaled(field, scale_C), norm="forward")
    return coefficients


def _power(coefficients: Tensor) -> Tensor:
    return coefficients.real.square() + coefficients.imag.square()


def _multiplicity(columns: int, like: Tensor) -> Tensor:
    """How often each coefficient stands for itself and its conjugate, so that the sum of powers is the mean square; shape (M,)."""
    count = torch.full((columns // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
    count[0] = 1
    if columns % 2 == 0:
        count[-1] = 1
    return count


def _mean(values: Tensor, area_weights_HW: Tensor, channel_weights_C: Tensor | None) -> Tensor:
    """Mean over area, then over all but channels, then over channels as weighted."""
    area_HW = area_weights_HW.to(values.dtype).expand(values.shape[-2:])
    by_channel = (values * (area_HW / area_HW.sum())).sum((-2, -1)).reshape(-1, values.shape[-3]).mean(0)
    if channel_weights_C is None:
        return by_channel.mean()
    weights_C = channel_weights_C.to(values.dtype)
    return (by_channel * weights_C).sum() / weights_C.sum()


def _check_shapes(
    prediction: Tensor, target: Tensor, area_weights_HW: Tensor, scale_C: Tensor, channel_weights_C: Tensor | None
) -> None:
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have the same shape (..., C, H, W)")
    channels, rows, columns = prediction.shape[-3:]
    if tuple(area_weights_HW.shape) not in ((rows, columns), (rows, 1)):
        raise ValueError(f"area weights {tuple(area_weights_HW.shape)} do not fit {rows} x {columns} cells")
    for name, values in (("scale", scale_C), ("channel weights", channel_weights_C)):
        if values is not None and tuple(values.shape) != (channels,):
            raise ValueError(f"{name} {tuple(values.shape)} do not fit {channels} channels")
