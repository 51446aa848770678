"""The one rollout: training, validation and inference step a forecaster with this generator."""

# B batch, T history, L lead, C channel, F forcing, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError, DivergenceError
from ..forecaster import Forecaster
from ..noise import NoiseDraw
from ..times import format_duration, format_instant


@dataclass(frozen=True)
class State:
    """One forecast instant.

    Args:
        step: lead time in units of the shortest step used, from 1; with one step, how many were taken.
        lead_seconds: duration since the init time.
        valid_seconds: init time plus lead time, seconds since 1970 in the forecaster's calendar; shape (B,).
        fields_BCHW: the state in physical units.
    """

    step: int
    lead_seconds: int
    valid_seconds: NDArray[np.int64]
    fields_BCHW: Tensor


def rollout(forecaster: Forecaster, history_BTCHW: Tensor, init_seconds: NDArray[np.int64], num_steps: int, *,
            time_steps: Sequence[int] | None = None, leads: Collection[int] | None = None, noise: NoiseDraw | None = None,
            step: Callable[..., Tensor] | None = None, forcing_BLFHW: Tensor | None = None) -> Iterator[State]:
    """Step the forecaster to multiples of its shortest step, feeding states back; gradients flow through all steps.

    A forecaster with several steps reaches each lead time by its longest steps first: with 6, 12 and 24 h, a lead of 66 h is 24 + 24 + 12 + 6 h.

    Args:
        forecaster: the model step.
        history_BTCHW: past states, oldest first, the newest at the init time; physical units.
        init_seconds: init times, seconds since 1970 in the forecaster's calendar; shape (B,).
        num_steps: how many states, one every shortest step; memory does not grow with it when gradients are off.
        time_steps: which of the forecaster's steps to take, seconds, ascending; all by default.
        leads: which of the states are wanted, as `State.step`; others are made only where a wanted one is made from them. All by default.
        noise: the noise that each row's steps read, for a forecaster with noise channels; without it, every step is unperturbed.
        step: called in place of the forecaster, with the same arguments; for training, which rolls, recomputes and the like.
        forcing_BLFHW: the forecaster's forcing, made elsewhere, where one step is taken: entry l is that of the step from lead l. Computed here
            by default.

    Yields:
        a `State` for each that is made, in order of lead time; without gradients, changes of its fields are followed by those made from it.

    Raises:
        DataError: the history's length, the number of init times or the forcing does not fit.
        ConfigError: the forecaster has no such step, or they cannot be combined; noise for a forecaster that reads none.
    """
    steps = _checked_steps(forecaster, history_BTCHW, init_seconds, time_steps)
    if forcing_BLFHW is not None and (len(steps) > 1 or forcing_BLFHW.shape[:2] != (len(init_seconds), num_steps)):
        raise DataError(f"forcing of shape {tuple(forcing_BLFHW.shape)} does not fit {len(init_seconds)} init times and {num_steps} equal steps")
    unit = steps[0]
    ratios = tuple(s // unit for s in reversed(steps))
    needed = None if leads is None else _on_the_way(leads, ratios)
    start_seconds = np.asarray(init_seconds, dtype=np.int64)
    histories = {0: history_BTCHW}
    for lead in range(1, num_steps + 1):
        if needed is not None and lead not in needed:
            continue
        length = last_step(lead, ratios)
        begin = lead - length
        past_BTCHW = histories[begin]
        valid_seconds = start_seconds + lead * unit
        drawn = {} if noise is None else {"noise_BNHW": _draw(forecaster, noise, valid_seconds)}
        given = forecaster.forcing(start_seconds + begin * unit, length * unit) if forcing_BLFHW is None else forcing_BLFHW[:, begin]
        state_BCHW = (step or forecaster)(past_BTCHW, given, length * unit, **drawn)
        yield State(lead, lead * unit, valid_seconds, state_BCHW)
        histories[lead] = torch.cat([past_BTCHW[:, 1:], state_BCHW[:, None]], dim=1)
        del past_BTCHW
        histories = {at: history for at, history in histories.items() if _is_read_after(lead, at, ratios)}


def require_finite(fields_BCHW: Tensor, shorts: Sequence[str], lead_seconds: int, init_seconds: NDArray[np.int64], calendar: str, *, fix: str,
                   members: NDArray[np.int64] | None = None) -> None:
    """Raise DivergenceError for forecast states with a value that is not finite.

    Args:
        fields_BCHW: the states.
        shorts: short names of the channels; shape (C,).
        lead_seconds: duration since the init time.
        init_seconds: init times, seconds since 1970 in the calendar; shape (B,).
        calendar: of the init times.
        fix: what to do.
        members: number of each row's member, from 0, where there are several; shape (B,).
    """
    if bool(torch.isfinite(fields_BCHW).all()):
        return
    bad_BC = ~torch.isfinite(fields_BCHW).all(dim=-1).all(dim=-1).cpu()
    row, channel = (int(i) for i in bad_BC.nonzero()[0])
    where = f"init {format_instant(int(init_seconds[row]), calendar)}"
    raise DivergenceError(f"the forecast diverged: {shorts[channel]} is not finite at lead {format_duration(lead_seconds)}",
                          where=where if members is None else f"{where}, member {members[row] + 1}", fix=fix)


def _checked_steps(forecaster: Forecaster, history_BTCHW: Tensor, init_seconds: NDArray[np.int64],
                   time_steps: Sequence[int] | None) -> tuple[int, ...]:
    """The steps to take, seconds, ascending; history and init times fit the forecaster."""
    if history_BTCHW.shape[1] != forecaster.history or len(init_seconds) != history_BTCHW.shape[0]:
        raise DataError(f"history of shape {tuple(history_BTCHW.shape)} and {len(init_seconds)} init times do not fit a model that reads "
                        f"{forecaster.history} states")
    steps = forecaster.time_steps if time_steps is None else tuple(time_steps)
    if not steps or any(s % steps[0] for s in steps) or list(steps) != sorted(set(steps)):
        raise ConfigError(f"steps of {', '.join(map(format_duration, steps)) or 'nothing'} do not reach every lead time",
                          fix="give ascending multiples of the first")
    return steps


def _draw(forecaster: Forecaster, noise: NoiseDraw, valid_seconds: NDArray[np.int64]) -> Tensor:
    if forecaster.noise is None:
        raise ConfigError("the model reads no noise: its members would be copies of each other", fix="train it with model.noise_lengths_km")
    return forecaster.noise(noise, valid_seconds)  # type: ignore[no-any-return]


def last_step(lead: int, ratios: Sequence[int]) -> int:
    """The last step on the way to a lead time that takes the longest steps first.

    Args:
        lead: lead time in units of the shortest step, positive.
        ratios: lengths of the steps in that unit, descending, the last 1.
    """
    for ratio in ratios:
        lead %= ratio
        if lead == 0:
            return ratio
    raise ValueError(f"steps of {ratios} do not end at 1")


def _on_the_way(leads: Collection[int], ratios: Sequence[int]) -> set[int]:
    """Some leads and all those on their ways."""
    found: set[int] = set()
    for wanted in leads:
        lead = wanted
        while lead > 0 and lead not in found:
            found.add(lead)
            lead -= last_step(lead, ratios)
    return found


def _is_read_after(lead: int, at: int, ratios: Sequence[int]) -> bool:
    """Whether a state later than `lead` is made from the one at `at`."""
    return any(at + ratio > lead and last_step(at + ratio, ratios) == ratio for ratio in ratios)
