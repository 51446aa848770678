"""The one rollout: training, validation and inference step a forecaster with this generator."""

# B batch, T history, C channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..forecaster import Forecaster


@dataclass(frozen=True)
class State:
    """One forecast instant.

    Args:
        step: model steps since the init time, from 1.
        lead_seconds: duration since the init time.
        valid_seconds: init time plus lead time, seconds since 1970 in the forecaster's calendar; shape (B,).
        fields_BCHW: the state in physical units.
    """

    step: int
    lead_seconds: int
    valid_seconds: NDArray[np.int64]
    fields_BCHW: Tensor


def rollout(forecaster: Forecaster, history_BTCHW: Tensor, init_seconds: NDArray[np.int64], num_steps: int) -> Iterator[State]:
    """Step the forecaster `num_steps` times, feeding each state back; gradients flow through all steps.

    Args:
        forecaster: the model step.
        history_BTCHW: past states, oldest first, the newest at the init time; physical units.
        init_seconds: init times, seconds since 1970 in the forecaster's calendar; shape (B,).
        num_steps: how many steps; memory does not grow with it when gradients are off.

    Yields:
        a `State` for each step.

    Raises:
        DataError: the history's length or the number of init times does not fit.
    """
    if history_BTCHW.shape[1] != forecaster.history or len(init_seconds) != history_BTCHW.shape[0]:
        raise DataError(f"history of shape {tuple(history_BTCHW.shape)} and {len(init_seconds)} init times do not fit a model that reads "
                        f"{forecaster.history} states")
    valid_seconds = np.asarray(init_seconds, dtype=np.int64)
    for step in range(1, num_steps + 1):
        state_BCHW = forecaster(history_BTCHW, forecaster.forcing(valid_seconds))
        history_BTCHW = torch.cat([history_BTCHW[:, 1:], state_BCHW[:, None]], dim=1)
        valid_seconds = valid_seconds + forecaster.time_step
        yield State(step, step * forecaster.time_step, valid_seconds, state_BCHW)
