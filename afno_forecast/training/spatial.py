"""A network on a part of the rows, and mixers on a part of the blocks, equal to the whole network on the whole grid.

Norms and MLPs work on single tokens and stay as they are. A convolution, or any part that looks a row up and down, runs on its rows and
a row of either neighbour, and what it makes of the outermost is cut off. A mixer needs whole fields but, being block-diagonal, only whole
blocks of channels: one transpose gives each process all rows of some blocks, where transform, filter and inverse transform run as they are,
and a second one brings the rows back. A filter that is dense in the channels needs all of them at each mode, so it would take two transposes
more, between transform and filter and back.

Axes: B batch, H row, W column, C channel, G block.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..distributed import Axis, Mesh
from ..errors import ConfigError
from ..nn.afno import AFNOMixer
from ..nn.backbone import HierarchicalBackbone, PlainBackbone
from ..nn.block import MLP, BoundaryConv, MixerBlock, ResidualBlock
from ..nn.mixers import IdentityMixer
from ..nn.modulation import ConditionEmbed
from ..nn.padding import EDGE_ROWS, Boundary
from ..nn.patch import PatchEmbed, PatchRecovery

_BY_TOKEN = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.ModuleList, ConditionEmbed, MLP, MixerBlock, ResidualBlock, PatchRecovery, IdentityMixer,
             PlainBackbone, HierarchicalBackbone)


@dataclass(frozen=True)
class Rows:
    """How the rows of a grid are divided: whole patches of the coarsest level, so that every level is divided along the same lines.

    Args:
        sizes: rows of each process, at full resolution.
        rank: this process.
        factors: by how much each level of the network is coarser.
    """

    sizes: tuple[int, ...]
    rank: int
    factors: tuple[int, ...]

    @property
    def own(self) -> slice:
        """This process' rows."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    def level_with(self, num_rows: int) -> tuple[int, ...]:
        """Rows of each process on the level on which this one has `num_rows`."""
        for factor in self.factors:
            if -(-self.sizes[self.rank] // factor) == num_rows:
                return tuple(-(-size // factor) for size in self.sizes)
        raise AssertionError(f"no level of {self} has {num_rows} rows here")


def divide_rows(num_rows: int, factors: tuple[int, ...], axis: Axis) -> Rows:
    """The rows of a grid over the processes of the spatial dimension, as even as whole patches allow, the last ones with one more.

    Raises ConfigError when a process would have fewer than two rows, or less than a patch at the end.
    """
    coarsest = max(factors)
    patches, rest = divmod(-(-num_rows // coarsest), axis.size)
    counts = [patches + (r >= axis.size - rest) for r in range(axis.size)]
    sizes = [coarsest * n for n in counts]
    sizes[-1] -= -num_rows % coarsest
    ambiguous = any(-(-size // a) == -(-size // b) for size in sizes for a in factors for b in factors if a < b)
    if min(sizes) < 2 or ambiguous or sizes[-1] <= -num_rows % coarsest:  # the last patch is filled up from the rows before it
        raise ConfigError(f"{num_rows} rows in patches of {coarsest} are too few for {axis.size} processes", where="training.parallel.spatial",
                          fix=f"use training.parallel.spatial={max(1, axis.size // 2)}")
    return Rows(tuple(sizes), axis.rank, factors)


def split_network(backbone: nn.Module, num_rows: int, mesh: Mesh, boundary: Boundary) -> Rows | None:
    """Divide a network's rows over the spatial dimension of the mesh, and its mixers' blocks over spatial and block dimension, in place.

    Returns:
        the rows, None when they are not divided.

    Raises:
        ConfigError: the network has a part that needs all rows or all channels.
    """
    rows = None
    if mesh.spatial.size > 1:
        rows = divide_rows(num_rows, _factors(backbone), mesh.spatial)
        overlapping = any(isinstance(part, PatchEmbed) and part.overlap for part in backbone.modules())
        if overlapping or backbone.coarsen != (1, 1):
            raise ConfigError(f"a network with {'overlapping patches' if overlapping else 'coarsen'} cannot be divided by rows",
                              where="training.parallel.spatial",
                              fix=f"use training.parallel.data, or leave out model.backbone.{'overlap' if overlapping else 'coarsen'}")
        if boundary == "periodic" and num_rows % max(rows.factors):
            raise ConfigError(f"{num_rows} periodic rows are not a whole number of patches of {max(rows.factors)}",
                              where="training.parallel.spatial", fix="choose a patch that divides the rows, or training.parallel.spatial=1")
    mirrored = {block.mixer for block in backbone.modules() if isinstance(block, MixerBlock) and block.mirrors and block.boundary in EDGE_ROWS}
    for name, part in list(backbone.named_modules()):
        if isinstance(part, AFNOMixer):
            part.forward = BlockwiseMixer(part, mesh, rows, name, mirrored=part in mirrored)  # type: ignore[method-assign]
        elif rows is None:
            continue
        elif isinstance(part, BoundaryConv):
            part.forward = functools.partial(_with_neighbours, part.forward, mesh.spatial, boundary == "periodic")  # type: ignore[method-assign]
        elif not isinstance(part, (*_BY_TOKEN, PatchEmbed)):
            raise ConfigError(f"{type(part).__name__} ({name}) cannot be divided by rows", where="training.parallel.spatial",
                              fix="use training.parallel.data, or a plain or hierarchical network with the mixer afno")
    return rows


def _factors(backbone: nn.Module) -> tuple[int, ...]:
    """By how much each level of a network has fewer rows than the grid."""
    if isinstance(backbone, PlainBackbone):
        return tuple(sorted({1, backbone.stem.patch[0]}))
    if isinstance(backbone, HierarchicalBackbone):
        return tuple(2**level for level in range(len(backbone.down) + 1))
    raise ConfigError(f"{type(backbone).__name__} cannot be divided by rows", where="training.parallel.spatial",
                      fix="use training.parallel.data, or a plain or hierarchical network")


def _with_neighbours(forward: Callable[[Tensor], Tensor], axis: Axis, ring: bool, x_BHWC: Tensor) -> Tensor:
    """Run a part that looks one row up and down on these rows and the neighbours' nearest; drop what it makes of the neighbours'.

    At an edge of the grid there is no neighbour and the part's own rule holds, unless the rows are a closed ring.
    """
    batch, num_rows, columns, channels = x_BHWC.shape
    above, below = ring or axis.rank > 0, ring or axis.rank < axis.size - 1
    up, down = (axis.rank - 1) % axis.size, (axis.rank + 1) % axis.size
    parts, shapes = [], []
    for other in range(axis.size):
        sent = [x_BHWC[:, -1:]] * (below and other == down) + [x_BHWC[:, :1]] * (above and other == up)
        parts.append(torch.cat(sent, 1) if sent else x_BHWC[:, :0])
        shapes.append((batch, (above and other == up) + (below and other == down), columns, channels))
    arrived = axis.exchange(parts, shapes, "neighbouring rows")
    before, after = arrived[up][:, :above], arrived[down][:, arrived[down].shape[1] - below:]
    made_BHWC = forward(torch.cat([before, x_BHWC, after], 1))
    return made_BHWC[:, int(above):int(above) + num_rows]


def _ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` things divided as evenly as possible: (first, after the last) of each part."""
    edges = [count * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


class BlockwiseMixer:
    """Stands in for the forward of an `AFNOMixer`: runs the same mixer on all rows of this process' blocks.

    Args:
        mixer: keeps the parameters.
        mesh: its blocks are divided over the block dimension, and each of these parts over the spatial one.
        rows: None where every process holds all of them.
        name: of the mixer, for messages.
        mirrored: whether its block hands it the rows followed by their mirror image; of rows that are divided, that is made here, of all.

    Raises ConfigError when there are fewer blocks than processes.
    """

    def __init__(self, mixer: AFNOMixer, mesh: Mesh, rows: Rows | None, name: str, *, mirrored: bool) -> None:
        self.mixer, self.mesh, self.rows, self.mirrored = mixer, mesh, rows, mirrored
        needed = mesh.block.size * (mesh.spatial.size if rows is not None else 1)
        if mixer.num_blocks < needed:
            raise ConfigError(f"{mixer.num_blocks} blocks of channels ({name}) cannot be divided among {needed} processes", where="training.parallel",
                              fix=f"use the mixer afno with model.backbone.num_blocks={needed} or more, or fewer processes in spatial and block")
        self.of_block = _ranges(mixer.num_blocks, mesh.block.size)
        first, last = self.of_block[mesh.block.rank]
        self.of_row = [(first + a, first + b) for a, b in _ranges(last - first, mesh.spatial.size if rows is not None else 1)]
        self.own = self.of_row[mesh.spatial.rank if rows is not None else 0]
        self.part = copy.deepcopy(mixer).to("meta")
        self.part.num_blocks = self.own[1] - self.own[0]
        self.part.dim = self.part.num_blocks * (mixer.dim // mixer.num_blocks)

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        """Mixed tokens of these rows, all channels."""
        width = x_BHWC.shape[-1] // self.mixer.num_blocks
        first, last = self.of_block[self.mesh.block.rank]
        mixed_BHWC = self._mix_rows(x_BHWC[..., width * first:width * last], width)
        if self.mesh.block.size == 1:
            return mixed_BHWC
        shapes = [(*mixed_BHWC.shape[:-1], width * (b - a)) for a, b in self.of_block]
        return self.mesh.block.gather(mixed_BHWC, shapes, -1, "gather blocks")

    def _mix_rows(self, x_BHWC: Tensor, width: int) -> Tensor:
        """There: all rows of few blocks; mix; back: few rows of all blocks of this part."""
        if self.rows is None:
            return self._mix(x_BHWC)
        if self.mirrored:
            x_BHWC = x_BHWC[:, :x_BHWC.shape[1] // 2]
        batch, num_rows, columns, _ = x_BHWC.shape
        level = self.rows.level_with(num_rows)
        own = width * (self.own[1] - self.own[0])
        widths = [width * (b - a) for a, b in self.of_row]
        there = self.mesh.spatial.exchange(torch.split(x_BHWC, widths, -1), [(batch, n, columns, own) for n in level], "transposes")
        if self.mirrored:
            there += [part.flip(1) for part in reversed(there)]
        mixed_BHWc = self._mix(torch.cat(there, 1))[:, :sum(level)]
        back = self.mesh.spatial.exchange(torch.split(mixed_BHWc, list(level), 1), [(batch, num_rows, columns, w) for w in widths], "transposes")
        return torch.cat(back, -1)

    def _mix(self, x_BHWc: Tensor) -> Tensor:
        first, last = self.own
        weights = {name: value.narrow(_block_axis(name), first, last - first) for name, value in self.mixer.named_parameters()}
        if self.mixer.parity_C is not None:
            width = self.mixer.dim // self.mixer.num_blocks
            weights["parity_C"] = self.mixer.parity_C[width * first:width * last]
        mixed: Tensor = torch.func.functional_call(self.part, weights, (x_BHWc,))
        return mixed


def _block_axis(name: str) -> int:
    """Where the blocks are, from the axes that end a parameter's name: `weight_in_S2Gch` -> 2."""
    return name.rpartition("_")[2].index("G")
