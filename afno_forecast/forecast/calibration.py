"""What of a forecast's anomalies can be believed: factors by lead time, channel and wavenumber band, regressed on forecasts of known truth.

A forecast that has lost its skill still swings as much as the truth, so that its error is larger than the climatology's. The regression of the true
anomaly o on the forecast's anomaly f, o = a f with a = sum(f o) / sum(f f), shrinks it to what is right on average (Lorenz 1977, Monthly Weather
Review 105, 590: damped anomalies); here for each lead, channel and octave of the zonal wavenumber, area-weighted, limited to 0..1. Anomalies are
from the mean and the first annual harmonic of each cell and hour of the day over the same period. What comes out is the mean to expect, smooth at
long leads as an ensemble's mean is; the states that are stepped on stay as the model makes them.
"""

# B batch, N forecast, T history, S hour of the day, L lead, C channel, M zonal wavenumber, K band, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from .. import model_folder
from ..channels import ChannelSet
from ..data.samples import find_windows
from ..data.states import States, open_states
from ..errors import CheckpointError, ConfigError, DataError
from ..forecaster import Forecaster
from ..grid import Grid, LatLonGrid
from ..times import TimeAxis, format_duration, format_instant
from .initial import Data, require_fit
from .rollout import require_finite, rollout

Float = NDArray[np.float64]
_YEAR_SECONDS = 360 * 86400
_MOST_REFERENCE_STATES = 1500
_FEWEST_AT_AN_HOUR = 50
_READ_BYTES = 2**28
_LONGEST_GAP = 0.25
_SHOWN_BAND = 2


@dataclass(frozen=True, eq=False)
class Calibration:
    """Factors and the state that anomalies are from.

    Args:
        lead_seconds: ascending; shape (L,).
        factor_LCK: of the anomaly, in 0..1; band 0 is the zonal mean, band k the zonal wavenumbers from 2^(k-1) to 2^k - 1. One band where the
            columns do not go round the globe.
        hours_S: hours of the day that states are at, seconds, ascending.
        reference_S3CHW: mean, cosine and sine of the year at each of these hours, physical units.
        channels, grid, calendar: of the forecasts.
        made_from: the forecasts of the regression, in words.
    """

    lead_seconds: NDArray[np.int64]
    factor_LCK: Float
    hours_S: NDArray[np.int64]
    reference_S3CHW: NDArray[np.float32]
    channels: ChannelSet
    grid: Grid
    calendar: str
    made_from: str

    def __call__(self, fields_BCHW: Tensor, lead_seconds: int, valid_seconds: NDArray[np.int64]) -> Tensor:
        """Forecast states with their anomalies shrunk; further channels after the first C stay as they are.

        Args:
            fields_BCHW: physical units.
            lead_seconds: one of the calibration's leads.
            valid_seconds: seconds since 1970 in the calendar; shape (B,).
        """
        lead = int(np.flatnonzero(self.lead_seconds == lead_seconds)[0])
        expected_BCHW = torch.from_numpy(self.expected(valid_seconds)).to(fields_BCHW.device)
        factor_CK = torch.from_numpy(self.factor_LCK[lead]).to(expected_BCHW)
        count = len(self.channels)
        shrunk_BCHW = expected_BCHW + _shrunk(fields_BCHW[:, :count] - expected_BCHW, factor_CK, wraps=self.grid.periodic)
        return torch.cat([shrunk_BCHW, fields_BCHW[:, count:]], dim=1)

    def expected(self, valid_seconds: NDArray[np.int64]) -> NDArray[np.float32]:
        """The state that anomalies at some instants are from, (B, C, H, W). Raises ConfigError at an hour that the calibration lacks."""
        return _expected(self.hours_S, self.reference_S3CHW, TimeAxis(valid_seconds, self.calendar))

    def require(self, forecaster: Forecaster, lead_seconds: int, init_seconds: NDArray[np.int64]) -> None:
        """Raise ConfigError where forecasts of this model, from these init times as far as this lead, are not what was calibrated."""
        if not (self.grid.matches(forecaster.grid) and self.channels == forecaster.channels):
            raise ConfigError(f"the calibration is for {self.grid.describe()} and {', '.join(self.channels.shorts)}", where="--other-grid",
                              fix="add --raw to forecast without it")
        if lead_seconds > self.lead_seconds[-1] or forecaster.time_step not in self.lead_seconds:
            raise ConfigError(f"the model is calibrated every {format_duration(int(self.lead_seconds[0]))} up to "
                              f"{format_duration(int(self.lead_seconds[-1]))}, not up to {format_duration(lead_seconds)}", where="--lead-time",
                              fix="add --raw, or calibrate with a longer --lead-time")
        leads = np.arange(forecaster.time_step, lead_seconds + 1, forecaster.time_step)
        _require_hours(self.hours_S, TimeAxis(np.unique(init_seconds[:, None] + leads), self.calendar))

    def to_dataset(self) -> xr.Dataset:
        """As it lies in the model folder."""
        rows, columns = self.grid.axes
        return xr.Dataset(
            {"factor": (("lead_time", "channel", "band"), self.factor_LCK, {"long_name": "share of the forecast's anomaly to believe"}),
             "reference": (("hour", "harmonic", "channel", rows, columns), self.reference_S3CHW, {"long_name": "state that anomalies are from"})},
            coords={"hour": ("hour", self.hours_S, {"long_name": "seconds of the day"}),
                    "lead_time": ("lead_time", self.lead_seconds, {"long_name": "seconds since the init time"}),
                    "channel": list(self.channels.names), "harmonic": ["mean", "cosine of the year", "sine of the year"]},
            attrs={"made_from": self.made_from})


def load_calibration(folder: Path) -> Calibration | None:
    """The calibration of a model folder; None where there is none. Raises CheckpointError where it is damaged or another model's."""
    path = Path(folder) / model_folder.CALIBRATION
    if not path.exists():
        return None
    model_folder.check_manifest(Path(folder), (*model_folder.FILES, model_folder.CALIBRATION))
    inputs = model_folder.read_inputs(Path(folder))
    try:
        with xr.open_dataset(path, engine="netcdf4", decode_times=False) as ds:
            ds.load()
        made = Calibration(ds["lead_time"].values.astype(np.int64), ds["factor"].values.astype(np.float64), ds["hour"].values.astype(np.int64),
                           ds["reference"].values.astype(np.float32), inputs.channels, inputs.grid, inputs.calendar, str(ds.attrs["made_from"]))
        fits = tuple(ds["channel"].values.astype(str)) == inputs.channels.names and made.reference_S3CHW.shape[3:] == inputs.grid.shape
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"the calibration cannot be read: {error}", where=str(path), fix="calibrate the model again") from error
    if not fits or made.factor_LCK.shape[2] != len(_bands(inputs.grid)):
        raise CheckpointError("the calibration is of another model", where=str(path), fix="calibrate this model")
    return made


def calibrate(folder: Path, data: Data, out: Path, *, period: tuple[int, int], lead_seconds: int, inits: int = 24, batch_size: int = 8,
              echo: Callable[[str], None] = lambda text: None) -> Calibration:
    """Forecast from evenly spread init times of a period, compare with what came, and write the model with its calibration.

    Args:
        folder: model folder.
        data: training store or files with the period, on the model's grid.
        out: model folder to write.
        period: first and last instant, seconds since 1970 in the data's calendar; forecasts end inside it. Not one that is scored later.
        lead_seconds: how far.
        inits: forecasts.
        batch_size: forecasts stepped together.
        echo: prints a line.

    Raises:
        ConfigError: the period is shorter than a year, the grid a box, the lead no multiple of the model's step, or `out` something else than a
            model folder.
        DivergenceError: a forecast is not finite.
        DataError, CheckpointError, ResourceError: see errors.py.
    """
    if Path(out).exists() and not (Path(out) / model_folder.MANIFEST).is_file():
        raise ConfigError("there is something else than a model, which would be replaced", where=str(out),
                          fix="give another --out, or remove it first")
    forecaster = model_folder.load(folder)
    states = open_states(data, forecaster.channels)
    for note in states.notes:
        echo(f"note: {note}")
    require_fit(forecaster, states)
    _require_possible(forecaster, period, lead_seconds)
    forecaster.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    made = regress(forecaster, states, period=period, num_steps=lead_seconds // forecaster.time_step, inits=inits, batch_size=batch_size)
    model_folder.save_calibrated(folder, out, made.to_dataset())
    band = min(_SHOWN_BAND, made.factor_LCK.shape[2] - 1)
    for lead in sorted({0, (len(made.lead_seconds) - 1) // 2, len(made.lead_seconds) - 1}):
        shares = ", ".join(f"{short} {share:.2f}" for short, share in zip(made.channels.shorts, made.factor_LCK[lead, :, band], strict=True))
        echo(f"{format_duration(int(made.lead_seconds[lead]))}{', waves 2 and 3' if band == _SHOWN_BAND else ''}: {shares}")
    return made


def _require_possible(forecaster: Forecaster, period: tuple[int, int], lead_seconds: int) -> None:
    if not isinstance(forecaster.grid, LatLonGrid):
        raise ConfigError("anomalies from the season have no meaning on a box", where="MODEL", fix="forecast without a calibration")
    if period[1] - period[0] < _YEAR_SECONDS:
        raise ConfigError("the mean over the seasons needs a year of states", where="--period", fix="give a period of a year or more")
    if lead_seconds < 1 or lead_seconds % forecaster.time_step:
        raise ConfigError(f"{format_duration(lead_seconds)} is not a multiple of the model's step of {format_duration(forecaster.time_step)}",
                          where="--lead-time", fix="use a multiple")


def _reference(states: States, period: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Least squares of mean and first annual harmonic over a period, at each hour of the day that has states; (S,) and (S, 3, C, H, W)."""
    inside = np.flatnonzero((states.times.seconds >= period[0]) & (states.times.seconds <= period[1]))
    if not len(inside) or np.ptp(states.times.seconds[inside]) < _YEAR_SECONDS:
        raise DataError("the data do not hold a year of the period", where=states.where, fix="give a period that the data hold")
    hours_S, number = np.unique(states.times.at(inside).second_of_day(), return_inverse=True)
    references = []
    for hour in range(len(hours_S)):
        rows = inside[number == hour]
        fractions_N = states.times.at(rows).year_fraction()
        _require_seasons(states, fractions_N)
        rows = rows[_thinned(fractions_N, max(_FEWEST_AT_AN_HOUR, _MOST_REFERENCE_STATES // len(hours_S)))]
        solver_3N = np.linalg.pinv(_harmonics(states.times.at(rows)))
        total = np.zeros((3, *states.read(rows[:1]).shape[1:]))
        together = max(1, _READ_BYTES // total[0].nbytes)
        for first in range(0, len(rows), together):
            part = slice(first, first + together)
            total += np.tensordot(solver_3N[:, part], states.read(rows[part]), 1)
        references.append(total.astype(np.float32))
    return hours_S.astype(np.int64), np.stack(references)


def _thinned(fractions_N: Float, count: int) -> NDArray[np.int64]:
    """Ascending positions of `count` states, or of all when there are fewer: one, drawn with a fixed seed, of each part of the year's course.

    Args:
        fractions_N: position of each state in its year, 0 to 1; parts hold equally many.
        count: of positions.
    """
    if count >= len(fractions_N):
        return np.arange(len(fractions_N))
    edges = np.arange(count + 1) * len(fractions_N) // count
    return np.sort(np.argsort(fractions_N, kind="stable")[np.random.default_rng(0).integers(edges[:-1], edges[1:])])


def _expected(hours_S: NDArray[np.int64], reference_S3CHW: NDArray[np.float32], times: TimeAxis) -> NDArray[np.float32]:
    """The state to expect at each instant, (B, C, H, W)."""
    _require_hours(hours_S, times)
    parts = zip(_harmonics(times).astype(np.float32), np.searchsorted(hours_S, times.second_of_day()), strict=True)
    return np.stack([np.tensordot(weights, reference_S3CHW[number], 1) for weights, number in parts])


def _require_hours(hours_S: NDArray[np.int64], times: TimeAxis) -> None:
    """Raise ConfigError for instants at an hour of the day that has no reference."""
    absent = sorted(set(times.second_of_day().tolist()) - set(hours_S.tolist()))
    if absent:
        known, wanted = (", ".join(f"{hour / 3600:g}" for hour in hours) for hours in (hours_S, absent))
        raise ConfigError(f"the calibration knows the hours {known} of the day, not {wanted}", where="--init", fix="add --raw, or calibrate again")


def _require_seasons(states: States, fractions_N: Float) -> None:
    """Raise DataError where a part of the year has no state: its mean would be a continuation of the others'."""
    fractions = np.sort(fractions_N)
    gap = float(np.diff(fractions, append=fractions[0] + 1).max())
    if gap > _LONGEST_GAP:
        raise DataError(f"the data of the period hold no state in {gap:.0%} of the year: a mean over the seasons needs all of them",
                        where=states.where, fix="give a period in which the data hold all seasons")


@torch.no_grad()
def regress(forecaster: Forecaster, states: States, *, period: tuple[int, int], num_steps: int, inits: int = 24, batch_size: int = 8) -> Calibration:
    """The calibration of a forecaster, from forecasts of `num_steps` steps; the other arguments are those of `calibrate`."""
    hours_S, reference_S3CHW = _reference(states, period)
    step, history, grid = forecaster.time_step, forecaster.history, forecaster.grid
    windows = find_windows(states.times, time_step=step, history=history, num_steps=num_steps, start=period[0],
                           end=period[1]).evenly(states.times, inits)
    init_seconds_N = states.times.seconds[windows[:, history - 1]]
    products = np.zeros((2, num_steps, len(forecaster.channels), len(_bands(grid))))
    area_H1 = grid.area_weights()[:, :1].astype(np.float64)
    device = forecaster.area_weights_HW.device
    for first in range(0, len(windows), batch_size):
        part = windows[first:first + batch_size]
        history_BTCHW = torch.from_numpy(states.read(part[:, :history].ravel()).reshape(len(part), history, *reference_S3CHW.shape[2:])).to(device)
        for state in rollout(forecaster, history_BTCHW, init_seconds_N[first:first + batch_size], num_steps):
            require_finite(state.fields_BCHW, forecaster.channels.shorts, state.lead_seconds, init_seconds_N[first:first + batch_size],
                           forecaster.calendar, fix="calibrate with a shorter --lead-time")
            expected_BCHW = _expected(hours_S, reference_S3CHW, TimeAxis(state.valid_seconds, forecaster.calendar))
            truth_BCHW = states.read(part[:, history - 1 + state.step])
            for c in range(len(forecaster.channels)):  # in double precision, all together would take many times the memory of the states
                forecast = _waves(state.fields_BCHW[:, c].double().cpu().numpy() - expected_BCHW[:, c], grid)
                truth = _waves(truth_BCHW[:, c].astype(np.float64) - expected_BCHW[:, c], grid)
                for number, product in enumerate(((forecast * truth.conj()).real, np.abs(forecast) ** 2)):
                    products[number, state.step - 1, c] += _by_band((product * area_H1).sum((0, 1)), grid)
    factor_LCK = np.clip(products[0] / np.maximum(products[1], np.finfo(float).tiny), 0, 1)
    made_from = (f"{len(windows)} forecasts from {format_instant(int(init_seconds_N[0]), forecaster.calendar)} to "
                 f"{format_instant(int(init_seconds_N[-1]), forecaster.calendar)}")
    leads = np.arange(1, num_steps + 1, dtype=np.int64) * step
    return Calibration(leads, factor_LCK, hours_S, reference_S3CHW, forecaster.channels, grid, forecaster.calendar, made_from)


def _harmonics(times: TimeAxis) -> Float:
    """1, cosine and sine of the year at each instant, (N, 3)."""
    angle = 2 * np.pi * times.year_fraction()
    return np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=-1)


def _bands(grid: Grid) -> NDArray[np.int64]:
    """First wavenumber of each band: 0, 1, 2, 4, 8, ...; 0 alone where the columns do not go round."""
    highest = grid.shape[1] // 2
    return np.array([0, *(2**k for k in range(highest.bit_length()))] if grid.periodic else [0])


def _band_of_wave(num_waves: int) -> NDArray[np.int64]:
    """Band of the wavenumbers 0, 1, ... ."""
    return np.array([int(m).bit_length() for m in range(num_waves)])


def _waves(field_BHW: Float, grid: Grid) -> NDArray[np.complex128]:
    """Zonal coefficients, or the cells themselves where the columns do not go round; (B, H, M)."""
    return np.fft.rfft(field_BHW) if grid.periodic else field_BHW.astype(np.complex128)


def _by_band(product_M: Float, grid: Grid) -> Float:
    """Sums over the wavenumbers of each band, (K,); each stands for its conjugate too, but for the mean and an even number of columns' last."""
    if not grid.periodic:
        return np.asarray(product_M.sum(keepdims=True))
    counts_M = np.full(len(product_M), 2)
    counts_M[0] = 1
    if grid.shape[1] % 2 == 0:
        counts_M[-1] = 1
    return np.asarray(np.add.reduceat(counts_M * product_M, _bands(grid)))


def _shrunk(anomaly_BCHW: Tensor, factor_CK: Tensor, *, wraps: bool) -> Tensor:
    if not wraps:
        return anomaly_BCHW * factor_CK[:, 0, None, None]
    columns = anomaly_BCHW.shape[-1]
    factor_CM = factor_CK[:, torch.from_numpy(_band_of_wave(columns // 2 + 1)).to(factor_CK.device)]
    shrunk: Tensor = torch.fft.irfft(torch.fft.rfft(anomaly_BCHW) * factor_CM[:, None, :], n=columns)
    return shrunk
