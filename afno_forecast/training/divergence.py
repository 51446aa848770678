"""A loss or gradient that is not finite: the training stops, and says in which dates, layer and channel it began."""

# B batch, T history, C channel, H latitude row, W longitude column

from __future__ import annotations

import json
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..data.loader import Batch
from ..distributed import own_share
from ..errors import DivergenceError
from ..forecaster import Forecaster
from ..times import format_instant
from .log import RunLog
from .run import Run


def require_finite(loss: float, norm: float, run: Run, batch: Batch, log: RunLog) -> None:
    """Stop at the first loss or gradient that is not finite, naming dates, layer and channel; the same words on every process."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    dates = ", ".join(format_instant(int(s), run.forecaster.calendar) for s in batch.seconds[:, run.forecaster.history - 1])
    place, dates = _first_told(run, not_finite_at_rest(run.forecaster, batch), dates)
    if not place:
        place, dates = _first_told(run, not_finite_in_a_step(run.forecaster, batch), dates)
    place = place or "not in the first step: in a later step of the rollout, or in the gradient"
    step = run.progress.train_step + 1
    log.event("diverged", train_step=step, loss=repr(loss), gradient_norm=repr(norm), dates=dates, place=place)
    raise DivergenceError(f"the {'gradient' if math.isfinite(loss) else 'loss'} of train step {step} is not finite: {place}",
                          where=f"{run.folder}: batch starting at {dates}",
                          fix="lower training.optimizer.learning_rate, or check these dates with: afno-forecast data inspect STORE")


def _first_told(run: Run, place: str, dates: str) -> tuple[str, str]:
    """The place and dates of the first process that has a place to tell; without any, the dates of all."""
    told = [json.loads(text) for text in run.layout.mesh.world.texts(json.dumps([place, dates]))]
    found = next(((p, d) for p, d in told if p), None)
    return found or ("", ", ".join(dict.fromkeys(d for _, d in told)))


@torch.no_grad()
def not_finite_at_rest(forecaster: Forecaster, batch: Batch) -> str:
    """The channel of the states, or else the weights, in which a number is not finite; empty when there is none."""
    for name, values in zip(forecaster.channels.shorts, batch.states.unbind(2), strict=True):
        wrong_BT = ~torch.isfinite(values).flatten(2).all(-1)
        if wrong_BT.any():
            sample, place = wrong_BT.nonzero()[0].tolist()
            what = "input" if place < forecaster.history else "truth"
            return f"channel {name} of the {what} at {format_instant(int(batch.seconds[sample, place]), forecaster.calendar)}"
    for name, values in forecaster.named_parameters():
        if not torch.isfinite(own_share(values)).all():
            return f"weights {name}"
    return ""


@torch.no_grad()
def not_finite_in_a_step(forecaster: Forecaster, batch: Batch) -> str:
    """The layer and output channels in which one model step's first number that is not finite appears; empty when there is none."""
    history = forecaster.history
    states = batch.states[:, :history].to(forecaster.area_weights_HW.device)
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not found and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in forecaster.named_modules() if name and not list(m.children())]
    try:
        state = forecaster(states, forecaster.forcing(batch.seconds[:, history - 1], batch.time_step), batch.time_step)
    finally:
        for handle in handles:
            handle.remove()
    channels = [n for n, v in zip(forecaster.channels.shorts, state.unbind(1), strict=True) if not torch.isfinite(v).all()]
    if found or channels:
        return f"layer {found[0] if found else 'backbone'}, channel {', '.join(channels) or 'none'}"
    return ""
