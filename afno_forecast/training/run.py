"""A training under way: what changes with every update, what a checkpoint holds of it, and how it goes on from one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..data.loader import Batch, Loader
from ..distributed import shared_like, whole
from ..errors import told_if_out_of_memory
from ..forecaster import Forecaster
from ..model_folder import load_weights
from .checkpoint import Progress, load_newest, part_of, require_space
from .config import TrainingConfig
from .loss import RolloutLoss
from .optimizers import Optimizers, WeightAverage
from .parallel import Layout, pieces
from .saving import Checkpoints

Precision = Literal["float32", "bfloat16"]


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """The precision to use: what was asked for, or for `auto` bfloat16 where a matrix product is at least 1.5 times as fast in it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        matrix @ matrix
        began = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        seconds[dtype] = time.perf_counter() - began
    return "bfloat16" if seconds[torch.float32] > 1.5 * seconds[torch.bfloat16] else "float32"


class Run:
    """Everything that changes during a training, and where it is kept.

    Args:
        forecaster: freshly built, on its device, laid over the processes.
        loader: training samples of this process.
        config: how.
        folder: run folder.
        layout: from `parallelize`; one process by default.
    """

    def __init__(self, forecaster: Forecaster, loader: Loader, config: TrainingConfig, folder: Path, layout: Layout | None = None) -> None:
        self.forecaster, self.loader, self.config, self.folder, self.layout = forecaster, loader, config, folder, layout or Layout()
        self.optimizers = Optimizers(forecaster, config.optimizer, self.layout.mesh.world)
        self.average = WeightAverage(forecaster, config.average)
        self.loss = RolloutLoss(config.loss, forecaster, seed=loader.seed, layout=self.layout)
        self.progress = Progress()
        self.batches: Generator[Batch, None, None] | None = None
        self.seconds_before = 0.0
        self._began = 0, 0.0  # samples of the stage and seconds when it, or this process' part of it, began
        self.checkpoints = Checkpoints(folder / "checkpoints", self.layout.mesh.world, beside=config.asynchronous_checkpoints)

    def next_batch(self, stage: int) -> Batch:
        """The next batch of a stage; a new stage starts its own order."""
        if self.batches is None or stage != self.progress.stage:
            position = self.progress.position if stage == self.progress.stage else 0
            self.close()
            self.progress.stage, self.progress.position = stage, position
            self._began = position, self.progress.seconds
            settings = self.config.stages[stage]
            self.batches = self.loader.batches(settings.rollout, stage=stage, position=position, batch_size=self.config.batch_in(stage),
                                               time_steps=settings.step_seconds(self.forecaster.time_steps))
        return next(self.batches)

    def rate(self) -> float:
        """Samples a second, of all processes together, since the stage began here."""
        samples, seconds = self._began
        return (self.progress.position - samples) / max(self.progress.seconds - seconds, 1e-9)

    def waiting(self) -> float:
        """Share of the time of this process' updates that went by waiting for data."""
        return self.loader.wait_seconds / max(self.progress.seconds - self.seconds_before, 1e-9)

    def close(self) -> None:
        """Stop reading ahead."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def autocast(self) -> torch.autocast:
        """The precision that the progress names, as a context for the network."""
        return torch.autocast(self.forecaster.area_weights_HW.device.type, torch.bfloat16, enabled=self.progress.precision == "bfloat16")

    def differentiate(self, batch: Batch, num_steps: int, autocast: torch.autocast) -> float:
        """Leave the gradient of the batch's loss in the parameters; returns this process' part of the loss, whose mean over all is the loss."""
        with self._memory(len(batch.states), num_steps):
            return self._differentiate(batch, num_steps, autocast)

    def _memory(self, num_samples: int, num_steps: int) -> contextlib.AbstractContextManager[None]:
        what = (f"an update of {num_samples} samples{f' in {n} pieces' if (n := self.config.accumulate) > 1 else ''} over a rollout of {num_steps} "
                f"on {self.forecaster.grid.describe()} did not fit")
        smaller = self.config.smaller(self.layout.mesh.data.size)
        return told_if_out_of_memory(what, f"use {smaller}, with --resume where checkpoints are kept")

    def _differentiate(self, batch: Batch, num_steps: int, autocast: torch.autocast) -> float:
        self.optimizers.zero_grad()
        scale = self.layout.loss_scale(self.config.loss.area) / self.config.accumulate
        parts = []
        for piece in pieces(batch, self.config.accumulate):
            with autocast:
                loss = self.loss(piece, num_steps, self.progress.train_step)
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach() * scale)
        self.layout.average_gradients(self.forecaster)
        return torch.stack(parts).sum().item()

    def weights(self) -> dict[str, Tensor]:
        """The forecaster's state dict, gathered; all processes call it."""
        return {name: whole(value) for name, value in self.forecaster.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimiser state and average, named, as this process holds them."""
        return {**{f"model/{k}": v for k, v in self.forecaster.state_dict().items()},
                **{f"optimizer/{k}": v for k, v in self.optimizers.state_dict().items()},
                **{f"average/{k}": v for k, v in self.average.average.items()},
                "average_updates": torch.tensor(self.average.num_updates)}

    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: weights, their average, and the optimisers' state."""
        tensors: list[Tensor] = [*self.forecaster.state_dict().values(), *self.average.average.values()]
        return sum(t.numel() * t.element_size() for t in tensors) + self.optimizers.state_bytes()

    def require_space(self) -> None:
        """Raise ResourceError when the disk is too small for the checkpoints to come; all processes call it."""
        world = self.layout.mesh.world
        world.together(lambda: require_space(self.folder / "checkpoints", self.checkpoint_bytes()) if world.rank == 0 else None)

    def save(self) -> None:
        """Begin a checkpoint; all processes call it."""
        self.checkpoints.save(self.progress, self.tensors(), {f"random/torch/{self.layout.mesh.world.rank}": torch.get_rng_state()})

    def restore(self, echo: Callable[[str], None]) -> bool:
        """Continue from the newest valid checkpoint of any layout; False when there is none. The first process reads for all."""
        world = self.layout.mesh.world
        found = load_newest(self.folder / "checkpoints", echo) if self.layout.mesh.first else None
        progress = json.loads(world.texts(json.dumps(found and asdict(found[0])))[0])
        tensors = world.from_first(found and found[1])
        if tensors is None:
            echo("note: there is no checkpoint yet to go on from; the training begins")
            return False
        self.progress = Progress(**progress)
        self.seconds_before = self.progress.seconds
        if self.progress.num_processes != world.size:
            echo(f"note: the checkpoint was written by {self.progress.num_processes} processes, this is {world.size}: every sample still comes once "
                 "an epoch, but the numbers are not the same to the last bit")
        _load_whole(self.forecaster, part_of(tensors, "model/"), self.folder / "checkpoints")
        self.optimizers.load_state_dict(part_of(tensors, "optimizer/"))
        own = self.average.average
        self.average.average = {name: shared_like(tensor, own[name]) for name, tensor in part_of(tensors, "average/").items()}
        self.average.num_updates = int(tensors["average_updates"])
        random = part_of(tensors, "random/torch/")
        torch.set_rng_state(random[str(world.rank)] if str(world.rank) in random else tensors.get("random/torch", torch.get_rng_state()))
        return True


def _load_whole(forecaster: Forecaster, weights: dict[str, Tensor], where: Path) -> None:
    """Strictly load whole weights into a forecaster whose own may be divided."""
    own = forecaster.state_dict()
    load_weights(forecaster, {k: shared_like(v, own[k]) if k in own and own[k].shape == v.shape else v for k, v in weights.items()}, where)
