"""What is computed, and what forecasts are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .baselines import Analyses, Rival

if TYPE_CHECKING:
    from ..data.climatology import Climatology

KINDS = ("deterministic", "ensemble", "spectra", "extremes", "precipitation")


@dataclass(frozen=True)
class ScoreSettings:
    """What is computed.

    Args:
        regions: WeatherBench's names, `land`, `sea`; None for all that have cells.
        kinds: families of scores, of `KINDS`; what the data do not allow is left out and said.
        seed: of every draw: ties in rank histograms, members of the probabilistic climatology, bootstrap.
        climatology_members: members of the probabilistic climatology; None for as many as the forecast has, 0 for none.
        quantiles: of the extremes, between 0 and 1.
        energy_ratio: of a forecast's energy to the truth's that ends its effective resolution.
        block_seconds: length of the blocks of init times in the test of significance against each rival; None for no test.
        replicates: of that test.
    """

    regions: tuple[str, ...] | None = None
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    climatology_members: int | None = None
    quantiles: tuple[float, ...] = (0.01, 0.05, 0.95, 0.99)
    energy_ratio: float = 0.5
    block_seconds: int | None = None
    replicates: int = 1000

    def __post_init__(self) -> None:
        unknown = [k for k in self.kinds if k not in KINDS]
        if unknown or not self.kinds:
            near = get_close_matches(unknown[0], KINDS, 1, 0.4) if unknown else []
            raise ConfigError(f"no scores of the kind '{', '.join(unknown)}'", where="--kinds",
                              fix=f"did you mean '{near[0]}'?" if near else f"use some of {', '.join(KINDS)}")
        if not all(0 < q < 1 and q != 0.5 for q in self.quantiles) or not 0 < self.energy_ratio < 1:
            raise ConfigError("quantiles and the energy ratio lie between 0 and 1, a quantile of extremes not at 0.5", fix="use for example 0.95")


@dataclass(frozen=True, eq=False)
class References:
    """What forecasts are compared with besides the truth.

    Args:
        climatology: of the training period; None for no anomaly correlation and no climatology scores.
        record: analyses of the training period, for members of other years and thresholds of extremes; None for neither.
        land_fraction: part of each cell that is land, shape (H, W); None for no regions `land` and `sea`.
        rivals: other forecasts; only cases that all of them cover are scored.
    """

    climatology: Climatology | None = None
    record: Analyses | None = None
    land_fraction: NDArray[np.floating] | None = None
    rivals: tuple[Rival, ...] = ()
