"""What a training is told: how long, in which stages, by what loss and optimiser, in what memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..config import Strict
from .checkpoint import Progress
from .loss import LossConfig
from .optimizers import OptimizerConfig
from .parallel import ParallelConfig
from .schedule import Budget, RolloutGrowth, Stage, check_stages, learning_rate_factor
from .trackers import LogConfig


class TrainingConfig(Strict):
    """How the forecaster is fitted."""

    budget: Budget
    """How long."""
    batch_size: int = Field(ge=1)
    """Samples in an update."""
    stages: tuple[Stage, ...] = ()
    """Rollout length of the loss, learning rate and batch, in parts of the budget."""
    rollout: RolloutGrowth | None = None
    """Instead of stages: a rollout that grows with the epochs."""
    init_from: str | None = None
    """Model folder whose weights the training starts from, as far as they fit; what does not is said."""
    loss: LossConfig = LossConfig()
    """What is made small."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Muon and AdamW."""
    average: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the running average of weights, which is what is validated and kept; 0 keeps the last weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision of the network; auto measures which is faster here."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """Minutes between checkpoints."""
    asynchronous_checkpoints: bool = True
    """Go on training while a checkpoint is written."""
    log: LogConfig = LogConfig()
    """TensorBoard and MLflow, beside the files of the run folder."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; all cores when absent."""
    cache_megabytes: int = Field(default=1024, ge=1)
    """Memory for decoded states."""
    accumulate: int = Field(default=1, ge=1)
    """Pieces in which the samples of an update pass the network, one after the other; saves memory, not time."""
    checkpointing: bool = False
    """Blocks keep only their input for the backward pass and compute the rest again; saves memory, costs time."""
    compile: bool = False
    """Compile each block of the network with torch.compile."""
    parallel: ParallelConfig = ParallelConfig()
    """How several processes divide the work."""

    @model_validator(mode="after")
    def _follow_each_other(self) -> TrainingConfig:
        if self.rollout is None:
            check_stages(self.stages)
        elif self.stages:
            raise ValueError("stages and rollout say the same thing: give one of them")
        elif self.budget.train_steps is None:
            raise ValueError("a rollout that grows with the epochs needs budget.train_steps; with another budget write stages")
        return self

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Samples in an update of each stage, by the setting that says so."""
        own = {f"training.stages.{number}.batch_size": stage.batch_size for number, stage in enumerate(self.stages) if stage.batch_size}
        return own if self.stages and len(own) == len(self.stages) else {"training.batch_size": self.batch_size, **own}

    def smaller(self, processes: int) -> str:
        """A setting that needs less memory and gives the same numbers but for their last bits, where there is one.

        Args:
            processes: that share the samples of an update.
        """
        shares = [size // processes for size in self.batch_sizes.values()]
        pieces = [n for n in range(self.accumulate + 1, min(shares) + 1) if not any(share % n for share in shares)]
        if pieces:
            return f"training.accumulate={next((n for n in pieces if n >= 2 * self.accumulate), pieces[-1])}"
        return "a smaller model.backbone or a shorter rollout in training.stages" if self.checkpointing else "training.checkpointing=true"

    def batch_in(self, stage: int) -> int:
        """Samples in an update of a stage."""
        return self.stages[stage].batch_size or self.batch_size

    def sample_steps_left(self, spent: float) -> float:
        """Samples times model steps of all updates that follow a share of the budget, which must be one of updates: what they cost, about."""
        assert self.budget.train_steps is not None
        begins = [0.0, *(s.until for s in self.stages[:-1])]
        parts = [max(0.0, s.until - max(begin, spent)) for s, begin in zip(self.stages, begins, strict=True)]
        return self.budget.train_steps * sum(part * s.rollout * self.batch_in(i) for i, (s, part) in enumerate(zip(self.stages, parts, strict=True)))

    def learning_rate_at(self, progress: Progress) -> float:
        """The learning rate of the next update."""
        optimizer, stage = self.optimizer, self.stages[progress.stage]
        factor = learning_rate_factor(progress.spent(self.budget), optimizer.warmup, optimizer.schedule, optimizer.factor**progress.reductions)
        return (stage.learning_rate or optimizer.learning_rate) * factor
