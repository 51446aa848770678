"""Training where the grid of patches lies elsewhere at every step, so that no artefact of it is learned.

Axes: B batch, C channel, H latitude row, W longitude column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .padding import Boundary


def draw_roll(boundary: Boundary, size: tuple[int, int], generator: torch.Generator, *, most: tuple[int, int] | None = None) -> tuple[int, int]:
    """A random number of rows and columns by which a field may be rolled whole.

    Args:
        boundary: columns roll where longitude wraps around, rows on the torus (`periodic`) alone.
        size: rows and columns of the field.
        generator: draws both numbers; a CPU generator.
        most: below which number of rows and columns; the patch (`patch jitter`), or by default the whole field (a random
            longitude roll, which moves the patches too).

    Returns:
        (rows, columns), each >= 0; 0 along an axis that does not wrap around.

    Raises:
        ValueError: on a limited area, where nothing can be rolled.
    """
    if boundary == "limited":
        raise ValueError("a limited area cannot be rolled: it does not wrap around; leave the jitter out")
    rows, columns = (int(torch.randint(max(number, 1), (), generator=generator)) for number in (most or size))
    return (rows if boundary == "periodic" else 0), columns


def rolled(network: Callable[..., Tensor], x_BCHW: Tensor, *args: Any, roll: tuple[int, int]) -> Tensor:
    """The network's answer for a field rolled by (rows, columns), rolled back.

    Every channel that depends on the place must be part of `x_BCHW`, coordinates too: then for a network that commutes with the
    roll this is its answer itself, and patches are the only difference.
    """
    out = network(x_BCHW.roll(roll, (-2, -1)), *args)
    return out.roll((-roll[0], -roll[1]), (-2, -1))
