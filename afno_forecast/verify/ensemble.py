"""Scores of an ensemble: fair CRPS, spread and skill without the bias of few members, energy score, rank histogram.

With M members x_m, truth y, < > the area mean over a region and the bar the mean over inits, as in WeatherBench-X:

- `crps` = bar <E|x-y| - 1/2 E|x-x'|>, fair: E|x-x'| = sum over pairs |x_m-x_n| / (M (M-1)) (Zamo and Naveau 2018, eq. CRPS_PWM);
- `spread` = sqrt(bar <s^2>), s^2 with M - 1; `skill` = sqrt(bar <(mean-y)^2 - s^2 / M>), the error that the mean of very many members
  would have; `spread_skill` = spread / skill, 1 for a calibrated ensemble of any size (Fortin et al. 2014);
- `rmse_of_members` = sqrt(bar mean_m <(x_m-y)^2>);
- `energy_score` = bar ( mean_m |x_m-y| - 1/2 sum over pairs |x_m-x_n| / (M (M-1)) ), where | | is the norm of a whole map,
  sqrt(<d^2>) (Gneiting and Raftery 2007);
- the rank histogram: part of the area in which the truth has 0, 1, ... M members below it; among k equal members it takes one of the
  k + 1 places by lot, from a generator of (seed, init, lead, channel).

The RMSE, bias, MAE and correlations of an ensemble are those of its mean; RMSE of the mean is `rmse`.
"""

# E member, C channel, H latitude row, W longitude column, R region

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .regions import AreaMeans, Region
from .sample import Float, Rows, Sample, Table


class Ensemble:
    """Scores of two members or more.

    Args:
        seed: of the lots that break ties in the rank histogram.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """Statistics of one ensemble: (R, C), for `ranks` (M + 1, R, C)."""
        members = sample.num_members
        error_ECHW = np.subtract(sample.members_ECHW, sample.truth_CHW[None], dtype=np.float64, order="C")
        mean_CHW = sample.error
        departure_ECHW = error_ECHW - mean_CHW
        variance_CHW = (departure_ECHW * departure_ECHW).sum(axis=0) / (members - 1)
        squared_ERC = np.stack([areas(e * e) for e in error_ECHW])
        rows = {"crps_skill": areas(np.abs(error_ECHW).sum(axis=0) / members), "spread_squared": areas(variance_CHW),
                "skill_squared": areas(mean_CHW * mean_CHW - variance_CHW / members), "members_squared": squared_ERC.sum(axis=0) / members,
                "energy_skill": np.sqrt(squared_ERC).sum(axis=0) / members, "energy_spread": _pair_norms(departure_ECHW, areas),
                "ranks": self._ranks(error_ECHW, sample, areas)}
        error_ECHW.sort(axis=0)
        order = (2 * np.arange(1, members + 1) - members - 1).astype(np.float64)
        rows["crps_spread"] = areas(2 * (order[:, None, None, None] * error_ECHW).sum(axis=0) / (members * (members - 1)))
        return rows

    def _ranks(self, error_ECHW: Float, sample: Sample, areas: AreaMeans) -> Float:
        below_CHW, equal_CHW = (error_ECHW < 0).sum(axis=0), (error_ECHW == 0).sum(axis=0)
        bins = len(error_ECHW) + 1
        result = np.empty((bins, len(areas.regions), error_ECHW.shape[1]))
        weights = [areas.weights(region).ravel() for region in areas.regions]
        for c, (rank, equal) in enumerate(zip(below_CHW, equal_CHW, strict=True)):
            if equal.any():
                key = (self.seed, sample.init_seconds % (1 << 63), sample.lead_seconds, sample.channels.start + c)
                rank = rank + np.floor(np.random.default_rng(key).random(rank.shape) * (equal + 1)).astype(np.int64)
            for r, weight in enumerate(weights):
                result[:, r, c] = np.bincount(rank.ravel(), weight, bins) / weight.sum()
        return result

    def scores(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """See the definitions at the top of the file."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread, skill = np.sqrt(mean["spread_squared"]), np.sqrt(mean["skill_squared"])
            ratio = spread / skill
        return {"crps": mean["crps_skill"] - 0.5 * mean["crps_spread"], "spread": spread, "skill": skill, "spread_skill": ratio,
                "rmse_of_members": np.sqrt(mean["members_squared"]), "energy_score": mean["energy_skill"] - 0.5 * mean["energy_spread"]}

    def tables(self, mean: Mapping[str, Float]) -> tuple[Table, ...]:
        """The rank histogram."""
        ranks_RXC = np.moveaxis(mean["ranks"], 0, 1)
        attrs = {"units": "1", "long_name": "part of the area in which the truth has this many members below it", "tie_seed": self.seed}
        return (Table("rank_histogram", ("region", "rank"), {"rank": np.arange(ranks_RXC.shape[1])}, ranks_RXC, attrs),)


def _pair_norms(departure_ECHW: Float, areas: AreaMeans) -> Float:
    """Mean over all pairs of different members of the norm of their difference; (E, C, H, W) -> (R, C).

    |a-b|^2 = |a|^2 + |b|^2 - 2 a.b with departures from the ensemble mean, so that little cancels.
    """
    members = len(departure_ECHW)
    x_CHEW = np.ascontiguousarray(departure_ECHW.transpose(1, 2, 0, 3))
    whole_CHEE = np.matmul(x_CHEW * areas.cell_weights[None, :, None, :], x_CHEW.transpose(0, 1, 3, 2))
    result = np.empty((len(areas.regions), departure_ECHW.shape[1]))
    for r, region in enumerate(areas.regions):
        products_CEE = _products(x_CHEW, whole_CHEE, region, areas) / areas.weights(region).sum()
        own_CE = np.diagonal(products_CEE, axis1=1, axis2=2)
        squared_CEE = own_CE[:, :, None] + own_CE[:, None, :] - products_CEE - products_CEE.transpose(0, 2, 1)
        norms_CEE = np.sqrt(np.maximum(squared_CEE, 0.0))
        norms_CEE[:, np.arange(members), np.arange(members)] = 0.0
        result[r] = norms_CEE.sum(axis=(1, 2)) / (members * (members - 1))
    return result


def _products(x_CHEW: Float, whole_CHEE: Float, region: Region, areas: AreaMeans) -> Float:
    """Weighted scalar products of the members over a region; (C, E, E)."""
    if region.columns is None and region.cells is None:
        return np.asarray(whole_CHEE[:, region.rows].sum(axis=1))
    columns = np.arange(x_CHEW.shape[3]) if region.columns is None else region.columns
    part = np.ascontiguousarray(np.take(np.take(x_CHEW, region.rows, axis=1), columns, axis=3))
    weights = areas.weights(region)[region.rows][:, columns]
    return np.asarray(np.matmul(part * weights[None, :, None, :], part.transpose(0, 1, 3, 2)).sum(axis=1))
