"""Budget, stages, and the learning rate: functions of the share of the budget spent and, for a plateau, of the validations so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field, model_validator

from ..config import Strict
from ..times import parse_duration


class Budget(Strict):
    """How long to train: exactly one of the three."""

    train_steps: int | None = Field(default=None, gt=0)
    """Number of optimiser updates."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall-clock minutes of training, validation not counted."""
    core_minutes: float | None = Field(default=None, gt=0)
    """CPU minutes of training over all threads, validation not counted: fair on a shared machine."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if [self.train_steps, self.minutes, self.core_minutes].count(None) != 2:
            raise ValueError("give exactly one of train_steps, minutes and core_minutes")
        return self

    def spent(self, train_steps: int, seconds: float, core_seconds: float) -> float:
        """Share of the budget, 0 at the start, 1 or more at the end."""
        if self.train_steps is not None:
            return train_steps / self.train_steps
        if self.core_minutes is not None:
            return core_seconds / (60 * self.core_minutes)
        assert self.minutes is not None
        return seconds / (60 * self.minutes)

    def describe(self) -> str:
        """In words."""
        if self.train_steps is not None:
            return f"{self.train_steps} updates"
        return f"{self.core_minutes:g} core minutes" if self.core_minutes is not None else f"{self.minutes:g} minutes"


Shape = Literal["cosine", "linear", "constant", "plateau"]


class Stage(Strict):
    """A part of the training with one rollout length, learning rate and batch."""

    until: float = Field(gt=0, le=1)
    """Share of the budget at which the stage ends."""
    rollout: int = Field(ge=1, le=64)
    """Model steps in the loss; gradients flow through all of them, unless training.loss.push_forward says otherwise."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate in this stage, which the schedule goes on to scale; training.optimizer.learning_rate when absent."""
    batch_size: int | None = Field(default=None, ge=1)
    """Samples in an update of this stage; training.batch_size when absent."""
    time_steps: tuple[str, ...] = ()
    """Which of the model's time steps to train, each batch one of them: [24h, 24h, 6h] takes twice as many of 24 h. Empty: all, equally often."""

    def step_seconds(self, model_steps: Sequence[int]) -> tuple[int, ...]:
        """The steps to draw from, seconds, with repeats. Raises ConfigError for what is no duration."""
        return tuple(parse_duration(text) for text in self.time_steps) or tuple(model_steps)


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise ValueError unless the stages follow each other and reach the whole budget."""
    ends = [s.until for s in stages]
    if not ends or ends != sorted(set(ends)) or ends[-1] != 1:
        raise ValueError(f"stages must end at rising shares of the budget, the last at 1; got {ends}")


def stage_at(stages: Sequence[Stage], spent: float) -> int:
    """Index of the stage at a share of the budget."""
    return next((i for i, s in enumerate(stages) if spent < s.until), len(stages) - 1)


class RolloutGrowth(Strict):
    """Short form of stages: the rollout starts with some steps and grows by one every so many epochs. Needs budget.train_steps."""

    start: int = Field(default=1, ge=1, le=64)
    """Model steps in the loss at first."""
    epoch_increment: int = Field(default=1, ge=1)
    """Epochs (every sample of the training period once) between one more step and the next."""
    maximum: int = Field(ge=1, le=64)
    """Model steps at most."""

    @model_validator(mode="after")
    def _grows(self) -> RolloutGrowth:
        if self.maximum < self.start:
            raise ValueError(f"the maximum, {self.maximum}, is below the start, {self.start}")
        return self

    def stages(self, train_steps: int, updates_in_epoch: Callable[[int], float]) -> tuple[Stage, ...]:
        """The stages in full.

        Args:
            train_steps: updates of the whole training.
            updates_in_epoch: of a rollout length.
        """
        found: list[Stage] = []
        spent = 0.0
        for length in range(self.start, self.maximum + 1):
            spent += self.epoch_increment * updates_in_epoch(length) / train_steps
            last = length == self.maximum or spent >= 1
            found.append(Stage(until=1.0 if last else spent, rollout=length))
            if last:
                break
        return tuple(found)


def learning_rate_factor(spent: float, warmup: float, shape: Shape, reduced: float = 1.0) -> float:
    """Share of the peak learning rate.

    Args:
        spent: share of the budget.
        warmup: share of the budget over which it rises linearly from zero.
        shape: what follows: a half cosine to zero at 1; a straight line to zero at 1 (Bergsma et al. 2025, arXiv 2502.15938); 1; or `reduced`.
        reduced: what validations without progress have left of it.
    """
    if spent < warmup:
        return spent / warmup
    falling = min(1.0, (spent - warmup) / (1 - warmup))
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * falling))
    if shape == "linear":
        return 1 - falling
    return reduced if shape == "plateau" else 1.0
