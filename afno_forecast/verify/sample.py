"""What one forecast of one lead time brings to the scores, and what a family of scores makes of it."""

# E member, C channel, H latitude row, W longitude column, R region

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .regions import AreaMeans

Float = NDArray[np.float64]
Rows = dict[str, Float]
"""Statistics of one forecast by name, the channel axis last; or their mean over inits."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Some channels of one forecast at one lead time, beside the truth.

    Args:
        init_seconds: init time, seconds since 1970 in the calendar of the truth.
        lead_seconds: lead time.
        channels: positions of these channels among all that are scored.
        members_ECHW: the forecast, one member when it is no ensemble; physical units.
        truth_CHW: the analysis at the valid time.
        climatology_CHW: expected values at the valid time, NaN where there are none; None without climatology.
    """

    init_seconds: int
    lead_seconds: int
    channels: slice
    members_ECHW: NDArray[Any]
    truth_CHW: NDArray[Any]
    climatology_CHW: NDArray[Any] | None

    @cached_property
    def mean(self) -> Float:
        """The ensemble mean in float64; (C, H, W)."""
        return np.asarray(np.ascontiguousarray(self.members_ECHW).mean(axis=0, dtype=np.float64))

    @cached_property
    def error(self) -> Float:
        """Ensemble mean minus truth; (C, H, W)."""
        return np.asarray(self.mean - self.truth_CHW)

    @property
    def num_members(self) -> int:
        """Members of the ensemble; 1 for a single forecast."""
        return int(self.members_ECHW.shape[0])


@dataclass(frozen=True, eq=False)
class Table:
    """A score with more axes than region and channel.

    Args:
        name: ending of the variable's name, `energy_spectrum`.
        dims: axes before the channel axis.
        coords: their coordinates.
        values: shape (..., C).
        attrs: what the file says of it; `units` with `{units}` for those of the variable.
    """

    name: str
    dims: tuple[str, ...]
    coords: Mapping[str, Any]
    values: Float
    attrs: Mapping[str, Any] = field(default_factory=dict)


class Family(Protocol):
    """Scores that belong together: each forecast leaves statistics, whose means over the inits give the scores."""

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """Statistics of one forecast; channel axis last."""
        ...

    def scores(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """Scores by name from means over inits; each (..., R, C) with the leading axes of the statistics."""
        ...

    def tables(self, mean: Mapping[str, Float]) -> tuple[Table, ...]:
        """Scores with more axes."""
        ...
