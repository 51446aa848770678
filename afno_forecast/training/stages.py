"""The stages of a training in full: what the short form of a growing rollout comes to on the training's samples."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.samples import find_windows
from ..times import TimeAxis
from .config import TrainingConfig


def with_stages(config: TrainingConfig, times: TimeAxis, *, time_steps: Sequence[int], history: int, period: tuple[int, int]) -> TrainingConfig:
    """The configuration with its stages written out.

    Args:
        config: as given.
        times: of the store.
        time_steps: the model's steps, seconds; an epoch has every sample of each once.
        history: past states read.
        period: first and last instant of training, seconds.

    Raises:
        DataError: the period is too short for the longest rollout.
    """
    if config.rollout is None:
        return config
    assert config.budget.train_steps is not None

    def updates(length: int) -> float:
        windows = [find_windows(times, time_step=step, history=history, num_steps=length, start=period[0], end=period[1]) for step in time_steps]
        return sum(map(len, windows)) / config.batch_size

    return config.model_copy(update={"stages": config.rollout.stages(config.budget.train_steps, updates), "rollout": None})
