"""Ensembles: histories of members that start from slightly different states.

Members come in pairs, 1 and 2, 3 and 4, ...: the second of a pair starts from the analysis minus what the first starts from plus, so that the
ensemble is centred on the analysis; a last odd member has no partner. No member is the unperturbed forecast, so that all are exchangeable, as a
fair CRPS takes them to be; with `lagged` (no pairs) member 1 is. A perturbation's size is `amplitude` times the standard deviation of each
channel's change over a model step. Draws depend on (seed, init time, pair, channel) alone, neither on the batch nor on the process.

- `white`: independent in every cell and channel.
- `correlated`: independent channels, each a random field on the sphere with the spectrum of `sphere.py`.
- `bred`: bred vectors (Toth and Kalnay 1993) of the forecaster itself: a pair of runs around successive analyses; half their difference,
  rescaled after every model step in each hemisphere to the amplitude (root of the mean over area and channels, poleward of 20 degrees; factors
  interpolated linearly in latitude between 20 S and 20 N), seeds the next one. All channels are scaled together, so their balance is the model's.
- `lagged`: member m is the forecast started (m - 1) x lag before the init time.
- `model`: all members start from the analysis and read other noise at every step (`noise.py`); for models trained with noise channels. No pairs.
"""

# B batch (init and member), T history, C channel, H latitude row, W longitude column

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..forecaster import Forecaster
from ..grid import LatLonGrid
from ..noise import NoiseDraw
from ..sphere import EARTH_RADIUS_KM, SMOOTHNESS, random_fields, truncation
from ..times import format_duration
from .rollout import rollout

Method = Literal["white", "correlated", "bred", "lagged", "model"]
SETTINGS: dict[Method, tuple[str, ...]] = {
    "white": ("amplitude", "seed"), "correlated": ("amplitude", "seed", "length_km"), "bred": ("amplitude", "seed", "length_km", "cycles"),
    "lagged": ("lag",), "model": ("seed",)}
"""What of a perturbation acts on members of each method."""
Histories = Callable[[NDArray[np.int64]], Tensor]  # init times (B,) -> analyses (B, T, C, H, W)
Float = NDArray[np.float64]
_TROPICS = 20.0  # degrees
_NONNEGATIVE = ("specific_humidity", "relative_humidity", "total_precipitation", "total_precipitation_6hr", "precipitation_flux",
                "total_column_water_vapour")
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Perturbation:
    """How members are made to differ.

    Args:
        method: see the file.
        amplitude: of the perturbation, positive, in standard deviations of the channel's change over a model step.
        seed: of all draws.
        length_km: length scale of correlated fields and of the seeds of bred vectors.
        cycles: breeding cycles of one model step each, before the init time.
        lag: seconds between the starts of lagged members; None for the model's step.

    Raises ConfigError for a value out of range.
    """

    method: Method
    amplitude: float = 1.0
    seed: int = 0
    length_km: float = 1000.0
    cycles: int = 8
    lag: int | None = None

    def __post_init__(self) -> None:
        longest = int(EARTH_RADIUS_KM * 4)
        for name, option, good, fix in (
                ("amplitude", "amplitude", 0 < self.amplitude < 1e6, "use a positive number below 1000000"),
                ("seed", "seed", self.seed >= 0, "use zero or a positive number"),
                ("length_km", "length-scale", 1 <= self.length_km <= longest, f"use 1 to {longest} km"),
                ("cycles", "breeding-cycles", 1 <= self.cycles <= 1000, "use 1 to 1000"),
                ("lag", "lag", self.lag is None or self.lag > 0, "use a positive duration")):
            if not good:
                raise ConfigError(f"{name} {getattr(self, name)} of a perturbation is out of range", where=f"--{option}", fix=fix)

    def earlier_starts(self, init_seconds: NDArray[np.int64], num_members: int, time_step: int) -> NDArray[np.int64]:
        """Init times besides the given ones whose analyses are read; ascending."""
        if self.method == "bred":
            offsets = np.arange(1, self.cycles + 1, dtype=np.int64) * time_step
        elif self.method == "lagged":
            offsets = np.arange(1, num_members, dtype=np.int64) * self._lag(time_step)
        else:
            offsets = np.zeros(0, dtype=np.int64)
        return np.setdiff1d(init_seconds[:, None] - offsets[None, :], init_seconds)

    def _lag(self, time_step: int) -> int:
        lag = time_step if self.lag is None else self.lag
        if lag % time_step:
            raise ConfigError(f"a lag of {format_duration(lag)} is not a multiple of the model's step of {format_duration(time_step)}", where="--lag",
                              fix=f"use --lag {format_duration(max(1, lag // time_step) * time_step)}")
        return lag

    def describe(self, forecaster: Forecaster) -> dict[str, str]:
        """What the file's attributes say of the members."""
        facts: dict[str, str] = {"perturbation": self.method}
        if self.method == "lagged":
            return facts | {"perturbation_lag": format_duration(self._lag(forecaster.time_step))}
        if self.method == "model":
            return facts | {"perturbation_seed": str(self.seed), "perturbation_noise": "fields that the network reads at every step"}
        facts |= {"perturbation_seed": str(self.seed), "perturbation_pairs": "members 2k-1 and 2k start from the analysis plus and minus the same",
                  "perturbation_amplitude": f"{self.amplitude:g} times the standard deviation of {_unit(forecaster)}"}
        if self.method == "bred":
            facts["perturbation_cycles"] = f"{self.cycles} of {format_duration(forecaster.time_step)}"
        if self.method != "white" and isinstance(forecaster.grid, LatLonGrid):
            facts["perturbation_spectrum"] = (f"power per harmonic of total wavenumber l ~ (({EARTH_RADIUS_KM:g}/{self.length_km:g})^2 + l(l+1))"
                                              f"^-{SMOOTHNESS + 1:g}, l from 1 to {truncation(forecaster.grid)}")
        return facts


def make_histories(perturbation: Perturbation, forecaster: Forecaster, analyses: Histories, init_seconds: NDArray[np.int64],
                   members: NDArray[np.int64]) -> Tensor:
    """Histories that members start from.

    Args:
        perturbation: how they differ.
        forecaster: the model, for bred and lagged members.
        analyses: gives histories of analyses on the forecaster's device.
        init_seconds: init time of each; shape (B,).
        members: number of each, from 0; shape (B,).

    Returns:
        (B, T, C, H, W), physical units. Every state of a history gets the same white or correlated perturbation.

    Raises:
        ConfigError: a method that the grid or the lag does not allow.
    """
    if perturbation.method == "lagged":
        return _lagged(perturbation, forecaster, analyses, init_seconds, members)
    history_BTCHW = analyses(init_seconds)
    if perturbation.method == "model":
        return history_BTCHW
    pairs = members // 2
    if perturbation.method == "bred":
        difference_BTCHW, _ = breed(perturbation, forecaster, analyses, init_seconds, pairs)
    else:
        difference_BTCHW = draw(perturbation, forecaster, init_seconds, pairs)[:, None].to(history_BTCHW)
    sign_B = torch.from_numpy(1 - 2 * (members % 2)).to(history_BTCHW)
    return _keep_nonnegative(history_BTCHW + sign_B[:, None, None, None, None] * difference_BTCHW, history_BTCHW, forecaster)


def noise_of(perturbation: Perturbation | None, members: NDArray[np.int64]) -> NoiseDraw | None:
    """What the steps of members (numbers from 0) read, where it is the model that perturbs."""
    return NoiseDraw(perturbation.seed, members) if perturbation is not None and perturbation.method == "model" else None


def require_noise(perturbation: Perturbation | None, forecaster: Forecaster) -> None:
    """Raise ConfigError where the model is to perturb and reads no noise."""
    if perturbation is not None and perturbation.method == "model" and forecaster.noise is None:
        raise ConfigError("the model reads no noise: its members would be copies of each other", where="--perturb model",
                          fix="use --perturb bred, or train a model with model.noise_lengths_km and training.loss.kind=crps")


def draw(perturbation: Perturbation, forecaster: Forecaster, init_seconds: NDArray[np.int64], pairs: NDArray[np.int64]) -> Tensor:
    """White noise or correlated fields of each (init time, pair), physical units; float32 (B, C, H, W) on the CPU. Constant channels get zeros."""
    grid, scale_C = forecaster.grid, amplitude_scale(forecaster) * perturbation.amplitude
    fields = np.zeros((len(init_seconds), len(scale_C), *grid.shape), dtype=np.float32)
    moving = np.flatnonzero(scale_C)
    for b, (init, pair) in enumerate(zip(init_seconds, pairs, strict=True)):
        generators = [random_generator(perturbation.seed, int(init), int(pair), forecaster.channels.names[c]) for c in moving]
        if perturbation.method == "white":
            drawn = np.stack([g.standard_normal(grid.shape) for g in generators]) if generators else fields[b, moving]
        elif not isinstance(grid, LatLonGrid):
            raise ConfigError(f"correlated fields are made on the sphere, not on a {grid.describe()}", where="--perturb", fix="use --perturb white")
        else:
            drawn = random_fields(generators, grid, perturbation.length_km) if generators else fields[b, moving]
        fields[b, moving] = drawn * scale_C[moving, None, None]
    return torch.from_numpy(fields)


def random_generator(seed: int, init_seconds: int, pair: int, channel: str) -> np.random.Generator:
    """The generator of one channel of one pair at one init time: a counter-based one whose key is made of these four."""
    name = int.from_bytes(hashlib.sha256(channel.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, init_seconds & _MASK, pair, name])))


def amplitude_scale(forecaster: Forecaster) -> Float:
    """Standard deviation of each channel's change over a model step, physical units, 0 for constant channels; shape (C,).

    Published weights come without it: there it is that of the state.
    """
    scale = forecaster.normalizer.tendency_std_C.double().cpu().numpy().copy()
    scale[[name in forecaster.normalizer.constant for name in forecaster.channels.shorts]] = 0
    return np.asarray(scale)


def _unit(forecaster: Forecaster) -> str:
    same = torch.equal(forecaster.normalizer.tendency_std_C, forecaster.normalizer.std_C)
    return "each channel" if same else f"each channel's change over {format_duration(forecaster.time_step)}"


def breed(perturbation: Perturbation, forecaster: Forecaster, analyses: Histories, init_seconds: NDArray[np.int64],
          pairs: NDArray[np.int64]) -> tuple[Tensor, Float]:
    """Bred vectors of each (init time, pair), and how much they grew over each cycle.

    Returns:
        perturbations (B, T, C, H, W), physical units, and growth factors of the norm over each cycle, shape (cycles, B).
    """
    step, growth = forecaster.time_step, []
    starts = init_seconds - perturbation.cycles * step
    seed_BCHW = draw(Perturbation("correlated", perturbation.amplitude, perturbation.seed, perturbation.length_km), forecaster, starts, pairs)
    difference_BTCHW = seed_BCHW[:, None].expand(-1, forecaster.history, -1, -1, -1)
    for cycle in range(perturbation.cycles):
        begin = starts + cycle * step
        analysis_BTCHW = analyses(begin)
        difference_BTCHW = difference_BTCHW.to(analysis_BTCHW)
        difference_BTCHW = difference_BTCHW * _rescaling(difference_BTCHW[:, -1], perturbation.amplitude, forecaster)[:, None, None]
        before = _norms(difference_BTCHW[:, -1], forecaster, np.ones(forecaster.grid.shape[0], dtype=bool))
        twins = [torch.cat([h[:, 1:], _step(forecaster, h, begin)[:, None]], dim=1)
                 for h in (analysis_BTCHW + difference_BTCHW, analysis_BTCHW - difference_BTCHW)]
        difference_BTCHW = (twins[0] - twins[1]) / 2
        after = _norms(difference_BTCHW[:, -1], forecaster, np.ones(forecaster.grid.shape[0], dtype=bool))
        growth.append((after / before.clamp_min(torch.finfo(before.dtype).tiny)).cpu().numpy())
    factor_B1HW = _rescaling(difference_BTCHW[:, -1], perturbation.amplitude, forecaster)
    return difference_BTCHW * factor_B1HW[:, None, None], np.stack(growth)


def _step(forecaster: Forecaster, history_BTCHW: Tensor, init_seconds: NDArray[np.int64]) -> Tensor:
    return next(rollout(forecaster, history_BTCHW, init_seconds, 1)).fields_BCHW


def _norms(state_BCHW: Tensor, forecaster: Forecaster, rows: NDArray[np.bool_]) -> Tensor:
    """Root of the mean over area and moving channels of the squares, in units of `amplitude_scale`, over some rows; float64 (B,)."""
    scale_C = torch.from_numpy(amplitude_scale(forecaster)).to(state_BCHW.device)
    moving = scale_C > 0
    chosen = torch.from_numpy(np.flatnonzero(rows)).to(state_BCHW.device)
    scores = state_BCHW[:, moving][:, :, chosen].double() / scale_C[moving][:, None, None]
    weights_HW = forecaster.area_weights_HW[chosen].double()
    return ((scores**2 * weights_HW).sum(dim=(-2, -1)) / weights_HW.sum()).mean(dim=1).sqrt()


def _rescaling(state_BCHW: Tensor, amplitude: float, forecaster: Forecaster) -> Tensor:
    """Factor of each row that brings both hemispheres to the amplitude; float32 (B, H, 1), broadcast over columns."""
    grid = forecaster.grid
    latitude = grid.latitude if isinstance(grid, LatLonGrid) else np.full(grid.shape[0], 90.0)
    sides = [rows for rows in (latitude <= -_TROPICS, latitude >= _TROPICS) if rows.any()] or [np.ones(len(latitude), dtype=bool)]
    factors = []
    for rows in sides:
        norm = _norms(state_BCHW, forecaster, rows)
        factors.append(torch.where(norm > 0, amplitude / norm, torch.ones_like(norm)))
    share_H = torch.from_numpy(np.clip((latitude + _TROPICS) / (2 * _TROPICS), 0, 1)).to(state_BCHW.device)  # of the northern factor
    factor_BH = factors[0][:, None] * (1 - share_H) + factors[-1][:, None] * share_H
    return factor_BH[:, :, None].to(state_BCHW.dtype)


def _keep_nonnegative(perturbed_BTCHW: Tensor, analysis_BTCHW: Tensor, forecaster: Forecaster) -> Tensor:
    """Amounts of water stay above zero, or above the analysis where that is below."""
    for c, channel in enumerate(forecaster.channels):
        if channel.variable in _NONNEGATIVE:
            perturbed_BTCHW[:, :, c] = torch.maximum(perturbed_BTCHW[:, :, c], analysis_BTCHW[:, :, c].clamp_max(0))
    return perturbed_BTCHW


def _lagged(perturbation: Perturbation, forecaster: Forecaster, analyses: Histories, init_seconds: NDArray[np.int64],
            members: NDArray[np.int64]) -> Tensor:
    """Histories made of forecasts from earlier analyses, valid at the init time."""
    step = forecaster.time_step
    steps_B = members * (perturbation._lag(step) // step)
    histories: list[Tensor] = [torch.empty(0)] * len(members)
    for num_steps in np.unique(steps_B):
        rows = np.flatnonzero(steps_B == num_steps)
        starts = init_seconds[rows] - num_steps * step
        history_BTCHW = analyses(starts)
        for state in rollout(forecaster, history_BTCHW, starts, int(num_steps)):
            history_BTCHW = torch.cat([history_BTCHW[:, 1:], state.fields_BCHW[:, None]], dim=1)
        for row, one in zip(rows, history_BTCHW, strict=True):
            histories[row] = one
    return torch.stack(histories)
