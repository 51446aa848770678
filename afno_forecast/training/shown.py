"""What of a validation can be drawn: one forecast beside the truth, and the energy spectra of all forecasts, of a few channels."""

# B batch, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ..channels import ChannelSet
from ..errors import ConfigError, DataError
from ..forecaster import Forecaster
from ..grid import LatLonGrid
from ..times import TimeAxis
from ..verify.deterministic import Deterministic
from ..verify.scores import KEY_CHANNELS, Scorer
from ..verify.settings import ScoreSettings
from ..verify.spectra import Spectra, make_bands

_MOST = 4


@dataclass(frozen=True)
class Shown:
    """Of one validation.

    Args:
        names: short names of the channels.
        forecast: from the first init time at the longest lead that is scored; dims time, prediction_timedelta, [level], rows, columns.
        truth: at the init and the valid time of that forecast; dims time, [level], rows, columns.
        spectra: scores of all forecasts with their spectra; None on a grid that has none.
    """

    names: tuple[str, ...]
    forecast: xr.Dataset
    truth: xr.Dataset
    spectra: xr.Dataset | None


Draw = Callable[[Shown, int], None]
"""Called with what a validation shows and the train step."""


def shown_channels(wanted: bool | tuple[str, ...], channels: ChannelSet) -> ChannelSet:
    """The channels to draw: those named; for True some that are looked at first. Raises ConfigError for one that the model has not."""
    if wanted is True:
        names = [name for name in KEY_CHANNELS if name in channels.shorts] or list(channels.shorts)
        return channels.select(names[:_MOST])
    try:
        return channels.select(wanted or ())
    except DataError as error:
        raise ConfigError(error.what, where="validation.pictures", fix=error.fix) from error


class Watcher:
    """Keeps of the states of a validation what is to be shown.

    Args:
        channels: what is shown.
        forecaster: whose states they are.
    """

    def __init__(self, channels: ChannelSet, forecaster: Forecaster) -> None:
        self.channels, self.grid, self.calendar = channels, forecaster.grid, forecaster.calendar
        self._index_C = [forecaster.channels.index(name) for name in channels.names]
        families = (Deterministic(), Spectra(self.grid, ScoreSettings.energy_ratio))
        self._scorer = Scorer(channels, self.grid, regions=("global",), calendar=self.calendar, families=families) if make_bands(self.grid) else None
        self._last: tuple[int, int, Tensor, Tensor] | None = None  # init, lead, forecast and truth (C, H, W)

    def update(self, init_seconds: NDArray[np.int64], lead_seconds: int, prediction_BCHW: Tensor, truth_BCHW: Tensor) -> None:
        """Add forecasts of one lead time; leads come in order, of the first init time before others."""
        predicted, truth = prediction_BCHW[:, self._index_C], truth_BCHW[:, self._index_C]
        if self._scorer is not None:
            self._scorer.update(init_seconds, lead_seconds, predicted, truth)
        if self._last is None or self._last[0] == init_seconds[0]:
            self._last = (int(init_seconds[0]), lead_seconds, predicted[0].clone(), truth[0].clone())

    def shown(self, initial_CHW: Tensor) -> Shown:
        """What was kept.

        Args:
            initial_CHW: all channels of the model at the first init time.
        """
        assert self._last is not None, "nothing was added"
        init, lead, forecast, truth = self._last
        rows = ("latitude", "longitude") if isinstance(self.grid, LatLonGrid) else ("y", "x")
        axes = {name: getattr(self.grid, name) for name in rows}
        times = TimeAxis(np.asarray([init, init + lead]), self.calendar).values()
        leads = np.asarray([lead]).astype("timedelta64[s]").astype("timedelta64[ns]")
        return Shown(self.channels.shorts, self.channels.unpack(forecast[None, None], {"time": times[:1], "prediction_timedelta": leads, **axes}),
                     self.channels.unpack(torch.stack([initial_CHW[self._index_C], truth]), {"time": times, **axes}),
                     None if self._scorer is None else self._scorer.finalize())
