"""Parallelism, applied to a finished forecaster from outside, in this order: activation checkpointing, compile, spatial and block parallel,
sharded weights. (bfloat16 is the autocast context around the loss, chosen before them.)

Every process computes the loss of its samples and rows, scaled so that the mean over all processes is the loss of the whole batch; then the
mean of all processes' gradients is its gradient, in every layout, and the optimiser does the same everywhere.

Axes: B batch, T time, C channel, H row, W column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from ..config import Strict
from ..data.loader import Batch, Delivery
from ..distributed import Mesh, make_mesh, shard_weights, world_size
from ..errors import ConfigError
from ..forecaster import Forecaster
from ..nn.backbone import set_checkpointing
from ..nn.block import MixerBlock, ResidualBlock
from ..nn.legacy import LegacyBlock
from .spatial import Rows, split_network


class ParallelConfig(Strict):
    """How the processes that were started (torchrun, srun) divide the work; without a launcher there is one."""

    data: int | None = Field(default=None, ge=1)
    """Groups with other samples; all processes that the other dimensions leave when absent."""
    spatial: int = Field(default=1, ge=1)
    """Groups with other rows of the grid."""
    block: int = Field(default=1, ge=1)
    """Groups with other blocks of channels in the mixers."""
    sharded: bool = False
    """Divide weights, gradients and optimiser state over all processes instead of keeping a copy on each."""


@dataclass
class Layout:
    """One training laid over the processes; alone, everything is whole.

    Args:
        mesh: the processes.
        rows: which rows each process of the spatial dimension holds; None for all.
        area_share: this process' share of the whole area.
        sharded: whether the weights are divided.
    """

    mesh: Mesh = field(default_factory=Mesh)
    rows: Rows | None = None
    area_share: float = 1.0
    sharded: bool = False

    def loss_scale(self, area: Literal["exact", "equal"]) -> float:
        """What a loss over this process' rows, weighed by area or by number of cells, is multiplied by, so that the mean over all is the whole."""
        equal_share = 1.0 if self.rows is None else self.rows.sizes[self.rows.rank] / sum(self.rows.sizes)
        return (self.area_share if area == "exact" else equal_share) * self.mesh.spatial.size

    def delivery(self, forecaster: Forecaster, *, cache_bytes: int) -> Delivery:
        """This process' share of the samples, and its rows of them, with the forcing that the forecaster would else compute between its steps."""
        return Delivery(cache_bytes=cache_bytes, rank=self.mesh.data.rank, world=self.mesh.data.size, rows=self.rows.own if self.rows else None,
                        forcing=forecaster.forcing if forecaster.forcing.names else None)

    def own_rows(self, whole: Tensor) -> Tensor:
        """This process' rows of fields (..., H, W)."""
        return whole if self.rows is None else whole[..., self.rows.own, :]

    def all_rows(self, part: Tensor) -> Tensor:
        """Fields (..., H, W) from the rows of every process, on every process."""
        if self.rows is None:
            return part
        shapes = [(*part.shape[:-2], n, part.shape[-1]) for n in self.rows.sizes]
        return self.mesh.spatial.gather(part, shapes, -2, "gather fields")

    def average_gradients(self, module: nn.Module) -> None:
        """Make every gradient the mean over all processes; sharded ones are already."""
        if not self.sharded:
            self.mesh.world.mean_([p.grad for p in module.parameters() if p.grad is not None], "gradients")


def pieces(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in equal pieces."""
    size = len(batch.states) // count
    for start in range(0, size * count, size):
        part = slice(start, start + size)
        yield Batch(batch.states[part], batch.seconds[part], None if batch.forcing is None else batch.forcing[part])


def plan_mesh(config: ParallelConfig, *, batch_sizes: Mapping[str, int], accumulate: int) -> Mesh:
    """The mesh of the processes that were started; all must call it.

    Args:
        config: how they divide the work.
        batch_sizes: samples in an update, by the setting that says so.
        accumulate: pieces of an update on each process.

    Raises ConfigError when the dimensions do not make up their number, or the samples of an update cannot be divided.
    """
    data = config.data or max(1, world_size() // (config.spatial * config.block))
    mesh = make_mesh(data, config.spatial, config.block)
    require_divisible(batch_sizes, data, accumulate)
    return mesh


def require_divisible(batch_sizes: Mapping[str, int], processes: int, accumulate: int) -> None:
    """Raise ConfigError where the samples of an update cannot be divided among so many processes, in so many pieces each."""
    parts = processes * accumulate
    for name, size in batch_sizes.items():
        if size % parts:
            raise ConfigError(f"{size} samples in an update cannot be divided among {processes} process{'es' * (processes > 1)} in {accumulate} "
                              "pieces each", where=name, fix=f"use {name}={-(-size // parts) * parts}")


def parallelize(forecaster: Forecaster, mesh: Mesh, *, sharded: bool = False, checkpointing: bool = False, compile_blocks: bool = False) -> Layout:
    """Lay a forecaster over the processes, in place; parameters keep their names.

    Args:
        forecaster: the same on every process, on its device.
        mesh: from `plan_mesh`.
        sharded: divide weights over all processes.
        checkpointing: blocks keep only their input for the backward pass.
        compile_blocks: compile each block.

    Raises:
        ConfigError: the network cannot be divided so.
    """
    blocks = [part for part in forecaster.backbone.modules() if isinstance(part, MixerBlock | ResidualBlock)]
    set_checkpointing(forecaster.backbone, checkpointing)
    if compile_blocks:
        for block in [*blocks, *(part for part in forecaster.backbone.modules() if isinstance(part, LegacyBlock))]:
            block.compile()
    layout = Layout(mesh, sharded=sharded and mesh.world.size > 1)
    if mesh.spatial.size > 1 or mesh.block.size > 1:
        layout.rows = split_network(forecaster.backbone, forecaster.grid.shape[0], mesh, forecaster.grid.boundary)
    if layout.rows is not None:
        layout.area_share = _keep_own_rows(forecaster, layout.rows)
        forecaster.constraints.rows = mesh.spatial
        if forecaster.advection is not None:
            forecaster.advection.keep_rows(layout.rows.own, layout.all_rows)
    if layout.sharded:
        shard_weights(blocks, forecaster.backbone, mesh)
    return layout


def _keep_own_rows(forecaster: Forecaster, rows: Rows) -> float:
    """Cut area weights and forcing to this process' rows; returns their share of the area."""
    whole = forecaster.area_weights_HW
    forecaster.area_weights_HW = whole[rows.own].clone()
    if forecaster.noise is not None:
        forecaster.noise.keep_rows(rows.own)
    forcing = forecaster.forcing
    forcing.static_SHW = forcing.static_SHW[:, rows.own].clone()
    forcing.grid = forcing.grid.rows(rows.own)
    return float(forecaster.area_weights_HW.double().sum() / whole.double().sum())
