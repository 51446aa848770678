"""Models and analyses, checked and ready to step: forecasts from many init times, of many members, in batches.

    from afno_forecast.forecast import open_session

    for state in open_session("model", "weather.nc", init="last", lead_time="10d"):
        print(state.lead_time, state.to_xarray()["2m_temperature"].mean().item())
"""

# B batch (init and member), T history, C channel, H latitude row, W longitude column

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__, model_folder
from ..channels import ChannelSet
from ..data.states import States, open_states
from ..diagnostic import Diagnostic
from ..errors import ConfigError, DataError, told_if_out_of_memory
from ..forecaster import Forecaster
from ..times import format_duration, format_instant, parse_duration
from .calibration import Calibration, load_calibration
from .hooks import ForecastState
from .initial import Data, check_states, history_rows, load_on_other_grid, require_fit, select_inits, static_channels
from .perturb import Perturbation, make_histories, noise_of, require_noise
from .rollout import State, require_finite, rollout
from .selection import require_whole_steps

Pairs = list[tuple[int, int]]  # (init index, member), both from 0


@dataclass(frozen=True)
class Batch:
    """Forecasts stepped together, all of one model."""

    model: int
    forecasts: tuple[tuple[int, int], ...]


def plan_batches(num_inits: int, num_members: int, batch_size: int, num_models: int = 1) -> list[list[Batch]]:
    """All forecasts, cut into batches of at most `batch_size`; one list for each group of init times, with all their members.

    The cut depends on these four numbers alone, never on what is finished or on who computes it, so that the result is the same to the last bit.
    Member m belongs to model m modulo `num_models`.
    """
    members = [range(k, num_members, num_models) for k in range(num_models)]
    together = max(1, batch_size // max(len(m) for m in members))
    clusters = []
    for first in range(0, num_inits, together):
        cluster = []
        for model, mine in enumerate(members):
            forecasts = [(i, m) for i in range(first, min(first + together, num_inits)) for m in mine]
            cluster += [Batch(model, tuple(forecasts[k:k + batch_size])) for k in range(0, len(forecasts), batch_size)]
        clusters.append(cluster)
    return clusters


@dataclass(frozen=True, eq=False)
class Session:
    """What is needed to step. Iterating gives every state of every forecast, batch after batch, each in order of lead time.

    Args:
        forecasters: one a model folder, on the device.
        states: analyses.
        inits: init times, ascending, seconds since 1970; shape (I,).
        num_steps: model steps of each forecast.
        members: how many from each init time; None for one, unperturbed, without a number.
        perturbation: how members differ; None where the models do.
        batch_size: forecasts stepped together.
        identity: hash of the models, of all states they start from, and of how.
        names: of the models.
        diagnostics: of each model, on the device; None for one without.
        calibration: of the model; None to show states as they are. Calibrated states are shown, not stepped on, so that a change of them is not
            stepped on either.
    """

    forecasters: tuple[Forecaster, ...]
    states: States
    inits: NDArray[np.int64]
    num_steps: int
    members: int | None
    perturbation: Perturbation | None
    batch_size: int
    identity: str
    names: tuple[str, ...]
    diagnostics: tuple[Diagnostic | None, ...]
    calibration: Calibration | None = None

    @property
    def num_members(self) -> int:
        """Forecasts from each init time."""
        return self.members or 1

    @property
    def forecaster(self) -> Forecaster:
        """The first model; all have its channels, grid and step."""
        return self.forecasters[0]

    @property
    def channels(self) -> ChannelSet:
        """Of every state that is shown: the forecaster's, then the diagnostic ones."""
        told = self.diagnostics[0]
        return self.forecaster.channels if told is None else ChannelSet((*self.forecaster.channels, *told.outputs))

    @property
    def attrs(self) -> dict[str, str]:
        """What a file says of the forecasts: models, where the analyses come from, how members differ."""
        name = ", ".join(dict.fromkeys(self.names))
        attrs = {"title": f"Forecast of {name}", "source": f"afno_forecast {__version__}, model {name}", "model": name}
        if self.diagnostics[0] is not None:
            attrs["diagnostic_channels"] = self.diagnostics[0].describe()
        if self.calibration is not None:
            attrs["title"] = f"Calibrated forecast of {name}"
            attrs["calibration"] = f"anomalies shrunk by regression on {self.calibration.made_from}"
        attrs |= {key: str(self.states.attrs[key]) for key in ("institution", "license") if self.states.attrs.get(key)}
        return attrs if self.perturbation is None else attrs | self.perturbation.describe(self.forecaster)

    def clusters(self) -> list[list[Batch]]:
        """All batches, those of the same init times together; see `plan_batches`."""
        return plan_batches(len(self.inits), self.num_members, self.batch_size, len(self.forecasters))

    def __iter__(self) -> Iterator[ForecastState]:
        for cluster in self.clusters():
            for batch in cluster:
                yield from self.roll(batch)

    def roll(self, batch: Batch, leads: Collection[int] | None = None) -> Iterator[ForecastState]:
        """Step one batch, as far as some leads (numbers of steps) need it; all by default.

        Raises DivergenceError naming channel, lead, init time and member when a state is not finite.
        """
        forecaster = self.forecasters[batch.model]
        indices, members = np.asarray(batch.forecasts, dtype=np.int64).T
        init_seconds = self.inits[indices]
        with torch.no_grad(), self._memory(len(members)):
            history = self._history(forecaster, init_seconds, members)
            steps = rollout(forecaster, history, init_seconds, self.num_steps, leads=leads, noise=noise_of(self.perturbation, members))
            del history
        while True:
            # no_grad not across the yield: it would stay on in the caller; no inference mode: hooks may change the state
            with torch.no_grad(), self._memory(len(members)):
                state = next(steps, None)
                if state is None:
                    return
                shown_BCHW = self._with_diagnostic(self.diagnostics[batch.model], forecaster, state)
                self._require_finite(shown_BCHW, state.lead_seconds, init_seconds, members, leads)
                if self.calibration is not None:
                    shown_BCHW = self._calibrated(self.calibration, forecaster, shown_BCHW, state)
            yield ForecastState(state.step, state.lead_seconds, init_seconds, state.valid_seconds, indices, members, shown_BCHW,
                                self.channels, forecaster.grid, forecaster.calendar)
            if shown_BCHW is not state.fields_BCHW and self.calibration is None:
                state.fields_BCHW.copy_(shown_BCHW[:, :len(forecaster.channels)])  # what a hook has changed is stepped on from

    def _memory(self, count: int) -> contextlib.AbstractContextManager[None]:
        what = f"{count} forecasts stepped together on {self.forecaster.grid.describe()} did not fit"
        smaller = f"--batch-size {count // 2}" if count > 1 else "a coarser grid or a smaller model"
        return told_if_out_of_memory(what, f"use {smaller}")

    @staticmethod
    def _with_diagnostic(diagnostic: Diagnostic | None, forecaster: Forecaster, state: State) -> Tensor:
        """The state, with the channels that are told beside it; they depend on what it is before any hook."""
        if diagnostic is None:
            return state.fields_BCHW
        return torch.cat([state.fields_BCHW, diagnostic(state.fields_BCHW, forecaster.forcing(state.valid_seconds), state.lead_seconds)], dim=1)

    @staticmethod
    def _calibrated(calibration: Calibration, forecaster: Forecaster, shown_BCHW: Tensor, state: State) -> Tensor:
        """Shrunk, and within the model's constraints again: nothing below zero, and the global means that the model keeps."""
        shrunk_BCHW, count = calibration(shown_BCHW, state.lead_seconds, state.valid_seconds), len(forecaster.channels)
        kept_BCHW = forecaster.constraints(shrunk_BCHW[:, :count], state.fields_BCHW, forecaster.area_weights_HW)
        return torch.cat([kept_BCHW, shrunk_BCHW[:, count:]], dim=1)

    def _history(self, forecaster: Forecaster, init_seconds: NDArray[np.int64], members: NDArray[np.int64]) -> Tensor:
        if self.perturbation is None:
            return self._analyses(forecaster, init_seconds)
        return make_histories(self.perturbation, forecaster, lambda s: self._analyses(forecaster, s), init_seconds, members)

    def _analyses(self, forecaster: Forecaster, init_seconds: NDArray[np.int64]) -> Tensor:
        """Analyses before and at init times, each read once; (B, T, C, H, W)."""
        rows_BT = history_rows(self.states, init_seconds, history=forecaster.history, time_step=forecaster.time_step)
        rows, places = np.unique(rows_BT, return_inverse=True)
        return torch.from_numpy(self.states.read(rows)[places.reshape(rows_BT.shape)]).to(forecaster.area_weights_HW.device)

    def _require_finite(self, fields_BCHW: Tensor, lead_seconds: int, init_seconds: NDArray[np.int64], members: NDArray[np.int64],
                        leads: Collection[int] | None) -> None:
        step = self.forecaster.time_step
        before = [k * step for k in leads or range(1, self.num_steps + 1) if k * step < lead_seconds]
        last = format_duration(max(before, default=0))
        fix = (f"the last lead kept before it is {last}: use --lead-time {last}, no later --leads, and another --out" if before else
               "no lead before it is kept: forecast from another --init, or with another model")
        require_finite(fields_BCHW, self.channels.shorts, lead_seconds, init_seconds, self.forecaster.calendar, fix=fix,
                       members=None if self.members is None else members)


def open_session(model: Path | str | Sequence[Path | str], data: Data | str, *, init: str, lead_time: int | str, members: int | None = None,
                 perturbation: Perturbation | None = None, batch_size: int = 8, other_grid: bool = False,
                 raw: bool = False, echo: Callable[[str], None] = lambda text: None) -> Session:
    """Load models, open analyses, and check everything that can be checked before the first step.

    Args:
        model: model folder, or several of the same channels, grid and step: member m is stepped by the (m modulo their number)-th.
        data: training store, or any source `open_source` reads.
        init: first, last, ISO date, or START/END/STEP.
        lead_time: seconds or text such as 10d; a multiple of the model's step.
        members: forecasts from each init time, numbered from 1; None for one without a number (one of each model, when there are several).
        perturbation: how members of the same model differ.
        batch_size: forecasts stepped together; memory grows with it, the result does not depend on it beyond rounding.
        other_grid: run on the data's grid where it is not the training's.
        raw: show a calibrated model's states as the model makes them.
        echo: prints a line; notes come through it.

    Raises:
        CheckpointError, DataError, ConfigError: see errors.py.
    """
    folders = [Path(model)] if isinstance(model, str | Path) else [Path(m) for m in model]
    members = len(folders) if members is None and len(folders) > 1 else members
    _require_difference(members, len(folders), perturbation)
    forecasters = [model_folder.load(folder) for folder in folders]
    _require_alike(forecasters, folders)
    first = forecasters[0]
    seconds = parse_duration(lead_time) if isinstance(lead_time, str) else lead_time
    require_whole_steps(seconds, first.time_step, "--lead-time")
    paths = Path(data) if isinstance(data, str) else data
    states, transferred = _open_data(paths, folders, first, other_grid)
    for note in states.notes:
        echo(f"note: {note}")
    if transferred:
        forecasters = [load_on_other_grid(folder, paths, states, echo) for folder in folders]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for forecaster in forecasters:
        require_fit(forecaster, states)
        require_noise(perturbation, forecaster)
        forecaster.to(device)
    diagnostics = _diagnostics_of(folders, forecasters, device)
    inits = select_inits(init, states, history=max(f.history for f in forecasters), time_step=first.time_step)
    calibration = None if raw else _calibration_of(folders, forecasters, members, seconds, inits)
    rows = _all_rows(forecasters, states, inits, perturbation, members or 1)
    manifests = [json.loads((folder / model_folder.MANIFEST).read_text())["files"] for folder in folders]
    facts = [manifests, check_states(forecasters[0], states, rows, echo), inits.tolist(), members, repr(perturbation)]
    facts += ["raw"] if raw else []
    return Session(tuple(forecasters), states, inits, seconds // first.time_step, members, perturbation, batch_size,
                   sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(), tuple(map(_model_name, folders)), diagnostics, calibration)


def _open_data(data: Data, folders: Sequence[Path], forecaster: Forecaster, other_grid: bool) -> tuple[States, bool]:
    """The analyses, and whether the networks are to step on their grid instead of their own."""
    states = open_states(data, forecaster.channels)
    if not other_grid or forecaster.grid.matches(states.grid):
        return states, False
    static = dict.fromkeys(c for folder in folders for c in static_channels(folder, data))  # read there: no note says they are not used
    return open_states(data, forecaster.channels, ChannelSet(tuple(static))), True


def _require_difference(members: int | None, num_models: int, perturbation: Perturbation | None) -> None:
    if members is not None and members < num_models:
        raise ConfigError(f"{num_models} models make at least as many members, not {members}", where="--members", fix=f"use --members {num_models}")
    if perturbation is None and (members or 1) > num_models:
        raise ConfigError(f"{members} members of {num_models} model{'s' * (num_models > 1)} would be copies of each other", where="--members",
                          fix="add --perturb correlated, bred, white or lagged")
    if perturbation is not None and members is None:
        raise ConfigError("a perturbation makes members, and their number is not given", where="--perturb", fix="add --members 10")


def _calibration_of(folders: Sequence[Path], forecasters: Sequence[Forecaster], members: int | None, lead_seconds: int,
                    inits: NDArray[np.int64]) -> Calibration | None:
    """The calibration of a model that has one. Raises ConfigError where it is not for such forecasts."""
    found = [load_calibration(folder) for folder in folders]
    calibration = next((c for c in found if c is not None), None)
    if calibration is None:
        return None
    if members is not None:
        raise ConfigError("a calibrated forecast is the mean to expect: members would lose their spread", where="--members", fix="add --raw")
    calibration.require(forecasters[0], lead_seconds, inits)
    return calibration


def _diagnostics_of(folders: Sequence[Path], forecasters: Sequence[Forecaster], device: torch.device) -> tuple[Diagnostic | None, ...]:
    """The diagnostic network of each model, on the device. Raises ConfigError unless all models tell the same diagnostic channels."""
    diagnostics = [model_folder.load_diagnostic(folder, f) for folder, f in zip(folders, forecasters, strict=True)]
    told = [() if d is None else d.outputs.shorts for d in diagnostics]
    if len(set(told)) > 1:
        raise ConfigError(f"the models tell different diagnostic channels: {' and '.join(', '.join(names) or 'none' for names in told)}",
                          where="MODEL...", fix="forecast with models of the same diagnostic channels")
    return tuple(d if d is None else d.to(device) for d in diagnostics)


def _require_alike(forecasters: Sequence[Forecaster], folders: Sequence[Path]) -> None:
    """Raise ConfigError unless all models have the first one's channels, grid, step and calendar."""
    first = forecasters[0]
    for forecaster, folder in zip(forecasters[1:], folders[1:], strict=True):
        same = {"channels": forecaster.channels == first.channels, "grid": forecaster.grid.matches(first.grid),
                "time step": forecaster.time_step == first.time_step, "calendar": forecaster.calendar == first.calendar}
        if not all(same.values()):
            different = ", ".join(name for name, equal in same.items() if not equal)
            raise ConfigError(f"the models have another {different}: they cannot be members of one ensemble", where=f"{folders[0]}, {folder}",
                              fix="forecast with each on its own")


def _all_rows(forecasters: Sequence[Forecaster], states: States, inits: NDArray[np.int64], perturbation: Perturbation | None,
              num_members: int) -> NDArray[np.int64]:
    """Positions of every state that is read. Raises DataError when one is not there."""
    history, step = max(f.history for f in forecasters), forecasters[0].time_step
    rows = [history_rows(states, inits, history=history, time_step=step).ravel()]
    earlier = np.zeros(0, dtype=np.int64) if perturbation is None else perturbation.earlier_starts(inits, num_members, step)
    absent = earlier[~np.isin(earlier, states.times.seconds)]
    if len(absent) and perturbation is not None:
        shown = ", ".join(format_instant(int(s), states.times.calendar) for s in absent[:3]) + " and more" * (len(absent) > 3)
        reach = format_duration(int(inits[0] - earlier[0]))
        raise DataError(f"{perturbation.method} members need analyses before the init times: {shown} are not in the data", where=states.where,
                        fix=f"use an init with all analyses of {reach} before it, or another --perturb")
    if len(earlier):
        rows.append(history_rows(states, earlier, history=history, time_step=step).ravel())
    return np.unique(np.concatenate(rows))


def _model_name(model: Path) -> str:
    title = (Path(model) / model_folder.CARD).read_text().splitlines()[:1]
    return title[0].removeprefix("# ").strip() if title else Path(model).name
