"""What looks on while a forecast is made: diagnostics, changes of the state, stopping rules; the writer of files is one of them."""

# B batch (init and member), C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ..channels import ChannelSet
from ..grid import Grid, LatLonGrid
from ..times import TimeAxis
from .background import BackgroundWriter


@dataclass(frozen=True, eq=False)
class ForecastState:
    """One lead time of a batch of forecasts.

    Args:
        step: model steps since the init time, from 1.
        lead_seconds: duration since the init time.
        init_seconds, valid_seconds: seconds since 1970 in `calendar`; shape (B,).
        init_indices, members: position of each forecast among the init times and among the members, from 0; shape (B,).
        fields_BCHW: physical units, latitude ascending, on the model's device. A hook may change it in place: the model goes on from there.
        channels, grid, calendar: what the axes are.
    """

    step: int
    lead_seconds: int
    init_seconds: NDArray[np.int64]
    valid_seconds: NDArray[np.int64]
    init_indices: NDArray[np.int64]
    members: NDArray[np.int64]
    fields_BCHW: Tensor
    channels: ChannelSet
    grid: Grid
    calendar: str

    @property
    def lead_time(self) -> np.timedelta64:
        """Duration since the init time."""
        return np.timedelta64(self.lead_seconds * 1_000_000_000, "ns")

    def to_xarray(self) -> xr.Dataset:
        """Named variables (forecast, [level], latitude, longitude) in canonical order, with `time`, `number` (from 1) and `valid_time` of each."""
        names = ("latitude", "longitude") if isinstance(self.grid, LatLonGrid) else ("y", "x")
        axes = {name: getattr(self.grid, name) for name in names}
        ds = self.channels.unpack(self.fields_BCHW, {"forecast": np.arange(len(self.members)), **axes})
        init, valid = (TimeAxis(seconds, self.calendar).values() for seconds in (self.init_seconds, self.valid_seconds))
        return ds.assign_coords(number=("forecast", self.members + 1), prediction_timedelta=self.lead_time, time=("forecast", init),
                                valid_time=("forecast", valid)).drop_vars("forecast")


class Hook(Protocol):
    """Looks at every state while forecasts are made; to stop the run it raises an error of errors.py, and what is written is kept."""

    def on_state(self, state: ForecastState) -> None:
        """Called with each batch at each lead time, in order of lead within a batch; may change `state.fields_BCHW` in place."""

    def finish(self) -> None:
        """Called once, after the last state of this process."""


class WriteStates:
    """The hook that writes a forecast file.

    Args:
        writer: takes the states.
        steps: model steps that are kept, ascending.
        num_members: of each init time.
        skip: forecasts that are in the file already.
    """

    def __init__(self, writer: BackgroundWriter, steps: tuple[int, ...], num_members: int, skip: Iterable[int]) -> None:
        self._writer = writer
        self._lead_index = {step: k for k, step in enumerate(steps)}
        self._num_members = num_members
        self._skip = frozenset(skip)

    def on_state(self, state: ForecastState) -> None:
        """Hand the states to the writer; after the last lead time the forecasts are finished."""
        if state.step not in self._lead_index:
            return
        fields = state.fields_BCHW.cpu().numpy()
        lead_index = self._lead_index[state.step]
        forecasts = (state.init_indices * self._num_members + state.members).tolist()
        mine = [(row, forecast) for row, forecast in enumerate(forecasts) if forecast not in self._skip]
        for row, forecast in mine:
            self._writer.write(forecast, lead_index, fields[row])
        if lead_index == len(self._lead_index) - 1:
            for _, forecast in mine:
                self._writer.finish(forecast)

    def finish(self) -> None:
        """Wait until all is written."""
        self._writer.flush()
