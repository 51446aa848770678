"""The order of training samples: a pure function of seed, stage, epoch and position, whatever reads, caches or shares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shuffle:
    """How far samples travel from their neighbours in time.

    An epoch's windows are cut into blocks of neighbours, which share most of their states; the blocks come in random order, and the
    windows of as many blocks as make a pool are mixed. A cache that holds the states of a pool decodes each once. An epoch of no more
    windows than a pool is mixed as a whole.

    Args:
        block: windows of a block.
        pool: windows mixed at a time.
    """

    block: int = 8
    pool: int = 512

    def __post_init__(self) -> None:
        if self.block < 1 or self.pool < 1:
            raise ValueError(f"block {self.block} and pool {self.pool} must be at least 1")


def sample_order(num_samples: int, count: int, *, seed: int, stage: int, position: int, shuffle: Shuffle | None = None) -> NDArray[np.int64]:
    """The samples at positions `position .. position + count - 1` of a stage: each epoch is a permutation of its own.

    A pure function of its arguments; shape (count,).
    """
    parts: list[NDArray[np.int64]] = []
    while count > 0:
        epoch, offset = divmod(position, num_samples)
        part = _epoch(num_samples, seed, stage, epoch, shuffle or Shuffle())[offset:offset + count]
        parts.append(part)
        position += len(part)
        count -= len(part)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@lru_cache(maxsize=4)
def _epoch(num_samples: int, seed: int, stage: int, epoch: int, shuffle: Shuffle) -> NDArray[np.int64]:
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stage, epoch])))
    if num_samples <= shuffle.pool:
        return random.permutation(num_samples)
    first = int(random.integers(shuffle.block)) + 1
    blocks = np.split(np.arange(num_samples), range(first, num_samples, shuffle.block))
    blocks = [blocks[i] for i in random.permutation(len(blocks))]
    per_pool = max(1, shuffle.pool // shuffle.block)
    return np.concatenate([random.permutation(np.concatenate(blocks[i:i + per_pool])) for i in range(0, len(blocks), per_pool)])


def draw_step(time_steps: Sequence[int], number: int, *, seed: int, stage: int) -> tuple[int, int]:
    """The step of a batch, and how many batches of the stage before it had the same step: a pure function of its arguments.

    Every `len(time_steps)` batches in a row have each entry once, in a random order; a step that is named twice comes twice as often.
    """
    if len(time_steps) == 1:
        return time_steps[0], number
    turn, place = divmod(number, len(time_steps))
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stage, turn, len(time_steps)])))
    order = [time_steps[entry] for entry in generator.permutation(len(time_steps))]
    step = order[place]
    return step, turn * order.count(step) + order[:place].count(step)
